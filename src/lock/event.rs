//! What happened: events wake waiters on the leader and feed watchers on every node. Each carries
//! a revision of its own, in log order. Lease ids in events are for the node's own use; a surface
//! never shows another client's.

use alloc::boxed::Box;

use serde::{Deserialize, Serialize};

use crate::ids::{LockName, Owner, Reason, Revision, SessionId};
use crate::outcome::{Ended, Grant};

/// One thing that happened, at one revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    pub revision: Revision,
    pub kind: EventKind,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum EventKind {
    /// A lease was granted. `attached` is false for a waiter whose connection is known gone: it
    /// holds only for its grace, and nobody is told before its attach is applied.
    Granted {
        grant: Box<Grant>,
        attached: bool,
        queued: bool,
    },
    /// A request joined the queue.
    Queued {
        name: LockName,
        owner: Owner,
        queue_length: u64,
    },
    /// A held lease, or a waiter (`token` is `None`), ended.
    Ended {
        ended: Ended,
        owner: Owner,
        held_ms: u64,
        reason: Option<Reason>,
    },
    SessionOpened {
        session_id: SessionId,
    },
    SessionEnded {
        session_id: SessionId,
    },
}
