//! Answers to read-only questions about the machine. Sent between nodes when a read is forwarded.

use alloc::vec::Vec;
use core::ops::Bound;

use serde::{Deserialize, Serialize};

use crate::command::Mode;
use crate::ids::{LeaseId, LockName, Metadata, Owner, Revision, SessionId, Token};
use crate::machine::Machine;
use crate::outcome::{EndReason, Ended, Grant, Holder, SessionInfo};
use crate::table::LeaseState;
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

fn as_u64(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

impl Machine {
    /// One lock, also a free one; at most so many holders and waiters are named.
    pub fn lock(&self, name: &LockName, holders_max: usize, waiters_max: usize) -> LockView {
        let lock = self.table.locks.get(name);
        let holders = lock
            .into_iter()
            .flat_map(|lock| lock.holders.iter())
            .take(holders_max)
            .filter_map(|(_, id)| self.holder(id))
            .collect();
        let waiters = lock
            .into_iter()
            .flat_map(|lock| lock.queue.values())
            .take(waiters_max)
            .zip(1..)
            .filter_map(|(id, position)| self.waiter(*id, position))
            .collect();
        LockView {
            name: name.clone(),
            holders,
            holder_count: lock.map_or(0, |lock| as_u64(lock.holders.len())),
            waiters,
            queue_length: lock.map_or(0, |lock| as_u64(lock.queue.len())),
            last_token: lock.and_then(|lock| lock.row.last_token),
            token_ceiling: self.meta.last_token,
            revision: lock.map(|lock| lock.row.revision),
            now: self.meta.clock,
        }
    }

    /// Locks whose name starts with `prefix`, in name order, after the name `after`.
    pub fn locks(&self, prefix: &str, after: Option<&str>, limit: usize) -> LockPage {
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            Some(_) | None => Bound::Included(prefix),
        };
        let mut names = self
            .table
            .locks
            .range::<str, _>((from, Bound::Unbounded))
            .map(|(name, _)| name)
            .take_while(|name| name.as_str().starts_with(prefix));
        let locks: Vec<_> = names.by_ref().take(limit).map(|name| self.lock(name, 3, 0)).collect();
        let more = names.next().is_some();
        let next = locks.last().filter(|_| more).map(|view| view.name.clone());
        LockPage { locks, next, now: self.meta.clock }
    }

    /// One lease, alive or remembered.
    pub fn lease(&self, id: LeaseId) -> LeaseView {
        if let Some(grant) = self.grant(id) {
            return LeaseView::Held(grant);
        }
        if let (Some(lease), Some(position)) = (self.table.leases.get(&id), self.position(id)) {
            return LeaseView::Waiting {
                name: lease.name.clone(),
                owner: lease.owner.clone(),
                mode: lease.mode,
                position,
                waiting_ms: self.meta.clock.ms_since(lease.acquired_at),
            };
        }
        self.ended_lease(id).map_or(LeaseView::Unknown, |ended| LeaseView::Ended(ended.clone()))
    }

    /// One open session.
    pub fn session(&self, id: SessionId) -> Option<SessionInfo> {
        self.session_info(id)
    }

    /// How a session ended, while it is remembered.
    pub fn session_end(&self, id: SessionId) -> Option<EndReason> {
        self.ended_session(id)
    }

    /// The grant that the token belongs to, while it is held.
    pub fn fence(&self, name: &LockName, token: Token) -> Option<Grant> {
        self.grant(self.table.locks.get(name)?.holders.get(token)?)
    }

    /// Counts of what lives.
    pub fn totals(&self) -> Totals {
        let waiting = self.table.waiting_count;
        Totals {
            locks: as_u64(self.table.locks.len()),
            leases_held: as_u64(self.table.leases.len().saturating_sub(waiting)),
            leases_waiting: as_u64(waiting),
            sessions: as_u64(self.table.sessions.len()),
            answers: as_u64(self.answers.len()),
        }
    }

    /// The place of a waiter in its queue, from 1; `None` for a holder. Counts the queue.
    pub(crate) fn position(&self, id: LeaseId) -> Option<u64> {
        let lease = self.table.leases.get(&id)?;
        let LeaseState::Waiting { ticket, .. } = lease.state else { return None };
        let lock = self.table.locks.get(&lease.name)?;
        Some(as_u64(lock.queue.range(..=ticket).count()))
    }

    fn holder(&self, id: LeaseId) -> Option<Holder> {
        let lease = self.table.leases.get(&id)?;
        let LeaseState::Held { token, granted_at, since_wall_ms, renewed_at, .. } = lease.state
        else {
            return None;
        };
        Some(Holder {
            owner: lease.owner.clone(),
            mode: lease.mode,
            token,
            granted_at,
            since_wall_ms,
            renewed_at,
            deadline: self.grant(id)?.deadline,
            metadata: lease.metadata.clone(),
            in_session: lease.session_id().is_some(),
        })
    }

    fn waiter(&self, id: LeaseId, position: u64) -> Option<WaiterView> {
        let lease = self.table.leases.get(&id)?;
        let LeaseState::Waiting { abandon_at, .. } = lease.state else { return None };
        Some(WaiterView {
            owner: lease.owner.clone(),
            mode: lease.mode,
            position,
            waiting_ms: self.meta.clock.ms_since(lease.acquired_at),
            attached: abandon_at.is_none(),
            metadata: lease.metadata.clone(),
        })
    }
}
