//! What a caller may conclude from a failed call.

use std::fmt;

use crate::wire::Problem;

/// Why a call brought no result.
#[derive(Debug, Clone)]
pub enum ClientError {
    /// The cluster answered no, and why. Nothing changed.
    Refused(Box<Problem>),
    /// No node, or no leader, could be reached by the deadline. Nothing was done.
    Unreachable(String),
    /// It may or may not have happened. Repeat with the same request id, or look.
    Unknown(String),
    /// It would have given the access token away, and was not sent. Nothing was done.
    Insecure(String),
    /// The answer is not one of oarlock's: is something else listening there?
    Protocol(String),
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(problem) => f.write_str(&problem.detail),
            Self::Unreachable(why) => write!(f, "no node could answer in time: {why}"),
            Self::Unknown(why) => write!(f, "the outcome is unknown: {why}"),
            Self::Insecure(why) => f.write_str(why),
            Self::Protocol(why) => write!(f, "not an answer of oarlock: {why}"),
        }
    }
}

impl std::error::Error for ClientError {}
