//! The living part of the state: locks, leases and sessions, and the deadlines they wait for.
//!
//! A lock exists while it is held or waited for. Everything a row of the image holds is here as a
//! plain value; what can be derived from it (who holds, who queues, which leases a session has) is
//! kept beside it and rebuilt on load.

use alloc::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::command::{LeaseTerm, Mode};
use crate::ids::{LeaseId, LockName, Metadata, Owner, RequestId, Revision, SessionId, Token};
use crate::time::{Grace, LeaseTime, Ttl};

/// A request id with the fingerprint of the command that came under it.
pub(crate) type Request = (RequestId, u64);

/// One claim on one lock. Persisted as the row of its id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    pub(crate) name: LockName,
    pub(crate) owner: Owner,
    pub(crate) mode: Mode,
    pub(crate) term: LeaseTerm,
    pub(crate) grace: Grace,
    pub(crate) request: Option<Request>,
    pub(crate) metadata: Metadata,
    pub(crate) acquired_at: LeaseTime,
    pub(crate) state: LeaseState,
}

/// Where a claim stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum LeaseState {
    Waiting {
        ticket: u64,
        wait_until: LeaseTime,
        /// Set while the connection is known gone: when the waiter gives up its place.
        abandon_at: Option<LeaseTime>,
    },
    Held {
        token: Token,
        granted_at: LeaseTime,
        since_wall_ms: u64,
        renewed_at: LeaseTime,
        /// Of the lease itself; a session's lease and one without expiry have none.
        deadline: Option<LeaseTime>,
        /// False for a grant to a detached waiter that nobody was told of yet.
        claimed: bool,
    },
}

impl Lease {
    /// When the clock has to act on this lease.
    pub(crate) fn due(&self) -> Option<LeaseTime> {
        match &self.state {
            LeaseState::Waiting { wait_until, abandon_at, .. } => {
                Some(abandon_at.map_or(*wait_until, |at| at.min(*wait_until)))
            }
            LeaseState::Held { deadline, .. } => *deadline,
        }
    }

    pub(crate) fn session_id(&self) -> Option<SessionId> {
        match self.term {
            LeaseTerm::Session(id) => Some(id),
            LeaseTerm::Ttl(_) | LeaseTerm::Forever => None,
        }
    }

    /// The deadline of a grant made or renewed at `at`.
    pub(crate) fn deadline_from(&self, at: LeaseTime) -> Option<LeaseTime> {
        match self.term {
            LeaseTerm::Ttl(ttl) => Some(at.plus_ms(ttl.ms())),
            LeaseTerm::Forever | LeaseTerm::Session(_) => None,
        }
    }
}

/// The holders of one lock in token order, without an allocation for the usual single one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Holders {
    #[default]
    None,
    One(Token, LeaseId),
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

    pub(crate) fn insert(&mut self, token: Token, lease_id: LeaseId) {
        *self = match core::mem::take(self) {
            Self::None => Self::One(token, lease_id),
            Self::One(first, id) => Self::Many([(first, id), (token, lease_id)].into()),
            Self::Many(mut map) => {
                map.insert(token, lease_id);
                Self::Many(map)
            }
        };
    }

    pub(crate) fn remove(&mut self, token: Token) {
        *self = match core::mem::take(self) {
            Self::One(only, id) if only != token => Self::One(only, id),
            Self::None | Self::One(..) => Self::None,
            Self::Many(mut map) => {
                map.remove(&token);
                if map.is_empty() { Self::None } else { Self::Many(map) }
            }
        };
    }

    pub(crate) fn get(&self, token: Token) -> Option<LeaseId> {
        match self {
            Self::One(only, id) if *only == token => Some(*id),
            Self::None | Self::One(..) => None,
            Self::Many(map) => map.get(&token).copied(),
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Token, LeaseId)> + '_ {
        let one = match self {
            Self::One(token, id) => Some((*token, *id)),
            Self::None | Self::Many(_) => None,
        };
        let many = match self {
            Self::Many(map) => Some(map.iter().map(|(token, id)| (*token, *id))),
            Self::None | Self::One(..) => None,
        };
        one.into_iter().chain(many.into_iter().flatten())
    }
}

/// One lock that is held or waited for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lock {
    pub(crate) row: LockRow,
    pub(crate) holders: Holders,
    /// Whether the holders are shared ones; meaningless without holders.
    pub(crate) shared: bool,
    /// Waiters by ticket: first come, first served, in log order (P8).
    pub(crate) queue: BTreeMap<u64, LeaseId>,
}

impl Lock {
    pub(crate) fn is_free(&self) -> bool {
        self.holders.is_empty() && self.queue.is_empty()
    }

    /// Whether a claim of this mode may hold together with the present holders (P1).
    pub(crate) fn admits(&self, mode: Mode) -> bool {
        match mode {
            Mode::Exclusive => self.holders.is_empty(),
            Mode::Shared => self.holders.is_empty() || self.shared,
        }
    }
}

/// What a lock knows beyond its leases. Persisted as the row of its name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockRow {
    pub(crate) revision: Revision,
    pub(crate) last_token: Option<Token>,
}

/// One session. Persisted as the row of its id; its leases are derived from theirs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRow {
    pub(crate) owner: Owner,
    pub(crate) ttl: Ttl,
    pub(crate) deadline: LeaseTime,
    pub(crate) request: Option<Request>,
    pub(crate) metadata: Metadata,
}

#[derive(Debug, Clone)]
pub(crate) struct Session {
    pub(crate) row: SessionRow,
    pub(crate) leases: BTreeSet<LeaseId>,
}

/// What a deadline belongs to; the order breaks ties between equal moments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Due {
    Lease(LeaseId),
    Session(SessionId),
}

/// All that lives.
#[derive(Debug, Default)]
pub(crate) struct Table {
    pub(crate) locks: BTreeMap<LockName, Lock>,
    pub(crate) leases: BTreeMap<LeaseId, Lease>,
    pub(crate) sessions: BTreeMap<SessionId, Session>,
    /// Everything that ends by time, in the order in which it does.
    pub(crate) deadlines: BTreeSet<(LeaseTime, Due)>,
    /// Living request ids: what they asked for.
    pub(crate) requests: BTreeMap<RequestId, (u64, Due)>,
    pub(crate) waiting_count: usize,
}

impl Table {
    /// Puts a lease in, with everything derived from it. The lock must exist.
    pub(crate) fn insert_lease(&mut self, id: LeaseId, lease: Lease) {
        if let Some(at) = lease.due() {
            self.deadlines.insert((at, Due::Lease(id)));
        }
        if let Some((request_id, fingerprint)) = lease.request {
            self.requests.insert(request_id, (fingerprint, Due::Lease(id)));
        }
        if let Some(session) = lease.session_id().and_then(|id| self.sessions.get_mut(&id)) {
            session.leases.insert(id);
        }
        let lock = self.locks.entry(lease.name.clone()).or_default();
        match &lease.state {
            LeaseState::Waiting { ticket, .. } => {
                lock.queue.insert(*ticket, id);
                self.waiting_count += 1;
            }
            LeaseState::Held { token, .. } => {
                lock.holders.insert(*token, id);
                lock.shared = lease.mode == Mode::Shared;
            }
        }
        self.leases.insert(id, lease);
    }

    /// Takes a lease out, with everything derived from it. The lock stays, maybe free.
    pub(crate) fn remove_lease(&mut self, id: LeaseId) -> Option<Lease> {
        let lease = self.leases.remove(&id)?;
        if let Some(at) = lease.due() {
            self.deadlines.remove(&(at, Due::Lease(id)));
        }
        if let Some((request_id, _)) = lease.request {
            self.requests.remove(&request_id);
        }
        if let Some(session) = lease.session_id().and_then(|id| self.sessions.get_mut(&id)) {
            session.leases.remove(&id);
        }
        match &lease.state {
            LeaseState::Waiting { .. } => self.waiting_count -= 1,
            LeaseState::Held { .. } => {}
        }
        if let Some(lock) = self.locks.get_mut(&lease.name) {
            match &lease.state {
                LeaseState::Waiting { ticket, .. } => {
                    lock.queue.remove(ticket);
                }
                LeaseState::Held { token, .. } => lock.holders.remove(*token),
            }
        }
        Some(lease)
    }

    /// Changes the state of a lease and moves its deadline along. Holder and queue entries are the
    /// caller's: only a grant changes them.
    pub(crate) fn change_lease(&mut self, id: LeaseId, change: impl FnOnce(&mut Lease)) {
        let Some(lease) = self.leases.get_mut(&id) else { return };
        let before = lease.due();
        change(lease);
        let after = lease.due();
        if before != after {
            if let Some(at) = before {
                self.deadlines.remove(&(at, Due::Lease(id)));
            }
            if let Some(at) = after {
                self.deadlines.insert((at, Due::Lease(id)));
            }
        }
    }

    pub(crate) fn insert_session(&mut self, id: SessionId, row: SessionRow) {
        self.deadlines.insert((row.deadline, Due::Session(id)));
        if let Some((request_id, fingerprint)) = row.request {
            self.requests.insert(request_id, (fingerprint, Due::Session(id)));
        }
        self.sessions.insert(id, Session { row, leases: BTreeSet::new() });
    }

    pub(crate) fn remove_session(&mut self, id: SessionId) -> Option<Session> {
        let session = self.sessions.remove(&id)?;
        self.deadlines.remove(&(session.row.deadline, Due::Session(id)));
        if let Some((request_id, _)) = session.row.request {
            self.requests.remove(&request_id);
        }
        Some(session)
    }
}
