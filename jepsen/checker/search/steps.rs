//! What a history holds for one lock: the calls that did something to it or told something of it.
//!
//! What is left out only makes room for more orders: acquires of unknown outcome, renewals of unknown
//! outcome, waits that ran out. A release of unknown outcome is no call of its own: it lets the
//! lease end from its call on.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::claims::{Claim, Claims, at_least};
use crate::history::{Answer, Call, Operation, Outcome, Records, Refusal, Seen};

/// What a call does or tells. A claim is an index in the history's claims.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    Grant {
        claim: usize,
    },
    /// It was held; if renewed, it lives until then at the least.
    Hold {
        claim: usize,
        lives_until: Option<Duration>,
    },
    /// It ended; only the first end shows that it was held.
    End {
        claim: usize,
        is_first: bool,
    },
    /// It was not held any more.
    Gone {
        claim: usize,
    },
    See {
        holders: Vec<usize>,
        complete: bool,
    },
    /// `needed` unless its outcome is unknown.
    Set {
        claim: usize,
        value: u64,
        needed: bool,
    },
    Get {
        value: Option<u64>,
    },
}

impl Step {
    pub(super) fn claim(&self) -> Option<usize> {
        match self {
            Self::Grant { claim }
            | Self::Hold { claim, .. }
            | Self::End { claim, .. }
            | Self::Gone { claim }
            | Self::Set { claim, .. } => Some(*claim),
            Self::See { .. } | Self::Get { .. } => None,
        }
    }

    /// The claims that must be held for it.
    fn needs(&self) -> &[usize] {
        match self {
            Self::Hold { claim, .. }
            | Self::End { claim, is_first: true }
            | Self::Set { claim, needed: true, .. } => std::slice::from_ref(claim),
            Self::See { holders, .. } => holders,
            Self::Grant { .. }
            | Self::End { is_first: false, .. }
            | Self::Set { needed: false, .. }
            | Self::Gone { .. }
            | Self::Get { .. } => &[],
        }
    }
}

/// A step and when it can have taken effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Timed {
    pub(super) step: Step,
    pub(super) called_at: Duration,
    /// `None` if it may never have.
    pub(super) returned_at: Option<Duration>,
}

/// The history of one lock.
#[derive(Debug, Default)]
pub(super) struct History<'a> {
    pub(super) claims: Vec<&'a Claim>,
    /// In the order of their calls.
    pub(super) timed: Vec<Timed>,
    /// How many steps need each claim.
    pub(super) needed: Vec<usize>,
    /// From when a release of unknown outcome may have ended each claim.
    freed_from: Vec<Duration>,
    by_request: BTreeMap<u64, usize>,
    by_token: BTreeMap<u64, usize>,
    by_session: BTreeMap<u64, Vec<usize>>,
    ended: Vec<bool>,
}

impl History<'_> {
    /// From when a holder may have left by itself.
    pub(super) fn leaves_from(&self, claim: usize, expires_from: Duration) -> Duration {
        expires_from.min(self.freed_from[claim])
    }

    fn push(&mut self, operation: &Operation, step: Step) {
        for claim in step.needs() {
            self.needed[*claim] += 1;
        }
        let may_be_never = matches!(operation.outcome, Outcome::Unknown(_));
        let returned_at = (!may_be_never).then_some(operation.returned_at);
        self.timed.push(Timed { step, called_at: operation.called_at, returned_at });
    }
}

/// The history of each lock on which something was granted.
pub(super) fn by_lock<'a>(
    records: &Records,
    claims: &'a Claims<'_>,
) -> BTreeMap<&'a str, History<'a>> {
    let mut histories: BTreeMap<&str, History<'_>> = BTreeMap::new();
    for claim in claims.values() {
        let history = histories.entry(&claim.lock).or_default();
        let number = history.claims.len();
        history.by_request.insert(claim.request, number);
        history.by_token.insert(claim.token, number);
        if let Some(session) = claim.session {
            history.by_session.entry(session).or_default().push(number);
        }
        history.claims.push(claim);
        history.needed.push(0);
        history.freed_from.push(Duration::MAX);
        history.ended.push(false);
        let grant = Step::Grant { claim: number };
        let (called_at, returned_at) = (claim.called_at, Some(claim.returned_at));
        history.timed.push(Timed { step: grant, called_at, returned_at });
    }
    let mut in_time: Vec<&Operation> = records.operations.iter().collect();
    in_time.sort_by_key(|operation| operation.called_at);
    for operation in in_time {
        match &operation.call {
            Call::Acquire { asks, .. } => {
                for ask in asks {
                    histories
                        .get_mut(ask.lock.as_str())
                        .into_iter()
                        .for_each(|h| h.asked(operation));
                }
            }
            Call::RenewSession { .. } | Call::CloseSession { .. } => {
                for history in histories.values_mut() {
                    history.of_session(operation);
                }
            }
            Call::Renew { lock, .. }
            | Call::Release { lock, .. }
            | Call::SetValue { lock, .. }
            | Call::Look { lock }
            | Call::Fence { lock, .. }
            | Call::GetValue { lock } => {
                histories.get_mut(lock.as_str()).into_iter().for_each(|h| h.of_lock(operation));
            }
            Call::OpenSession { .. } => {}
        }
    }
    for history in histories.values_mut() {
        history.timed.sort_by_key(|timed| timed.called_at);
    }
    histories
}

impl History<'_> {
    /// A repeat that was answered, or a refusal that names holders.
    fn asked(&mut self, operation: &Operation) {
        let Call::Acquire { request, asks, wait_ms, .. } = &operation.call else { return };
        let own = self.by_request.get(request).copied();
        match &operation.outcome {
            Outcome::Ok(_) => {
                // The first answer is the grant itself.
                let again =
                    own.filter(|&claim| self.claims[claim].returned_at < operation.returned_at);
                if let Some(claim) = again {
                    self.push(operation, Step::Hold { claim, lives_until: None });
                }
            }
            Outcome::Failed(refusal) if refusal.is_gone() => {
                if let Some(claim) = own {
                    self.push(operation, Step::Gone { claim });
                }
            }
            Outcome::Failed(refusal) if asks.len() == 1 && *wait_ms == 0 => {
                self.refused(operation, refusal);
            }
            Outcome::Failed(_) | Outcome::Unknown(_) => {}
        }
    }

    fn refused(&mut self, operation: &Operation, refusal: &Refusal) {
        let holders = self.known(refusal.holders.iter().copied());
        if !holders.is_empty() {
            self.push(operation, Step::See { holders, complete: false });
        }
    }

    fn known(&self, tokens: impl Iterator<Item = u64>) -> Vec<usize> {
        tokens.filter_map(|token| self.by_token.get(&token).copied()).collect()
    }

    fn of_session(&mut self, operation: &Operation) {
        let (Call::RenewSession { session, .. } | Call::CloseSession { session }) = &operation.call
        else {
            return;
        };
        for claim in self.by_session.get(session).cloned().unwrap_or_default() {
            let known = self.claims[claim].returned_at <= operation.called_at;
            if !known || self.ended[claim] {
                continue;
            }
            match (&operation.call, &operation.outcome) {
                (Call::RenewSession { ttl_ms, .. }, Outcome::Ok(_)) => {
                    let lives_until = Some(operation.called_at + at_least(*ttl_ms));
                    self.push(operation, Step::Hold { claim, lives_until });
                }
                (Call::CloseSession { .. }, outcome) => self.ends(claim, outcome, operation, false),
                (_, Outcome::Failed(refusal)) if refusal.is_gone() => {
                    self.push(operation, Step::Gone { claim });
                }
                (_, Outcome::Ok(_) | Outcome::Failed(_) | Outcome::Unknown(_)) => {}
            }
        }
    }

    /// A release, or the close of a session, which shows nothing of the lease itself.
    fn ends(&mut self, claim: usize, outcome: &Outcome, operation: &Operation, shows: bool) {
        match outcome {
            Outcome::Ok(_) => {
                let is_first = shows && !self.ended[claim];
                self.push(operation, Step::End { claim, is_first });
                self.ended[claim] = true;
            }
            Outcome::Failed(refusal) if refusal.is_gone() => {
                self.push(operation, Step::Gone { claim });
            }
            Outcome::Unknown(_) => {
                self.freed_from[claim] = self.freed_from[claim].min(operation.called_at);
                self.ended[claim] = true;
            }
            Outcome::Failed(_) => {}
        }
    }

    fn of_lock(&mut self, operation: &Operation) {
        match (&operation.call, &operation.outcome) {
            (Call::Look { .. }, Outcome::Ok(Answer::Seen(seen))) => self.seen(operation, seen),
            (Call::Fence { token, .. }, outcome) => {
                let Some(&claim) = self.by_token.get(token) else { return };
                match outcome {
                    Outcome::Ok(_) => self.push(operation, Step::Hold { claim, lives_until: None }),
                    Outcome::Failed(refusal) if refusal.is_gone() => {
                        self.push(operation, Step::Gone { claim });
                    }
                    Outcome::Failed(_) | Outcome::Unknown(_) => {}
                }
            }
            (Call::GetValue { .. }, Outcome::Ok(Answer::Value(read))) => {
                self.push(operation, Step::Get { value: read.map(|(value, _)| value) });
            }
            (
                Call::Renew { request, .. }
                | Call::Release { request, .. }
                | Call::SetValue { request, .. },
                _,
            ) => {
                if let Some(&claim) = self.by_request.get(request) {
                    self.of_lease(claim, operation);
                }
            }
            (_, _) => {}
        }
    }

    fn of_lease(&mut self, claim: usize, operation: &Operation) {
        match (&operation.call, &operation.outcome) {
            (Call::Release { .. }, outcome) => self.ends(claim, outcome, operation, true),
            (Call::Renew { ttl_ms, .. }, Outcome::Ok(_)) => {
                let lives_until = Some(operation.called_at + at_least(*ttl_ms));
                self.push(operation, Step::Hold { claim, lives_until });
            }
            (Call::SetValue { value, .. }, Outcome::Ok(_)) => {
                self.push(operation, Step::Set { claim, value: *value, needed: true });
            }
            (Call::SetValue { value, .. }, Outcome::Unknown(_)) => {
                self.push(operation, Step::Set { claim, value: *value, needed: false });
            }
            (_, Outcome::Failed(refusal)) if refusal.is_gone() => {
                self.push(operation, Step::Gone { claim });
            }
            (_, Outcome::Ok(_) | Outcome::Failed(_) | Outcome::Unknown(_)) => {}
        }
    }

    fn seen(&mut self, operation: &Operation, seen: &Seen) {
        let holders = self.known(seen.holders.iter().map(|(token, _)| *token));
        self.push(operation, Step::See { holders, complete: seen.complete });
    }
}
