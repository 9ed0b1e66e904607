//! Locks and leases: the part of the state that everything else is about.
//!
//! The table keeps its own parts in step (a lease, its lock's holders or queue, the count of
//! waiters); deadlines, sessions and rows are kept by the rules that call it.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::command::{LeaseTerm, Mode};
use crate::ids::{LeaseId, LockName, Metadata, Owner, RequestId, Revision, SessionId, Token};
use crate::outcome::ValueInfo;
use crate::planted::{Bug, planted};
use crate::queue::Queue;
use crate::time::{Grace, LeaseTime, LockDelay};

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
    pub(crate) lock_delay: LockDelay,
    pub(crate) group: Option<Group>,
    pub(crate) state: LeaseState,
}

/// The leases of one request for several locks. While it waits it is one thing, and its first lease
/// stands for it: that one has the deadline, and is attached or not. Persisted within its lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Group {
    /// Of the first lease: all of them, in the order of the request.
    First(Vec<LeaseId>),
    /// Of the others: which one is the first.
    Member(LeaseId),
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
            LeaseState::Waiting(waiting) => match self.group {
                Some(Group::Member(_)) => None,
                Some(Group::First(_)) | None => {
                    earlier(Some(waiting.wait_until), waiting.grace_until)
                }
            },
            LeaseState::Held(held) => earlier(held.expires_at, held.claim_until),
        }
    }

    /// Whether the other may be one more lease of the same grant: of the same session, in the same
    /// mode, and not permits.
    fn shares(&self, other: &Self) -> bool {
        let again = match self.mode {
            Mode::Exclusive | Mode::Shared => self.mode == other.mode,
            Mode::Permits(_) => false,
        };
        again && self.session_id().is_some() && self.session_id() == other.session_id()
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
    /// Two or more, all shared or all with permits of one limit.
    Many(Crowd),
}

/// Holders that hold together.
#[derive(Debug, Clone)]
pub(crate) struct Crowd {
    members: BTreeMap<Token, (LeaseId, Mode)>,
    /// Permits that they have together; zero for shared holders.
    permits: u32,
}

/// The permits that a mode takes.
fn permits(mode: Mode) -> u32 {
    match mode {
        Mode::Exclusive | Mode::Shared => 0,
        Mode::Permits(permits) => permits.count(),
    }
}

/// Whether `mode` fits beside one or more holders of the mode `held` that have `taken` permits.
fn fits_beside(held: Mode, taken: u32, mode: Mode) -> bool {
    match (held, mode) {
        (Mode::Shared, Mode::Shared) => true,
        (Mode::Permits(held), Mode::Permits(asked)) => {
            held.limit() == asked.limit()
                && taken.checked_add(asked.count()).is_some_and(|all| all <= held.limit())
        }
        (Mode::Exclusive, Mode::Shared) => planted(Bug::ReaderJoinsWriter),
        (Mode::Exclusive, Mode::Exclusive) => planted(Bug::SecondWriterWins),
        (Mode::Exclusive | Mode::Shared | Mode::Permits(_), _) => false,
    }
}

impl Holders {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::One(..) => 1,
            Self::Many(crowd) => crowd.members.len(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Permits that are taken.
    pub(crate) fn permits(&self) -> u32 {
        match self {
            Self::None => 0,
            Self::One(_, _, mode) => permits(*mode),
            Self::Many(crowd) => crowd.permits,
        }
    }

    /// Whether somebody asking for `mode` may hold the lock together with these (P1).
    pub(crate) fn compatible(&self, mode: Mode) -> bool {
        let held = match self {
            Self::None => return true,
            Self::One(_, _, held) => Some(held),
            Self::Many(crowd) => crowd.members.values().next().map(|(_, held)| held),
        };
        held.is_none_or(|held| fits_beside(*held, self.permits(), mode))
    }

    /// Adds a holder that is compatible with these; `false`, and no change, if it is not.
    pub(crate) fn insert(&mut self, token: Token, lease_id: LeaseId, mode: Mode) -> bool {
        if !self.compatible(mode) || self.get(token).is_some() {
            return false;
        }
        let before = if planted(Bug::OnlyTheLastPermitsCount) { 0 } else { self.permits() };
        let all = before.saturating_add(permits(mode));
        match self {
            Self::None => *self = Self::One(token, lease_id, mode),
            Self::One(first_token, first, first_mode) => {
                let first = (*first_token, (*first, *first_mode));
                let members = BTreeMap::from([first, (token, (lease_id, mode))]);
                *self = Self::Many(Crowd { members, permits: all });
            }
            Self::Many(crowd) => {
                crowd.members.insert(token, (lease_id, mode));
                crowd.permits = all;
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
            Self::Many(crowd) => {
                if let Some((_, mode)) = crowd.members.remove(&token) {
                    crowd.permits = crowd.permits.saturating_sub(permits(mode));
                }
                let last = crowd.members.first_key_value();
                if let (1, Some((token, (lease_id, mode)))) = (crowd.members.len(), last) {
                    *self = Self::One(*token, *lease_id, *mode);
                }
            }
        }
    }

    /// Puts another lease in the place of the one with this token.
    fn replace(&mut self, token: Token, lease_id: LeaseId) {
        match self {
            Self::None => {}
            Self::One(held, place, _) => {
                if *held == token {
                    *place = lease_id;
                }
            }
            Self::Many(crowd) => {
                if let Some((place, _)) = crowd.members.get_mut(&token) {
                    *place = lease_id;
                }
            }
        }
    }

    pub(crate) fn get(&self, token: Token) -> Option<LeaseId> {
        match self {
            Self::None => None,
            Self::One(held, lease_id, _) => (*held == token).then_some(*lease_id),
            Self::Many(crowd) => crowd.members.get(&token).map(|(lease_id, _)| *lease_id),
        }
    }

    /// Tokens and leases in token order.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = (Token, LeaseId)> {
        let (one, many) = match self {
            Self::None => (None, None),
            Self::One(token, lease_id, _) => (Some((*token, *lease_id)), None),
            Self::Many(crowd) => (None, Some(&crowd.members)),
        };
        let many = many.into_iter().flatten();
        one.into_iter().chain(many.map(|(token, (lease_id, _))| (*token, *lease_id)))
    }
}

/// The limit of permits that holds while claims name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pool {
    pub(crate) limit: u32,
    /// Claims, held or waiting.
    pub(crate) claims: u32,
}

/// A lock that is held, waited for, closed, or carries a value; a free one is not remembered.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lock {
    pub(crate) holders: Holders,
    pub(crate) queue: Queue,
    pub(crate) pool: Option<Pool>,
    pub(crate) last_token: Option<Token>,
    pub(crate) revision: Revision,
    /// Set during a lock-delay.
    pub(crate) closed_until: Option<LeaseTime>,
    pub(crate) value: Option<Box<ValueInfo>>,
}

impl Lock {
    /// Whether nothing is left to be remembered.
    pub(crate) fn is_idle(&self) -> bool {
        self.holders.is_empty()
            && self.queue.is_empty()
            && self.closed_until.is_none()
            && self.value.is_none()
    }

    /// The limit under which permits are held or waited for, if it is another one.
    pub(crate) fn other_limit(&self, mode: Mode) -> Option<u32> {
        match (mode, self.pool) {
            (Mode::Permits(asked), Some(pool)) if !planted(Bug::AnyLimitIsTaken) => {
                (pool.limit != asked.limit()).then_some(pool.limit)
            }
            (Mode::Exclusive | Mode::Shared | Mode::Permits(_), _) => None,
        }
    }

    fn join_pool(&mut self, mode: Mode) {
        if let Mode::Permits(permits) = mode {
            let pool = self.pool.get_or_insert(Pool { limit: permits.limit(), claims: 0 });
            pool.claims = pool.claims.saturating_add(1);
        }
    }

    fn leave_pool(&mut self, mode: Mode) {
        if let (Mode::Permits(_), Some(pool)) = (mode, &mut self.pool) {
            pool.claims = pool.claims.saturating_sub(1);
            if pool.claims == 0 {
                self.pool = None;
            }
        }
    }
}

/// All locks and leases.
#[derive(Debug, Clone, Default)]
pub(crate) struct Table {
    /// Boxed: a node of the tree is rarely more than half full, and moves what it holds.
    pub(crate) locks: BTreeMap<LockName, Box<Lock>>,
    pub(crate) leases: BTreeMap<LeaseId, Box<Lease>>,
    /// Waiters whose connection is not known to be gone, so that detaching all finds them.
    pub(crate) attached: BTreeSet<LeaseId>,
    /// Grants that one session holds by several leases: all but the one with the lowest id, which
    /// stands among the holders.
    pub(crate) shares: BTreeMap<Token, BTreeSet<LeaseId>>,
    pub(crate) waiting_count: usize,
}

impl Table {
    /// Enters a new lease into its lock, whose revision the caller sets. `false`, and nothing is
    /// entered, if the lock's holders or queue have no place for it.
    pub(crate) fn insert(&mut self, lease_id: LeaseId, lease: Box<Lease>) -> bool {
        let lock = self.locks.entry(lease.name.clone()).or_default();
        if lock.other_limit(lease.mode).is_some() {
            return false;
        }
        let entered = match &lease.state {
            LeaseState::Waiting(waiting) => lock.queue.insert(waiting.ticket, lease_id),
            LeaseState::Held(held) => match lock.holders.get(held.token) {
                None => lock.holders.insert(held.token, lease_id, lease.mode),
                Some(first) => {
                    let again = self.leases.get(&first).is_some_and(|first| first.shares(&lease));
                    if again {
                        self.shares.entry(held.token).or_default().insert(first.max(lease_id));
                        lock.holders.replace(held.token, first.min(lease_id));
                    }
                    again
                }
            },
        };
        if !entered {
            return false;
        }
        lock.join_pool(lease.mode);
        match &lease.state {
            LeaseState::Waiting(waiting) => {
                self.waiting_count = self.waiting_count.saturating_add(1);
                if waiting.grace_until.is_none() && !matches!(lease.group, Some(Group::Member(_))) {
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
        let mut lock = self.locks.get_mut(&lease.name);
        if let Some(lock) = &mut lock {
            lock.leave_pool(lease.mode);
        }
        match &lease.state {
            LeaseState::Waiting(waiting) => {
                self.waiting_count = self.waiting_count.saturating_sub(1);
                self.attached.remove(&lease_id);
                if let Some(lock) = lock {
                    lock.queue.remove(waiting.ticket);
                }
            }
            LeaseState::Held(held) => {
                let left = self.shares.get_mut(&held.token);
                let heir = left
                    .map(|shares| if shares.remove(&lease_id) { None } else { shares.pop_first() });
                if self.shares.get(&held.token).is_some_and(BTreeSet::is_empty) {
                    self.shares.remove(&held.token);
                }
                match (lock, heir) {
                    (Some(lock), None) => lock.holders.remove(held.token),
                    (Some(lock), Some(Some(heir))) => lock.holders.replace(held.token, heir),
                    (Some(_), Some(None)) | (None, _) => {}
                }
            }
        }
        Some(lease)
    }

    /// The waiter that the lock's holders leave room for, if it is the next in line; of several
    /// locks asked for together, only if that is so in all of them.
    pub(crate) fn grantable(&self, name: &LockName, holders_max: usize) -> Option<LeaseId> {
        let lease_id = self.next_in_line(name, holders_max)?;
        let Some(together) = self.group(lease_id) else { return Some(lease_id) };
        if planted(Bug::SeveralAreTakenOneByOne) {
            return Some(lease_id);
        }
        let ready = |id: &LeaseId| {
            let name = self.leases.get(id).map(|lease| &lease.name);
            name.and_then(|name| self.next_in_line(name, holders_max)) == Some(*id)
        };
        together.iter().all(ready).then_some(lease_id)
    }

    /// All leases of the request that this lease came with, if there are others and the first of
    /// them is still there.
    pub(crate) fn group(&self, lease_id: LeaseId) -> Option<&Vec<LeaseId>> {
        let first = match self.leases.get(&lease_id)?.group.as_ref()? {
            Group::First(all) => return Some(all),
            Group::Member(first) => first,
        };
        match self.leases.get(first)?.group.as_ref()? {
            Group::First(all) => Some(all),
            Group::Member(_) => None,
        }
    }

    fn next_in_line(&self, name: &LockName, holders_max: usize) -> Option<LeaseId> {
        let lock = self.locks.get(name)?;
        if lock.closed_until.is_some() {
            return None;
        }
        let lease_id = lock.queue.front()?;
        let mode = self.leases.get(&lease_id)?.mode;
        (lock.holders.compatible(mode) && lock.holders.len() < holders_max).then_some(lease_id)
    }
}
