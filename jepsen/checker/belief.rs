//! C: two clients that trust only what they may never believe in incompatible grants at once (P3).

use super::compatible;
use crate::history::Claim;

/// `claims` are of one lock.
pub(super) fn never_overlaps(claims: &[&Claim]) -> Result<(), String> {
    let mut claims = claims.to_vec();
    claims.sort_by_key(|claim| claim.returned_at);
    // Those whose belief reaches farthest, of each mode's worth: enough to find an overlap.
    let mut believing: Vec<&Claim> = Vec::new();
    for claim in claims {
        believing.retain(|other| other.believed_until > claim.returned_at);
        let believes = claim.believed_until > claim.returned_at;
        let other = believing
            .iter()
            .find(|other| believes && !compatible(other, claim) && other.request != claim.request);
        if let Some(other) = other {
            return Err(format!("two clients held {} at once: {other:?}, {claim:?}", claim.name));
        }
        believing.push(claim);
    }
    Ok(())
}
