//! Several locks in one decision: all are granted in the same step, or none.
//!
//! A request that has to wait enters all queues at one position of the log and never holds some
//! of its locks while it waits for others, so two that want the same locks in opposite orders
//! cannot block each other. In each queue it keeps its place, and those behind it, until it is the
//! next in line in all of them. While it waits it is one thing: who detaches, leaves or is ended
//! in one queue does so in all. Granted, its leases are leases like any other.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use crate::acquire::Decision;
use crate::command::{Acquire, AcquireMany, Claim, LeaseTerm};
use crate::ids::{LeaseId, LockName};
use crate::limits::{LOCKS_PER_ACQUIRE_MAX, count};
use crate::machine::{Machine, Step};
use crate::outcome::{Grant, Outcome, Queued, Rejection};
use crate::requests::many_fingerprint;
use crate::table::{Group, LeaseState};

impl Machine {
    pub(crate) fn acquire_many(&mut self, many: &AcquireMany, step: &mut Step) -> Outcome {
        let names: BTreeSet<&LockName> = many.claims.iter().map(|claim| &claim.name).collect();
        let ids: BTreeSet<LeaseId> = many.claims.iter().map(|claim| claim.lease_id).collect();
        let (size, first) = (many.claims.len(), many.claims.first());
        let distinct = names.len() == size && ids.len() == size;
        let Some(first) = first.filter(|_| size <= LOCKS_PER_ACQUIRE_MAX && distinct) else {
            return Outcome::Rejected(Rejection::ClaimsInvalid);
        };
        let fingerprint = many_fingerprint(many);
        if let Some(outcome) = self.repeat((many.request_id, first.lease_id), fingerprint) {
            return outcome;
        }
        let known = |claim: &Claim| self.is_known(claim.lease_id);
        if many.claims.iter().any(known) {
            return Outcome::Rejected(Rejection::RequestIdReused);
        }
        let claims: Vec<Acquire> = many.claims.iter().map(|claim| single(many, claim)).collect();
        match self.decide_many(many, &claims) {
            Err(rejection) => Outcome::Rejected(rejection),
            Ok(true) => self.grant_many_at_once(&claims, fingerprint, step),
            Ok(false) => self.enqueue_many(&claims, fingerprint, step),
        }
    }

    /// Whether all can be granted at once; if not, they wait.
    fn decide_many(&self, many: &AcquireMany, claims: &[Acquire]) -> Result<bool, Rejection> {
        self.may_remember(many.request_id)?;
        if let LeaseTerm::Session(session_id) = many.term {
            self.known_session(session_id)?;
        }
        if self.tokens_left() < count(claims.len()) {
            return Err(Rejection::TokensExhausted);
        }
        let mut at_once = true;
        for claim in claims {
            if let Some(lock) = self.table.locks.get(&claim.name) {
                at_once &= matches!(self.decide_contended(claim, lock)?, Decision::Grant);
            }
        }
        if !at_once {
            self.no_deadlock(claims)?;
        }
        if let LeaseTerm::Session(session_id) = many.term {
            self.session_has_room(session_id, claims.len())?;
        }
        self.leases_have_room(claims.len())?;
        Ok(at_once)
    }

    fn grant_many_at_once(
        &mut self,
        claims: &[Acquire],
        fingerprint: u64,
        step: &mut Step,
    ) -> Outcome {
        let mut grants: Vec<Grant> = Vec::new();
        for claim in claims {
            let Some(token) = self.next_token() else { break };
            let held = self.fresh_hold(token, claim.term, step);
            self.enter_member(claims, claim, fingerprint, LeaseState::Held(held));
            if let Some(grant) = self.grant(claim.lease_id) {
                self.announce_grant(grant.clone(), (true, false, true), step);
                grants.push(*grant);
            }
        }
        Outcome::GrantedMany(grants)
    }

    fn enqueue_many(&mut self, claims: &[Acquire], fingerprint: u64, step: &mut Step) -> Outcome {
        let mut places: Vec<Queued> = Vec::new();
        for claim in claims {
            let waiting = self.fresh_wait(claim);
            self.enter_member(claims, claim, fingerprint, LeaseState::Waiting(waiting));
            places.push(self.announce_queued(claim, step));
        }
        Outcome::QueuedMany(places)
    }

    /// Enters one lease of several; the first one knows all, and carries the request id.
    fn enter_member(
        &mut self,
        claims: &[Acquire],
        claim: &Acquire,
        fingerprint: u64,
        state: LeaseState,
    ) {
        let Some(first) = claims.first() else { return };
        let group = if claim.lease_id == first.lease_id {
            Group::First(claims.iter().map(|claim| claim.lease_id).collect())
        } else {
            Group::Member(first.lease_id)
        };
        self.enter_as(claim, fingerprint, Some(group), state);
    }

    /// The leases that wait together with this one, itself among them, if there are others.
    pub(crate) fn waiting_group(&self, lease_id: LeaseId) -> Option<&Vec<LeaseId>> {
        let waits = self.table.leases.get(&lease_id)?.token().is_none();
        if waits { self.table.group(lease_id) } else { None }
    }

    /// The lease that stands for this one while it waits: itself, or the first of its group.
    pub(crate) fn stands_for(&self, lease_id: LeaseId) -> LeaseId {
        let first = self.waiting_group(lease_id).and_then(|all| all.first());
        first.copied().unwrap_or(lease_id)
    }

    /// Answers a repeat, or an attach, of a request for several locks from its present state.
    pub(crate) fn resume_many(&mut self, all: &[LeaseId], attaches: bool) -> Outcome {
        let mut grants: Vec<Grant> = Vec::new();
        let mut places: Vec<Queued> = Vec::new();
        for lease_id in all {
            match self.resume_one(*lease_id, attaches) {
                Outcome::Granted(grant) => grants.push(*grant),
                Outcome::Queued(queued) => places.push(queued),
                gone => return gone,
            }
        }
        if places.is_empty() { Outcome::GrantedMany(grants) } else { Outcome::QueuedMany(places) }
    }
}

/// One of several claims as if it were alone; the request id belongs to the first.
fn single(many: &AcquireMany, claim: &Claim) -> Acquire {
    let is_first = many.claims.first().is_some_and(|first| first.lease_id == claim.lease_id);
    Acquire {
        lease_id: claim.lease_id,
        name: claim.name.clone(),
        owner: many.owner.clone(),
        mode: claim.mode,
        term: many.term,
        wait: many.wait,
        grace: many.grace,
        request_id: if is_first { many.request_id } else { None },
        metadata: many.metadata.clone(),
        lock_delay: claim.lock_delay,
    }
}
