//! What the naive model shows: the same views as the machine's, found by scanning.

use oarlock_core::command::LeaseTerm;
use oarlock_core::ids::{LeaseId, LockName, SessionId, Token};
use oarlock_core::outcome::{
    Contention, EndReason, Ended, Grant, HOLDERS_SHOWN_MAX, Holder, Rejection, SessionInfo,
};
use oarlock_core::query::{LeaseView, LockView, SessionView, Totals, WaiterView};
use oarlock_core::time::LeaseTime;

use super::{Claim, Naive, Open};

impl Naive {
    fn session_of(&self, claim: &Claim) -> Option<&Open> {
        let id = claim.session_id()?;
        self.sessions.iter().find(|open| open.asked.session_id == id)
    }

    pub(super) fn effective_deadline(&self, claim: &Claim) -> Option<LeaseTime> {
        let session = self.session_of(claim).map(|open| open.deadline);
        claim.deadline().into_iter().chain(session).min()
    }

    pub(super) fn find(&self, id: LeaseId) -> Option<&Claim> {
        self.claims.iter().find(|claim| claim.asked.lease_id == id)
    }

    pub(super) fn grant(&self, id: LeaseId) -> Option<Grant> {
        let claim = self.find(id)?;
        let holding = claim.holding()?;
        let ttl = match claim.asked.term {
            LeaseTerm::Ttl(ttl) => Some(ttl.ms()),
            LeaseTerm::Forever => None,
            LeaseTerm::Session(_) => self.session_of(claim).map(|open| open.asked.ttl.ms()),
        };
        Some(Grant {
            lease_id: id,
            name: claim.asked.name.clone(),
            mode: claim.asked.mode,
            owner: claim.asked.owner.clone(),
            token: holding.token,
            session_id: claim.session_id(),
            ttl_ms: ttl,
            granted_at: holding.granted_at,
            waited_ms: holding.granted_at.ms_since(claim.came_at),
            deadline: self.effective_deadline(claim),
            metadata: claim.asked.metadata.clone(),
        })
    }

    fn holders(&self, name: &LockName, max: usize) -> Vec<Holder> {
        let mut holders: Vec<Holder> = self
            .holders_of(name)
            .map(|claim| {
                let holding = claim.holding().expect("a holder");
                let session = self.session_of(claim).map(|open| open.renewed_at);
                Holder {
                    owner: claim.asked.owner.clone(),
                    mode: claim.asked.mode,
                    token: holding.token,
                    granted_at: holding.granted_at,
                    since_wall_ms: holding.wall_ms,
                    renewed_at: session.into_iter().chain([holding.renewed_at]).max().expect("one"),
                    deadline: self.effective_deadline(claim),
                    metadata: claim.asked.metadata.clone(),
                    in_session: claim.session_id().is_some(),
                }
            })
            .collect();
        holders.sort_by_key(|holder| holder.token);
        holders.truncate(max);
        holders
    }

    pub(super) fn contention(&self, name: &LockName) -> Contention {
        Contention {
            name: name.clone(),
            holders: self.holders(name, HOLDERS_SHOWN_MAX),
            holder_count: self.holders_of(name).count() as u64,
            queue_length: self.queue_of(name).count() as u64,
            closed_until: self.fact(name).and_then(|fact| fact.closed_until),
        }
    }

    pub(super) fn position(&self, id: LeaseId) -> u64 {
        let claim = self.find(id).expect("a waiter");
        let ahead = self.queue_of(&claim.asked.name).take_while(|c| c.asked.lease_id != id);
        ahead.count() as u64 + 1
    }

    pub(super) fn ended(&self, id: LeaseId) -> Option<&Ended> {
        self.pasts().filter_map(|past| past.lease.as_ref()).find(|ended| ended.lease_id == id)
    }

    fn session_end(&self, id: SessionId) -> Option<EndReason> {
        let mut ends = self.pasts().filter_map(|past| past.session);
        ends.find(|(ended, _)| *ended == id).map(|(_, how)| how)
    }

    pub(super) fn session_over(&self, id: SessionId) -> Rejection {
        match self.session_end(id) {
            Some(how) => Rejection::SessionGone { how },
            None => Rejection::SessionUnknown,
        }
    }

    pub(super) fn session_info(&self, id: SessionId) -> Option<SessionInfo> {
        let open = self.sessions.iter().find(|open| open.asked.session_id == id)?;
        Some(SessionInfo {
            session_id: id,
            owner: open.asked.owner.clone(),
            ttl_ms: open.asked.ttl.ms(),
            deadline: open.deadline,
            lease_count: self.leases_of(id).len() as u64,
            metadata: open.asked.metadata.clone(),
        })
    }

    pub(crate) fn lock(&self, name: &LockName, holders_max: usize, waiters_max: usize) -> LockView {
        let fact = self.facts.iter().find(|fact| fact.name == *name);
        let waiters = self.queue_of(name).enumerate().take(waiters_max);
        LockView {
            name: name.clone(),
            holders: self.holders(name, holders_max),
            holder_count: self.holders_of(name).count() as u64,
            waiters: waiters
                .map(|(index, claim)| WaiterView {
                    owner: claim.asked.owner.clone(),
                    mode: claim.asked.mode,
                    position: index as u64 + 1,
                    waiting_ms: self.clock.ms_since(claim.came_at),
                    attached: !self.detached(claim.asked.lease_id),
                    metadata: claim.asked.metadata.clone(),
                })
                .collect(),
            queue_length: self.queue_of(name).count() as u64,
            last_token: fact.and_then(|fact| fact.last_token),
            token_ceiling: Token(self.token),
            revision: fact.map(|fact| fact.revision),
            now: self.clock,
            closed_until: fact.and_then(|fact| fact.closed_until),
            value: fact.and_then(|fact| fact.value.clone()).map(Box::new),
        }
    }

    pub(crate) fn lease(&self, id: LeaseId) -> LeaseView {
        if let Some(grant) = self.grant(id) {
            return LeaseView::Held(grant);
        }
        match (self.find(id), self.ended(id)) {
            (Some(claim), _) => LeaseView::Waiting {
                name: claim.asked.name.clone(),
                owner: claim.asked.owner.clone(),
                mode: claim.asked.mode,
                position: self.position(id),
                waiting_ms: self.clock.ms_since(claim.came_at),
            },
            (None, Some(ended)) => LeaseView::Ended(ended.clone()),
            (None, None) => LeaseView::Unknown,
        }
    }

    pub(crate) fn session(&self, id: SessionId) -> SessionView {
        match (self.session_info(id), self.session_end(id)) {
            (Some(info), _) => SessionView::Open(info),
            (None, Some(how)) => SessionView::Ended { how },
            (None, None) => SessionView::Unknown,
        }
    }

    /// The holder with this token, if the lock has it now.
    pub(crate) fn fence(&self, name: &LockName, token: Token) -> Option<Holder> {
        self.holders(name, usize::MAX).into_iter().find(|holder| holder.token == token)
    }

    pub(crate) fn totals(&self) -> Totals {
        let held = self.claims.iter().filter(|claim| claim.holding().is_some()).count();
        Totals {
            locks: self.facts.len() as u64,
            leases_held: held as u64,
            leases_waiting: (self.claims.len() - held) as u64,
            sessions: self.sessions.len() as u64,
            answers: self.kept_count() as u64,
        }
    }

    pub(crate) fn next_due(&self) -> Option<LeaseTime> {
        self.all_due().into_iter().min().map(|(deadline, _)| deadline)
    }

    pub(crate) fn has_pending(&self) -> bool {
        self.next_due().is_some() || self.pasts().next().is_some()
    }
}
