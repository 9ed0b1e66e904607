//! A: there is an order of grants, releases and hidden expiries that explains all answers (P1, P3).
//!
//! Tokens give the order of the grants, so no search is needed: going through it, each grant takes
//! effect as early as it can, and each holder is taken to have left as early as it may, at its
//! release or its earliest expiry. If even so a grant would have to take effect after its client
//! heard of it, no order explains the history. Requests whose outcome is unknown are taken not to
//! have happened, which only makes room.

use std::time::Duration;

use super::compatible;
use crate::history::Claim;

/// `claims` are the grants of one lock in token order.
pub(super) fn follow_each_other(claims: &[&Claim]) -> Result<(), String> {
    let mut holders: Vec<(&Claim, Duration)> = Vec::new();
    let mut clock = Duration::ZERO;
    for claim in claims {
        // A repeat of a request is the same grant; it proves nothing new about the order.
        if let Some((_, left_at)) = holders.iter_mut().find(|(h, _)| h.request == claim.request) {
            *left_at = (*left_at).min(earliest_end(claim));
            continue;
        }
        let in_the_way = holders.iter().filter(|(holder, _)| !compatible(holder, claim));
        let free_at = in_the_way.clone().map(|(_, left_at)| *left_at).max().unwrap_or_default();
        clock = clock.max(claim.called_at).max(free_at);
        if clock > claim.returned_at {
            let last = in_the_way.max_by_key(|(_, left_at)| *left_at).map(|(holder, _)| holder);
            return Err(format!("granted before its time: {claim:?}, after {last:?}"));
        }
        holders.retain(|(holder, _)| compatible(holder, claim));
        holders.push((claim, earliest_end(claim).max(clock)));
    }
    Ok(())
}

fn earliest_end(claim: &Claim) -> Duration {
    claim.released_at.map_or(claim.expires_from, |at| at.min(claim.expires_from))
}
