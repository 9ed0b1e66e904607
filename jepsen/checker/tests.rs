//! Hand-written histories, legal and illegal, for every rule.

use std::time::Duration;

use super::*;
use crate::history::{Look, Stranded};

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Held from its return to `until`, when it is released.
fn claim(request: u64, token: u64, called: u64, returned: u64, until: u64) -> Claim {
    Claim {
        name: "a".to_owned(),
        mode: Mode::Exclusive,
        request,
        called_at: ms(called),
        returned_at: ms(returned),
        token: Some(token),
        believed_until: ms(until),
        released_at: Some(ms(until)),
        expires_from: ms(called + 1000),
    }
}

fn shared(claim: Claim) -> Claim {
    Claim { mode: Mode::Shared, ..claim }
}

fn verdict(claims: &[Claim]) -> Result<(), String> {
    check(&Records { claims: claims.to_vec(), ..Records::default() })
}

#[test]
fn a_legal_history_passes() {
    let claims = [claim(1, 1, 0, 5, 10), claim(2, 2, 1, 12, 20), claim(3, 5, 13, 22, 30)];
    assert_eq!(verdict(&claims), Ok(()));
}

#[test]
fn a_repeat_with_the_same_token_is_legal() {
    assert_eq!(verdict(&[claim(1, 1, 0, 5, 10), claim(1, 1, 6, 8, 10)]), Ok(()));
}

#[test]
fn a_request_with_two_tokens_is_found() {
    assert!(verdict(&[claim(1, 1, 0, 5, 10), claim(1, 2, 20, 25, 30)]).is_err());
}

#[test]
fn a_token_given_twice_is_found() {
    assert!(verdict(&[claim(1, 1, 0, 5, 10), claim(2, 1, 20, 25, 30)]).is_err());
}

#[test]
fn a_token_that_goes_back_is_found() {
    assert!(verdict(&[claim(1, 9, 0, 5, 10), claim(2, 3, 20, 25, 30)]).is_err());
}

#[test]
fn two_believers_at_once_are_found() {
    assert!(verdict(&[claim(1, 1, 0, 5, 10), claim(2, 2, 1, 9, 20)]).is_err());
}

#[test]
fn readers_may_believe_together_and_a_writer_may_not_join_them() {
    let readers = [shared(claim(1, 1, 0, 5, 50)), shared(claim(2, 2, 1, 9, 50))];
    assert_eq!(verdict(&readers), Ok(()));
    let joined = [readers[0].clone(), readers[1].clone(), claim(3, 3, 2, 20, 30)];
    assert!(verdict(&joined).is_err());
}

#[test]
fn an_answer_that_comes_after_its_trust_ended_begins_no_belief() {
    let mut late = shared(claim(1, 1, 0, 900, 900));
    late.released_at = None;
    late.believes(ms(901), Some(Duration::ZERO));
    late.releases(ms(950));
    assert_eq!(late.believed_until, ms(900));
    let taken_over = claim(2, 2, 10, 940, 960);
    assert_eq!(verdict(&[Claim { expires_from: ms(800), ..late }, taken_over]), Ok(()));
}

#[test]
fn a_belief_reaches_as_far_as_the_trust_or_the_release() {
    let mut held = claim(1, 1, 0, 5, 5);
    held.believes(ms(6), Some(ms(100)));
    assert_eq!(held.believed_until, ms(106));
    held.releases(ms(50));
    assert_eq!((held.believed_until, held.released_at), (ms(50), Some(ms(50))));
}

#[test]
fn an_expiry_before_its_time_is_found_even_if_nobody_believed() {
    let lost = Claim { released_at: None, believed_until: ms(6), ..claim(1, 1, 0, 5, 0) };
    assert!(verdict(&[lost.clone(), claim(2, 2, 7, 500, 600)]).is_err());
    assert_eq!(verdict(&[lost, claim(2, 2, 7, 1001, 1002)]), Ok(()));
}

#[test]
fn a_grant_before_the_release_was_called_is_found() {
    assert!(verdict(&[claim(1, 1, 0, 5, 100), claim(2, 2, 1, 99, 200)]).is_err());
}

#[test]
fn an_unknown_outcome_explains_nothing_away() {
    let unknown = Claim { token: None, ..claim(7, 1, 0, 5, 10) };
    assert!(verdict(&[unknown.clone(), claim(1, 1, 0, 5, 10), claim(2, 2, 1, 9, 20)]).is_err());
    assert!(verdict(&[unknown]).is_err() && verdict(&[]).is_err(), "no grant is no proof");
}

#[test]
fn a_stale_look_and_one_that_foresees_are_found() {
    let look = |called, returned, token_ceiling| Records {
        claims: vec![claim(1, 5, 10, 20, 30)],
        looks: vec![Look { called_at: ms(called), returned_at: ms(returned), token_ceiling }],
        ..Records::default()
    };
    assert_eq!(check(&look(21, 22, 5)), Ok(()));
    assert_eq!(check(&look(15, 22, 4)), Ok(()), "the grant was not yet known");
    assert!(check(&look(21, 22, 4)).is_err(), "it missed a known grant");
    assert!(check(&look(1, 2, 5)).is_err(), "it saw what was not asked for yet");
}

#[test]
fn a_write_refused_to_a_believer_is_found() {
    let stranded = Stranded { name: "a".to_owned(), token: 1, highest: 2, at: ms(7) };
    let records = Records {
        claims: vec![claim(1, 1, 0, 5, 10)],
        stranded: vec![stranded],
        ..Records::default()
    };
    assert!(check(&records).is_err());
}
