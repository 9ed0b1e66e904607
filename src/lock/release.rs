//! Keeping and ending leases: renew, release, force release, and the one way a lease ends.

use alloc::vec::Vec;

use crate::acquire::own_deadline;
use crate::command::ForceTarget;
use crate::deadlines::Due;
use crate::event::EventKind;
use crate::ids::{LeaseId, LockName, Reason};
use crate::image::RowKey;
use crate::machine::{Machine, Step};
use crate::outcome::{EndReason, Ended, Outcome, Rejection};
use crate::planted::{Bug, planted};
use crate::requests::{Answer, End};
use crate::table::LeaseState;
use crate::time::LockDelay;

impl Machine {
    /// Moves the deadline, never to an earlier moment (P3). Whoever renews holds, so an unclaimed
    /// grant is claimed by it. A session's lease proves that its session lives, and renews that.
    pub(crate) fn renew(&mut self, lease_id: LeaseId) -> Outcome {
        let clock = self.clock;
        let Some(lease) = self.table.leases.get_mut(&lease_id) else {
            return self.gone(lease_id);
        };
        let old_deadline = lease.deadline();
        let term = lease.term;
        let session_id = lease.session_id();
        match &mut lease.state {
            LeaseState::Waiting(_) => return Outcome::Rejected(Rejection::LeaseWaiting),
            LeaseState::Held(held) => {
                held.claim_until = None;
                held.renewed_at = clock;
                held.expires_at = held.expires_at.max(own_deadline(term, clock));
            }
        }
        if !planted(Bug::RenewalIsNotCounted) {
            self.deadlines.shift(old_deadline, lease.deadline(), Due::Lease(lease_id));
        }
        self.changes.changed(RowKey::Lease(lease_id));
        if let Some(session_id) = session_id {
            self.extend_session(session_id);
        }
        self.grant(lease_id).map_or(Outcome::Done, Outcome::Renewed)
    }

    /// Ends a lease, or leaves the queue. Needs no memory of its own: the lease id is the key, and
    /// repeating it answers what the first one did.
    pub(crate) fn release(&mut self, lease_id: LeaseId, step: &mut Step) -> Outcome {
        if let Some(ended) = self.end_and_settle(lease_id, EndReason::Released, None, step) {
            return Outcome::Released(ended);
        }
        if planted(Bug::RepeatedReleaseEndsAnother) {
            let lock =
                self.memory.lease_end(lease_id).and_then(|it| self.table.locks.get(&it.name));
            let another = lock.and_then(|lock| lock.holders.iter().next());
            another.and_then(|(_, id)| self.end_and_settle(id, EndReason::Released, None, step));
        }
        match self.memory.lease_end(lease_id) {
            Some(ended) => match ended.how {
                EndReason::Released => Outcome::Released(ended.clone()),
                EndReason::Expired
                | EndReason::Forced
                | EndReason::SessionClosed
                | EndReason::SessionExpired
                | EndReason::WaitTimeout
                | EndReason::Abandoned
                | EndReason::HandedOver => self.gone(lease_id),
            },
            None => self.gone(lease_id),
        }
    }

    /// Ends one grant or all of them. The queue settles once all are gone, so that whoever waits
    /// is not granted beside a holder that is about to be taken away; not before the lock-delay,
    /// which is what remained of the lease unless the caller chose.
    pub(crate) fn force_release(
        &mut self,
        name: &LockName,
        target: ForceTarget,
        (reason, lock_delay): (&Reason, Option<LockDelay>),
        step: &mut Step,
    ) -> Outcome {
        let taken: Vec<LeaseId> = match (self.table.locks.get(name), target) {
            (None, ForceTarget::Token(_) | ForceTarget::All) => Vec::new(),
            (Some(lock), ForceTarget::Token(token)) => {
                let mut first = lock.holders.get(token);
                if planted(Bug::ForceTakesAnyToken) {
                    first = lock.holders.iter().next().map(|(_, id)| id);
                }
                first.into_iter().flat_map(|id| self.leases_of_grant(token, id)).collect()
            }
            (Some(lock), ForceTarget::All) => {
                let holders = lock.holders.iter();
                holders.flat_map(|(token, id)| self.leases_of_grant(token, id)).collect()
            }
        };
        let remained = taken.iter().map(|lease_id| self.would_end_at(*lease_id)).max();
        let chosen = lock_delay.map(|delay| self.clock.plus_ms(delay.ms()));
        let closed_until = chosen.or(remained).unwrap_or(self.clock);
        let end = |lease_id| self.end_lease(lease_id, EndReason::Forced, Some(reason), step);
        let mut ended: Vec<Ended> = taken.into_iter().filter_map(end).collect();
        // A grant that was held by several leases is one grant.
        ended.dedup_by_key(|one| one.token);
        if !ended.is_empty() {
            self.close(name, closed_until);
            self.settle(name, step);
        }
        Outcome::ForceReleased(ended)
    }

    /// Ends the lease, with all that wait together with it, and gives its place to whoever is next.
    pub(crate) fn end_and_settle(
        &mut self,
        lease_id: LeaseId,
        how: EndReason,
        reason: Option<&Reason>,
        step: &mut Step,
    ) -> Option<Ended> {
        if planted(Bug::AbandonedWaiterStays) && how == EndReason::Abandoned {
            return None;
        }
        let Some(together) = self.waiting_group(lease_id).cloned() else {
            let ended = self.end_lease(lease_id, how, reason, step)?;
            if how != EndReason::Expired || !planted(Bug::DeadHolderWakesNobody) {
                self.settle(&ended.name, step);
            }
            return Some(ended);
        };
        let end = |id: &LeaseId| self.end_lease(*id, how, reason, step);
        let ended: Vec<Ended> = together.iter().filter_map(end).collect();
        for one in &ended {
            self.settle(&one.name, step);
        }
        ended.into_iter().find(|one| one.lease_id == lease_id)
    }

    /// Takes the lease out of everything and remembers how it ended; the caller settles its lock.
    pub(crate) fn end_lease(
        &mut self,
        lease_id: LeaseId,
        how: EndReason,
        reason: Option<&Reason>,
        step: &mut Step,
    ) -> Option<Ended> {
        let lease = self.table.remove(lease_id)?;
        self.deadlines.remove(lease.deadline(), Due::Lease(lease_id));
        if let Some(session_id) = lease.session_id() {
            self.sessions.leave(session_id, lease_id);
        }
        self.changes.deleted(RowKey::Lease(lease_id));
        let token = lease.token();
        // Only within a session several leases share a grant.
        let goes_on = lease.session_id().and(token).is_some_and(|token| {
            let lock = self.table.locks.get(&lease.name);
            lock.is_some_and(|lock| lock.holders.get(token).is_some())
        });
        if how.loses_the_holder() && token.is_some() {
            self.close(&lease.name, self.clock.plus_ms(lease.lock_delay.ms()));
        }
        let ended = Ended { lease_id, name: lease.name.clone(), token, how, ended_at: self.clock };
        let answer = Answer {
            request_id: lease.request_id,
            fingerprint: lease.fingerprint,
            end: End::Lease(ended.clone()),
        };
        self.memory.remember(answer, &self.limits, &mut self.changes);
        if goes_on {
            return Some(ended);
        }
        let held_ms = match &lease.state {
            LeaseState::Waiting(_) => 0,
            LeaseState::Held(held) => {
                self.record(&lease, held, (how, reason), step.wall_ms);
                self.clock.ms_since(held.granted_at)
            }
        };
        let kind = EventKind::Ended {
            ended: ended.clone(),
            owner: lease.owner.clone(),
            held_ms,
            reason: reason.cloned(),
        };
        let revision = self.emit(kind, step);
        self.touch_lock(&ended.name, revision);
        Some(ended)
    }
}
