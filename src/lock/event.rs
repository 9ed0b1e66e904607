//! What happened: events wake waiters on the leader and feed watchers on every node. Each carries
//! a revision of its own, in log order. Lease ids in events are for the node's own use; a surface
//! never shows another client's.

use alloc::boxed::Box;

use serde::{Deserialize, Serialize};

use crate::ids::{LockName, Owner, Reason, Revision, SessionId, Token};
use crate::outcome::{Ended, Grant};

/// One thing that happened, at one revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Its place in the sequence of everything that happened.
    pub revision: Revision,
    /// What it was.
    pub kind: EventKind,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum EventKind {
    /// A lease was granted. `attached` is false for a waiter whose connection is known gone: it
    /// holds only for its grace, and nobody is told before its attach is applied.
    Granted {
        /// What was granted.
        grant: Box<Grant>,
        /// Whether somebody may be told already.
        attached: bool,
        /// Whether it came from the queue.
        queued: bool,
        /// Whether other locks were granted with it.
        in_group: bool,
    },
    /// A request joined the queue.
    Queued {
        /// The lock.
        name: LockName,
        /// Who waits.
        owner: Owner,
        /// Waiters, this one included.
        queue_length: u64,
    },
    /// A held lease, or a waiter (`token` is `None`), ended.
    Ended {
        /// What ended, and how.
        ended: Ended,
        /// Whose it was.
        owner: Owner,
        /// From grant to end, in lease time; zero for a waiter.
        held_ms: u64,
        /// Of a force release.
        reason: Option<Reason>,
    },
    /// A session was opened.
    SessionOpened {
        /// Which.
        session_id: SessionId,
    },
    /// A session was closed or expired; its leases ended before it.
    SessionEnded {
        /// Which.
        session_id: SessionId,
    },
    /// The lock-delay of a lock is over.
    Reopened {
        /// The lock.
        name: LockName,
    },
    /// The value of a lock was written or deleted.
    ValueChanged {
        /// The lock.
        name: LockName,
        /// Of the grant under which it was written; `None` if it was deleted.
        token: Option<Token>,
    },
}
