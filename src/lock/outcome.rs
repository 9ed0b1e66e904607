//! What a command can answer. An outcome is a fact of the log: every node computes the same one.
//! Sent between nodes, so variants and fields are appended, never reordered.

use alloc::boxed::Box;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::command::Mode;
use crate::ids::{LeaseId, LockName, Metadata, Owner, SessionId, Token};
use crate::time::LeaseTime;

/// The answer to one command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// The clock moved, or a detach or attach of somebody who holds or waits no more.
    Done,
    /// The lock is held (also by the first request with the same id, or again after an attach).
    Granted(Box<Grant>),
    /// The request stands in the queue; an event will tell the rest.
    Queued(Queued),
    Renewed(Box<Grant>),
    Released(Ended),
    /// What was taken; empty if that grant had ended already.
    ForceReleased(Vec<Ended>),
    SessionOpened(SessionInfo),
    SessionRenewed(SessionInfo),
    SessionClosed {
        session_id: SessionId,
        leases_ended: u64,
    },
    Rejected(Rejection),
}

/// A held lease as its holder sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    pub lease_id: LeaseId,
    pub name: LockName,
    pub mode: Mode,
    pub owner: Owner,
    pub token: Token,
    pub session_id: Option<SessionId>,
    /// The lease's own TTL or its session's; `None` for a lease without expiry.
    pub ttl_ms: Option<u64>,
    /// Lease time of the grant.
    pub granted_at: LeaseTime,
    /// Grant stamp minus stamp of the acquire, in milliseconds.
    pub waited_ms: u64,
    /// When the lease ends unless renewed; `None` for a lease without expiry.
    pub deadline: Option<LeaseTime>,
    pub metadata: Metadata,
}

/// A place in a queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queued {
    pub lease_id: LeaseId,
    /// 1 for the next in line, counted when the command was applied.
    pub position: u64,
}

/// How a lease ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    pub lease_id: LeaseId,
    pub name: LockName,
    /// `None` if it was still waiting.
    pub token: Option<Token>,
    pub how: EndReason,
    pub ended_at: LeaseTime,
}

/// Why a lease or session is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum EndReason {
    Released,
    Expired,
    Forced,
    SessionClosed,
    SessionExpired,
    /// Its wait ran out before it was granted.
    WaitTimeout,
    /// Its connection was gone for longer than its grace.
    Abandoned,
}

/// A session as its owner sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionInfo {
    pub session_id: SessionId,
    pub owner: Owner,
    pub ttl_ms: u64,
    pub deadline: LeaseTime,
    pub lease_count: u64,
    pub metadata: Metadata,
}

/// Why a command changed nothing. Replicated like every outcome; none of these is an error of ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rejection {
    /// The lock is held or waited for, and the caller did not want to wait.
    LockHeld(Box<Contention>),
    /// The queue is at its bound.
    QueueFull { limit: u64 },
    /// The lock has as many shared holders as it may.
    HoldersFull { limit: u64 },
    /// The cluster has as many leases as it may.
    LeasesFull { limit: u64 },
    /// The cluster has as many sessions as it may.
    SessionsFull { limit: u64 },
    /// The session has as many leases as it may.
    SessionLeasesFull { limit: u64 },
    /// The memory of ended answers is full: a request id cannot be promised its once-only effect.
    AnswersFull { limit: u64 },
    /// Another command came under this request id before.
    RequestIdReused,
    /// The lease ended, and this is how.
    LeaseGone(Ended),
    /// No such lease is remembered.
    LeaseUnknown,
    /// The lease waits: it cannot be renewed.
    LeaseWaiting,
    /// The session ended, and this is how.
    SessionGone { how: EndReason },
    /// No such session is remembered.
    SessionUnknown,
    /// No token is left below 2^53; nothing is granted any more.
    TokensExhausted,
}

/// Who is in the way of an acquire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contention {
    pub name: LockName,
    /// At most [`HOLDERS_SHOWN_MAX`] of them.
    pub holders: Vec<Holder>,
    pub holder_count: u64,
    pub queue_length: u64,
}

/// Holders named in a refusal; an inspection shows more.
pub const HOLDERS_SHOWN_MAX: usize = 10;

/// A holder as others see it: never its lease id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    pub owner: Owner,
    pub mode: Mode,
    pub token: Token,
    pub granted_at: LeaseTime,
    /// Wall clock of the granting leader, in milliseconds since 1970; for display.
    pub since_wall_ms: u64,
    /// Lease time of the last renewal, or of the grant.
    pub renewed_at: LeaseTime,
    pub deadline: Option<LeaseTime>,
    pub metadata: Metadata,
    pub in_session: bool,
}
