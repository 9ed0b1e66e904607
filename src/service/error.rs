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
}

impl ServiceError {
    /// Whether the caller may conclude that nothing happened.
    pub fn is_not_done(&self) -> bool {
        match self {
            Self::NoLeader | Self::Overloaded(_) | Self::ShuttingDown | Self::NotLeader(_) => true,
            Self::Unknown(_) | Self::Leaving => false,
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
            Self::Leaving => f.write_str(
                "this node is shutting down while the request waits; repeat it with the same \
                 request id at another node to keep its place",
            ),
        }
    }
}

impl std::error::Error for ServiceError {}
