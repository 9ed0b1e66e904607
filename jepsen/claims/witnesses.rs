//! What calls without the right of a lease show of it: those about its session, looks at its lock,
//! questions about its token, and refusals that name it.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Claim, Claims, at_least};
use crate::history::{Answer, Call, Operation, Outcome, Refusal, Seen};

/// A claim in [`Claims`].
type Key<'a> = (u64, &'a str);

/// A renewal keeps all leases of the session, closing ends them, and its loss is theirs. This is
/// about those of which the client knew; it makes one call after the other.
pub(super) fn of_sessions(claims: &mut Claims<'_>, in_time: &[&Operation]) {
    let mut by_session: BTreeMap<u64, Vec<&mut Claim>> = BTreeMap::new();
    for claim in claims.values_mut() {
        if let Some(session) = claim.session {
            by_session.entry(session).or_default().push(claim);
        }
    }
    for operation in in_time {
        let (Call::RenewSession { session, .. } | Call::CloseSession { session }) = &operation.call
        else {
            continue;
        };
        let known = by_session.get_mut(session).into_iter().flatten().filter(|claim| {
            claim.returned_at <= operation.called_at && claim.released_at.is_none()
        });
        known.for_each(|claim| of_session(claim, operation));
    }
}

fn of_session(claim: &mut Claim, operation: &Operation) {
    let Operation { called_at, returned_at, .. } = *operation;
    match (&operation.call, &operation.outcome) {
        (Call::RenewSession { ttl_ms, .. }, Outcome::Ok(_)) => {
            claim.was_held(called_at, returned_at);
            claim.lives_until(called_at + at_least(*ttl_ms));
        }
        (_, Outcome::Ok(_)) => {
            claim.released(called_at);
            claim.had_ended(returned_at);
        }
        (Call::CloseSession { .. }, Outcome::Unknown(_)) => claim.released(called_at),
        (_, Outcome::Failed(refusal)) if refusal.is_gone() => claim.had_ended(returned_at),
        (_, Outcome::Failed(_) | Outcome::Unknown(_)) => {}
    }
}

/// What others were told: whoever is named is held, whoever is missing where all are named is not.
pub(super) fn of_others(claims: &mut Claims<'_>, in_time: &[&Operation]) {
    let mut locks = Locks::of(claims);
    for operation in in_time {
        let at = (operation.called_at, operation.returned_at);
        match (&operation.call, &operation.outcome) {
            (Call::Look { lock }, Outcome::Ok(Answer::Seen(seen))) => {
                if let Some(lock) = locks.0.get_mut(lock.as_str()) {
                    lock.seen(claims, seen, at);
                }
            }
            (Call::Fence { lock, token }, outcome) => {
                let key = locks.0.get(lock.as_str()).and_then(|lock| lock.by_token.get(token));
                let Some(claim) = key.and_then(|key| claims.get_mut(key)) else { continue };
                match outcome {
                    Outcome::Ok(_) => claim.was_held(at.0, at.1),
                    Outcome::Failed(refusal) if refusal.is_gone() => claim.had_ended(at.1),
                    Outcome::Failed(_) | Outcome::Unknown(_) => {}
                }
            }
            (Call::Acquire { request, asks, wait_ms, .. }, Outcome::Failed(refusal)) => {
                for ask in asks {
                    let Some(lock) = locks.0.get(ask.lock.as_str()) else { continue };
                    if refusal.is_gone() {
                        let own = lock.by_token.values().find(|(own, _)| own == request);
                        if let Some(claim) = own.and_then(|key| claims.get_mut(key)) {
                            claim.had_ended(at.1);
                        }
                    } else if asks.len() == 1 && *wait_ms == 0 {
                        lock.refused(claims, refusal, at);
                    }
                }
            }
            (_, _) => {}
        }
    }
}

/// The grants of each lock.
struct Locks<'a>(BTreeMap<&'a str, Lock<'a>>);

struct Lock<'a> {
    by_token: BTreeMap<u64, Key<'a>>,
    /// In the order of their answers, the last first: those that no look has considered yet.
    to_come: Vec<(Duration, Key<'a>)>,
    /// Those of which no look has told that they ended.
    living: Vec<Key<'a>>,
}

impl<'a> Locks<'a> {
    fn of(claims: &Claims<'a>) -> Self {
        let mut locks: BTreeMap<&'a str, Lock<'a>> = BTreeMap::new();
        for (key, claim) in claims {
            let lock = locks.entry(key.1).or_insert_with(|| Lock {
                by_token: BTreeMap::new(),
                to_come: Vec::new(),
                living: Vec::new(),
            });
            lock.by_token.insert(claim.token, *key);
            lock.to_come.push((claim.returned_at, *key));
        }
        for lock in locks.values_mut() {
            lock.to_come.sort_unstable_by(|one, other| other.cmp(one));
        }
        Self(locks)
    }
}

impl<'a> Lock<'a> {
    fn seen(&mut self, claims: &mut Claims<'a>, seen: &Seen, (from, upto): (Duration, Duration)) {
        for (token, _) in &seen.holders {
            let key = self.by_token.get(token);
            if let Some(claim) = key.and_then(|key| claims.get_mut(key)) {
                claim.was_held(from, upto);
            }
        }
        if !seen.complete {
            return;
        }
        while let Some((_, key)) = self.to_come.pop_if(|(returned_at, _)| *returned_at < from) {
            self.living.push(key);
        }
        self.living.retain(|key| {
            let Some(claim) = claims.get_mut(key) else { return false };
            // Looks come in the order of their calls: from here on another can tell nothing new.
            if claim.ended_by.is_some_and(|by| by < from) {
                return false;
            }
            if !seen.holders.iter().any(|(token, _)| *token == claim.token) {
                claim.had_ended(upto);
            }
            true
        });
    }

    fn refused(
        &self,
        claims: &mut Claims<'a>,
        refusal: &Refusal,
        (from, upto): (Duration, Duration),
    ) {
        for token in &refusal.holders {
            let key = self.by_token.get(token);
            if let Some(claim) = key.and_then(|key| claims.get_mut(key)) {
                claim.was_held(from, upto);
            }
        }
    }
}
