//! What can be in the log. Persisted and sent between nodes: variants and fields are appended,
//! never reordered, and `level` says which rules an entry was written for.

use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::ids::{
    LeaseId, LockName, Metadata, Owner, Permits, Reason, RecordKey, RecordValue, RequestId,
    Revision, SessionId, Token, Value,
};
use crate::time::{Grace, LeaseTime, LockDelay, Ttl, Wait};

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
    Attach {
        /// The waiter.
        lease_id: LeaseId,
    },
    /// The waiter's connection is known gone: its grace begins. Without effect on a holder.
    Detach {
        /// The waiter.
        lease_id: LeaseId,
    },
    /// First command of each leadership: no connection of the old leader is known to live.
    DetachAll,
    /// Sets the lease's deadline to now + TTL; never shortens it.
    Renew {
        /// The lease to keep.
        lease_id: LeaseId,
    },
    /// Ends a held lease, or leaves the queue.
    Release {
        /// The lease to end, or the place in the queue to leave.
        lease_id: LeaseId,
    },
    /// Takes the lock from one grant or from all its holders; waiters stay.
    ForceRelease {
        /// The lock.
        name: LockName,
        /// Which of its grants.
        target: ForceTarget,
        /// Told to watchers and kept for the audit.
        reason: Reason,
        /// How long the lock stays closed; `None` for what remained of the lease.
        lock_delay: Option<LockDelay>,
    },
    /// Opens a session.
    OpenSession(OpenSession),
    /// Renews all leases of a session at once.
    RenewSession {
        /// The session to keep.
        session_id: SessionId,
    },
    /// Ends a session and all its leases.
    CloseSession {
        /// The session to end.
        session_id: SessionId,
    },
    /// Writes the lock's value; only who holds the lock may.
    SetValue {
        /// The lock.
        name: LockName,
        /// The lease that holds it.
        lease_id: LeaseId,
        /// `None` deletes it.
        value: Option<Value>,
    },
    /// Deletes the value of a lock that nobody holds.
    DeleteValue {
        /// The lock.
        name: LockName,
    },
    /// Takes several locks in one decision, or joins all their queues at once.
    AcquireMany(AcquireMany),
    /// Gives a held lock to a new lease, with a new token and without a gap.
    HandOver(HandOver),
    /// Writes or deletes a record of the cluster itself, if it is as expected.
    PutRecord {
        /// Under what it is kept.
        key: RecordKey,
        /// `None` deletes it.
        value: Option<RecordValue>,
        /// What must be there.
        expected: Expected,
    },
}

/// What a change of a record finds, or it is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Expected {
    /// Whatever there is.
    Anything,
    /// No record.
    Absent,
    /// The record as its last change at this revision left it.
    At(Revision),
}

/// The claims of one client on several locks: all are granted in one step, or none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcquireMany {
    /// One for each lock, in the order of the request; their names differ.
    pub claims: Vec<Claim>,
    /// Tells people who holds or waits.
    pub owner: Owner,
    /// How the leases stay alive.
    pub term: LeaseTerm,
    /// How long to stand in the queues at most; zero asks for an answer at once.
    pub wait: Wait,
    /// How long the places in the queues outlive the connection.
    pub grace: Grace,
    /// Under which the request may be repeated without a second effect (P7).
    pub request_id: Option<RequestId>,
    /// Shown to others with the owner.
    pub metadata: Metadata,
}

/// One of several locks that are asked for together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Random, minted by the node that received the request.
    pub lease_id: LeaseId,
    /// The lock.
    pub name: LockName,
    /// Alone or together with others.
    pub mode: Mode,
    /// How long the lock stays closed if the holder is lost.
    pub lock_delay: LockDelay,
}

/// Gives a held lock to somebody else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandOver {
    /// The lease that holds; it ends.
    pub lease_id: LeaseId,
    /// The lease that holds from then on. Random, minted by the node that received the request.
    pub new_lease_id: LeaseId,
    /// Who holds from then on.
    pub owner: Owner,
    /// How the new lease stays alive.
    pub term: LeaseTerm,
    /// Under which the request may be repeated without a second effect (P7).
    pub request_id: Option<RequestId>,
    /// Shown to others with the owner.
    pub metadata: Metadata,
}

/// The claim of one client on one lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acquire {
    /// Random, minted by the node that received the request.
    pub lease_id: LeaseId,
    /// The lock.
    pub name: LockName,
    /// Tells people who holds or waits.
    pub owner: Owner,
    /// Alone or together with others.
    pub mode: Mode,
    /// How the lease stays alive.
    pub term: LeaseTerm,
    /// How long to stand in the queue at most; zero asks for an answer at once.
    pub wait: Wait,
    /// How long the place in the queue outlives the connection.
    pub grace: Grace,
    /// Under which the request may be repeated without a second effect (P7).
    pub request_id: Option<RequestId>,
    /// Shown to others with the owner.
    pub metadata: Metadata,
    /// How long the lock stays closed if the holder is lost.
    pub lock_delay: LockDelay,
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
    /// Holders whose permits together are within the limit, which all of them name alike.
    Permits(Permits),
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
    /// Tells people whose session it is.
    pub owner: Owner,
    /// How long the session and its leases live without a renewal.
    pub ttl: Ttl,
    /// Under which the request may be repeated without a second effect (P7).
    pub request_id: Option<RequestId>,
    /// Shown to others with the owner.
    pub metadata: Metadata,
}
