//! C: clients that trust only what they may never believe in grants at once that do not go together
//! (P3), nor in more permits than there are.

use super::fits;
use crate::claims::Claim;

/// `claims` are of one lock.
pub(super) fn never_overlaps(claims: &[&Claim]) -> Result<(), String> {
    let believes = |claim: &&&Claim| claim.believed_until > claim.returned_at;
    let mut claims: Vec<&Claim> = claims.iter().filter(believes).copied().collect();
    claims.sort_by_key(|claim| claim.returned_at);
    let mut believing: Vec<&Claim> = Vec::new();
    for claim in claims {
        believing.retain(|other| other.believed_until > claim.returned_at);
        if !fits(claim.mode, believing.iter().map(|other| other.mode)) {
            let lock = &claim.lock;
            return Err(format!("too many believed to hold {lock}: {believing:?}, {claim:?}"));
        }
        believing.push(claim);
    }
    Ok(())
}
