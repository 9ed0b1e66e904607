//! The members of a cluster, and how they change.

use serde::{Deserialize, Serialize};

use super::Member;

/// Answer of `GET /v1/members`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Members {
    pub leader_id: Option<u64>,
    pub members: Vec<Member>,
}

/// Body of `POST /v1/members`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct InvitationRequest {
    /// Above every id that was ever given; without it the next one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_id: Option<u64>,
    /// How long the invitation is good for; 15 minutes without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
}

/// An invitation for one machine.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Invitation {
    pub node_id: u64,
    /// A secret: whoever has it may add one node. It is shown this once.
    pub join_token: String,
    pub expires_in_ms: u64,
}

impl std::fmt::Debug for Invitation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Invitation").field("node_id", &self.node_id).finish_non_exhaustive()
    }
}

/// Body of `POST /v1/members/{id}/replace`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ReplaceRequest {
    /// The member that votes from then on.
    pub with: u64,
}

/// The members are as was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct MembersChanged {
    /// The member that the call was about.
    pub node_id: u64,
    /// `voter` or `removed`.
    pub is_now: String,
}
