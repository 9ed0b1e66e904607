//! What a history says of each grant: since when, how long it had to live, and what proves that it
//! lived or had ended at some moment.
//!
//! Every bound is drawn to the side that accuses nobody: a lease may have ended as soon as its
//! release was called, it had to live from the call of its last acknowledged renewal, and what a
//! lost answer did is left open.

mod witnesses;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::history::{Answer, Call, Mode, Operation, Outcome, Records};

/// One grant of one lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) lock: String,
    pub(crate) mode: Mode,
    /// The same for all locks that were asked for together.
    pub(crate) request: u64,
    pub(crate) session: Option<u64>,
    pub(crate) token: u64,
    /// The first call with its request id.
    pub(crate) called_at: Duration,
    /// The first answer that told of it.
    pub(crate) returned_at: Duration,
    /// Until then its client believed, before the trust ran out or the release was called.
    pub(crate) believed_until: Duration,
    /// Before this the cluster may not have ended it by itself (P3).
    pub(crate) expires_from: Duration,
    /// The same, but by what the grant alone said.
    pub(crate) granted_until: Duration,
    /// When its release was called, if it was.
    pub(crate) released_at: Option<Duration>,
    /// It was held at some moment after this one: the call of whatever showed that last.
    pub(crate) held_at: Duration,
    /// It had been granted by then: the first answer that showed it, to whomever.
    pub(crate) held_by: Duration,
    /// It had ended by then: the first answer that said so.
    pub(crate) ended_by: Option<Duration>,
}

/// By request and lock.
pub(crate) type Claims<'a> = BTreeMap<(u64, &'a str), Claim>;

impl Claim {
    /// The earliest moment at which it may have left the lock to others.
    pub(crate) fn leaves_from(&self) -> Duration {
        let released_at = self.released_at.unwrap_or(Duration::MAX);
        released_at.min(self.expires_from).max(self.held_at)
    }

    /// An answer showed that it was held at some moment between the two.
    pub(crate) fn was_held(&mut self, from: Duration, upto: Duration) {
        self.held_at = self.held_at.max(from);
        self.held_by = self.held_by.min(upto);
    }

    pub(crate) fn lives_until(&mut self, until: Duration) {
        self.expires_from = self.expires_from.max(until);
    }

    pub(crate) fn had_ended(&mut self, by: Duration) {
        self.ended_by = Some(self.ended_by.map_or(by, |other| other.min(by)));
    }

    pub(crate) fn released(&mut self, at: Duration) {
        self.released_at = Some(self.released_at.map_or(at, |other| other.min(at)));
        self.believed_until = self.believed_until.min(at);
    }
}

/// What lease time surely takes in real time: clocks differ by at most one per cent.
pub(crate) fn at_least(ms: u64) -> Duration {
    Duration::from_millis(ms - ms.div_ceil(100))
}

/// All grants of a history, with everything it says about them.
pub(crate) fn of(records: &Records) -> Claims<'_> {
    let mut in_time: Vec<&Operation> = records.operations.iter().collect();
    in_time.sort_by_key(|operation| operation.called_at);
    let mut claims = granted(&in_time);
    for operation in &in_time {
        of_lease(&mut claims, operation);
    }
    witnesses::of_sessions(&mut claims, &in_time);
    witnesses::of_others(&mut claims, &in_time);
    claims
}

/// The grants themselves; repeats of a request are one.
fn granted<'a>(in_time: &[&'a Operation]) -> Claims<'a> {
    let mut first_calls: BTreeMap<u64, Duration> = BTreeMap::new();
    // Until when each session lives, as far as its client had heard.
    let mut sessions: BTreeMap<u64, Duration> = BTreeMap::new();
    let mut claims = Claims::new();
    for operation in in_time {
        let Operation { called_at, returned_at, .. } = **operation;
        let ok = if let Outcome::Ok(answer) = &operation.outcome { Some(answer) } else { None };
        if let (
            Call::OpenSession { session, ttl_ms } | Call::RenewSession { session, ttl_ms },
            Some(_),
        ) = (&operation.call, ok)
        {
            sessions.insert(*session, called_at + at_least(*ttl_ms));
        }
        let Call::Acquire { request, asks, ttl_ms, session, .. } = &operation.call else {
            continue;
        };
        let first_call = *first_calls.entry(*request).or_insert(called_at);
        let Some(Answer::Granted { tokens, waited_ms, believed_until }) = ok else { continue };
        let expires_from = match (session, ttl_ms) {
            (Some(session), _) => sessions.get(session).copied().unwrap_or_default(),
            (None, Some(ttl_ms)) => first_call + at_least(waited_ms + ttl_ms),
            (None, None) => Duration::MAX,
        };
        for (ask, token) in asks.iter().zip(tokens) {
            let claim = claims.entry((*request, ask.lock.as_str())).or_insert_with(|| Claim {
                lock: ask.lock.clone(),
                mode: ask.mode,
                request: *request,
                session: *session,
                token: *token,
                called_at: first_call,
                returned_at,
                believed_until: returned_at,
                expires_from,
                granted_until: expires_from,
                released_at: None,
                held_at: called_at,
                held_by: returned_at,
                ended_by: None,
            });
            claim.returned_at = claim.returned_at.min(returned_at);
            claim.believed_until = claim.believed_until.max(*believed_until);
            claim.was_held(called_at, returned_at);
        }
    }
    claims
}

/// What a call with the right of the lease shows of it.
fn of_lease<'a>(claims: &mut Claims<'a>, operation: &'a Operation) {
    let Operation { called_at, returned_at, .. } = *operation;
    let (Call::Renew { request, lock, .. }
    | Call::Release { request, lock }
    | Call::SetValue { request, lock, .. }) = &operation.call
    else {
        return;
    };
    let Some(claim) = claims.get_mut(&(*request, lock.as_str())) else { return };
    match (&operation.call, &operation.outcome) {
        (Call::Renew { ttl_ms, .. }, Outcome::Ok(answer)) => {
            claim.was_held(called_at, returned_at);
            claim.lives_until(called_at + at_least(*ttl_ms));
            if let Answer::Renewed { believed_until } = answer {
                claim.believed_until = claim.believed_until.max(*believed_until);
            }
        }
        (Call::Release { .. }, outcome) => {
            // A repeated release is answered like the first one, and shows nothing.
            let again = claim.released_at.is_some();
            match outcome {
                Outcome::Ok(_) if !again => {
                    claim.was_held(called_at, returned_at);
                    claim.had_ended(returned_at);
                }
                Outcome::Ok(_) => claim.had_ended(returned_at),
                Outcome::Failed(refusal) if refusal.is_gone() => claim.had_ended(returned_at),
                Outcome::Failed(_) | Outcome::Unknown(_) => {}
            }
            // Gone before it was released: that did not end it.
            if again || !matches!(outcome, Outcome::Failed(_)) {
                claim.released(called_at);
            } else {
                claim.believed_until = claim.believed_until.min(called_at);
            }
        }
        (_, Outcome::Ok(_)) => claim.was_held(called_at, returned_at),
        (_, Outcome::Failed(refusal)) if refusal.is_gone() => claim.had_ended(returned_at),
        (_, Outcome::Failed(_) | Outcome::Unknown(_)) => {}
    }
}
