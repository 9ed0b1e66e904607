//! The checks over a history: tokens (promises P1, P2, P7) and belief in time (P3). Written apart
//! from the code that they judge.

use std::collections::BTreeMap;

use crate::history::Claim;

/// The first violation, as a sentence.
pub(crate) fn check(claims: &[Claim]) -> Result<(), String> {
    if !claims.iter().any(|claim| claim.token.is_some()) {
        return Err("nothing was granted: the history proves nothing".to_owned());
    }
    tokens_are_given_once(claims)?;
    let mut by_name: BTreeMap<&str, Vec<&Claim>> = BTreeMap::new();
    for claim in claims.iter().filter(|claim| claim.token.is_some()) {
        by_name.entry(&claim.name).or_default().push(claim);
    }
    for claims in by_name.values() {
        tokens_follow_real_time(claims)?;
        beliefs_do_not_overlap(claims)?;
    }
    Ok(())
}

fn tokens_are_given_once(claims: &[Claim]) -> Result<(), String> {
    let mut seen: BTreeMap<u64, u64> = BTreeMap::new();
    for claim in claims {
        let Some(token) = claim.token else { continue };
        if let Some(other) = seen.insert(token, claim.request)
            && other != claim.request
        {
            return Err(format!("token {token} was given to two requests: {claim:?}"));
        }
    }
    Ok(())
}

/// If one grant was known before another was asked for, its token is lower.
fn tokens_follow_real_time(claims: &[&Claim]) -> Result<(), String> {
    for (first, second) in pairs(claims) {
        if first.returned_at < second.called_at && first.token > second.token {
            return Err(format!("a later grant has a lower token: {first:?} then {second:?}"));
        }
    }
    Ok(())
}

/// Two clients that trust only what they may never believe in one lock at once.
fn beliefs_do_not_overlap(claims: &[&Claim]) -> Result<(), String> {
    for (first, second) in pairs(claims) {
        let overlap = first.returned_at.max(second.returned_at)
            < first.believed_until.min(second.believed_until);
        if overlap && first.request != second.request {
            return Err(format!("two clients held {} at once: {first:?}, {second:?}", first.name));
        }
    }
    Ok(())
}

fn pairs<'a>(claims: &'a [&'a Claim]) -> impl Iterator<Item = (&'a Claim, &'a Claim)> {
    claims
        .iter()
        .flat_map(|a| claims.iter().map(move |b| (*a, *b)))
        .filter(|(a, b)| !std::ptr::eq(*a, *b))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn claim(request: u64, token: u64, called: u64, returned: u64, until: u64) -> Claim {
        Claim {
            name: "a".to_owned(),
            request,
            called_at: Duration::from_millis(called),
            returned_at: Duration::from_millis(returned),
            token: Some(token),
            believed_until: Duration::from_millis(until),
        }
    }

    #[test]
    fn a_legal_history_passes() {
        let claims = [claim(1, 1, 0, 5, 10), claim(2, 2, 1, 12, 20), claim(3, 5, 13, 22, 30)];
        assert_eq!(check(&claims), Ok(()));
    }

    #[test]
    fn a_token_given_twice_is_found() {
        assert!(check(&[claim(1, 1, 0, 5, 10), claim(2, 1, 20, 25, 30)]).is_err());
    }

    #[test]
    fn a_token_that_goes_back_is_found() {
        assert!(check(&[claim(1, 9, 0, 5, 10), claim(2, 3, 20, 25, 30)]).is_err());
    }

    #[test]
    fn two_believers_at_once_are_found() {
        assert!(check(&[claim(1, 1, 0, 5, 10), claim(2, 2, 1, 9, 20)]).is_err());
    }

    #[test]
    fn an_empty_history_is_no_proof() {
        let unknown = Claim { token: None, ..claim(1, 1, 0, 5, 10) };
        assert!(check(&[unknown]).is_err() && check(&[]).is_err());
    }
}
