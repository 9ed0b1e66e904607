//! Who a client is: the access token that it sends, or the certificate that it shows.

use std::fmt;
use std::sync::Arc;

use hyper::header::HeaderValue;
use rustls::ClientConfig;

use crate::tls::{self, Certified};

/// What a client shows of itself; nothing by default. Shows no secret to logs.
#[derive(Clone, Default)]
pub struct Identity {
    /// The header that goes with every request.
    authorization: Option<HeaderValue>,
    /// How connections are encrypted, if they are.
    tls: Option<Arc<ClientConfig>>,
    /// The token may go where everybody on the way reads it.
    in_clear: bool,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("token", &self.authorization.is_some())
            .field("tls", &self.tls.is_some())
            .field("in_clear", &self.in_clear)
            .finish()
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

    /// Over TLS, to nodes with certificates of this authority (PEM) for the hosts of their endpoints;
    /// and with a certificate of the client, if it has one.
    pub fn with_tls(
        mut self,
        authority: &[u8],
        certified: Option<Certified<'_>>,
    ) -> Result<Self, BadIdentity> {
        self.tls = Some(tls::config(authority, certified)?);
        Ok(self)
    }

    /// Sends the token to other machines also where nothing encrypts it. Whoever is on the way then
    /// reads it, and may use it: only for a network that is private, or encrypts by itself.
    #[must_use]
    pub fn insecure(mut self) -> Self {
        self.in_clear = true;
        self
    }

    /// Whether there is a token that a connection in clear, to another machine, would give away.
    pub(crate) fn would_leak(&self) -> bool {
        self.authorization.is_some() && self.tls.is_none() && !self.in_clear
    }

    pub(crate) fn tls(&self) -> Option<&Arc<ClientConfig>> {
        self.tls.as_ref()
    }

    /// The value of the header that carries its token, if it has one. A secret.
    pub fn bearer(&self) -> Option<&str> {
        self.authorization.as_ref().and_then(|header| header.to_str().ok())
    }

    pub(crate) fn authorization(&self) -> Option<&HeaderValue> {
        self.authorization.as_ref()
    }
}
