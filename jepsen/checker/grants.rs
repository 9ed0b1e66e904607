//! A: there is an order of grants, releases and hidden expiries that explains all answers (P1, P3).
//!
//! Tokens give the order of the grants, so no search is needed: going through it, each grant takes
//! effect as early as it can, and each holder is taken to have left as early as it may. If even so
//! a grant would have to take effect after somebody heard of it, no order explains the history.
//! Requests whose outcome is unknown are taken not to have happened, which only makes room.

use std::time::Duration;

use super::fits;
use crate::claims::Claim;

/// `claims` are the grants of one lock in token order.
pub(super) fn follow_each_other(claims: &[&Claim]) -> Result<(), String> {
    // Who may hold still, by the moment from which it may have left.
    let mut holders: Vec<(Duration, &Claim)> = Vec::new();
    let mut clock = Duration::ZERO;
    for claim in claims {
        clock = clock.max(claim.called_at);
        holders.retain(|(leaves_from, _)| *leaves_from > clock);
        let mut last = None;
        while !fits(claim.mode, holders.iter().map(|(_, holder)| holder.mode)) {
            // The first that may leave makes room, and time goes on until it may.
            let next = holders.pop();
            clock = next.map_or(clock, |(leaves_from, _)| clock.max(leaves_from));
            last = next.or(last);
            if next.is_none() {
                return Err(format!("granted beyond what there is: {claim:?}"));
            }
        }
        if clock > claim.held_by {
            let last = last.map(|(_, holder)| holder);
            return Err(format!("granted before its time: {claim:?}, after {last:?}"));
        }
        let leaves_from = claim.leaves_from().max(clock);
        let at = holders.partition_point(|(other, _)| *other > leaves_from);
        holders.insert(at, (leaves_from, claim));
    }
    Ok(())
}

/// No lease ends before its time, and none that ended lives again.
pub(super) fn end_once_and_in_time(claims: &[&Claim]) -> Result<(), String> {
    for claim in claims {
        let Some(ended_by) = claim.ended_by else { continue };
        let may_end = claim.expires_from.min(claim.released_at.unwrap_or(Duration::MAX));
        if ended_by < may_end {
            return Err(format!("ended before its time, by {ended_by:?}: {claim:?}"));
        }
        if claim.held_at > ended_by {
            return Err(format!("held after it had ended by {ended_by:?}: {claim:?}"));
        }
    }
    Ok(())
}
