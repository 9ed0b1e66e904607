//! Taking locks: acquire, its repeats, attach and detach, and the grants that follow.
//!
//! An acquire is granted at once only past an empty queue, so nobody overtakes (P8). Whether a
//! grant is possible is decided in `decide` and in `settle`, nowhere else.

use alloc::boxed::Box;
use alloc::collections::btree_map::Entry;
use alloc::vec::Vec;

use crate::command::{Acquire, LeaseTerm, Mode};
use crate::deadlines::Due;
use crate::event::EventKind;
use crate::ids::{LeaseId, LockName, RequestId, Revision, Token};
use crate::image::RowKey;
use crate::limits::count;
use crate::machine::{Machine, Step};
use crate::outcome::{Contention, Grant, HOLDERS_SHOWN_MAX, Outcome, Queued, Rejection};
use crate::planted::{Bug, planted};
use crate::queue::Queue;
use crate::requests::{Subject, acquire_fingerprint};
use crate::table::{Group, Held, Lease, LeaseState, Lock, Waiting};
use crate::time::LeaseTime;

/// What becomes of an acquire that is not refused.
pub(crate) enum Decision {
    Grant,
    Queue,
    /// One more lease of the grant that this one holds.
    Share(LeaseId),
}

impl Machine {
    pub(crate) fn acquire(&mut self, acquire: &Acquire, step: &mut Step) -> Outcome {
        let fingerprint = acquire_fingerprint(acquire);
        let ids = (acquire.request_id, acquire.lease_id);
        if let Some(outcome) = self.repeat(ids, fingerprint) {
            return outcome;
        }
        match self.decide(acquire) {
            Err(rejection) => Outcome::Rejected(rejection),
            Ok(Decision::Queue) => self.enqueue(acquire, fingerprint, step),
            Ok(Decision::Share(first)) => self.share_grant(acquire, fingerprint, first),
            Ok(Decision::Grant) => match self.next_token() {
                Some(token) => self.grant_at_once(acquire, fingerprint, token, step),
                None => Outcome::Rejected(Rejection::TokensExhausted),
            },
        }
    }

    /// The answer if this request, or its lease id, is known: what became of the first one.
    pub(crate) fn repeat(
        &mut self,
        (request_id, lease_id): (Option<RequestId>, LeaseId),
        fingerprint: u64,
    ) -> Option<Outcome> {
        let asked_id = lease_id;
        let lease_id = match self.memory.by_request(request_id) {
            Some(Subject::Lease(lease_id)) => lease_id,
            Some(Subject::Session(_)) => {
                return Some(Outcome::Rejected(Rejection::RequestIdReused));
            }
            None => lease_id,
        };
        let (first_id, first) = match self.table.leases.get(&lease_id) {
            Some(lease) => (lease.request_id, lease.fingerprint),
            None => self.memory.origin(Subject::Lease(lease_id))?,
        };
        let same_request = request_id.is_none() || request_id == first_id;
        let same_command = first == fingerprint || planted(Bug::OtherCommandIsARepeat);
        if !same_request || !same_command {
            return Some(Outcome::Rejected(Rejection::RequestIdReused));
        }
        // Whoever repeats under another lease id is not there yet: it attaches by the first one's id,
        // so that the log always knows whose connection it is that goes away.
        Some(self.resume(lease_id, asked_id == lease_id))
    }

    /// Whether a lease with this id lives or is remembered.
    pub(crate) fn is_known(&self, lease_id: LeaseId) -> bool {
        self.table.leases.contains_key(&lease_id) || self.memory.lease_end(lease_id).is_some()
    }

    /// Refuses a request id that could not be remembered.
    pub(crate) fn may_remember(&self, request_id: Option<RequestId>) -> Result<(), Rejection> {
        if request_id.is_some() && self.memory.is_full(&self.limits) {
            return Err(Rejection::AnswersFull { limit: count(self.limits.answers_max) });
        }
        Ok(())
    }

    /// Decides about a new request without changing anything.
    fn decide(&self, acquire: &Acquire) -> Result<Decision, Rejection> {
        self.may_remember(acquire.request_id)?;
        if let LeaseTerm::Session(session_id) = acquire.term {
            self.known_session(session_id)?;
        }
        let decision = if let Some(first) = self.held_already(acquire) {
            Decision::Share(first)
        } else {
            if self.tokens_left() == 0 {
                return Err(Rejection::TokensExhausted);
            }
            match self.table.locks.get(&acquire.name) {
                None => Decision::Grant,
                Some(lock) => self.decide_contended(acquire, lock)?,
            }
        };
        match decision {
            Decision::Queue => self.no_deadlock(core::slice::from_ref(acquire))?,
            Decision::Grant | Decision::Share(_) => {}
        }
        if let LeaseTerm::Session(session_id) = acquire.term {
            self.session_has_room(session_id, 1)?;
        }
        self.leases_have_room(1)?;
        Ok(decision)
    }

    /// Decides about a lock that is remembered, by itself and its queue alone.
    pub(crate) fn decide_contended(
        &self,
        acquire: &Acquire,
        lock: &Lock,
    ) -> Result<Decision, Rejection> {
        if let Some(limit) = lock.other_limit(acquire.mode) {
            return Err(Rejection::PermitLimitDiffers { limit: u64::from(limit) });
        }
        let overtakes = planted(Bug::ReadersOvertake) && acquire.mode == Mode::Shared
            || planted(Bug::SmallPermitsOvertake) && matches!(acquire.mode, Mode::Permits(_));
        let compatible = (lock.queue.is_empty() || overtakes)
            && (lock.closed_until.is_none() || planted(Bug::ClosedLockIsGranted))
            && lock.holders.compatible(acquire.mode);
        let room = lock.holders.len() < self.limits.holders_max;
        if compatible && room {
            return Ok(Decision::Grant);
        }
        if acquire.wait.ms() == 0 {
            return Err(if compatible {
                Rejection::HoldersFull { limit: count(self.limits.holders_max) }
            } else {
                let mut contention = self.contention(&acquire.name, lock);
                if planted(Bug::RefusalNamesTheAsker) {
                    contention.holders.iter_mut().for_each(|it| it.owner = acquire.owner.clone());
                }
                Rejection::LockHeld(Box::new(contention))
            });
        }
        if lock.queue.len() >= self.limits.queue_length_max {
            return Err(Rejection::QueueFull { limit: count(self.limits.queue_length_max) });
        }
        Ok(Decision::Queue)
    }

    pub(crate) fn contention(&self, name: &LockName, lock: &Lock) -> Contention {
        Contention {
            name: name.clone(),
            holders: self.holders(lock, HOLDERS_SHOWN_MAX),
            holder_count: count(lock.holders.len()),
            queue_length: count(lock.queue.len()),
            closed_until: lock.closed_until,
        }
    }

    fn grant_at_once(
        &mut self,
        acquire: &Acquire,
        fingerprint: u64,
        token: Token,
        step: &mut Step,
    ) -> Outcome {
        let held = self.fresh_hold(token, acquire.term, step);
        self.enter(acquire, fingerprint, LeaseState::Held(held));
        match self.grant(acquire.lease_id) {
            Some(grant) => {
                self.announce_grant(grant.clone(), (true, false, false), step);
                Outcome::Granted(grant)
            }
            None => Outcome::Done,
        }
    }

    /// A hold that begins now.
    pub(crate) fn fresh_hold(&self, token: Token, term: LeaseTerm, step: &Step) -> Held {
        Held {
            token,
            granted_at: self.clock,
            since_wall_ms: step.wall_ms,
            renewed_at: self.clock,
            expires_at: own_deadline(term, self.clock),
            claim_until: None,
        }
    }

    /// A place at the end of the queue.
    pub(crate) fn fresh_wait(&self, acquire: &Acquire) -> Waiting {
        let queue = self.table.locks.get(&acquire.name).map(|lock| &lock.queue);
        Waiting {
            ticket: queue.map_or(0, Queue::next_ticket),
            wait_until: self.clock.plus_ms(acquire.wait.ms()),
            grace_until: None,
        }
    }

    fn enqueue(&mut self, acquire: &Acquire, fingerprint: u64, step: &mut Step) -> Outcome {
        let waiting = self.fresh_wait(acquire);
        self.enter(acquire, fingerprint, LeaseState::Waiting(waiting));
        Outcome::Queued(self.announce_queued(acquire, step))
    }

    /// Tells that a request joined the queue, as its last.
    pub(crate) fn announce_queued(&mut self, acquire: &Acquire, step: &mut Step) -> Queued {
        let lock = self.table.locks.get(&acquire.name);
        let queue_length = lock.map_or(0, |lock| count(lock.queue.len()));
        let kind = EventKind::Queued {
            name: acquire.name.clone(),
            owner: acquire.owner.clone(),
            queue_length,
        };
        let revision = self.emit(kind, step);
        self.touch_lock(&acquire.name, revision);
        Queued { lease_id: acquire.lease_id, position: queue_length }
    }

    /// Enters a new lease everywhere but in the lock's revision.
    pub(crate) fn enter(&mut self, acquire: &Acquire, fingerprint: u64, state: LeaseState) {
        self.enter_as(acquire, fingerprint, None, state);
    }

    /// As [`Machine::enter`], for one of several leases that were asked for together.
    pub(crate) fn enter_as(
        &mut self,
        acquire: &Acquire,
        fingerprint: u64,
        group: Option<Group>,
        state: LeaseState,
    ) {
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
            lock_delay: acquire.lock_delay,
            group,
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
        (attached, queued, in_group): (bool, bool, bool),
        step: &mut Step,
    ) {
        let name = grant.name.clone();
        let revision = self.emit(EventKind::Granted { grant, attached, queued, in_group }, step);
        self.touch_lock(&name, revision);
    }

    /// Gives the lock the revision of what happened to it. Whoever may leave it idle settles it next.
    pub(crate) fn touch_lock(&mut self, name: &LockName, revision: Revision) {
        if let Some(lock) = self.table.locks.get_mut(name) {
            lock.revision = revision;
            // One that is idle is about to be forgotten.
            if !lock.is_idle() {
                self.changes.changed(RowKey::Lock(name.clone()));
            }
        }
    }

    /// Grants the next in line as long as the holders leave room, then forgets the lock if nobody
    /// is left. Called after everything that took somebody out of the lock or opened it. A grant of
    /// several locks together lets the queues of the others move, too.
    pub(crate) fn settle(&mut self, name: &LockName, step: &mut Step) {
        let mut others = self.settle_one(name, step);
        while let Some(name) = others.pop() {
            others.extend(self.settle_one(&name, step));
        }
    }

    /// Settles one lock; the others that its grants touched are still to be settled.
    fn settle_one(&mut self, name: &LockName, step: &mut Step) -> Vec<LockName> {
        let mut others = Vec::new();
        // The most frequent end of all, with one look for the name.
        if self.forget_if_idle(name) {
            return others;
        }
        while let Some(lease_id) = self.table.grantable(name, self.limits.holders_max) {
            let mut together = self.table.group(lease_id).cloned();
            if planted(Bug::SeveralAreTakenOneByOne) {
                together = None;
            }
            if planted(Bug::OrderByAddress) {
                together
                    .iter_mut()
                    .filter(|all| all.as_ptr().addr() & 64 > 0)
                    .for_each(|it| it.reverse());
            }
            // Without tokens the waiter stays where it is: nothing is granted any more.
            if self.tokens_left() < together.as_ref().map_or(1, |all| count(all.len())) {
                break;
            }
            let attached = self.table.attached.contains(&self.stands_for(lease_id));
            match together {
                None => self.grant_waiter(lease_id, (attached, false), step),
                Some(all) => {
                    for id in all {
                        let lease = self.table.leases.get(&id);
                        others.extend(lease.map(|lease| lease.name.clone()));
                        self.grant_waiter(id, (attached, true), step);
                    }
                    others.retain(|other| other != name);
                }
            }
        }
        self.forget_if_idle(name);
        others
    }

    /// Forgets the lock if there is nothing left to remember; whether it did.
    pub(crate) fn forget_if_idle(&mut self, name: &LockName) -> bool {
        let Entry::Occupied(lock) = self.table.locks.entry(name.clone()) else { return false };
        if !lock.get().is_idle() || planted(Bug::IdleLocksAreKept) {
            return false;
        }
        lock.remove();
        if planted(Bug::TokenIsGivenBack) {
            self.token_last = Token(self.token_last.0.saturating_sub(1));
        }
        self.changes.deleted(RowKey::Lock(name.clone()));
        true
    }

    fn grant_waiter(
        &mut self,
        lease_id: LeaseId,
        (attached, in_group): (bool, bool),
        step: &mut Step,
    ) {
        let Some(mut lease) = self.table.remove(lease_id) else { return };
        let Some(token) = self.next_token() else { return };
        let old_deadline = lease.deadline();
        lease.state = LeaseState::Held(Held {
            claim_until: (!attached && !planted(Bug::UnclaimedIsKept))
                .then(|| self.clock.plus_ms(lease.grace.ms())),
            ..self.fresh_hold(token, lease.term, step)
        });
        self.deadlines.shift(old_deadline, lease.deadline(), Due::Lease(lease_id));
        let entered = self.table.insert(lease_id, lease);
        debug_assert!(entered, "a grantable waiter found no place among the holders");
        self.changes.changed(RowKey::Lease(lease_id));
        if let Some(grant) = self.grant(lease_id) {
            self.announce_grant(grant, (attached, true, in_group), step);
        }
    }

    /// The waiter, or whoever was granted unseen, is there (again).
    pub(crate) fn attach(&mut self, lease_id: LeaseId) -> Outcome {
        self.resume(lease_id, true)
    }

    /// Answers from the present state of the lease, and of those that were asked for with it.
    fn resume(&mut self, lease_id: LeaseId, attaches: bool) -> Outcome {
        match self.table.group(lease_id).cloned() {
            Some(all) => self.resume_many(&all, attaches),
            None => self.resume_one(lease_id, attaches),
        }
    }

    /// Answers from the lease's present state; an unclaimed grant is claimed by being told, a waiter
    /// is attached if its connection is the one that asks. How long it waits was said at first.
    pub(crate) fn resume_one(&mut self, lease_id: LeaseId, attaches: bool) -> Outcome {
        let Some(lease) = self.table.leases.get_mut(&lease_id) else {
            return self.gone(lease_id);
        };
        let old_deadline = lease.deadline();
        match &mut lease.state {
            LeaseState::Waiting(waiting) => {
                let ticket = waiting.ticket;
                if attaches && waiting.grace_until.take().is_some() {
                    self.table.attached.insert(lease_id);
                    self.deadlines.shift(old_deadline, lease.deadline(), Due::Lease(lease_id));
                    self.changes.changed(RowKey::Lease(lease_id));
                }
                let lock = self.table.locks.get(&lease.name);
                let position = lock.map_or(0, |lock| lock.queue.position(ticket));
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
        let lease_id = self.stands_for(lease_id);
        if self.table.attached.remove(&lease_id) {
            self.begin_grace(lease_id);
        }
        Outcome::Done
    }

    pub(crate) fn detach_all(&mut self) -> Outcome {
        if planted(Bug::NewLeaderRenewsAll) {
            let all: Vec<LeaseId> = self.table.leases.keys().copied().collect();
            for lease_id in all {
                self.renew(lease_id);
            }
        }
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
        LeaseTerm::Ttl(ttl) if planted(Bug::EndsOnePercentEarly) => {
            Some(now.plus_ms(ttl.ms() - ttl.ms() / 100))
        }
        LeaseTerm::Ttl(ttl) => Some(now.plus_ms(ttl.ms())),
        LeaseTerm::Forever | LeaseTerm::Session(_) => None,
    }
}
