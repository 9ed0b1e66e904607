//! What a lock carries and what is remembered of it: its value and its history.

use serde::{Deserialize, Serialize};

use super::{Metadata, Mode};

/// Body of `PUT /v1/values/{name}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ValueRequest {
    /// The lease that holds the lock.
    pub lease_id: String,
    /// At most 4 KiB; `null` deletes the value, and must be said.
    #[serde(deserialize_with = "Option::deserialize")]
    pub value: Option<String>,
}

/// The value of a lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Value {
    pub lock: String,
    pub value: String,
    /// Of the grant under which it was written.
    pub token: u64,
    /// Who wrote it.
    pub owner: String,
    /// Wall clock of the write, for people; RFC 3339.
    pub written: String,
    pub revision: u64,
    /// Whether the grant that wrote it holds the lock now.
    pub current: bool,
}

/// Answer of `PUT` with `null` and of `DELETE /v1/values/{name}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ValueDeleted {
    pub lock: String,
    pub deleted: bool,
}

/// One grant, held or ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PastGrant {
    pub lock: String,
    pub token: u64,
    pub owner: String,
    pub mode: Mode,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permits: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    #[serde(default)]
    pub metadata: Metadata,
    /// Wall clock of the grant, for people; RFC 3339.
    pub since: String,
    /// Wall clock of the end; `None` while it is held.
    pub until: Option<String>,
    pub waited_ms: u64,
    pub held_ms: u64,
    /// How it ended; `None` while it is held.
    pub how: Option<String>,
    /// Why it was forced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Answer of `GET /v1/history/{name}`: the newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct History {
    pub lock: String,
    pub grants: Vec<PastGrant>,
    /// Pass it on as `?before=` for the next page; `None` on the last.
    pub next: Option<u64>,
    /// What bounds the memory.
    pub note: String,
}
