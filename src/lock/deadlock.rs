//! Refuses a wait that would close a circle: sessions that wait for each other would all wait until
//! somebody's patience ends.
//!
//! A session waits for another if one of its claims cannot be met without the other's going: the
//! going of each holder that does not fit beside the claim, and beside all who stand before it in
//! the queue, and of each of those who does not fit beside the ones after it. Of permits, somebody
//! is in the way only if the claim could not be met even if all others went. So waits that merely
//! converge are no circle. A request for several locks stands in the way of everybody behind it.
//!
//! The search goes breadth first, so the circle that is told is a shortest one. It is not begun for
//! a session that nobody can wait for, which spares the common case all but a look at its own
//! leases. It is bounded, both in the places that it looks at and in the leases of the sessions that
//! it reaches; beyond the bound the wait is admitted, and ends by its own deadline at the latest.
//! Leases without a session wait for nobody here: nothing tells which of them belong together.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use crate::command::{Acquire, LeaseTerm, Mode};
use crate::ids::{LeaseId, LockName, Owner, SessionId};
use crate::machine::Machine;
use crate::outcome::{CycleStep, Rejection};
use crate::table::LeaseState;

/// What is known of the claims behind a place in the queue.
#[derive(Clone, Copy, Default)]
struct Behind {
    exclusive: bool,
    shared: bool,
    permits_max: u32,
}

impl Behind {
    fn and(mut self, mode: Mode) -> Self {
        match mode {
            Mode::Exclusive => self.exclusive = true,
            Mode::Shared => self.shared = true,
            Mode::Permits(permits) => self.permits_max = self.permits_max.max(permits.count()),
        }
        self
    }

    /// Whether somebody who holds in this mode must go before all of these can be met.
    fn must_see_go(self, mode: Mode) -> bool {
        match mode {
            Mode::Exclusive => true,
            Mode::Shared => self.exclusive || self.permits_max > 0,
            Mode::Permits(permits) => {
                let others = permits.limit().saturating_sub(permits.count());
                self.exclusive || self.shared || self.permits_max > others
            }
        }
    }
}

/// A claim that waits, or is about to.
struct Want<'a> {
    owner: &'a Owner,
    session_id: SessionId,
    name: &'a LockName,
    mode: Mode,
    /// Its place; `None` for the end of the queue.
    ticket: Option<u64>,
}

/// A lease that is about to change hands, and who gets it.
#[derive(Clone, Copy)]
struct Heir<'a> {
    lease_id: LeaseId,
    session_id: SessionId,
    owner: &'a Owner,
}

/// A session that was reached, by which step, and from which visit.
struct Visit {
    session_id: SessionId,
    step: CycleStep,
    from: Option<usize>,
}

struct Search<'a> {
    machine: &'a Machine,
    target: SessionId,
    heir: Option<Heir<'a>>,
    visits: Vec<Visit>,
    seen: BTreeSet<SessionId>,
    edges_left: usize,
    leases_left: usize,
}

impl Machine {
    /// Refuses claims of one request that would close a circle by waiting.
    pub(crate) fn no_deadlock(&self, claims: &[Acquire]) -> Result<(), Rejection> {
        let Some(LeaseTerm::Session(target)) = claims.first().map(|claim| claim.term) else {
            return Ok(());
        };
        if !self.may_be_waited_for(target, claims) {
            return Ok(());
        }
        let wants = claims.iter().map(|claim| Want {
            owner: &claim.owner,
            session_id: target,
            name: &claim.name,
            mode: claim.mode,
            ticket: None,
        });
        Search::new(self, target, None).run(wants)
    }

    /// Refuses a hand-over after which the new holder would wait for itself.
    pub(crate) fn no_deadlock_after(
        &self,
        lease_id: LeaseId,
        session_id: SessionId,
        successor: &Acquire,
    ) -> Result<(), Rejection> {
        let heir = Heir { lease_id, session_id, owner: &successor.owner };
        Search::new(self, session_id, Some(heir)).run(self.wants_of(session_id))
    }

    /// Whether a claim of anybody, these among them, may have a lease of this session in its way:
    /// no circle leads back to a session of which that is not so.
    fn may_be_waited_for(&self, session_id: SessionId, claims: &[Acquire]) -> bool {
        let opened = self.sessions.open.get(&session_id);
        let mut leases = opened.into_iter().flat_map(|opened| opened.leases.iter());
        leases.any(|lease_id| {
            let Some(lease) = self.table.leases.get(lease_id) else { return false };
            let waiters = self.table.locks.get(&lease.name).map_or(0, |lock| lock.queue.len());
            let itself = usize::from(lease.token().is_none());
            waiters > itself || claims.iter().any(|claim| claim.name == lease.name)
        })
    }

    /// What a session waits for, in the order of its lease ids.
    fn wants_of(&self, session_id: SessionId) -> impl Iterator<Item = Want<'_>> {
        let opened = self.sessions.open.get(&session_id);
        let leases = opened.into_iter().flat_map(|opened| opened.leases.iter());
        leases.filter_map(move |lease_id| {
            let lease = self.table.leases.get(lease_id)?;
            let LeaseState::Waiting(waiting) = &lease.state else { return None };
            Some(Want {
                owner: &lease.owner,
                session_id,
                name: &lease.name,
                mode: lease.mode,
                ticket: Some(waiting.ticket),
            })
        })
    }
}

impl<'a> Search<'a> {
    fn new(machine: &'a Machine, target: SessionId, heir: Option<Heir<'a>>) -> Self {
        let bound = machine.limits.deadlock_walk_max;
        Self {
            machine,
            target,
            heir,
            visits: Vec::new(),
            seen: BTreeSet::new(),
            edges_left: bound,
            leases_left: bound,
        }
    }

    fn run<'w>(mut self, wants: impl Iterator<Item = Want<'w>>) -> Result<(), Rejection> {
        for want in wants {
            self.follow(&want, None)?;
        }
        let mut next = 0_usize;
        while let Some(visit) = self.visits.get(next) {
            let machine = self.machine;
            let leases = machine.session_lease_count(visit.session_id);
            if self.edges_left == 0 || leases > self.leases_left {
                break;
            }
            self.leases_left = self.leases_left.saturating_sub(leases);
            for want in machine.wants_of(visit.session_id) {
                self.follow(&want, Some(next))?;
            }
            next = next.saturating_add(1);
        }
        Ok(())
    }

    /// Visits whom a claim waits for; an error if that is the target.
    fn follow(&mut self, want: &Want<'_>, from: Option<usize>) -> Result<(), Rejection> {
        for lease_id in self.in_the_way(want) {
            let Some(lease) = self.machine.table.leases.get(&lease_id) else { continue };
            let heir = self.heir.filter(|heir| heir.lease_id == lease_id);
            let session_id = heir.map_or(lease.session_id(), |heir| Some(heir.session_id));
            let Some(session_id) = session_id else { continue };
            // One's own place in a queue is no holding: it may be met and given back meanwhile.
            if session_id == want.session_id && lease.token().is_none() {
                continue;
            }
            let step = CycleStep {
                owner: want.owner.clone(),
                waits_for: want.name.clone(),
                held_by: heir.map_or(&lease.owner, |heir| heir.owner).clone(),
            };
            if session_id == self.target {
                return Err(Rejection::Deadlock(self.circle(step, from)));
            }
            if self.seen.insert(session_id) {
                self.visits.push(Visit { session_id, step, from });
            }
        }
        Ok(())
    }

    /// Holders in token order, then waiters in queue order, without whose going the claim cannot
    /// be met. Nobody once the search has reached its bound.
    fn in_the_way(&mut self, want: &Want<'_>) -> Vec<LeaseId> {
        let table = &self.machine.table;
        let Some(lock) = table.locks.get(want.name) else { return Vec::new() };
        let ahead =
            lock.queue.iter().take_while(|(ticket, _)| want.ticket.is_none_or(|t| *ticket < t));
        let ahead: Vec<LeaseId> =
            ahead.map(|(_, lease_id)| lease_id).take(self.edges_left.saturating_add(1)).collect();
        let visited = ahead.len().saturating_add(lock.holders.len());
        if visited > self.edges_left {
            self.edges_left = 0;
            return Vec::new();
        }
        self.edges_left = self.edges_left.saturating_sub(visited);
        let mut behind = Behind::default().and(want.mode);
        let mut waiters = Vec::new();
        for lease_id in ahead.into_iter().rev() {
            let Some(lease) = table.leases.get(&lease_id) else { continue };
            if lease.group.is_some() || behind.must_see_go(lease.mode) {
                waiters.push(lease_id);
            }
            behind = behind.and(lease.mode);
        }
        let must_go =
            |id: &LeaseId| table.leases.get(id).is_some_and(|lease| behind.must_see_go(lease.mode));
        let holders = lock.holders.iter().map(|(_, lease_id)| lease_id).filter(must_go);
        holders.chain(waiters.into_iter().rev()).collect()
    }

    /// The steps from the asking session to the last one.
    fn circle(&self, last: CycleStep, from: Option<usize>) -> Vec<CycleStep> {
        let mut steps = alloc::vec![last];
        let mut at = from;
        while let Some(visit) = at.and_then(|at| self.visits.get(at)) {
            steps.push(visit.step.clone());
            at = visit.from;
        }
        steps.reverse();
        steps
    }
}
