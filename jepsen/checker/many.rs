//! Several locks asked for together are granted together or not at all (P1, P8).
//!
//! Their tokens follow one another in the order of the request, which no two decisions could do
//! between them; and nobody who is seen to hold one of them is seen to wait for another.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::history::{Answer, Call, Operation, Outcome};

pub(super) fn are_all_or_nothing(operations: &[Operation]) -> Result<(), String> {
    // When each request was first known to hold something.
    let mut holds: BTreeMap<u64, Duration> = BTreeMap::new();
    for operation in operations {
        match (&operation.call, &operation.outcome) {
            (Call::Acquire { request, .. }, Outcome::Ok(Answer::Granted { tokens, .. })) => {
                if tokens.windows(2).any(|pair| pair[0] + 1 != pair[1]) {
                    return Err(format!("granted in more than one step: {operation:?}"));
                }
                first(&mut holds, *request, operation.returned_at);
            }
            (_, Outcome::Ok(Answer::Seen(seen))) => {
                let requests = seen.holders.iter().map(|(_, request)| *request);
                requests.for_each(|it| first(&mut holds, it, operation.returned_at));
            }
            (_, _) => {}
        }
    }
    for operation in operations {
        let Outcome::Ok(Answer::Seen(seen)) = &operation.outcome else { continue };
        let waits = seen.waiters.iter().find(|request| {
            holds.get(request).is_some_and(|held_by| *held_by < operation.called_at)
        });
        if let Some(request) = waits {
            return Err(format!("request {request} waits though it held before: {operation:?}"));
        }
    }
    Ok(())
}

fn first(holds: &mut BTreeMap<u64, Duration>, request: u64, at: Duration) {
    // Requests of others are not told apart.
    if request != 0 {
        let known = holds.entry(request).or_insert(at);
        *known = (*known).min(at);
    }
}
