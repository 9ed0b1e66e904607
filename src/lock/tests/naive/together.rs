//! Re-acquire, several locks in one decision, and hand-over in the naive model.

use oarlock_core::command::{Acquire, AcquireMany, Command, HandOver, LeaseTerm, Mode};
use oarlock_core::ids::LeaseId;
use oarlock_core::outcome::{EndReason, Grant, Outcome, Queued, Rejection};
use oarlock_core::time::Wait;

use super::{Claim, Holding, Known, Naive, Place, rejected};

/// One of several claims as if it were alone.
fn alone(many: &AcquireMany, index: usize) -> Acquire {
    let claim = &many.claims[index];
    Acquire {
        lease_id: claim.lease_id,
        name: claim.name.clone(),
        owner: many.owner.clone(),
        mode: claim.mode,
        term: many.term,
        wait: many.wait,
        grace: many.grace,
        request_id: many.request_id.filter(|_| index == 0),
        metadata: many.metadata.clone(),
        lock_delay: claim.lock_delay,
    }
}

impl Naive {
    pub(super) fn held_already(&self, acquire: &Acquire) -> Option<Claim> {
        let LeaseTerm::Session(session_id) = acquire.term else { return None };
        if matches!(acquire.mode, Mode::Permits(_)) {
            return None;
        }
        let holds = |claim: &&Claim| {
            claim.session_id() == Some(session_id)
                && claim.asked.name == acquire.name
                && claim.asked.mode == acquire.mode
                && claim.holding().is_some()
        };
        self.claims.iter().filter(holds).min_by_key(|claim| claim.asked.lease_id).cloned()
    }

    pub(super) fn share(&mut self, acquire: &Acquire, command: &Command, first: &Claim) -> Outcome {
        let holding = first.holding().expect("a holder").clone();
        let clock = self.clock;
        self.push(acquire, command, Vec::new());
        let claim = self.claim_mut(acquire.lease_id).expect("just pushed");
        claim.place = Place::Holding(Holding { renewed_at: clock, claim_until: None, ..holding });
        Outcome::Granted(Box::new(self.grant(acquire.lease_id).expect("held")))
    }

    /// The leases of the request that this one came with, while its first lease is there.
    pub(super) fn together(&self, id: LeaseId) -> Option<Vec<LeaseId>> {
        let group = &self.find(id)?.group;
        self.find(*group.first()?).map(|_| group.clone())
    }

    pub(super) fn come_back_together(&mut self, all: &[LeaseId], is_there: bool) -> Outcome {
        let mut grants: Vec<Grant> = Vec::new();
        let mut places: Vec<Queued> = Vec::new();
        for id in all {
            match self.come_back_alone(*id, is_there) {
                Outcome::Granted(grant) => grants.push(*grant),
                Outcome::Queued(queued) => places.push(queued),
                gone => return gone,
            }
        }
        if places.is_empty() { Outcome::GrantedMany(grants) } else { Outcome::QueuedMany(places) }
    }

    pub(super) fn acquire_many(&mut self, many: &AcquireMany, command: &Command) -> Outcome {
        let count = many.claims.len();
        let twice = (0..count).any(|i| {
            (0..i).any(|j| {
                let (a, b) = (&many.claims[i], &many.claims[j]);
                a.name == b.name || a.lease_id == b.lease_id
            })
        });
        if count == 0 || count > 64 || twice {
            return rejected(Rejection::ClaimsInvalid);
        }
        match self.repeated(many.request_id, command) {
            Some(Known::Lease(id)) => return self.come_back(id, id == many.claims[0].lease_id),
            Some(Known::Session(_) | Known::Other) => return rejected(Rejection::RequestIdReused),
            None => {}
        }
        let known = |id: LeaseId| self.find(id).is_some() || self.ended(id).is_some();
        if many.claims.iter().any(|claim| known(claim.lease_id)) {
            return rejected(Rejection::RequestIdReused);
        }
        let claims: Vec<Acquire> = (0..count).map(|index| alone(many, index)).collect();
        if let Some(rejection) = self.refusal_of_many(many, &claims) {
            return rejected(rejection);
        }
        let at_once = claims.iter().all(|claim| self.fits_now(claim));
        let ids: Vec<LeaseId> = claims.iter().map(|claim| claim.lease_id).collect();
        let (mut grants, mut places) = (Vec::new(), Vec::new());
        for claim in &claims {
            self.push(claim, command, ids.clone());
            if at_once {
                self.give(claim.lease_id, false);
                grants.push(self.grant(claim.lease_id).expect("granted"));
            } else {
                places.push(self.tell_queued(claim));
            }
        }
        if at_once { Outcome::GrantedMany(grants) } else { Outcome::QueuedMany(places) }
    }

    fn refusal_of_many(&self, many: &AcquireMany, claims: &[Acquire]) -> Option<Rejection> {
        let limits = &self.limits;
        if many.request_id.is_some() && self.request_count() >= limits.answers_max {
            return Some(Rejection::AnswersFull { limit: limits.answers_max as u64 });
        }
        let session = match many.term {
            LeaseTerm::Session(id) => Some(id),
            LeaseTerm::Ttl(_) | LeaseTerm::Forever => None,
        };
        if let Some(id) = session
            && self.session_info(id).is_none()
        {
            return Some(self.session_over(id));
        }
        if self.token + claims.len() as u64 > limits.token_max {
            return Some(Rejection::TokensExhausted);
        }
        if let Some(rejection) = claims.iter().find_map(|claim| self.refusal_of_lock(claim)) {
            return Some(rejection);
        }
        if !claims.iter().all(|claim| self.fits_now(claim))
            && let Some(circle) = self.circle(claims)
        {
            return Some(Rejection::Deadlock(circle));
        }
        let per_session = limits.leases_per_session_max;
        if session.is_some_and(|id| self.leases_of(id).len() + claims.len() > per_session) {
            return Some(Rejection::SessionLeasesFull { limit: per_session as u64 });
        }
        let full = self.claims.len() + self.closed_count() + claims.len() > limits.leases_max;
        full.then_some(Rejection::LeasesFull { limit: limits.leases_max as u64 })
    }

    pub(super) fn hand_over(&mut self, hand_over: &HandOver, command: &Command) -> Outcome {
        match self.repeated(hand_over.request_id, command) {
            Some(Known::Lease(id)) => return self.come_back(id, true),
            Some(Known::Session(_) | Known::Other) => return rejected(Rejection::RequestIdReused),
            None => {}
        }
        let old = hand_over.lease_id;
        let Some(claim) = self.find(old).cloned() else { return self.over(old) };
        let Some(holding) = claim.holding() else { return rejected(Rejection::LeaseWaiting) };
        let same = |c: &&Claim| c.holding().is_some_and(|h| h.token == holding.token);
        if self.claims.iter().filter(same).count() > 1 {
            return rejected(Rejection::GrantShared);
        }
        let limits = &self.limits;
        if hand_over.request_id.is_some() && self.request_count() >= limits.answers_max {
            return rejected(Rejection::AnswersFull { limit: limits.answers_max as u64 });
        }
        if let LeaseTerm::Session(id) = hand_over.term {
            if self.session_info(id).is_none() {
                return rejected(self.session_over(id));
            }
            let per_session = limits.leases_per_session_max;
            let others = self.leases_of(id).into_iter().filter(|lease| *lease != old).count();
            if others >= per_session {
                return rejected(Rejection::SessionLeasesFull { limit: per_session as u64 });
            }
            if let Some(circle) = self.circle_after(old, id, &hand_over.owner) {
                return rejected(Rejection::Deadlock(circle));
            }
        }
        if self.token >= self.limits.token_max {
            return rejected(Rejection::TokensExhausted);
        }
        self.end(old, EndReason::HandedOver, None);
        let acquire = Acquire {
            lease_id: hand_over.new_lease_id,
            owner: hand_over.owner.clone(),
            term: hand_over.term,
            wait: Wait::NONE,
            request_id: hand_over.request_id,
            metadata: hand_over.metadata.clone(),
            ..claim.asked
        };
        self.push(&acquire, command, Vec::new());
        self.give(acquire.lease_id, false);
        Outcome::Granted(Box::new(self.grant(acquire.lease_id).expect("granted")))
    }
}
