//! Taking a lock: grant, queue or refuse; repeats of a request; connections that come and go; and
//! the hand-over to the next in line.

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::answers::Record;
use crate::command::{Acquire, LeaseTerm, Mode};
use crate::event::EventKind;
use crate::fingerprint::of_acquire;
use crate::ids::{LeaseId, LockName, Token};
use crate::image::RowKey;
use crate::machine::Machine;
use crate::outcome::{
    Contention, EndReason, Ended, Grant, HOLDERS_SHOWN_MAX, Outcome, Queued, Rejection,
};
use crate::table::{Due, Lease, LeaseState};

impl Machine {
    pub(crate) fn acquire(&mut self, acquire: &Acquire) -> Outcome {
        if let Some(outcome) = self.repeated_acquire(acquire) {
            return outcome;
        }
        if let Err(rejection) = self.acquire_allowed(acquire) {
            return Outcome::Rejected(rejection);
        }
        let lock = self.table.locks.get(&acquire.name);
        let free = lock.is_none_or(|lock| lock.queue.is_empty() && lock.admits(acquire.mode));
        let holders = lock.map_or(0, |lock| lock.holders.len());
        if free && holders < self.limits.holders {
            let Some(token) = self.next_token() else {
                return Outcome::Rejected(Rejection::TokensExhausted);
            };
            return self.grant_new(acquire, token);
        }
        if acquire.wait.ms() == 0 {
            return Outcome::Rejected(if free {
                Rejection::HoldersFull { limit: bound(self.limits.holders) }
            } else {
                Rejection::LockHeld(Box::new(self.contention(&acquire.name)))
            });
        }
        if lock.map_or(0, |lock| lock.queue.len()) >= self.limits.queue_length {
            return Outcome::Rejected(Rejection::QueueFull {
                limit: bound(self.limits.queue_length),
            });
        }
        self.enqueue(acquire)
    }

    /// Everything but the lock itself: sessions and bounds.
    fn acquire_allowed(&self, acquire: &Acquire) -> Result<(), Rejection> {
        if let LeaseTerm::Session(id) = acquire.term {
            let Some(session) = self.table.sessions.get(&id) else {
                return Err(self.session_missing(id));
            };
            if session.leases.len() >= self.limits.leases_per_session {
                let limit = bound(self.limits.leases_per_session);
                return Err(Rejection::SessionLeasesFull { limit });
            }
        }
        if self.table.leases.len() >= self.limits.leases {
            return Err(Rejection::LeasesFull { limit: bound(self.limits.leases) });
        }
        if acquire.request_id.is_some() && self.answers.len() >= self.limits.answers {
            return Err(Rejection::AnswersFull { limit: bound(self.limits.answers) });
        }
        Ok(())
    }

    /// The answer to a request that came before, from the first one's present state.
    fn repeated_acquire(&mut self, acquire: &Acquire) -> Option<Outcome> {
        let Some(request_id) = acquire.request_id else {
            // A lease id is minted once, so a known one is the same request on another way here.
            let known = self.table.leases.contains_key(&acquire.lease_id);
            return known.then(|| self.attach(acquire.lease_id));
        };
        let fingerprint = of_acquire(acquire);
        if let Some(&(known, due)) = self.table.requests.get(&request_id) {
            return Some(match due {
                Due::Lease(id) if known == fingerprint => {
                    self.extend_wait(id, acquire);
                    self.attach(id)
                }
                Due::Lease(_) | Due::Session(_) => Outcome::Rejected(Rejection::RequestIdReused),
            });
        }
        let record = self.answers.request(request_id)?;
        Some(Outcome::Rejected(match record {
            Record::Lease { ended, request: Some((_, known)) } if *known == fingerprint => {
                Rejection::LeaseGone(ended.clone())
            }
            Record::Lease { .. } | Record::Session { .. } => Rejection::RequestIdReused,
        }))
    }

    /// A repeat waits from its own moment; it never shortens the first one's wait.
    fn extend_wait(&mut self, id: LeaseId, acquire: &Acquire) {
        let until = self.meta.clock.plus_ms(acquire.wait.ms());
        self.table.change_lease(id, |lease| {
            if let LeaseState::Waiting { wait_until, .. } = &mut lease.state {
                *wait_until = until.max(*wait_until);
            }
        });
        self.touch(RowKey::Lease(id));
    }

    pub(crate) fn attach(&mut self, id: LeaseId) -> Outcome {
        if !self.table.leases.contains_key(&id) {
            return Outcome::Rejected(self.lease_missing(id));
        }
        self.table.change_lease(id, |lease| match &mut lease.state {
            LeaseState::Waiting { abandon_at, .. } => *abandon_at = None,
            LeaseState::Held { .. } => lease.claim(),
        });
        self.touch(RowKey::Lease(id));
        match self.position(id) {
            Some(position) => Outcome::Queued(Queued { lease_id: id, position }),
            None => self.grant_outcome(id),
        }
    }

    pub(crate) fn detach(&mut self, id: LeaseId) -> Outcome {
        let now = self.meta.clock;
        self.table.change_lease(id, |lease| {
            let grace_ms = lease.grace.ms();
            if let LeaseState::Waiting { abandon_at, .. } = &mut lease.state {
                abandon_at.get_or_insert(now.plus_ms(grace_ms));
            }
        });
        self.touch(RowKey::Lease(id));
        Outcome::Done
    }

    pub(crate) fn detach_all(&mut self) -> Outcome {
        let waiting: Vec<LeaseId> =
            self.table.locks.values().flat_map(|lock| lock.queue.values().copied()).collect();
        for id in waiting {
            self.detach(id);
        }
        Outcome::Done
    }

    pub(crate) fn next_token(&mut self) -> Option<Token> {
        let next = self.meta.last_token.0.checked_add(1)?;
        if next > self.limits.token {
            return None;
        }
        self.meta.last_token = Token(next);
        self.touch(RowKey::Meta);
        Some(Token(next))
    }

    fn new_lease(acquire: &Acquire, at: crate::time::LeaseTime, state: LeaseState) -> Lease {
        Lease {
            name: acquire.name.clone(),
            owner: acquire.owner.clone(),
            mode: acquire.mode,
            term: acquire.term,
            grace: acquire.grace,
            request: acquire.request_id.map(|id| (id, of_acquire(acquire))),
            metadata: acquire.metadata.clone(),
            acquired_at: at,
            state,
        }
    }

    fn grant_new(&mut self, acquire: &Acquire, token: Token) -> Outcome {
        let now = self.meta.clock;
        let state = LeaseState::Held {
            token,
            granted_at: now,
            since_wall_ms: self.wall_ms,
            renewed_at: now,
            deadline: None,
            claimed: true,
        };
        let mut lease = Self::new_lease(acquire, now, state);
        lease.claim();
        self.table.insert_lease(acquire.lease_id, lease);
        self.granted(acquire.lease_id, &acquire.name, token, true, false);
        self.grant_outcome(acquire.lease_id)
    }

    fn enqueue(&mut self, acquire: &Acquire) -> Outcome {
        let now = self.meta.clock;
        let ticket = self.meta.next_ticket;
        self.meta.next_ticket = ticket.saturating_add(1);
        let wait_until = now.plus_ms(acquire.wait.ms());
        let state = LeaseState::Waiting { ticket, wait_until, abandon_at: None };
        self.table.insert_lease(acquire.lease_id, Self::new_lease(acquire, now, state));
        self.touch(RowKey::Lease(acquire.lease_id));
        let queue_length =
            self.table.locks.get(&acquire.name).map_or(0, |lock| bound(lock.queue.len()));
        self.happened_to(
            &acquire.name,
            EventKind::Queued {
                name: acquire.name.clone(),
                owner: acquire.owner.clone(),
                queue_length,
            },
        );
        Outcome::Queued(Queued { lease_id: acquire.lease_id, position: queue_length })
    }

    fn granted(&mut self, id: LeaseId, name: &LockName, token: Token, told: bool, queued: bool) {
        if let Some(lock) = self.table.locks.get_mut(name) {
            lock.row.last_token = Some(token);
        }
        self.touch(RowKey::Lease(id));
        if let Some(grant) = self.grant(id) {
            let grant = Box::new(grant);
            self.happened_to(name, EventKind::Granted { grant, attached: told, queued });
        }
    }

    /// Grants to the front of the queue while it may hold: the next exclusive waiter, or all
    /// shared ones up to the next exclusive (P8). Called after every end.
    pub(crate) fn settle(&mut self, name: &LockName) {
        loop {
            let Some(lock) = self.table.locks.get(name) else { return };
            let Some((&ticket, &id)) = lock.queue.first_key_value() else { break };
            let Some(mode) = self.table.leases.get(&id).map(|lease| lease.mode) else { break };
            if !lock.admits(mode) || lock.holders.len() >= self.limits.holders {
                break;
            }
            let Some(token) = self.next_token() else { break };
            self.grant_waiter(name, ticket, id, token);
        }
        if self.table.locks.get(name).is_some_and(crate::table::Lock::is_free) {
            self.table.locks.remove(name);
        }
        self.touch(RowKey::Lock(name.clone()));
    }

    fn grant_waiter(&mut self, name: &LockName, ticket: u64, id: LeaseId, token: Token) {
        let (now, wall_ms) = (self.meta.clock, self.wall_ms);
        let mut attached = true;
        self.table.change_lease(id, |lease| {
            attached = matches!(lease.state, LeaseState::Waiting { abandon_at: None, .. });
            let end = now.plus_ms(lease.grace.ms());
            // Granted while its connection is gone: held only for the grace, told to nobody.
            let unclaimed = Some(lease.deadline_from(now).map_or(end, |at| at.min(end)));
            lease.state = LeaseState::Held {
                token,
                granted_at: now,
                since_wall_ms: wall_ms,
                renewed_at: now,
                deadline: unclaimed,
                claimed: false,
            };
            if attached {
                lease.claim();
            }
        });
        self.table.waiting_count = self.table.waiting_count.saturating_sub(1);
        let shared = self.table.leases.get(&id).is_some_and(|lease| lease.mode == Mode::Shared);
        if let Some(lock) = self.table.locks.get_mut(name) {
            lock.queue.remove(&ticket);
            lock.holders.insert(token, id);
            lock.shared = shared;
        }
        self.granted(id, name, token, attached, true);
    }

    /// A held lease as its holder sees it.
    pub(crate) fn grant(&self, id: LeaseId) -> Option<Grant> {
        let lease = self.table.leases.get(&id)?;
        let LeaseState::Held { token, granted_at, deadline, claimed, .. } = &lease.state else {
            return None;
        };
        let session = lease.session_id().and_then(|id| self.table.sessions.get(&id));
        let session_deadline = session.filter(|_| *claimed).map(|session| session.row.deadline);
        Some(Grant {
            lease_id: id,
            name: lease.name.clone(),
            mode: lease.mode,
            owner: lease.owner.clone(),
            token: *token,
            session_id: lease.session_id(),
            ttl_ms: match lease.term {
                LeaseTerm::Ttl(ttl) => Some(ttl.ms()),
                LeaseTerm::Forever => None,
                LeaseTerm::Session(_) => session.map(|session| session.row.ttl.ms()),
            },
            granted_at: *granted_at,
            waited_ms: granted_at.ms_since(lease.acquired_at),
            deadline: session_deadline.or(*deadline),
            metadata: lease.metadata.clone(),
        })
    }

    pub(crate) fn grant_outcome(&self, id: LeaseId) -> Outcome {
        match self.grant(id) {
            Some(grant) => Outcome::Granted(Box::new(grant)),
            None => Outcome::Rejected(self.lease_missing(id)),
        }
    }

    fn contention(&self, name: &LockName) -> Contention {
        let view = self.lock(name, HOLDERS_SHOWN_MAX, 0);
        Contention {
            name: name.clone(),
            holders: view.holders,
            holder_count: view.holder_count,
            queue_length: view.queue_length,
        }
    }

    /// Why a lease that does not live cannot be used.
    pub(crate) fn lease_missing(&self, id: LeaseId) -> Rejection {
        self.ended_lease(id).map_or(Rejection::LeaseUnknown, |e| Rejection::LeaseGone(e.clone()))
    }

    /// A deadline of this lease has come.
    pub(crate) fn lease_is_due(&mut self, id: LeaseId) {
        let Some(lease) = self.table.leases.get(&id) else { return };
        let how = match &lease.state {
            LeaseState::Waiting { wait_until, .. } if *wait_until <= self.meta.clock => {
                EndReason::WaitTimeout
            }
            LeaseState::Waiting { .. } | LeaseState::Held { claimed: false, .. } => {
                EndReason::Abandoned
            }
            LeaseState::Held { .. } => EndReason::Expired,
        };
        self.end_lease(id, how, None);
    }

    /// Ends a lease, held or waiting, remembers how, and hands the lock over.
    pub(crate) fn end_lease(
        &mut self,
        id: LeaseId,
        how: EndReason,
        reason: Option<&crate::ids::Reason>,
    ) -> Option<Ended> {
        let lease = self.table.remove_lease(id)?;
        let (token, held_ms) = match &lease.state {
            LeaseState::Waiting { .. } => (None, 0),
            LeaseState::Held { token, granted_at, .. } => {
                (Some(*token), self.meta.clock.ms_since(*granted_at))
            }
        };
        let ended =
            Ended { lease_id: id, name: lease.name.clone(), token, how, ended_at: self.meta.clock };
        self.touch(RowKey::Lease(id));
        self.remember(Record::Lease { ended: ended.clone(), request: lease.request });
        self.happened_to(
            &lease.name,
            EventKind::Ended {
                ended: ended.clone(),
                owner: lease.owner,
                held_ms,
                reason: reason.cloned(),
            },
        );
        self.settle(&lease.name);
        Some(ended)
    }
}

impl Lease {
    /// The holder is known to know: the lease lives by its term from the grant on.
    pub(crate) fn claim(&mut self) {
        let term = self.term;
        if let LeaseState::Held { granted_at, deadline, claimed, renewed_at, .. } = &mut self.state
            && (!*claimed || deadline.is_none())
        {
            *claimed = true;
            *deadline = match term {
                LeaseTerm::Ttl(ttl) => Some((*granted_at).max(*renewed_at).plus_ms(ttl.ms())),
                LeaseTerm::Forever | LeaseTerm::Session(_) => None,
            };
        }
    }
}

/// A bound as the outcomes carry it.
pub(crate) fn bound(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
