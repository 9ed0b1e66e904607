//! What can be in the log. Persisted and sent between nodes: variants and fields are appended,
//! never reordered, and `level` says which rules an entry was written for.

use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::ids::{LeaseId, LockName, Metadata, Owner, Reason, RequestId, SessionId, Token};
use crate::time::{Grace, LeaseTime, Ttl, Wait};

/// The newest behaviour version that this build knows.
pub const LEVEL: u16 = 1;

/// One log entry: many commands, each with the lease time at which the leader received it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Behaviour version: `apply` follows the rules of this level.
    pub level: u16,
    /// Wall clock of the leader in milliseconds since 1970; for display only, no rule reads it.
    pub wall_ms: u64,
    /// The commands in the order of their receipt; stamps do not decrease.
    pub commands: Vec<(LeaseTime, Command)>,
}

/// One request to the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Moves the lease clock and does nothing else.
    Advance,
    /// Takes a lock or joins its queue.
    Acquire(Acquire),
    /// The waiter's connection is back: it may be granted for good again.
    Attach { lease_id: LeaseId },
    /// The waiter's connection is known gone: its grace begins. Without effect on a holder.
    Detach { lease_id: LeaseId },
    /// First command of each leadership: no connection of the old leader is known to live.
    DetachAll,
    /// Sets the lease's deadline to now + TTL; never shortens it.
    Renew { lease_id: LeaseId },
    /// Ends a held lease, or leaves the queue.
    Release { lease_id: LeaseId },
    /// Takes the lock from one grant or from all its holders; waiters stay.
    ForceRelease { name: LockName, target: ForceTarget, reason: Reason },
    /// Opens a session.
    OpenSession(OpenSession),
    /// Renews all leases of a session at once.
    RenewSession { session_id: SessionId },
    /// Ends a session and all its leases.
    CloseSession { session_id: SessionId },
}

/// The claim of one client on one lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acquire {
    /// Random, minted by the node that received the request.
    pub lease_id: LeaseId,
    pub name: LockName,
    pub owner: Owner,
    pub mode: Mode,
    pub term: LeaseTerm,
    pub wait: Wait,
    pub grace: Grace,
    pub request_id: Option<RequestId>,
    pub metadata: Metadata,
}

/// How a lease stays alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum LeaseTerm {
    /// By its own renewals.
    Ttl(Ttl),
    /// Until released or forced; asked for explicitly.
    Forever,
    /// As long as its session.
    Session(SessionId),
}

/// Who may hold the lock together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Mode {
    /// One holder.
    Exclusive,
    /// Any number of shared holders.
    Shared,
}

/// Whose grant a force release ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ForceTarget {
    /// The grant with this token; one that ended already changes nothing.
    Token(Token),
    /// Every holder.
    All,
}

/// Opens a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenSession {
    /// Random, minted by the node that received the request.
    pub session_id: SessionId,
    pub owner: Owner,
    pub ttl: Ttl,
    pub request_id: Option<RequestId>,
    pub metadata: Metadata,
}
