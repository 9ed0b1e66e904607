//! The checks over a history, written apart from the code that they judge. One file for each; the
//! letters are those of `docs/testing.md`.

mod belief;
mod grants;
mod looks;
mod tokens;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use crate::history::{Claim, Mode, Records};

/// The first violation, as a sentence.
pub(crate) fn check(records: &Records) -> Result<(), String> {
    if records.grants() == 0 {
        return Err("nothing was granted: the history proves nothing".to_owned());
    }
    tokens::are_given_once(&records.claims)?;
    looks::are_fresh(records)?;
    if let Some(stranded) = records.stranded.first() {
        return Err(format!("somebody else's write came between: {stranded:?}"));
    }
    for claims in by_name(&records.claims).values() {
        tokens::follow_real_time(claims)?;
        grants::follow_each_other(claims)?;
        belief::never_overlaps(claims)?;
    }
    Ok(())
}

/// The grants of each lock in token order.
fn by_name(claims: &[Claim]) -> BTreeMap<&str, Vec<&Claim>> {
    let mut by_name: BTreeMap<&str, Vec<&Claim>> = BTreeMap::new();
    for claim in claims.iter().filter(|claim| claim.token.is_some()) {
        by_name.entry(&claim.name).or_default().push(claim);
    }
    for claims in by_name.values_mut() {
        claims.sort_by_key(|claim| claim.token);
    }
    by_name
}

/// Whether two holders may hold the lock together.
fn compatible(one: &Claim, other: &Claim) -> bool {
    one.mode == Mode::Shared && other.mode == Mode::Shared
}
