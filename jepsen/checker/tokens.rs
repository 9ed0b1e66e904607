//! B: tokens need no clock to be believed (P1, P2, P7).

use std::collections::BTreeMap;

use crate::claims::Claim;
use crate::history::{Answer, Call, Operation, Outcome};

/// No token is given to two requests, and no request gets two answers.
pub(super) fn are_given_once(operations: &[Operation]) -> Result<(), String> {
    let mut requests: BTreeMap<u64, &Operation> = BTreeMap::new();
    let mut tokens: BTreeMap<u64, (u64, &str)> = BTreeMap::new();
    for operation in operations {
        let (
            Call::Acquire { request, asks, .. },
            Outcome::Ok(Answer::Granted { tokens: given, .. }),
        ) = (&operation.call, &operation.outcome)
        else {
            continue;
        };
        if asks.len() != given.len() {
            return Err(format!("{} locks, {} tokens: {operation:?}", asks.len(), given.len()));
        }
        for (ask, token) in asks.iter().zip(given) {
            let to = (*request, ask.lock.as_str());
            let other = tokens.insert(*token, to);
            if let Some(other) = other.filter(|other| *other != to) {
                return Err(format!("token {token} was given twice: to {other:?} and {to:?}"));
            }
        }
        if let Some(first) = requests.insert(*request, operation)
            && !same_tokens(first, given)
        {
            return Err(format!("one request had two effects: {first:?}, {operation:?}"));
        }
    }
    Ok(())
}

fn same_tokens(first: &Operation, given: &[u64]) -> bool {
    matches!(&first.outcome, Outcome::Ok(Answer::Granted { tokens, .. }) if tokens == given)
}

/// If one grant was known before another was asked for, its token is lower. `claims` are of one
/// lock, in token order.
pub(super) fn follow_real_time(claims: &[&Claim]) -> Result<(), String> {
    // The latest call so far: whoever returned before it must not come later in token order.
    let mut latest: Option<&Claim> = None;
    for claim in claims {
        if let Some(before) = latest
            && claim.returned_at < before.called_at
        {
            return Err(format!("a later grant has a lower token: {claim:?} then {before:?}"));
        }
        if latest.is_none_or(|before| before.called_at < claim.called_at) {
            latest = Some(claim);
        }
    }
    Ok(())
}
