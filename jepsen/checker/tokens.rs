//! B: tokens need no clock to be believed (P1, P2, P7).

use std::collections::BTreeMap;

use crate::history::Claim;

/// No token is given to two requests, and no request gets two tokens.
pub(super) fn are_given_once(claims: &[Claim]) -> Result<(), String> {
    let mut requests: BTreeMap<u64, &Claim> = BTreeMap::new();
    let mut tokens: BTreeMap<u64, &Claim> = BTreeMap::new();
    for claim in claims {
        let Some(token) = claim.token else { continue };
        if let Some(other) = requests.insert(token, claim)
            && other.request != claim.request
        {
            return Err(format!("token {token} was given to two requests: {other:?}, {claim:?}"));
        }
        if let Some(other) = tokens.insert(claim.request, claim)
            && other.token != claim.token
        {
            return Err(format!("one request had two effects: {other:?}, {claim:?}"));
        }
    }
    Ok(())
}

/// If one grant was known before another was asked for, its token is lower. `claims` are of one
/// lock, in token order.
pub(super) fn follow_real_time(claims: &[&Claim]) -> Result<(), String> {
    // The latest call so far: whoever returned before it must not come later in token order.
    let mut latest: Option<&Claim> = None;
    for claim in claims {
        if let Some(before) = latest
            && claim.returned_at < before.called_at
        {
            return Err(format!("a later grant has a lower token: {claim:?} then {before:?}"));
        }
        if latest.is_none_or(|before| before.called_at < claim.called_at) {
            latest = Some(claim);
        }
    }
    Ok(())
}
