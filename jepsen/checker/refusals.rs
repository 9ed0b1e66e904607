//! D: what was refused did not happen (P9): nobody who was only ever told no is seen to hold or to
//! wait afterwards.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::history::{Answer, Call, Operation, Outcome};

pub(super) fn did_not_happen(operations: &[Operation]) -> Result<(), String> {
    // When each request was last refused; `None` if it may have happened.
    let mut refused: BTreeMap<u64, Option<Duration>> = BTreeMap::new();
    for operation in operations {
        let Call::Acquire { request, .. } = &operation.call else { continue };
        let at = match &operation.outcome {
            // What is gone was there.
            Outcome::Failed(refusal) if !refusal.is_gone() => Some(operation.returned_at),
            Outcome::Failed(_) | Outcome::Ok(_) | Outcome::Unknown(_) => None,
        };
        let known = refused.entry(*request).or_insert(at);
        *known = known.zip(at).map(|(one, other)| one.max(other));
    }
    for operation in operations {
        let Outcome::Ok(Answer::Seen(seen)) = &operation.outcome else { continue };
        let there = seen.holders.iter().map(|(_, request)| request).chain(&seen.waiters);
        let mut lied = there.filter(|request| {
            let at = refused.get(*request).copied().flatten();
            at.is_some_and(|at| at < operation.called_at)
        });
        if let Some(request) = lied.next() {
            return Err(format!("request {request} was refused, and is there: {operation:?}"));
        }
    }
    Ok(())
}
