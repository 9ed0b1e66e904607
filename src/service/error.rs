//! The family of errors that are not answers of the log: what a caller may conclude from one, and
//! what to do next. A *rejection* is an answer and lives in the core's `outcome`.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why a call has no answer. Sent between nodes: variants are appended, never reordered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServiceError {
    /// Certainly not done: no leader was reachable within the deadline.
    NoLeader,
    /// Certainly not done: this node is at a bound of its own; try again later or elsewhere.
    Overloaded(String),
    /// Certainly not done: this node is shutting down; ask another.
    ShuttingDown,
    /// It may or may not have happened; repeat with the same request id, or look.
    Unknown(String),
    /// A node was asked to answer as leader and does not lead; the service asks elsewhere.
    NotLeader(Option<u64>),
    /// The request may wait in the queue still, but this node is shutting down: repeat it with the
    /// same request id at another node, and it keeps its place.
    Leaving,
    /// Certainly not done: who asks is not known, or no longer.
    Unauthenticated(String),
    /// Certainly not done: who asks is known, and may not.
    Forbidden(String),
    /// The request may wait in the queue still, but the credential that it came with is gone.
    Revoked,
    /// Certainly not done: the identity uses all that it may at this node.
    OverQuota { what: String, limit: u32 },
}

impl ServiceError {
    /// Whether the caller may conclude that nothing happened.
    pub fn is_not_done(&self) -> bool {
        match self {
            Self::NoLeader
            | Self::Overloaded(_)
            | Self::ShuttingDown
            | Self::NotLeader(_)
            | Self::Unauthenticated(_)
            | Self::Forbidden(_)
            | Self::OverQuota { .. } => true,
            Self::Unknown(_) | Self::Leaving | Self::Revoked => false,
        }
    }
}

impl fmt::Display for ServiceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoLeader => f.write_str("no leader with a majority was reachable in time"),
            Self::Overloaded(what) => write!(f, "this node is at a bound: {what}"),
            Self::ShuttingDown => f.write_str("this node is shutting down"),
            Self::Unknown(why) => write!(f, "the outcome is unknown: {why}"),
            Self::NotLeader(_) => f.write_str("this node does not lead"),
            Self::Unauthenticated(why) | Self::Forbidden(why) => f.write_str(why),
            Self::Revoked => f.write_str(
                "the credential of this request was revoked or ran out while it waited; it leaves \
                 the queue within its grace",
            ),
            Self::OverQuota { what, limit } => {
                write!(f, "the quota of this identity is used up: {limit} {what}")
            }
            Self::Leaving => f.write_str(
                "this node is shutting down while the request waits; repeat it with the same \
                 request id at another node to keep its place",
            ),
        }
    }
}

impl std::error::Error for ServiceError {}
