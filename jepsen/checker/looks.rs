//! Reads are linearizable (P6): a look that began after a grant was known does not miss it, and
//! one that ended before a grant was asked for does not foresee it.

use crate::history::Records;

pub(super) fn are_fresh(records: &Records) -> Result<(), String> {
    let mut grants: Vec<(std::time::Duration, u64)> =
        records.claims.iter().filter_map(|claim| Some((claim.returned_at, claim.token?))).collect();
    grants.sort_unstable();
    // The highest token known at each moment.
    let mut highest = 0;
    for grant in &mut grants {
        highest = highest.max(grant.1);
        grant.1 = highest;
    }
    for look in &records.looks {
        let known = grants.partition_point(|(at, _)| *at < look.called_at);
        let highest = known.checked_sub(1).and_then(|at| grants.get(at)).map_or(0, |grant| grant.1);
        if look.token_ceiling < highest {
            return Err(format!("a look missed token {highest}, known before it began: {look:?}"));
        }
        let foreseen = records.claims.iter().find(|claim| {
            claim.called_at > look.returned_at
                && claim.token.is_some_and(|token| token <= look.token_ceiling)
                && !records.claims.iter().any(|first| {
                    first.request == claim.request && first.called_at <= look.returned_at
                })
        });
        if let Some(claim) = foreseen {
            return Err(format!("a look foresaw a token: {look:?}, {claim:?}"));
        }
    }
    Ok(())
}
