//! What a command can answer. An outcome is a fact of the log: every node computes the same one.
//! Sent between nodes, so variants and fields are appended, never reordered.

use alloc::boxed::Box;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::command::Mode;
use crate::ids::{LeaseId, LockName, Metadata, Owner, Revision, SessionId, Token, Value};
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
    /// The lease is held, and this is its deadline now.
    Renewed(Box<Grant>),
    /// The lease ended by this release or by an earlier one.
    Released(Ended),
    /// What was taken; empty if that grant had ended already.
    ForceReleased(Vec<Ended>),
    /// The session is open (also by the first request with the same id).
    SessionOpened(SessionInfo),
    /// The session is open, and this is its deadline now.
    SessionRenewed(SessionInfo),
    /// The session was closed by this command or by an earlier one.
    SessionClosed {
        /// Which.
        session_id: SessionId,
        /// Leases, held or waiting, that this command ended with it.
        leases_ended: u64,
    },
    /// Nothing changed, and this is why.
    Rejected(Rejection),
    /// The value was written; `None` if it was deleted.
    ValueSet(Option<Box<ValueInfo>>),
    /// The lock carries no value now.
    ValueDeleted {
        /// Whether it carried one before.
        existed: bool,
    },
    /// All locks of the request are held, in its order.
    GrantedMany(Vec<Grant>),
    /// The request stands in all queues; an event will tell the rest.
    QueuedMany(Vec<Queued>),
    /// The record was written, at this revision; `None` if there is none now.
    RecordPut(Option<Revision>),
}

/// The value of a lock, and who wrote it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ValueInfo {
    /// The text.
    pub value: Value,
    /// Of the grant under which it was written.
    pub token: Token,
    /// Who wrote it.
    pub owner: Owner,
    /// Wall clock of the writing leader, in milliseconds since 1970; for display.
    pub written_wall_ms: u64,
    /// Of the write.
    pub revision: Revision,
}

/// A held lease as its holder sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// The right to renew and release; for the holder only.
    pub lease_id: LeaseId,
    /// The lock.
    pub name: LockName,
    /// Alone or together with others.
    pub mode: Mode,
    /// Whose it is.
    pub owner: Owner,
    /// The fencing token of this grant (P2).
    pub token: Token,
    /// The session that keeps the lease alive, if one does.
    pub session_id: Option<SessionId>,
    /// The lease's own TTL or its session's; `None` for a lease without expiry.
    pub ttl_ms: Option<u64>,
    /// Lease time of the grant.
    pub granted_at: LeaseTime,
    /// Grant stamp minus stamp of the acquire, in milliseconds.
    pub waited_ms: u64,
    /// When the lease ends unless renewed; `None` for a lease without expiry.
    pub deadline: Option<LeaseTime>,
    /// As given with the acquire.
    pub metadata: Metadata,
}

/// A place in a queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queued {
    /// The waiting lease; of the first request, if this was a repeat.
    pub lease_id: LeaseId,
    /// 1 for the next in line, counted when the command was applied.
    pub position: u64,
}

/// How a lease ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Which lease.
    pub lease_id: LeaseId,
    /// Of which lock.
    pub name: LockName,
    /// `None` if it was still waiting.
    pub token: Option<Token>,
    /// Why it ended.
    pub how: EndReason,
    /// Lease time of its end.
    pub ended_at: LeaseTime,
}

/// Why a lease or session is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum EndReason {
    /// Its holder released it, or left the queue.
    Released,
    /// Its TTL passed without a renewal.
    Expired,
    /// Somebody took it away.
    Forced,
    /// Its session was closed.
    SessionClosed,
    /// Its session's TTL passed without a renewal.
    SessionExpired,
    /// Its wait ran out before it was granted.
    WaitTimeout,
    /// Its connection was gone for longer than its grace.
    Abandoned,
    /// Its holder gave the lock to another lease.
    HandedOver,
}

/// A session as its owner sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionInfo {
    /// The right to use, renew and close it; for its owner only.
    pub session_id: SessionId,
    /// Whose it is.
    pub owner: Owner,
    /// How long it lives without a renewal, in milliseconds.
    pub ttl_ms: u64,
    /// When it ends unless renewed.
    pub deadline: LeaseTime,
    /// Its leases, held or waiting.
    pub lease_count: u64,
    /// As given when it was opened.
    pub metadata: Metadata,
}

/// Why a command changed nothing. Replicated like every outcome; none of these is an error of ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rejection {
    /// The lock is held or waited for, and the caller did not want to wait.
    LockHeld(Box<Contention>),
    /// The queue is at its bound.
    QueueFull {
        /// The bound.
        limit: u64,
    },
    /// The lock has as many shared holders as it may.
    HoldersFull {
        /// The bound.
        limit: u64,
    },
    /// The cluster has as many leases, and locks closed by a lock-delay, as it may.
    LeasesFull {
        /// The bound.
        limit: u64,
    },
    /// The cluster has as many sessions as it may.
    SessionsFull {
        /// The bound.
        limit: u64,
    },
    /// The session has as many leases as it may.
    SessionLeasesFull {
        /// The bound.
        limit: u64,
    },
    /// The memory of ended answers is full: a request id cannot be promised its once-only effect.
    AnswersFull {
        /// The bound.
        limit: u64,
    },
    /// Another command came under this request id before.
    RequestIdReused,
    /// The lease ended, and this is how.
    LeaseGone(Ended),
    /// No such lease is remembered.
    LeaseUnknown,
    /// The lease waits: it cannot be renewed.
    LeaseWaiting,
    /// The session ended, and this is how.
    SessionGone {
        /// `SessionClosed` or `SessionExpired`.
        how: EndReason,
    },
    /// No such session is remembered.
    SessionUnknown,
    /// No token is left below 2^53; nothing is granted any more.
    TokensExhausted,
    /// Permits of this lock are held or waited for under another limit.
    PermitLimitDiffers {
        /// The limit that holds now.
        limit: u64,
    },
    /// The lease holds another lock than the one that was named.
    LeaseOfOtherLock,
    /// The cluster carries as many values as it may.
    ValuesFull {
        /// The bound.
        limit: u64,
    },
    /// No locks, too many of them, or one of them twice.
    ClaimsInvalid,
    /// The session holds this lock by several leases: none of them may hand it over.
    GrantShared,
    /// Sessions would wait for each other in a circle; it begins and ends with the asking one.
    Deadlock(Vec<CycleStep>),
    /// The record is not as it was expected.
    RecordChanged {
        /// Of its last change; `None` if there is no record.
        revision: Option<Revision>,
    },
    /// There are as many records as there may be.
    RecordsFull {
        /// The bound.
        limit: u64,
    },
}

/// One session of a circle waits for the next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CycleStep {
    /// Who waits.
    pub owner: Owner,
    /// For which lock.
    pub waits_for: LockName,
    /// Who holds it, or waits for it first.
    pub held_by: Owner,
}

/// Who is in the way of an acquire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contention {
    /// The lock.
    pub name: LockName,
    /// At most [`HOLDERS_SHOWN_MAX`] of them.
    pub holders: Vec<Holder>,
    /// All of its holders.
    pub holder_count: u64,
    /// All of its waiters.
    pub queue_length: u64,
    /// Until when the lock is closed by a lock-delay, if it is.
    pub closed_until: Option<LeaseTime>,
}

/// Holders named in a refusal; an inspection shows more.
pub const HOLDERS_SHOWN_MAX: usize = 10;

/// A holder as others see it: never its lease id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Whose grant it is.
    pub owner: Owner,
    /// Alone or together with others.
    pub mode: Mode,
    /// Of this grant.
    pub token: Token,
    /// Lease time of the grant.
    pub granted_at: LeaseTime,
    /// Wall clock of the granting leader, in milliseconds since 1970; for display.
    pub since_wall_ms: u64,
    /// Lease time of the last renewal, or of the grant.
    pub renewed_at: LeaseTime,
    /// When the lease ends unless renewed; `None` for a lease without expiry.
    pub deadline: Option<LeaseTime>,
    /// As given with the acquire.
    pub metadata: Metadata,
    /// Whether a session keeps the lease alive.
    pub in_session: bool,
}
