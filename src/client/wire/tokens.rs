//! Access tokens, and the rights of client certificates.

use serde::{Deserialize, Serialize};

/// Body of `POST /v1/tokens`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct AccessTokenRequest {
    /// Of the identity: letters, digits, dots, hyphens and underscores.
    pub name: String,
    /// `acquire`, `inspect` or `force`, each with `:` and the beginning of the names that it is for,
    /// or alone for all names; or `admin`.
    pub rights: Vec<String>,
    /// Give the rights to whoever shows a client certificate with this name, instead of a token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<bool>,
    /// Without it the token does not expire.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
    /// At each node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_per_second: Option<u32>,
    /// Calls that wait for a lock at once, at each node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<u32>,
    /// Streams open at once, at each node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub streams: Option<u32>,
    /// Locks held or waited for at once, in the whole cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locks: Option<u32>,
    /// Sessions open at once, in the whole cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions: Option<u32>,
}

/// Body of `POST /v1/tokens/init`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct FirstTokenRequest {
    /// Of the identity that gets all rights.
    pub name: String,
}

/// A token that was made.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct AccessToken {
    /// Names it in lists; not a secret.
    pub token_id: String,
    pub name: String,
    /// A secret, shown this once: `Authorization: Bearer` and this. None for a certificate.
    pub access_token: Option<String>,
    pub expires_in_ms: Option<u64>,
}

impl std::fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AccessToken").field("token_id", &self.token_id).finish_non_exhaustive()
    }
}

/// Answer of `GET /v1/tokens`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct AccessTokens {
    pub tokens: Vec<AccessTokenInfo>,
}

/// One token, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct AccessTokenInfo {
    pub token_id: String,
    pub name: String,
    /// Whether a client certificate with this name proves the identity.
    pub certificate: bool,
    pub rights: Vec<String>,
    /// 0 if it has expired.
    pub expires_in_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_per_second: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub streams: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locks: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions: Option<u32>,
}

/// Answer of `DELETE /v1/tokens/{id}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct AccessTokenRevoked {
    pub token_id: String,
    pub revoked: bool,
}
