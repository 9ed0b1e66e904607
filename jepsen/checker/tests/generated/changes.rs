//! What makes a legal history illegal, and what may.

use std::time::Duration;

use crate::chance::Chance;
use crate::claims::{self, Claim};
use crate::history::{Answer, Call, Outcome, Records};

/// A change of one place of a history after which no service can have made it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Change {
    /// Two grants, one after the other, exchange their tokens.
    SwapTokens,
    /// A grant gets the token of another.
    GiveTwice,
    /// A lease that ran out had a longer TTL than the next grant allows.
    ShortenLease,
    /// A release that let the next one in did not take place.
    DropRelease,
    /// A grant is answered before the release that let it in was called.
    GrantEarly,
    /// A look still shows who had released before it began.
    LookLate,
    /// Two waiters that were both served exchange their places in a look.
    SwapWaiters,
    /// A read shows what stood there before the last write.
    ReadOld,
    /// The second lock of a request is granted in a step of its own.
    TearApart,
    /// A client believes on after the next one was granted.
    BelieveOn,
}

impl Change {
    pub(super) const ALL: [Self; 10] = [
        Self::SwapTokens,
        Self::GiveTwice,
        Self::ShortenLease,
        Self::DropRelease,
        Self::GrantEarly,
        Self::LookLate,
        Self::SwapWaiters,
        Self::ReadOld,
        Self::TearApart,
        Self::BelieveOn,
    ];

    /// Whether no order of the calls explains it, so that the search must find it as well.
    pub(super) fn shows_in_any_order(self) -> bool {
        match self {
            Self::SwapTokens
            | Self::GiveTwice
            | Self::ShortenLease
            | Self::DropRelease
            | Self::GrantEarly
            | Self::LookLate
            | Self::ReadOld => true,
            Self::SwapWaiters | Self::TearApart | Self::BelieveOn => false,
        }
    }

    /// The changed history, if it has a place for the change.
    pub(super) fn of(self, records: &Records, chance: &mut Chance) -> Option<Records> {
        let mut places = self.places(records);
        if places.is_empty() {
            return None;
        }
        let at = usize::try_from(chance.below(places.len() as u64)).unwrap_or(0);
        Some(places.swap_remove(at))
    }

    fn places(self, records: &Records) -> Vec<Records> {
        match self {
            Self::SwapTokens | Self::GiveTwice => self.of_tokens(records),
            Self::ShortenLease | Self::DropRelease | Self::GrantEarly | Self::BelieveOn => {
                self.of_successors(records)
            }
            Self::LookLate => late_looks(records),
            Self::SwapWaiters => swapped_waiters(records),
            Self::ReadOld => old_reads(records),
            Self::TearApart => torn_apart(records),
        }
    }

    fn of_tokens(self, records: &Records) -> Vec<Records> {
        let claims = claims::of(records);
        let mut places = Vec::new();
        for one in claims.values() {
            for other in claims.values() {
                let follow = one.lock == other.lock && one.returned_at < other.called_at;
                if !follow || one.token >= other.token {
                    continue;
                }
                let mut changed = records.clone();
                set_token(&mut changed, other, one.token);
                if matches!(self, Self::SwapTokens) {
                    set_token(&mut changed, one, other.token);
                }
                places.push(changed);
            }
        }
        places
    }

    /// Changes of an exclusive grant and the next one of its lock.
    fn of_successors(self, records: &Records) -> Vec<Records> {
        let claims = claims::of(records);
        let mut in_order: Vec<&Claim> = claims.values().collect();
        in_order.sort_by_key(|claim| (&claim.lock, claim.token));
        let mut places = Vec::new();
        for pair in in_order.windows(2) {
            let (one, next) = (pair[0], pair[1]);
            let exclusive = one.mode == crate::history::Mode::Exclusive;
            if one.lock != next.lock || !exclusive {
                continue;
            }
            let mut changed = records.clone();
            let is_made = match self {
                Self::ShortenLease => {
                    one.released_at.is_none() && lengthen(&mut changed, one, next.returned_at)
                }
                Self::DropRelease => {
                    let lives_on = one.expires_from > next.returned_at;
                    lives_on && one.released_at.is_some() && drop_releases(&mut changed, one)
                }
                Self::GrantEarly => one
                    .released_at
                    .filter(|at| next.called_at < *at && one.expires_from > *at)
                    .is_some_and(|at| {
                        answer_at(&mut changed, next, at.saturating_sub(Duration::from_millis(1)))
                    }),
                _ => {
                    one.released_at.is_none()
                        && one.returned_at < next.returned_at
                        && next.believed_until > next.returned_at
                        && !was_given_back(records, one)
                        && believe_on(&mut changed, one, next.returned_at)
                }
            };
            if is_made {
                places.push(changed);
            }
        }
        places
    }
}

fn set_token(records: &mut Records, claim: &Claim, token: u64) {
    for operation in &mut records.operations {
        if let (Call::Acquire { request, asks, .. }, Outcome::Ok(Answer::Granted { tokens, .. })) =
            (&operation.call, &mut operation.outcome)
            && *request == claim.request
            && let Some(at) = asks.iter().position(|ask| ask.lock == claim.lock)
        {
            tokens[at] = token;
        }
    }
}

fn lengthen(records: &mut Records, claim: &Claim, beyond: Duration) -> bool {
    let mut is_made = false;
    for operation in &mut records.operations {
        if let Call::Acquire { request, ttl_ms, .. } = &mut operation.call
            && *request == claim.request
        {
            // Renewed leases live by their renewals, too; this one alone reaches far enough.
            *ttl_ms = Some(u64::try_from(beyond.as_millis()).unwrap_or(0) * 2);
            is_made = true;
        }
    }
    is_made
}

fn drop_releases(records: &mut Records, claim: &Claim) -> bool {
    let before = records.operations.len();
    records.operations.retain(|operation| {
        !matches!(&operation.call, Call::Release { request, lock }
            if *request == claim.request && *lock == claim.lock)
    });
    records.operations.len() < before
}

fn answer_at(records: &mut Records, claim: &Claim, at: Duration) -> bool {
    let mut is_made = false;
    for operation in &mut records.operations {
        if matches!(&operation.call, Call::Acquire { request, .. } if *request == claim.request)
            && operation.called_at <= at
        {
            operation.returned_at = at;
            is_made = true;
        }
    }
    is_made
}

/// Whether its client stopped believing by itself, if only to hear that it had ended.
fn was_given_back(records: &Records, claim: &Claim) -> bool {
    let mut copy = records.clone();
    drop_releases(&mut copy, claim)
}

fn believe_on(records: &mut Records, claim: &Claim, upto: Duration) -> bool {
    for operation in &mut records.operations {
        if let (Call::Acquire { request, .. }, Outcome::Ok(Answer::Granted { believed_until, .. })) =
            (&operation.call, &mut operation.outcome)
            && *request == claim.request
        {
            *believed_until = upto + Duration::from_millis(1);
            return true;
        }
    }
    false
}

fn late_looks(records: &Records) -> Vec<Records> {
    let claims = claims::of(records);
    let ended = |token: u64| {
        let claim = claims.values().find(|claim| claim.token == token)?;
        claim.released_at.and(claim.ended_by)
    };
    let mut places = Vec::new();
    for (at, operation) in records.operations.iter().enumerate() {
        let Outcome::Ok(Answer::Seen(seen)) = &operation.outcome else { continue };
        let Some(by) = seen.holders.iter().find_map(|(token, _)| ended(*token)) else { continue };
        if by < operation.returned_at {
            continue;
        }
        let mut changed = records.clone();
        changed.operations[at].called_at = by + Duration::from_millis(1);
        changed.operations[at].returned_at = by + Duration::from_millis(2);
        places.push(changed);
    }
    places
}

fn swapped_waiters(records: &Records) -> Vec<Records> {
    let claims = claims::of(records);
    let mut places = Vec::new();
    for (at, operation) in records.operations.iter().enumerate() {
        let (Call::Look { lock }, Outcome::Ok(Answer::Seen(seen))) =
            (&operation.call, &operation.outcome)
        else {
            continue;
        };
        let served = |request: &u64| claims.contains_key(&(*request, lock.as_str()));
        if seen.waiters.len() < 2 || !seen.waiters[..2].iter().all(served) {
            continue;
        }
        let mut changed = records.clone();
        if let Outcome::Ok(Answer::Seen(seen)) = &mut changed.operations[at].outcome {
            seen.waiters.swap(0, 1);
        }
        places.push(changed);
    }
    places
}

fn old_reads(records: &Records) -> Vec<Records> {
    let mut places = Vec::new();
    for (at, operation) in records.operations.iter().enumerate() {
        if let (Call::GetValue { .. }, Outcome::Ok(Answer::Value(Some((value, _))))) =
            (&operation.call, &operation.outcome)
        {
            // The write was known before the read began, so a lock without a value is the past.
            let known = records.operations.iter().any(|write| {
                matches!(&write.call, Call::SetValue { value: written, .. } if written == value)
                    && matches!(write.outcome, Outcome::Ok(_))
                    && write.returned_at < operation.called_at
            });
            if known {
                let mut changed = records.clone();
                changed.operations[at].outcome = Outcome::Ok(Answer::Value(None));
                places.push(changed);
            }
        }
    }
    places
}

fn torn_apart(records: &Records) -> Vec<Records> {
    let mut places = Vec::new();
    for at in 0..records.operations.len() {
        let mut changed = records.clone();
        if let Outcome::Ok(Answer::Granted { tokens, .. }) = &mut changed.operations[at].outcome
            && tokens.len() == 2
        {
            tokens[1] += 1_000_000;
            places.push(changed);
        }
    }
    places
}

/// Leaves out what the search and the fast rules do not judge alike.
pub(super) fn keep_grants_only(records: &mut Records) {
    records.operations.retain(|operation| {
        matches!(
            operation.call,
            Call::Acquire { .. } | Call::Renew { .. } | Call::Release { .. } | Call::Fence { .. }
        )
    });
}

/// Moves the moments of one or two calls, or a token; the history may stay legal.
pub(super) fn disturb(records: &mut Records, chance: &mut Chance) {
    for _ in 0..=chance.below(2) {
        let count = records.operations.len() as u64;
        let at = usize::try_from(chance.below(count)).unwrap_or(0);
        let shift = Duration::from_millis(chance.below(120));
        let operation = &mut records.operations[at];
        match chance.below(4) {
            0 => {
                operation.called_at += shift;
                operation.returned_at = operation.returned_at.max(operation.called_at);
            }
            1 => operation.returned_at += shift,
            2 => {
                operation.returned_at = operation.returned_at.saturating_sub(shift);
                operation.called_at = operation.called_at.min(operation.returned_at);
            }
            _ => {
                if let Outcome::Ok(Answer::Granted { tokens, .. }) = &mut operation.outcome {
                    tokens[0] += chance.below(3);
                }
            }
        }
    }
}
