//! D: waiters are served first come first served, in the order of the log, as far as clients can see
//! it (P8).
//!
//! Looks show it: who stands before another in a queue gets its lock first, if it gets it, and so
//! does who was seen to wait when another had not asked yet. Tokens tell who got it first.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::claims::{Claim, Claims};
use crate::history::{Answer, Call, Operation, Outcome, Seen};

pub(super) fn is_first_come_first_served(
    operations: &[Operation],
    claims: &Claims<'_>,
) -> Result<(), String> {
    let asked = lowest_asked_later(claims);
    for operation in operations {
        let (Call::Look { lock }, Outcome::Ok(Answer::Seen(seen))) =
            (&operation.call, &operation.outcome)
        else {
            continue;
        };
        let waiters = granted(lock, seen, claims);
        let mut pairs = waiters.iter().zip(waiters.iter().skip(1));
        if let Some((before, behind)) = pairs.find(|(before, behind)| before.token > behind.token) {
            return Err(format!(
                "{behind:?} was served before {before:?}, which stood before it: {operation:?}"
            ));
        }
        let Some(last) = waiters.last() else { continue };
        let Some(asked) = asked.get(lock.as_str()) else { continue };
        let later = asked.partition_point(|(at, _)| *at <= operation.returned_at);
        if let Some((_, overtaker)) = asked.get(later)
            && overtaker.token < last.token
        {
            return Err(format!("{overtaker:?} overtook {last:?}, which waited: {operation:?}"));
        }
    }
    Ok(())
}

/// The waiters of a look that were granted in the end, in their order.
fn granted<'a>(lock: &'a str, seen: &Seen, claims: &'a Claims<'_>) -> Vec<&'a Claim> {
    seen.waiters.iter().filter_map(|request| claims.get(&(*request, lock))).collect()
}

/// Of each lock, for each moment the grant with the lowest token of those asked for afterwards.
fn lowest_asked_later<'a>(claims: &'a Claims<'_>) -> BTreeMap<&'a str, Vec<(Duration, &'a Claim)>> {
    let mut asked: BTreeMap<&str, Vec<(Duration, &Claim)>> = BTreeMap::new();
    for claim in claims.values() {
        asked.entry(&claim.lock).or_default().push((claim.called_at, claim));
    }
    for of_lock in asked.values_mut() {
        of_lock.sort_by_key(|(called_at, _)| *called_at);
        let mut lowest: Option<&Claim> = None;
        for (_, claim) in of_lock.iter_mut().rev() {
            lowest = lowest.filter(|lowest| lowest.token < claim.token).or(Some(*claim));
            *claim = lowest.unwrap_or(*claim);
        }
    }
    asked
}
