//! Who a client is: the access token that it sends.

use std::fmt;

use hyper::header::HeaderValue;

/// What a client shows of itself; nothing by default. Shows no secret to logs.
#[derive(Clone, Default)]
pub struct Identity {
    /// The header that goes with every request.
    authorization: Option<HeaderValue>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("token", &self.authorization.is_some()).finish()
    }
}

/// Why something cannot prove an identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadIdentity(pub String);

impl fmt::Display for BadIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadIdentity {}

impl Identity {
    /// With an access token, as `oarlock tokens create` printed it.
    pub fn with_token(mut self, token: &str) -> Result<Self, BadIdentity> {
        let bad = |_| BadIdentity("an access token is one word of plain characters".to_owned());
        let mut header = HeaderValue::from_str(&format!("Bearer {}", token.trim())).map_err(bad)?;
        header.set_sensitive(true);
        self.authorization = Some(header);
        Ok(self)
    }

    pub(crate) fn authorization(&self) -> Option<&HeaderValue> {
        self.authorization.as_ref()
    }
}
