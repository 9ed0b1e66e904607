//! Answers to read-only questions about the machine. Sent between nodes when a read is forwarded.

use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::command::Mode;
use crate::ids::{LockName, Metadata, Owner, Revision, Token};
use crate::outcome::{Ended, Grant, Holder};
use crate::time::LeaseTime;

/// One lock as everybody may see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockView {
    pub name: LockName,
    /// In token order, at most the number that was asked for.
    pub holders: Vec<Holder>,
    pub holder_count: u64,
    /// In queue order, at most the number that was asked for.
    pub waiters: Vec<WaiterView>,
    pub queue_length: u64,
    /// The lock's newest token while the lock is remembered.
    pub last_token: Option<Token>,
    /// No token above it was ever granted, to any lock.
    pub token_ceiling: Token,
    /// Of the lock's last change; `None` for a lock that is free and forgotten.
    pub revision: Option<Revision>,
    /// The lease clock of the answer.
    pub now: LeaseTime,
}

/// A waiter as others see it: never its lease id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaiterView {
    pub owner: Owner,
    pub mode: Mode,
    /// 1 for the next in line.
    pub position: u64,
    pub waiting_ms: u64,
    pub attached: bool,
    pub metadata: Metadata,
}

/// A lease as whoever knows its id may see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum LeaseView {
    Held(Grant),
    Waiting { name: LockName, owner: Owner, mode: Mode, position: u64, waiting_ms: u64 },
    Ended(Ended),
    Unknown,
}

/// One page of a listing, in name order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockPage {
    pub locks: Vec<LockView>,
    /// The last name of this page if there may be more.
    pub next: Option<LockName>,
    pub now: LeaseTime,
}

/// Counts of what lives, for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    pub locks: u64,
    pub leases_held: u64,
    pub leases_waiting: u64,
    pub sessions: u64,
    pub answers: u64,
}
