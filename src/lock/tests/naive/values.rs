//! Lock-delay, values and history in the naive model.

use oarlock_core::event::EventKind;
use oarlock_core::history::{HistoryPage, PastEnd, PastGrant};
use oarlock_core::ids::{LeaseId, LockName, Token, Value};
use oarlock_core::outcome::{Outcome, Rejection, ValueInfo};
use oarlock_core::time::LeaseTime;

use super::{Claim, Naive, rejected};

impl Naive {
    pub(super) fn close_lock(&mut self, name: &LockName, until: LeaseTime) {
        if until <= self.clock {
            return;
        }
        for fact in self.facts.iter_mut().filter(|fact| fact.name == *name) {
            fact.closed_until = fact.closed_until.into_iter().chain([until]).max();
        }
    }

    pub(super) fn open_lock(&mut self, name: &LockName) {
        for fact in self.facts.iter_mut().filter(|fact| fact.name == *name) {
            fact.closed_until = None;
        }
        self.emit(EventKind::Reopened { name: name.clone() });
        self.settle(name);
    }

    pub(super) fn set(&mut self, name: &LockName, id: LeaseId, value: Option<Value>) -> Outcome {
        let Some(claim) = self.find(id).cloned() else { return self.over(id) };
        let Some(holding) = claim.holding() else {
            return rejected(Rejection::LeaseWaiting);
        };
        if claim.asked.name != *name {
            return rejected(Rejection::LeaseOfOtherLock);
        }
        let carried = self.value(name).is_some();
        let values = self.facts.iter().filter(|fact| fact.value.is_some()).count();
        let Some(value) = value else {
            self.wipe(name);
            return Outcome::ValueSet(None);
        };
        if !carried && values >= self.limits.values_max {
            return rejected(Rejection::ValuesFull { limit: self.limits.values_max as u64 });
        }
        let token = holding.token;
        self.emit(EventKind::ValueChanged { name: name.clone(), token: Some(token) });
        let wall_ms = self.wall_ms;
        let fact = self.facts.iter_mut().find(|fact| fact.name == *name).expect("a held lock");
        let info = ValueInfo {
            value,
            token,
            owner: claim.asked.owner,
            written_wall_ms: wall_ms,
            revision: fact.revision,
        };
        fact.value = Some(info.clone());
        Outcome::ValueSet(Some(Box::new(info)))
    }

    pub(super) fn unset(&mut self, name: &LockName) -> Outcome {
        if self.holders_of(name).count() > 0 {
            return rejected(Rejection::LockHeld(Box::new(self.contention(name))));
        }
        let existed = self.wipe(name);
        self.drop_if_free(name);
        Outcome::ValueDeleted { existed }
    }

    fn wipe(&mut self, name: &LockName) -> bool {
        let existed = self.value(name).is_some();
        if existed {
            for fact in self.facts.iter_mut().filter(|fact| fact.name == *name) {
                fact.value = None;
            }
            self.emit(EventKind::ValueChanged { name: name.clone(), token: None });
        }
        existed
    }

    pub(crate) fn value(&self, name: &LockName) -> Option<&ValueInfo> {
        self.fact(name)?.value.as_ref()
    }

    fn told(&self, claim: &Claim, end: Option<PastEnd>) -> Option<PastGrant> {
        let holding = claim.holding()?;
        Some(PastGrant {
            name: claim.asked.name.clone(),
            token: holding.token,
            owner: claim.asked.owner.clone(),
            mode: claim.asked.mode,
            metadata: claim.asked.metadata.clone(),
            granted_wall_ms: holding.wall_ms,
            waited_ms: holding.granted_at.ms_since(claim.came_at),
            held_ms: self.clock.ms_since(holding.granted_at),
            end,
        })
    }

    pub(super) fn keep_history(&mut self, claim: &Claim, end: PastEnd) {
        let Some(grant) = self.told(claim, Some(end)) else { return };
        let count: usize = self.history.iter().map(Vec::len).sum();
        if count >= self.limits.history_max {
            self.history.remove(0);
        }
        match self.history.last_mut() {
            Some(group) if group.len() < self.limits.answers_per_chunk => group.push(grant),
            _ => self.history.push(vec![grant]),
        }
    }

    fn all_grants(&self) -> Vec<PastGrant> {
        let held = self.claims.iter().filter(|claim| self.stands_among_holders(claim));
        let held = held.filter_map(|claim| self.told(claim, None));
        let mut all: Vec<PastGrant> = held.chain(self.history.iter().flatten().cloned()).collect();
        all.sort_by_key(|grant| std::cmp::Reverse(grant.token));
        all
    }

    pub(crate) fn history(
        &self,
        name: &LockName,
        before: Option<Token>,
        limit: usize,
    ) -> HistoryPage {
        let mut grants = self.all_grants();
        grants.retain(|grant| grant.name == *name && before.is_none_or(|b| grant.token < b));
        let next = if grants.len() > limit { Some(grants[limit - 1].token) } else { None };
        grants.truncate(limit);
        HistoryPage { grants, next }
    }

    pub(crate) fn grant_of_token(&self, token: Token) -> Option<PastGrant> {
        self.all_grants().into_iter().find(|grant| grant.token == token)
    }
}
