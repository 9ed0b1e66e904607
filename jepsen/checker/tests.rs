//! Hand-written histories, legal and illegal, for every rule. The fast rules and the search are told
//! apart: what an illegal history breaks is named.

mod generated;
mod rules;
mod speed;

use std::time::Duration;

use super::*;
use crate::history::{Answer, Ask, Call, Operation, Outcome, Refusal, Seen};

/// A legal history with everything in it, for whoever shows histories.
pub(crate) fn legal_history() -> Records {
    generated::legal(3, 2, 400)
}

fn at(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A history in the making: each call with its moments of call and answer, in milliseconds.
#[derive(Debug, Clone, Default)]
struct Script(Records);

impl Script {
    fn push(mut self, call: Call, (called, returned): (u64, u64), outcome: Outcome) -> Self {
        let operations = &mut self.0.operations;
        let client = operations.len() as u64;
        let (called_at, returned_at) = (at(called), at(returned));
        operations.push(Operation { client, call, called_at, returned_at, outcome });
        self
    }

    /// Acquires `a` under a TTL of a second; believes from the answer to the end of the trust.
    fn take(self, request: u64, token: u64, (called, returned): (u64, u64)) -> Self {
        self.take_as(Mode::Exclusive, request, token, (called, returned))
    }

    fn take_as(self, mode: Mode, request: u64, token: u64, (called, returned): (u64, u64)) -> Self {
        let ask = Ask { lock: "a".to_owned(), mode };
        self.take_all(vec![ask], request, vec![token], (called, returned))
    }

    fn take_all(
        self,
        asks: Vec<Ask>,
        request: u64,
        tokens: Vec<u64>,
        (called, returned): (u64, u64),
    ) -> Self {
        let believed_until = at(returned.max(called + 900));
        let granted = Answer::Granted { tokens, waited_ms: 0, believed_until };
        self.push(acquire(request, asks, 5_000), (called, returned), Outcome::Ok(granted))
    }

    fn release(self, request: u64, (called, returned): (u64, u64)) -> Self {
        self.push(release(request), (called, returned), Outcome::Ok(Answer::Done))
    }

    fn renew(self, request: u64, (called, returned): (u64, u64)) -> Self {
        let believed_until = at(returned.max(called + 900));
        let renewed = Outcome::Ok(Answer::Renewed { believed_until });
        self.push(renew(request), (called, returned), renewed)
    }

    fn look(self, seen: Seen, (called, returned): (u64, u64)) -> Self {
        let call = Call::Look { lock: "a".to_owned() };
        self.push(call, (called, returned), Outcome::Ok(Answer::Seen(seen)))
    }

    fn set(self, request: u64, value: u64, (called, returned): (u64, u64)) -> Self {
        let call = Call::SetValue { request, lock: "a".to_owned(), value };
        self.push(call, (called, returned), Outcome::Ok(Answer::Done))
    }

    fn get(self, read: Option<(u64, u64)>, (called, returned): (u64, u64)) -> Self {
        let call = Call::GetValue { lock: "a".to_owned() };
        self.push(call, (called, returned), Outcome::Ok(Answer::Value(read)))
    }

    fn gone(self, call: Call, (called, returned): (u64, u64)) -> Self {
        let refusal = Refusal { kind: "lease-gone".to_owned(), holders: Vec::new() };
        self.push(call, (called, returned), Outcome::Failed(refusal))
    }

    fn lost(self, call: Call, (called, returned): (u64, u64)) -> Self {
        self.push(call, (called, returned), Outcome::Unknown("no answer".to_owned()))
    }

    fn is_legal(&self) {
        let verdict = check(&self.0);
        assert_eq!(verdict.as_result(), Ok(()), "{:#?}", self.0.operations);
    }

    /// Exactly these rules are broken, told by how they begin.
    fn breaks(&self, rules: &[&str]) {
        let verdict = check(&self.0);
        let broken: Vec<&str> = verdict
            .rules
            .iter()
            .filter(|(_, found)| matches!(found, Found::Violation(_)))
            .map(|(rule, _)| *rule)
            .collect();
        let as_expected = broken.len() == rules.len()
            && broken.iter().zip(rules).all(|(broken, rule)| broken.starts_with(rule));
        assert!(as_expected, "{broken:?} instead of {rules:?}: {:#?}", self.0.operations);
    }
}

fn acquire(request: u64, asks: Vec<Ask>, wait_ms: u64) -> Call {
    Call::Acquire { request, asks, wait_ms, ttl_ms: Some(1_000), session: None }
}

fn exclusive(lock: &str) -> Ask {
    Ask { lock: lock.to_owned(), mode: Mode::Exclusive }
}

fn permits(count: u32) -> Mode {
    Mode::Permits { count, limit: 3 }
}

fn release(request: u64) -> Call {
    Call::Release { request, lock: "a".to_owned() }
}

fn renew(request: u64) -> Call {
    Call::Renew { request, lock: "a".to_owned(), ttl_ms: 1_000 }
}

fn seen(holders: &[(u64, u64)], waiters: &[u64], token_ceiling: u64) -> Seen {
    let (holders, waiters) = (holders.to_vec(), waiters.to_vec());
    Seen { holders, complete: true, waiters, token_ceiling }
}

const ORDER: &str = "A an order";
const SEARCH: &str = "A again";
const IN_TIME: &str = "A leases end";
const ONCE: &str = "B tokens are given once";
const REAL_TIME: &str = "B tokens follow";
const BELIEF: &str = "C beliefs";
const READS: &str = "C reads";
const VALUES: &str = "C values";
const QUEUE: &str = "D first come";
const REFUSED: &str = "D what";
const MANY: &str = "D several";
