//! Taking locks: acquire, its repeats, attach and detach, and the grants that follow.
//!
//! An acquire is granted at once only past an empty queue, so nobody overtakes (P8). Whether a
//! grant is possible is decided in `decide` and in `settle`, nowhere else.

use alloc::boxed::Box;

use crate::command::{Acquire, LeaseTerm};
use crate::deadlines::Due;
use crate::event::EventKind;
use crate::ids::{LeaseId, LockName, Revision, Token};
use crate::image::RowKey;
use crate::limits::count;
use crate::machine::{Machine, Step};
use crate::outcome::{Contention, Grant, HOLDERS_SHOWN_MAX, Outcome, Queued, Rejection};
use crate::queue::Queue;
use crate::requests::{Subject, acquire_fingerprint};
use crate::table::{Held, Lease, LeaseState, Lock, Waiting};
use crate::time::{LeaseTime, Wait};

/// What becomes of an acquire that is not refused.
enum Decision {
    Grant,
    Queue,
}

impl Machine {
    pub(crate) fn acquire(&mut self, acquire: &Acquire, step: &mut Step) -> Outcome {
        let fingerprint = acquire_fingerprint(acquire);
        if let Some(outcome) = self.repeat_acquire(acquire, fingerprint) {
            return outcome;
        }
        match self.decide(acquire) {
            Err(rejection) => Outcome::Rejected(rejection),
            Ok(Decision::Queue) => self.enqueue(acquire, fingerprint, step),
            Ok(Decision::Grant) => match self.next_token() {
                Some(token) => self.grant_at_once(acquire, fingerprint, token, step),
                None => Outcome::Rejected(Rejection::TokensExhausted),
            },
        }
    }

    /// The answer if this request, or its lease id, is known: what became of the first one.
    fn repeat_acquire(&mut self, acquire: &Acquire, fingerprint: u64) -> Option<Outcome> {
        let lease_id = match self.memory.by_request(acquire.request_id) {
            Some(Subject::Lease(lease_id)) => lease_id,
            Some(Subject::Session(_)) => {
                return Some(Outcome::Rejected(Rejection::RequestIdReused));
            }
            None => acquire.lease_id,
        };
        let (request_id, first) = match self.table.leases.get(&lease_id) {
            Some(lease) => (lease.request_id, lease.fingerprint),
            None => self.memory.origin(Subject::Lease(lease_id))?,
        };
        let same_request = acquire.request_id.is_none() || acquire.request_id == request_id;
        if !same_request || first != fingerprint {
            return Some(Outcome::Rejected(Rejection::RequestIdReused));
        }
        Some(self.resume(lease_id, Some(acquire.wait)))
    }

    /// Decides about a new request without changing anything.
    fn decide(&self, acquire: &Acquire) -> Result<Decision, Rejection> {
        if acquire.request_id.is_some() && self.memory.is_full(&self.limits) {
            return Err(Rejection::AnswersFull { limit: count(self.limits.answers_max) });
        }
        if let LeaseTerm::Session(session_id) = acquire.term {
            self.known_session(session_id)?;
        }
        if self.tokens_exhausted() {
            return Err(Rejection::TokensExhausted);
        }
        let decision = match self.table.locks.get(&acquire.name) {
            None => Decision::Grant,
            Some(lock) => self.decide_contended(acquire, lock)?,
        };
        if let LeaseTerm::Session(session_id) = acquire.term {
            let limit = self.limits.leases_per_session_max;
            if self.session_lease_count(session_id) >= limit {
                return Err(Rejection::SessionLeasesFull { limit: count(limit) });
            }
        }
        if self.table.leases.len() >= self.limits.leases_max {
            return Err(Rejection::LeasesFull { limit: count(self.limits.leases_max) });
        }
        Ok(decision)
    }

    fn decide_contended(&self, acquire: &Acquire, lock: &Lock) -> Result<Decision, Rejection> {
        let compatible = lock.queue.is_empty() && lock.holders.compatible(acquire.mode);
        let room = lock.holders.len() < self.limits.holders_max;
        if compatible && room {
            return Ok(Decision::Grant);
        }
        if acquire.wait.ms() == 0 {
            return Err(if compatible {
                Rejection::HoldersFull { limit: count(self.limits.holders_max) }
            } else {
                Rejection::LockHeld(Box::new(self.contention(&acquire.name, lock)))
            });
        }
        if lock.queue.len() >= self.limits.queue_length_max {
            return Err(Rejection::QueueFull { limit: count(self.limits.queue_length_max) });
        }
        Ok(Decision::Queue)
    }

    fn contention(&self, name: &LockName, lock: &Lock) -> Contention {
        Contention {
            name: name.clone(),
            holders: self.holders(lock, HOLDERS_SHOWN_MAX),
            holder_count: count(lock.holders.len()),
            queue_length: count(lock.queue.len()),
        }
    }

    fn grant_at_once(
        &mut self,
        acquire: &Acquire,
        fingerprint: u64,
        token: Token,
        step: &mut Step,
    ) -> Outcome {
        let held = Held {
            token,
            granted_at: self.clock,
            since_wall_ms: step.wall_ms,
            renewed_at: self.clock,
            expires_at: own_deadline(acquire.term, self.clock),
            claim_until: None,
        };
        self.enter(acquire, fingerprint, LeaseState::Held(held));
        match self.grant(acquire.lease_id) {
            Some(grant) => {
                self.announce_grant(grant.clone(), true, false, step);
                Outcome::Granted(grant)
            }
            None => Outcome::Done,
        }
    }

    fn enqueue(&mut self, acquire: &Acquire, fingerprint: u64, step: &mut Step) -> Outcome {
        let queue = self.table.locks.get(&acquire.name).map(|lock| &lock.queue);
        let waiting = Waiting {
            ticket: queue.map_or(0, Queue::next_ticket),
            wait_until: self.clock.plus_ms(acquire.wait.ms()),
            grace_until: None,
        };
        self.enter(acquire, fingerprint, LeaseState::Waiting(waiting));
        let lock = self.table.locks.get(&acquire.name);
        let queue_length = lock.map_or(0, |lock| count(lock.queue.len()));
        let kind = EventKind::Queued {
            name: acquire.name.clone(),
            owner: acquire.owner.clone(),
            queue_length,
        };
        let revision = self.emit(kind, step);
        self.touch_lock(&acquire.name, revision);
        Outcome::Queued(Queued { lease_id: acquire.lease_id, position: queue_length })
    }

    /// Enters a new lease everywhere but in the lock's revision.
    fn enter(&mut self, acquire: &Acquire, fingerprint: u64, state: LeaseState) {
        let known = self.table.locks.get_key_value(&acquire.name).map(|(name, _)| name.clone());
        if known.is_none() {
            self.changes.created(RowKey::Lock(acquire.name.clone()));
        }
        let lease = Lease {
            name: known.unwrap_or_else(|| acquire.name.clone()),
            owner: acquire.owner.clone(),
            metadata: acquire.metadata.clone(),
            mode: acquire.mode,
            term: acquire.term,
            grace: acquire.grace,
            request_id: acquire.request_id,
            fingerprint,
            acquired_at: self.clock,
            state,
        };
        self.deadlines.add(lease.deadline(), Due::Lease(acquire.lease_id));
        self.memory.begin(acquire.request_id, Subject::Lease(acquire.lease_id));
        if let Some(session_id) = lease.session_id() {
            self.sessions.join(session_id, acquire.lease_id);
        }
        let entered = self.table.insert(acquire.lease_id, Box::new(lease));
        debug_assert!(entered, "a decision gave a place that is taken");
        self.changes.created(RowKey::Lease(acquire.lease_id));
    }

    pub(crate) fn announce_grant(
        &mut self,
        grant: Box<Grant>,
        attached: bool,
        queued: bool,
        step: &mut Step,
    ) {
        let name = grant.name.clone();
        let revision = self.emit(EventKind::Granted { grant, attached, queued }, step);
        self.touch_lock(&name, revision);
    }

    pub(crate) fn touch_lock(&mut self, name: &LockName, revision: Revision) {
        if let Some(lock) = self.table.locks.get_mut(name) {
            lock.revision = revision;
            self.changes.changed(RowKey::Lock(name.clone()));
        }
    }

    /// Grants the next in line as long as the holders leave room, then forgets the lock if nobody
    /// is left. Called after everything that took somebody out of the lock.
    pub(crate) fn settle(&mut self, name: &LockName, step: &mut Step) {
        while let Some(lease_id) = self.table.grantable(name, self.limits.holders_max) {
            // Without tokens the waiter stays where it is: nothing is granted any more.
            let Some(token) = self.next_token() else { break };
            self.grant_waiter(lease_id, token, step);
        }
        let idle = |lock: &Lock| lock.holders.is_empty() && lock.queue.is_empty();
        if self.table.locks.get(name).is_some_and(idle) {
            self.table.locks.remove(name);
            self.changes.deleted(RowKey::Lock(name.clone()));
        }
    }

    fn grant_waiter(&mut self, lease_id: LeaseId, token: Token, step: &mut Step) {
        let Some(mut lease) = self.table.remove(lease_id) else { return };
        let old_deadline = lease.deadline();
        let attached = match &lease.state {
            LeaseState::Waiting(waiting) => waiting.grace_until.is_none(),
            LeaseState::Held(_) => true,
        };
        lease.state = LeaseState::Held(Held {
            token,
            granted_at: self.clock,
            since_wall_ms: step.wall_ms,
            renewed_at: self.clock,
            expires_at: own_deadline(lease.term, self.clock),
            claim_until: (!attached).then(|| self.clock.plus_ms(lease.grace.ms())),
        });
        self.deadlines.shift(old_deadline, lease.deadline(), Due::Lease(lease_id));
        let entered = self.table.insert(lease_id, lease);
        debug_assert!(entered, "a grantable waiter found no place among the holders");
        self.changes.changed(RowKey::Lease(lease_id));
        if let Some(grant) = self.grant(lease_id) {
            self.announce_grant(grant, attached, true, step);
        }
    }

    /// The waiter, or whoever was granted unseen, is there (again).
    pub(crate) fn attach(&mut self, lease_id: LeaseId) -> Outcome {
        self.resume(lease_id, None)
    }

    /// Answers from the lease's present state; a waiter is attached and an unclaimed grant is
    /// claimed. A repeat brings its own wait, which counts from now and never shortens.
    fn resume(&mut self, lease_id: LeaseId, wait: Option<Wait>) -> Outcome {
        let clock = self.clock;
        let Some(lease) = self.table.leases.get_mut(&lease_id) else {
            return self.gone(lease_id);
        };
        let old_deadline = lease.deadline();
        match &mut lease.state {
            LeaseState::Waiting(waiting) => {
                waiting.grace_until = None;
                if let Some(wait) = wait {
                    waiting.wait_until = waiting.wait_until.max(clock.plus_ms(wait.ms()));
                }
                let ticket = waiting.ticket;
                self.table.attached.insert(lease_id);
                let lock = self.table.locks.get(&lease.name);
                let position = lock.map_or(0, |lock| lock.queue.position(ticket));
                let new_deadline = lease.deadline();
                self.deadlines.shift(old_deadline, new_deadline, Due::Lease(lease_id));
                self.changes.changed(RowKey::Lease(lease_id));
                Outcome::Queued(Queued { lease_id, position })
            }
            LeaseState::Held(held) => {
                if held.claim_until.take().is_some() {
                    let new_deadline = lease.deadline();
                    self.deadlines.shift(old_deadline, new_deadline, Due::Lease(lease_id));
                    self.changes.changed(RowKey::Lease(lease_id));
                }
                self.grant(lease_id).map_or(Outcome::Done, Outcome::Granted)
            }
        }
    }

    /// The answer about a lease that neither is held nor waits.
    pub(crate) fn gone(&self, lease_id: LeaseId) -> Outcome {
        Outcome::Rejected(match self.memory.lease_end(lease_id) {
            Some(ended) => Rejection::LeaseGone(ended.clone()),
            None => Rejection::LeaseUnknown,
        })
    }

    pub(crate) fn detach(&mut self, lease_id: LeaseId) -> Outcome {
        if self.table.attached.remove(&lease_id) {
            self.begin_grace(lease_id);
        }
        Outcome::Done
    }

    pub(crate) fn detach_all(&mut self) -> Outcome {
        for lease_id in core::mem::take(&mut self.table.attached) {
            self.begin_grace(lease_id);
        }
        Outcome::Done
    }

    fn begin_grace(&mut self, lease_id: LeaseId) {
        let Some(lease) = self.table.leases.get_mut(&lease_id) else { return };
        let old_deadline = lease.deadline();
        let grace_until = self.clock.plus_ms(lease.grace.ms());
        match &mut lease.state {
            LeaseState::Waiting(waiting) => waiting.grace_until = Some(grace_until),
            LeaseState::Held(_) => {}
        }
        self.deadlines.shift(old_deadline, lease.deadline(), Due::Lease(lease_id));
        self.changes.changed(RowKey::Lease(lease_id));
    }
}

/// The deadline that a lease gets by being granted or renewed now; a session keeps its own.
pub(crate) fn own_deadline(term: LeaseTerm, now: LeaseTime) -> Option<LeaseTime> {
    match term {
        LeaseTerm::Ttl(ttl) => Some(now.plus_ms(ttl.ms())),
        LeaseTerm::Forever | LeaseTerm::Session(_) => None,
    }
}
