//! Whether a run was one: every kind of call succeeded now and then, nothing was refused for a reason
//! that these clients cannot give, and every answer was understood. The rules judge what was
//! answered; a service that only ever refuses would break none of them. `oarlock prove` asks less:
//! what somebody else's cluster can do meanwhile is its own affair.

use std::collections::BTreeMap;

use oarlock_jepsen::history::{KINDS, MISUNDERSTOOD, Outcome, Records};

/// From so many rounds on every kind of call has had its chance.
const ROUNDS_JUDGED_FROM: u32 = 3;

/// Why these clients may be refused: somebody holds, something is over, or nobody can do it now.
const REFUSED_BY: [&str; 12] = [
    "lock-held",
    "wait-timeout",
    "lease-gone",
    "lease-unknown",
    "session-gone",
    "session-unknown",
    "token-stale",
    "no-leader",
    "not-ready",
    "overloaded",
    "shutting-down",
    "unreachable",
];

/// What is missing, or should not be there.
pub(crate) fn judge(records: &Records, rounds: u32) -> Result<(), String> {
    let mut succeeded: BTreeMap<&str, usize> = BTreeMap::new();
    for operation in &records.operations {
        match &operation.outcome {
            Outcome::Ok(_) => *succeeded.entry(operation.kind()).or_default() += 1,
            Outcome::Failed(refusal) if !REFUSED_BY.contains(&refusal.kind.as_str()) => {
                return Err(format!("no client here can cause this refusal: {operation:?}"));
            }
            Outcome::Unknown(why) if why.starts_with(MISUNDERSTOOD) => {
                return Err(format!("an answer was not understood: {operation:?}"));
            }
            Outcome::Failed(_) | Outcome::Unknown(_) => {}
        }
    }
    let never = KINDS.iter().find(|kind| !succeeded.contains_key(*kind));
    match never.filter(|_| rounds >= ROUNDS_JUDGED_FROM) {
        Some(kind) => Err(format!("no {kind} succeeded in {rounds} rounds: {succeeded:?}")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use oarlock_jepsen::history::{Answer, Call, Operation, Refusal};

    use super::*;

    fn look(outcome: Outcome) -> Records {
        let call = Call::Look { lock: "a".to_owned() };
        let (called_at, returned_at) = (Duration::ZERO, Duration::from_millis(1));
        let operation = Operation { client: 1, call, called_at, returned_at, outcome };
        Records { operations: vec![operation], ..Records::default() }
    }

    fn refused(kind: &str) -> Outcome {
        Outcome::Failed(Refusal { kind: kind.to_owned(), holders: Vec::new() })
    }

    #[test]
    fn a_kind_of_call_that_never_succeeds_fails_a_run_of_some_rounds() {
        let records = look(Outcome::Ok(Answer::Done));
        assert_eq!(judge(&records, 1), Ok(()));
        let why = judge(&records, 3).expect_err("everything but looks is missing");
        assert!(why.starts_with("no acquire succeeded"), "{why}");
    }

    #[test]
    fn refusals_that_no_client_can_cause_fail_a_run() {
        assert_eq!(judge(&look(refused("lock-held")), 1), Ok(()));
        assert!(judge(&look(refused("bad-request")), 1).is_err());
        assert!(judge(&look(refused("request-id-reused")), 1).is_err());
    }

    #[test]
    fn an_answer_that_is_not_understood_fails_a_run() {
        assert_eq!(judge(&look(Outcome::Unknown("no answer".to_owned())), 1), Ok(()));
        let strange = Outcome::Unknown(format!("{MISUNDERSTOOD}: status 200"));
        assert!(judge(&look(strange), 1).is_err());
    }
}
