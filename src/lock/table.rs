//! Locks and leases: the part of the state that everything else is about.
//!
//! The table keeps its own parts in step (a lease, its lock's holders or queue, the count of
//! waiters); deadlines, sessions and rows are kept by the rules that call it.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::command::{LeaseTerm, Mode};
use crate::ids::{LeaseId, LockName, Metadata, Owner, RequestId, Revision, SessionId, Token};
use crate::queue::Queue;
use crate::time::{Grace, LeaseTime};

/// One claim on one lock. Persisted as a row: a change of its shape needs a new row version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    pub(crate) name: LockName,
    pub(crate) owner: Owner,
    pub(crate) metadata: Metadata,
    pub(crate) mode: Mode,
    pub(crate) term: LeaseTerm,
    pub(crate) grace: Grace,
    pub(crate) request_id: Option<RequestId>,
    pub(crate) fingerprint: u64,
    pub(crate) acquired_at: LeaseTime,
    pub(crate) state: LeaseState,
}

/// Where a lease stands. Persisted within its lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum LeaseState {
    Waiting(Waiting),
    Held(Held),
}

/// A place in the queue. Persisted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Waiting {
    pub(crate) ticket: u64,
    pub(crate) wait_until: LeaseTime,
    /// Set while the waiter is detached.
    pub(crate) grace_until: Option<LeaseTime>,
}

/// A grant. Persisted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Held {
    pub(crate) token: Token,
    pub(crate) granted_at: LeaseTime,
    pub(crate) since_wall_ms: u64,
    pub(crate) renewed_at: LeaseTime,
    /// The lease's own deadline; none for a lease of a session or without expiry.
    pub(crate) expires_at: Option<LeaseTime>,
    /// Set while the grant is unclaimed: given to a detached waiter that has not come back yet.
    pub(crate) claim_until: Option<LeaseTime>,
}

impl Lease {
    /// When the lease ends by itself, its session aside.
    pub(crate) fn deadline(&self) -> Option<LeaseTime> {
        match &self.state {
            LeaseState::Waiting(waiting) => earlier(Some(waiting.wait_until), waiting.grace_until),
            LeaseState::Held(held) => earlier(held.expires_at, held.claim_until),
        }
    }

    pub(crate) fn session_id(&self) -> Option<SessionId> {
        match self.term {
            LeaseTerm::Session(session_id) => Some(session_id),
            LeaseTerm::Ttl(_) | LeaseTerm::Forever => None,
        }
    }

    pub(crate) fn token(&self) -> Option<Token> {
        match &self.state {
            LeaseState::Waiting(_) => None,
            LeaseState::Held(held) => Some(held.token),
        }
    }
}

/// The earlier of two deadlines, where none is later than any.
pub(crate) fn earlier(a: Option<LeaseTime>, b: Option<LeaseTime>) -> Option<LeaseTime> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (only, None) | (None, only) => only,
    }
}

/// Who holds a lock. `One` spares the common case an allocation.
#[derive(Debug, Clone, Default)]
pub(crate) enum Holders {
    #[default]
    None,
    One(Token, LeaseId, Mode),
    /// Two or more, all of them shared.
    Many(BTreeMap<Token, LeaseId>),
}

impl Holders {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::One(..) => 1,
            Self::Many(map) => map.len(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether somebody asking for `mode` may hold the lock together with these (P1).
    pub(crate) fn compatible(&self, mode: Mode) -> bool {
        match (self, mode) {
            (Self::None, _) | (Self::Many(_) | Self::One(_, _, Mode::Shared), Mode::Shared) => true,
            (Self::One(..) | Self::Many(_), Mode::Exclusive)
            | (Self::One(_, _, Mode::Exclusive), Mode::Shared) => false,
        }
    }

    /// Adds a holder that is compatible with these; `false`, and no change, if it is not.
    pub(crate) fn insert(&mut self, token: Token, lease_id: LeaseId, mode: Mode) -> bool {
        if !self.compatible(mode) || self.get(token).is_some() {
            return false;
        }
        match self {
            Self::None => *self = Self::One(token, lease_id, mode),
            Self::One(first_token, first, _) => {
                *self = Self::Many(BTreeMap::from([(*first_token, *first), (token, lease_id)]));
            }
            Self::Many(map) => {
                map.insert(token, lease_id);
            }
        }
        true
    }

    pub(crate) fn remove(&mut self, token: Token) {
        match self {
            Self::None => {}
            Self::One(held, _, _) => {
                if *held == token {
                    *self = Self::None;
                }
            }
            Self::Many(map) => {
                map.remove(&token);
                if let (1, Some((token, lease_id))) = (map.len(), map.first_key_value()) {
                    *self = Self::One(*token, *lease_id, Mode::Shared);
                }
            }
        }
    }

    pub(crate) fn get(&self, token: Token) -> Option<LeaseId> {
        match self {
            Self::None => None,
            Self::One(held, lease_id, _) => (*held == token).then_some(*lease_id),
            Self::Many(map) => map.get(&token).copied(),
        }
    }

    /// Tokens and leases in token order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Token, LeaseId)> {
        let (one, many) = match self {
            Self::None => (None, None),
            Self::One(token, lease_id, _) => (Some((*token, *lease_id)), None),
            Self::Many(map) => (None, Some(map)),
        };
        one.into_iter().chain(many.into_iter().flatten().map(|(token, id)| (*token, *id)))
    }
}

/// A lock that is held or waited for; a free one is not remembered.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lock {
    pub(crate) holders: Holders,
    pub(crate) queue: Queue,
    pub(crate) last_token: Option<Token>,
    pub(crate) revision: Revision,
}

/// All locks and leases.
#[derive(Debug, Clone, Default)]
pub(crate) struct Table {
    pub(crate) locks: BTreeMap<LockName, Lock>,
    pub(crate) leases: BTreeMap<LeaseId, Box<Lease>>,
    /// Waiters whose connection is not known to be gone, so that detaching all finds them.
    pub(crate) attached: BTreeSet<LeaseId>,
    pub(crate) waiting_count: usize,
}

impl Table {
    /// Enters a new lease into its lock, whose revision the caller sets. `false`, and nothing is
    /// entered, if the lock's holders or queue have no place for it.
    pub(crate) fn insert(&mut self, lease_id: LeaseId, lease: Box<Lease>) -> bool {
        let lock = self.locks.entry(lease.name.clone()).or_default();
        let entered = match &lease.state {
            LeaseState::Waiting(waiting) => lock.queue.insert(waiting.ticket, lease_id),
            LeaseState::Held(held) => lock.holders.insert(held.token, lease_id, lease.mode),
        };
        if !entered {
            return false;
        }
        match &lease.state {
            LeaseState::Waiting(waiting) => {
                self.waiting_count = self.waiting_count.saturating_add(1);
                if waiting.grace_until.is_none() {
                    self.attached.insert(lease_id);
                }
            }
            LeaseState::Held(held) => lock.last_token = lock.last_token.max(Some(held.token)),
        }
        self.leases.insert(lease_id, lease);
        true
    }

    /// Takes a lease out, also out of its lock, which stays even if nobody is left.
    pub(crate) fn remove(&mut self, lease_id: LeaseId) -> Option<Box<Lease>> {
        let lease = self.leases.remove(&lease_id)?;
        let lock = self.locks.get_mut(&lease.name);
        match &lease.state {
            LeaseState::Waiting(waiting) => {
                self.waiting_count = self.waiting_count.saturating_sub(1);
                self.attached.remove(&lease_id);
                if let Some(lock) = lock {
                    lock.queue.remove(waiting.ticket);
                }
            }
            LeaseState::Held(held) => {
                if let Some(lock) = lock {
                    lock.holders.remove(held.token);
                }
            }
        }
        Some(lease)
    }

    /// The waiter that the lock's holders leave room for, if it is the next in line.
    pub(crate) fn grantable(&self, name: &LockName, holders_max: usize) -> Option<LeaseId> {
        let lock = self.locks.get(name)?;
        let lease_id = lock.queue.front()?;
        let mode = self.leases.get(&lease_id)?.mode;
        (lock.holders.compatible(mode) && lock.holders.len() < holders_max).then_some(lease_id)
    }
}
