//! Answers to read-only questions about the machine. Sent between nodes when a read is forwarded.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ops::Bound;

use serde::{Deserialize, Serialize};

use crate::command::{LeaseTerm, Mode};
use crate::ids::{LeaseId, LockName, Metadata, Owner, RequestId, Revision, SessionId, Token};
use crate::limits::{PAGE_BYTES_MAX, count};
use crate::machine::Machine;
use crate::outcome::{EndReason, Ended, Grant, HOLDERS_SHOWN_MAX, Holder, SessionInfo, ValueInfo};
use crate::queue::Queue;
use crate::requests::Subject;
use crate::table::{Lease, LeaseState, Lock, earlier};
use crate::time::{LeaseTime, Ttl};

/// One lock as everybody may see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockView {
    /// The lock.
    pub name: LockName,
    /// In token order, at most the number that was asked for.
    pub holders: Vec<Holder>,
    /// All of its holders.
    pub holder_count: u64,
    /// In queue order, at most the number that was asked for.
    pub waiters: Vec<WaiterView>,
    /// All of its waiters.
    pub queue_length: u64,
    /// The lock's newest token while the lock is remembered.
    pub last_token: Option<Token>,
    /// No token above it was ever granted, to any lock.
    pub token_ceiling: Token,
    /// Of the lock's last change; `None` for a lock that is free and forgotten.
    pub revision: Option<Revision>,
    /// The lease clock of the answer.
    pub now: LeaseTime,
    /// Until when the lock is closed by a lock-delay, if it is.
    pub closed_until: Option<LeaseTime>,
    /// The value that it carries; not in listings.
    pub value: Option<Box<ValueInfo>>,
}

/// A waiter as others see it: never its lease id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaiterView {
    /// Who waits.
    pub owner: Owner,
    /// Alone or together with others.
    pub mode: Mode,
    /// 1 for the next in line.
    pub position: u64,
    /// Since it joined, in lease time.
    pub waiting_ms: u64,
    /// Whether its connection is not known to be gone.
    pub attached: bool,
    /// As given with the acquire.
    pub metadata: Metadata,
}

/// A lease as whoever knows its id may see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum LeaseView {
    /// It is held.
    Held(Grant),
    /// It stands in the queue.
    Waiting {
        /// Of which lock.
        name: LockName,
        /// Whose it is.
        owner: Owner,
        /// Alone or together with others.
        mode: Mode,
        /// 1 for the next in line.
        position: u64,
        /// Since it joined, in lease time.
        waiting_ms: u64,
    },
    /// It is over, and this is how.
    Ended(Ended),
    /// No such lease is remembered.
    Unknown,
}

/// One page of a listing, in name order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockPage {
    /// At most as many as were asked for; fewer if their texts reach [`PAGE_BYTES_MAX`].
    pub locks: Vec<LockView>,
    /// The last name of this page if there may be more.
    pub next: Option<LockName>,
    /// The lease clock of the answer.
    pub now: LeaseTime,
}

/// Counts of what lives, for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Locks that are held or waited for.
    pub locks: u64,
    /// Grants.
    pub leases_held: u64,
    /// Places in queues.
    pub leases_waiting: u64,
    /// Open sessions.
    pub sessions: u64,
    /// Remembered ends of what came with a request id.
    pub answers: u64,
}

/// A session as whoever knows its id may see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SessionView {
    /// It lives.
    Open(SessionInfo),
    /// It is over, and this is how.
    Ended {
        /// `SessionClosed` or `SessionExpired`.
        how: EndReason,
    },
    /// No such session is remembered.
    Unknown,
}

impl LockView {
    /// The texts that make up most of its size.
    fn text_bytes(&self) -> usize {
        let metadata = |metadata: &Metadata| -> usize {
            metadata.entries().map(|(key, value)| key.len().saturating_add(value.len())).sum()
        };
        let each =
            |owner: &Owner, more: &Metadata| owner.as_str().len().saturating_add(metadata(more));
        let holders: usize = self.holders.iter().map(|it| each(&it.owner, &it.metadata)).sum();
        let waiters: usize = self.waiters.iter().map(|it| each(&it.owner, &it.metadata)).sum();
        self.name.as_str().len().saturating_add(holders).saturating_add(waiters)
    }
}

impl Machine {
    /// The highest level of any entry applied; 0 before the first.
    #[must_use]
    pub fn level(&self) -> u16 {
        self.level
    }

    /// One lock; a free one has no holders, no waiters and no revision.
    pub fn lock(&self, name: &LockName, holders_max: usize, waiters_max: usize) -> LockView {
        let lock = self.table.locks.get(name).map(Box::as_ref);
        let value = lock.and_then(|lock| lock.value.clone());
        LockView { value, ..self.lock_view(name, lock, holders_max, waiters_max) }
    }

    /// The value that a lock carries.
    pub fn value(&self, name: &LockName) -> Option<&ValueInfo> {
        self.table.locks.get(name)?.value.as_deref()
    }

    /// Locks whose name begins with `prefix`, after the name `after`; free ones are not listed.
    pub fn locks(&self, prefix: &str, after: Option<&str>, limit: usize) -> LockPage {
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            Some(_) | None => Bound::Included(prefix),
        };
        let range = self.table.locks.range::<str, _>((start, Bound::Unbounded));
        let mut found = range.take_while(|(name, _)| name.as_str().starts_with(prefix));
        let shown = HOLDERS_SHOWN_MAX;
        let mut locks: Vec<LockView> = Vec::new();
        let mut room = PAGE_BYTES_MAX;
        while locks.len() < limit && room > 0 {
            let Some((name, lock)) = found.next() else { break };
            let view = self.lock_view(name, Some(lock), shown, shown);
            room = room.saturating_sub(view.text_bytes());
            locks.push(view);
        }
        let more = found.next().is_some();
        let next = if more { locks.last().map(|view| view.name.clone()) } else { None };
        LockPage { locks, next, now: self.clock }
    }

    /// What became of a lease.
    pub fn lease(&self, lease_id: LeaseId) -> LeaseView {
        if let Some(grant) = self.grant(lease_id) {
            return LeaseView::Held(*grant);
        }
        let Some(lease) = self.table.leases.get(&lease_id) else {
            return match self.memory.lease_end(lease_id) {
                Some(ended) => LeaseView::Ended(ended.clone()),
                None => LeaseView::Unknown,
            };
        };
        LeaseView::Waiting {
            name: lease.name.clone(),
            owner: lease.owner.clone(),
            mode: lease.mode,
            position: self.position(lease),
            waiting_ms: self.clock.ms_since(lease.acquired_at),
        }
    }

    /// The waiters of a lock, the next in line first. For the node's own use: a surface never shows
    /// another client's lease id.
    pub fn queue(&self, name: &LockName) -> Vec<LeaseId> {
        let queue = self.table.locks.get(name).map(|lock| &lock.queue);
        queue.into_iter().flat_map(Queue::iter).map(|(_, lease_id)| lease_id).collect()
    }

    /// Whether a request with this id would be a repeat.
    pub fn knows_request(&self, request_id: RequestId) -> bool {
        self.memory.by_request(Some(request_id)).is_some()
    }

    /// The leases that wait under a request id, with their locks: one, or all that it asked for
    /// together.
    pub fn waiting_of_request(&self, request_id: RequestId) -> Vec<(LockName, LeaseId)> {
        let Some(Subject::Lease(first)) = self.memory.by_request(Some(request_id)) else {
            return Vec::new();
        };
        let alone = [first];
        let all = self.waiting_group(first).map_or(alone.as_slice(), Vec::as_slice);
        let waits = |lease_id: &LeaseId| {
            let lease = self.table.leases.get(lease_id)?;
            let waiting = matches!(lease.state, LeaseState::Waiting(_));
            waiting.then(|| (lease.name.clone(), *lease_id))
        };
        all.iter().filter_map(waits).collect()
    }

    /// What became of a session.
    pub fn session(&self, session_id: SessionId) -> SessionView {
        match self.session_info(session_id) {
            Some(info) => SessionView::Open(info),
            None => match self.memory.session_end(session_id) {
                Some(how) => SessionView::Ended { how },
                None => SessionView::Unknown,
            },
        }
    }

    /// The leases, held or waiting, that an open session keeps alive. For the node's own use.
    pub fn leases_of_session(&self, session_id: SessionId) -> impl Iterator<Item = LeaseId> + '_ {
        let opened = self.sessions.open.get(&session_id);
        opened.into_iter().flat_map(|opened| opened.leases.iter().copied())
    }

    /// Whether the token belongs to a lease of this lock that is held at this instant; if not, the
    /// lock as it is. Says nothing about the next instant (P10).
    pub fn fence(&self, name: &LockName, token: Token) -> Result<Holder, Box<LockView>> {
        let lock = self.table.locks.get(name).map(Box::as_ref);
        let holder = lock
            .and_then(|lock| lock.holders.get(token))
            .and_then(|lease_id| self.holder(lease_id));
        holder.ok_or_else(|| {
            Box::new(self.lock_view(name, lock, HOLDERS_SHOWN_MAX, HOLDERS_SHOWN_MAX))
        })
    }

    /// Counts of what lives.
    pub fn totals(&self) -> Totals {
        let waiting = self.table.waiting_count;
        Totals {
            locks: count(self.table.locks.len()),
            leases_held: count(self.table.leases.len().saturating_sub(waiting)),
            leases_waiting: count(waiting),
            sessions: count(self.sessions.open.len()),
            answers: count(self.memory.answers.len),
        }
    }

    fn lock_view(
        &self,
        name: &LockName,
        lock: Option<&Lock>,
        holders_max: usize,
        waiters_max: usize,
    ) -> LockView {
        let queue = lock.map(|lock| &lock.queue);
        let waiters = queue.into_iter().flat_map(Queue::iter).take(waiters_max);
        LockView {
            name: name.clone(),
            holders: lock.map_or_else(Vec::new, |lock| self.holders(lock, holders_max)),
            holder_count: lock.map_or(0, |lock| count(lock.holders.len())),
            waiters: waiters
                .zip(1_u64..)
                .filter_map(|((_, lease_id), position)| self.waiter(lease_id, position))
                .collect(),
            queue_length: queue.map_or(0, |queue| count(queue.len())),
            last_token: lock.and_then(|lock| lock.last_token),
            token_ceiling: self.token_last,
            revision: lock.map(|lock| lock.revision),
            now: self.clock,
            closed_until: lock.and_then(|lock| lock.closed_until),
            value: None,
        }
    }

    /// At most `max` holders in token order.
    pub(crate) fn holders(&self, lock: &Lock, max: usize) -> Vec<Holder> {
        let holders = lock.holders.iter().take(max);
        holders.filter_map(|(_, lease_id)| self.holder(lease_id)).collect()
    }

    fn holder(&self, lease_id: LeaseId) -> Option<Holder> {
        let lease = self.table.leases.get(&lease_id)?;
        let LeaseState::Held(held) = &lease.state else { return None };
        let session = lease.session_id().and_then(|session_id| self.sessions.get(session_id));
        let session_renewed_at = session.map_or(LeaseTime::default(), |s| s.renewed_at);
        Some(Holder {
            owner: lease.owner.clone(),
            mode: lease.mode,
            token: held.token,
            granted_at: held.granted_at,
            since_wall_ms: held.since_wall_ms,
            renewed_at: held.renewed_at.max(session_renewed_at),
            deadline: earlier(lease.deadline(), session.map(|session| session.deadline)),
            metadata: lease.metadata.clone(),
            in_session: lease.session_id().is_some(),
        })
    }

    fn waiter(&self, lease_id: LeaseId, position: u64) -> Option<WaiterView> {
        let lease = self.table.leases.get(&lease_id)?;
        if lease.token().is_some() {
            return None;
        }
        Some(WaiterView {
            owner: lease.owner.clone(),
            mode: lease.mode,
            position,
            waiting_ms: self.clock.ms_since(lease.acquired_at),
            attached: self.table.attached.contains(&self.stands_for(lease_id)),
            metadata: lease.metadata.clone(),
        })
    }

    fn position(&self, lease: &Lease) -> u64 {
        let LeaseState::Waiting(waiting) = &lease.state else { return 0 };
        let lock = self.table.locks.get(&lease.name);
        lock.map_or(0, |lock| lock.queue.position(waiting.ticket))
    }

    /// The lease as its holder sees it, if it is held.
    pub(crate) fn grant(&self, lease_id: LeaseId) -> Option<Box<Grant>> {
        let lease = self.table.leases.get(&lease_id)?;
        let LeaseState::Held(held) = &lease.state else { return None };
        let session = lease.session_id().and_then(|session_id| self.sessions.get(session_id));
        let ttl = match lease.term {
            LeaseTerm::Ttl(ttl) => Some(ttl),
            LeaseTerm::Forever => None,
            LeaseTerm::Session(_) => session.map(|session| session.ttl),
        };
        Some(Box::new(Grant {
            lease_id,
            name: lease.name.clone(),
            mode: lease.mode,
            owner: lease.owner.clone(),
            token: held.token,
            session_id: lease.session_id(),
            ttl_ms: ttl.map(Ttl::ms),
            granted_at: held.granted_at,
            waited_ms: held.granted_at.ms_since(lease.acquired_at),
            deadline: earlier(lease.deadline(), session.map(|session| session.deadline)),
            metadata: lease.metadata.clone(),
        }))
    }
}
