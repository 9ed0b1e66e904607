//! The calls that clients make, each recorded with what came of it: ok, refused, or unknown.

use std::time::Duration;

use oarlock_client::wire::{self, AcquireManyRequest, AcquireRequest, ClaimRequest, Lease, TtlMs};
use oarlock_client::{ClientError, Trust};

use super::Worker;
use crate::history::{
    Answer, Ask, Call, MISUNDERSTOOD, Mode, Operation, Outcome, Refusal, Seen, Stranded,
};

/// What is asked for, and how.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub(super) request: u64,
    pub(super) asks: Vec<Ask>,
    pub(super) wait_ms: u64,
    pub(super) term: Term,
    /// Sent by us rather than left to the client library, so that it can come twice.
    pub(super) names_request: bool,
}

#[derive(Debug, Clone)]
pub(super) enum Term {
    TtlMs(u64),
    /// The session's number and its id.
    Session(u64, String),
}

/// Leases that were granted together, and for how long to believe in them.
pub(super) struct Held {
    pub(super) request: u64,
    pub(super) leases: Vec<Lease>,
    pub(super) trust: Trust,
}

impl Held {
    pub(super) fn believes(&self) -> bool {
        self.trust.left().is_none_or(|left| !left.is_zero())
    }
}

impl Worker {
    /// Takes what is wanted through one of its two clients.
    pub(super) async fn acquire(&self, which: usize, wanted: &Wanted) -> Option<Held> {
        self.turn().await;
        let client = &self.clients[which];
        let called_at = self.now();
        let result = if let [ask] = wanted.asks.as_slice() {
            let granted = client.acquire(&ask.lock, self.one(wanted, ask)).await;
            granted.map(|(lease, trust)| (vec![lease], trust))
        } else {
            let granted = client.acquire_many(self.several(wanted)).await;
            granted.map(|(granted, trust)| (granted.leases, trust))
        };
        let returned_at = self.now();
        let outcome = match &result {
            Ok((leases, trust)) => Outcome::Ok(Answer::Granted {
                tokens: leases.iter().map(|lease| lease.token).collect(),
                waited_ms: leases.first().map_or(0, |lease| lease.waited_ms),
                believed_until: self.believed_until(returned_at, trust),
            }),
            Err(error) => failed(error),
        };
        let (ttl_ms, session) = match &wanted.term {
            Term::TtlMs(ms) => (Some(*ms), None),
            Term::Session(number, _) => (None, Some(*number)),
        };
        let call = Call::Acquire {
            request: wanted.request,
            asks: wanted.asks.clone(),
            wait_ms: wanted.wait_ms,
            ttl_ms,
            session,
        };
        self.record(which, (called_at, returned_at), call, outcome);
        result.ok().map(|(leases, trust)| Held { request: wanted.request, leases, trust })
    }

    fn believed_until(&self, returned_at: Duration, trust: &Trust) -> Duration {
        believed_until(returned_at, self.now(), trust.left())
    }

    fn one(&self, wanted: &Wanted, ask: &Ask) -> AcquireRequest {
        let (mode, permits, limit) = mode_of(ask.mode);
        AcquireRequest {
            owner: Some(owner(wanted.request)),
            ttl_ms: ttl(&wanted.term),
            session_id: session_id(&wanted.term),
            mode: Some(mode),
            permits,
            limit,
            wait_ms: Some(wanted.wait_ms),
            request_id: wanted.names_request.then(|| self.request_id(wanted.request)),
            ..AcquireRequest::default()
        }
    }

    fn several(&self, wanted: &Wanted) -> AcquireManyRequest {
        let claim = |ask: &Ask| {
            let (mode, permits, limit) = mode_of(ask.mode);
            let name = ask.lock.clone();
            ClaimRequest { name, mode: Some(mode), permits, limit, ..ClaimRequest::default() }
        };
        AcquireManyRequest {
            locks: wanted.asks.iter().map(claim).collect(),
            owner: Some(owner(wanted.request)),
            ttl_ms: ttl(&wanted.term),
            session_id: session_id(&wanted.term),
            wait_ms: Some(wanted.wait_ms),
            request_id: wanted.names_request.then(|| self.request_id(wanted.request)),
            ..AcquireManyRequest::default()
        }
    }

    /// Its own in every run, as far as seeds differ.
    fn request_id(&self, request: u64) -> String {
        let seed = self.seed ^ self.seed >> 32;
        format!("{:08x}-0000-4000-8000-{:012x}", seed & 0xffff_ffff, request & 0xffff_ffff_ffff)
    }

    pub(super) async fn renew(&self, held: &mut Held) {
        self.turn().await;
        for lease in &held.leases {
            let called_at = self.now();
            let result = self.clients[0].renew(&lease.lease_id).await;
            let returned_at = self.now();
            let (outcome, ttl_ms) = match &result {
                Ok((renewed, trust)) => {
                    let believed_until = self.believed_until(returned_at, trust);
                    (Outcome::Ok(Answer::Renewed { believed_until }), renewed.ttl_ms)
                }
                Err(error) => (failed(error), None),
            };
            let lock = lease.lock.clone();
            let call = Call::Renew { request: held.request, lock, ttl_ms: ttl_ms.unwrap_or(0) };
            self.record(0, (called_at, returned_at), call, outcome);
            if let Ok((_, trust)) = result
                && held.leases.len() == 1
            {
                held.trust = trust;
            }
        }
    }

    pub(super) async fn release(&self, held: Held) -> bool {
        let mut all = true;
        for lease in held.leases {
            self.count();
            let called_at = self.now();
            let result = self.clients[0].release(&lease.lease_id).await;
            let outcome = outcome(&result, |_| Answer::Done);
            let call = Call::Release { request: held.request, lock: lease.lock };
            self.record(0, (called_at, self.now()), call, outcome);
            all &= result.is_ok();
        }
        all
    }

    pub(super) async fn look(&self, which: usize, lock: &str) {
        self.turn().await;
        let called_at = self.now();
        let result = self.clients[which].inspect(lock, false).await;
        let outcome = outcome(&result, |lock| {
            Answer::Seen(Seen {
                holders: lock.holders.iter().map(|it| (it.token, request_of(&it.owner))).collect(),
                complete: lock.holders.len() as u64 == lock.holder_count,
                waiters: lock.waiters.iter().map(|waiter| request_of(&waiter.owner)).collect(),
                token_ceiling: lock.token_ceiling,
            })
        });
        let call = Call::Look { lock: lock.to_owned() };
        self.record(which, (called_at, self.now()), call, outcome);
    }

    /// Whether the cluster says that the token is held at this instant.
    pub(super) async fn fence(&self, lease: &Lease) -> bool {
        self.turn().await;
        let called_at = self.now();
        let result = self.clients[1].fence(&lease.lock, lease.token).await;
        let call = Call::Fence { lock: lease.lock.clone(), token: lease.token };
        let outcome = outcome(&result, |_| Answer::Done);
        self.record(1, (called_at, self.now()), call, outcome);
        result.is_ok()
    }

    pub(super) async fn set_value(&self, held: &Held, value: u64) {
        self.turn().await;
        let Some(lease) = held.leases.first() else { return };
        let called_at = self.now();
        let (client, text) = (&self.clients[0], value.to_string());
        let result = client.set_value(&lease.lock, &lease.lease_id, &text).await;
        let call = Call::SetValue { request: held.request, lock: lease.lock.clone(), value };
        self.record(0, (called_at, self.now()), call, outcome(&result, |_| Answer::Done));
    }

    pub(super) async fn get_value(&self, which: usize, lock: &str) {
        self.turn().await;
        let called_at = self.now();
        let result = self.clients[which].value(lock).await;
        let outcome = match &result {
            // Whatever is no number of ours was written by nobody here, which the checker says.
            Ok(it) => Outcome::Ok(Answer::Value(Some((it.value.parse().unwrap_or(0), it.token)))),
            Err(ClientError::Refused(problem)) if problem.kind == "no-value" => {
                Outcome::Ok(Answer::Value(None))
            }
            Err(error) => failed(error),
        };
        let call = Call::GetValue { lock: lock.to_owned() };
        self.record(which, (called_at, self.now()), call, outcome);
    }

    /// Writes to the guarded resource; a refusal of somebody who believes is a violation.
    pub(super) fn write(&self, held: &Held) {
        let believed = held.believes();
        for lease in &held.leases {
            let refused = self.resource.write(&lease.lock, lease.token).err();
            self.history.wrote(refused.is_none());
            // Asked again: the belief may have ended between the two.
            if let Some(highest) = refused
                && believed
                && held.believes()
            {
                let (lock, at) = (lease.lock.clone(), self.now());
                self.history.stranded(Stranded { lock, token: lease.token, highest, at });
            }
        }
    }

    pub(super) fn record(
        &self,
        which: usize,
        (called_at, returned_at): (Duration, Duration),
        call: Call,
        outcome: Outcome,
    ) {
        let client = 2 * self.number + which as u64;
        self.history.operation(Operation { client, call, called_at, returned_at, outcome });
    }
}

pub(super) fn outcome<T>(
    result: &Result<T, ClientError>,
    answer: impl FnOnce(&T) -> Answer,
) -> Outcome {
    match result {
        Ok(value) => Outcome::Ok(answer(value)),
        Err(error) => failed(error),
    }
}

fn failed(error: &ClientError) -> Outcome {
    match error {
        ClientError::Refused(problem) if problem.outcome == wire::Fate::Unknown => {
            Outcome::Unknown(problem.detail.clone())
        }
        ClientError::Refused(problem) => Outcome::Failed(Refusal {
            kind: problem.kind.clone(),
            holders: problem.holders.iter().flatten().map(|holder| holder.token).collect(),
        }),
        ClientError::Unreachable(_) | ClientError::Insecure(_) => {
            Outcome::Failed(Refusal { kind: "unreachable".to_owned(), holders: Vec::new() })
        }
        ClientError::Unknown(why) => Outcome::Unknown(why.clone()),
        ClientError::Protocol(why) => Outcome::Unknown(format!("{MISUNDERSTOOD}: {why}")),
    }
}

/// The owner tells others which request it is.
fn owner(request: u64) -> String {
    format!("request-{request:x}")
}

fn request_of(owner: &str) -> u64 {
    let number = owner.strip_prefix("request-");
    number.and_then(|hex| u64::from_str_radix(hex, 16).ok()).unwrap_or(0)
}

fn mode_of(mode: Mode) -> (wire::Mode, Option<u64>, Option<u64>) {
    match mode {
        Mode::Exclusive => (wire::Mode::Exclusive, None, None),
        Mode::Shared => (wire::Mode::Shared, None, None),
        Mode::Permits { count, limit } => {
            (wire::Mode::Permits, Some(u64::from(count)), Some(u64::from(limit)))
        }
    }
}

fn ttl(term: &Term) -> TtlMs {
    match term {
        Term::TtlMs(ms) => TtlMs::Ms(*ms),
        Term::Session(..) => TtlMs::Absent,
    }
}

fn session_id(term: &Term) -> Option<String> {
    match term {
        Term::TtlMs(_) => None,
        Term::Session(_, id) => Some(id.clone()),
    }
}

/// What is left at `now` of a trust counts from then on. One that was over when it arrived adds
/// nothing: it ended at some earlier time, not now.
fn believed_until(returned_at: Duration, now: Duration, left: Option<Duration>) -> Duration {
    left.filter(|left| !left.is_zero()).map_or(returned_at, |left| now + left)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_comes_after_its_trust_ended_begins_no_belief() {
        let [returned_at, now, left] = [900, 901, 100].map(Duration::from_millis);
        assert_eq!(believed_until(returned_at, now, Some(Duration::ZERO)), returned_at);
        assert_eq!(believed_until(returned_at, now, Some(left)), now + left);
    }

    #[test]
    fn an_owner_tells_its_request() {
        assert_eq!(request_of(&owner(0x1_0000_000a)), 0x1_0000_000a);
        assert_eq!(request_of("who clears up"), 0);
    }
}
