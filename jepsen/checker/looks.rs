//! Reads are linearizable (P6): a look that began after a grant was known does not miss it, one that
//! ended before a grant was asked for does not foresee it, and none shows more holders than fit.

use std::collections::BTreeMap;
use std::time::Duration;

use super::fits;
use crate::claims::{Claim, Claims};
use crate::history::{Answer, Call, Mode, Operation, Outcome, Seen};

pub(super) fn are_fresh(operations: &[Operation], claims: &Claims<'_>) -> Result<(), String> {
    let known = known(claims);
    let asked = asked(claims);
    let modes = modes(operations);
    for operation in operations {
        let (Call::Look { lock }, Outcome::Ok(Answer::Seen(seen))) =
            (&operation.call, &operation.outcome)
        else {
            continue;
        };
        let before = known.partition_point(|(at, _)| *at < operation.called_at);
        let highest = before.checked_sub(1).and_then(|at| known.get(at)).map_or(0, |it| it.1);
        if seen.token_ceiling < highest {
            return Err(format!("a look missed token {highest}, known before: {operation:?}"));
        }
        let after = asked.partition_point(|(at, _)| *at <= operation.returned_at);
        if let Some((_, claim)) = asked.get(after)
            && claim.token <= seen.token_ceiling
        {
            return Err(format!("a look foresaw a token: {operation:?}, {claim:?}"));
        }
        holds_together(lock, seen, &modes).map_err(|why| format!("{why}: {operation:?}"))?;
    }
    Ok(())
}

/// When it was known that tokens had come so far.
fn known(claims: &Claims<'_>) -> Vec<(Duration, u64)> {
    let mut known: Vec<(Duration, u64)> =
        claims.values().map(|claim| (claim.returned_at, claim.token)).collect();
    known.sort_unstable();
    let mut highest = 0;
    for (_, token) in &mut known {
        highest = highest.max(*token);
        *token = highest;
    }
    known
}

/// For each moment the lowest of the tokens that were only asked for afterwards.
fn asked<'a>(claims: &'a Claims<'_>) -> Vec<(Duration, &'a Claim)> {
    let mut asked: Vec<(Duration, &Claim)> =
        claims.values().map(|claim| (claim.called_at, claim)).collect();
    asked.sort_by_key(|(called_at, _)| *called_at);
    let mut lowest: Option<&Claim> = None;
    for (_, claim) in asked.iter_mut().rev() {
        lowest = lowest.filter(|lowest| lowest.token < claim.token).or(Some(*claim));
        *claim = lowest.unwrap_or(*claim);
    }
    asked
}

/// How each request asked for each of its locks, whatever it was answered.
fn modes(operations: &[Operation]) -> BTreeMap<(u64, &str), Mode> {
    let mut modes = BTreeMap::new();
    for operation in operations {
        if let Call::Acquire { request, asks, .. } = &operation.call {
            modes.extend(asks.iter().map(|ask| ((*request, ask.lock.as_str()), ask.mode)));
        }
    }
    modes
}

/// The holders that one look shows at once.
fn holds_together(
    lock: &str,
    seen: &Seen,
    asked: &BTreeMap<(u64, &str), Mode>,
) -> Result<(), String> {
    if let Some((token, _)) = seen.holders.iter().find(|(token, _)| *token > seen.token_ceiling) {
        return Err(format!("token {token} is above the ceiling"));
    }
    let mut modes = Vec::new();
    for (_, request) in &seen.holders {
        let Some(mode) = asked.get(&(*request, lock)).copied() else { continue };
        if !fits(mode, modes.iter().copied()) {
            return Err("a look shows more holders than fit".to_owned());
        }
        modes.push(mode);
    }
    Ok(())
}
