//! A legal history and illegal ones for each rule.

use super::*;
use crate::history::Stranded;

#[test]
fn holders_that_follow_each_other_are_legal() {
    Script::default()
        .take(1, 1, (0, 5))
        .release(1, (10, 12))
        .take(2, 2, (1, 12))
        .release(2, (20, 25))
        .take(3, 5, (13, 23))
        .is_legal();
}

#[test]
fn a_history_without_grants_proves_nothing() {
    let verdict = check(&Records::default());
    assert!(verdict.unknown().is_some() && verdict.violation().is_none());
    let refused = Script::default().lost(acquire(1, vec![exclusive("a")], 0), (0, 5));
    assert!(check(&refused.0).as_result().is_err());
}

#[test]
fn a_grant_before_the_release_was_called_is_found() {
    let early = Script::default().take(1, 1, (0, 5)).release(1, (100, 101)).take(2, 2, (1, 99));
    early.breaks(&[ORDER, BELIEF, SEARCH]);
    Script::default().take(1, 1, (0, 5)).release(1, (100, 101)).take(2, 2, (1, 100)).is_legal();
}

#[test]
fn an_expiry_before_its_time_is_found_even_if_nobody_believed() {
    let mut lost = Script::default().take(1, 1, (0, 5));
    if let Outcome::Ok(Answer::Granted { believed_until, .. }) = &mut lost.0.operations[0].outcome {
        *believed_until = at(6);
    }
    lost.clone().take(2, 2, (7, 500)).breaks(&[ORDER, SEARCH]);
    lost.take(2, 2, (7, 990)).is_legal();
}

#[test]
fn a_lease_that_is_gone_before_its_time_is_found() {
    Script::default().take(1, 1, (0, 5)).gone(renew(1), (500, 600)).breaks(&[IN_TIME, SEARCH]);
    Script::default().take(1, 1, (0, 5)).gone(renew(1), (500, 990)).is_legal();
    let renewed = Script::default().take(1, 1, (0, 5)).renew(1, (700, 701));
    renewed.clone().gone(release(1), (1_000, 1_500)).breaks(&[IN_TIME, SEARCH]);
    renewed.gone(release(1), (1_000, 1_700)).is_legal();
}

#[test]
fn a_lost_release_lets_the_lease_end_at_any_time_after_it() {
    let lost = Script::default().take(1, 1, (0, 5)).lost(release(1), (10, 300));
    lost.clone().take(2, 2, (11, 20)).is_legal();
    lost.clone().gone(renew(1), (20, 30)).is_legal();
    lost.clone().renew(1, (40, 50)).take(2, 2, (11, 30)).breaks(&[ORDER, BELIEF, SEARCH]);
    lost.renew(1, (40, 50)).take(2, 2, (11, 60)).breaks(&[BELIEF]);
}

#[test]
fn a_lease_that_lives_again_is_found() {
    let ended = Script::default().take(1, 1, (0, 5)).gone(renew(1), (1_000, 1_001));
    ended.renew(1, (1_100, 1_101)).breaks(&[IN_TIME, SEARCH]);
    let taken_over = Script::default().take(1, 1, (0, 5)).take(2, 2, (6, 1_000));
    taken_over.clone().renew(1, (1_010, 1_020)).breaks(&[ORDER, SEARCH]);
    taken_over.gone(renew(1), (1_010, 1_020)).is_legal();
}

#[test]
fn a_release_that_was_repeated_ends_the_lease_once() {
    let again = Script::default().take(1, 1, (0, 5)).release(1, (10, 12)).take(2, 2, (6, 13));
    again.release(1, (20, 22)).is_legal();
}

#[test]
fn readers_hold_together_and_a_writer_does_not_join_them() {
    let readers =
        Script::default().take_as(Mode::Shared, 1, 1, (0, 5)).take_as(Mode::Shared, 2, 2, (1, 9));
    readers.is_legal();
    readers.take(3, 3, (2, 20)).breaks(&[ORDER, BELIEF, SEARCH]);
}

#[test]
fn permits_are_never_more_than_there_are() {
    let two = Script::default().take_as(permits(2), 1, 1, (0, 5));
    let full = two.take_as(permits(1), 2, 2, (1, 9));
    full.is_legal();
    full.clone().take_as(permits(1), 3, 3, (2, 20)).breaks(&[ORDER, BELIEF, SEARCH]);
    full.clone().release(2, (30, 31)).take_as(permits(1), 3, 3, (2, 31)).is_legal();
    // One came free, and two were asked for.
    let short = full.release(2, (30, 31)).take_as(permits(2), 3, 3, (2, 40));
    short.breaks(&[ORDER, BELIEF, SEARCH]);
}

#[test]
fn permits_of_another_limit_do_not_mix() {
    let other = Mode::Permits { count: 1, limit: 9 };
    let mixed = Script::default().take_as(permits(1), 1, 1, (0, 5)).take_as(other, 2, 2, (1, 9));
    mixed.breaks(&[ORDER, BELIEF, SEARCH]);
}

#[test]
fn a_holder_that_was_seen_later_did_not_make_room() {
    // Which of two left is told by who was heard of afterwards.
    let two = Script::default()
        .take_as(permits(1), 1, 1, (0, 5))
        .take_as(permits(2), 2, 2, (1, 9))
        .take_as(permits(1), 3, 3, (1_100, 1_120))
        .renew(1, (1_110, 1_200));
    two.is_legal();
    two.renew(2, (1_130, 1_200)).breaks(&[ORDER, BELIEF, SEARCH]);
}

#[test]
fn a_repeat_is_answered_by_the_same_token() {
    let first = Script::default().take(1, 1, (0, 5));
    first.clone().take(1, 1, (6, 8)).is_legal();
    first.take(1, 2, (20, 25)).breaks(&[ONCE]);
}

#[test]
fn a_token_given_twice_is_found() {
    let twice = Script::default().take(1, 1, (0, 5)).release(1, (6, 7)).take(2, 1, (20, 25));
    twice.breaks(&[ONCE, SEARCH]);
}

#[test]
fn a_token_that_goes_back_is_found() {
    let back = Script::default().take(1, 9, (0, 5)).release(1, (6, 7)).take(2, 3, (20, 25));
    back.breaks(&[ORDER, REAL_TIME, SEARCH]);
}

#[test]
fn two_believers_at_once_are_found_whatever_the_leases_say() {
    let mut late = Script::default().take(1, 1, (0, 5)).take(2, 2, (500, 1_000));
    late.is_legal();
    if let Outcome::Ok(Answer::Granted { believed_until, .. }) = &mut late.0.operations[0].outcome {
        *believed_until = at(1_001);
    }
    late.breaks(&[BELIEF]);
}

#[test]
fn a_session_keeps_its_leases_and_ends_them() {
    let open = Call::OpenSession { session: 7, ttl_ms: 1_000 };
    let renewal = Call::RenewSession { session: 7, ttl_ms: 1_000 };
    let close = Call::CloseSession { session: 7 };
    let call = Call::Acquire {
        request: 1,
        asks: vec![exclusive("a")],
        wait_ms: 0,
        ttl_ms: None,
        session: Some(7),
    };
    let granted = Answer::Granted { tokens: vec![1], waited_ms: 0, believed_until: at(600) };
    let held = Script::default().push(open, (0, 1), Outcome::Ok(Answer::Done)).push(
        call,
        (500, 510),
        Outcome::Ok(granted),
    );
    held.clone().take(2, 2, (511, 989)).breaks(&[ORDER, SEARCH]);
    held.clone().take(2, 2, (511, 990)).is_legal();
    let renewed = held.clone().push(renewal, (700, 710), Outcome::Ok(Answer::Done));
    renewed.take(2, 2, (511, 1_600)).breaks(&[ORDER, SEARCH]);
    let closed = held.clone().push(close.clone(), (700, 710), Outcome::Ok(Answer::Done));
    closed.clone().take(2, 2, (511, 710)).is_legal();
    closed.look(seen(&[(1, 1)], &[], 1), (800, 801)).breaks(&[IN_TIME, SEARCH]);
    held.gone(close, (700, 710)).breaks(&[IN_TIME, SEARCH]);
}

#[test]
fn a_look_is_neither_stale_nor_ahead() {
    let held = Script::default().take(1, 5, (10, 20));
    held.clone().look(seen(&[(5, 1)], &[], 5), (21, 22)).is_legal();
    held.clone().look(seen(&[], &[], 4), (15, 22)).is_legal();
    held.clone().look(seen(&[], &[], 4), (21, 22)).breaks(&[IN_TIME, READS, SEARCH]);
    held.clone().look(seen(&[], &[], 5), (1, 2)).breaks(&[READS]);
    held.clone().look(seen(&[], &[], 5), (21, 22)).breaks(&[IN_TIME, SEARCH]);
    let released = held.release(1, (30, 31));
    released.clone().look(seen(&[(5, 1)], &[], 5), (32, 33)).breaks(&[IN_TIME, SEARCH]);
    released.look(seen(&[(5, 1)], &[], 5), (30, 33)).is_legal();
}

#[test]
fn a_look_at_holders_whose_answers_were_lost_is_judged_by_what_they_asked_for() {
    let lost = Script::default()
        .take(3, 1, (0, 5))
        .release(3, (6, 7))
        .lost(acquire(1, vec![exclusive("a")], 0), (10, 20))
        .lost(acquire(2, vec![exclusive("a")], 0), (10, 20));
    lost.clone().look(seen(&[(2, 1)], &[], 2), (30, 40)).is_legal();
    let both = lost.look(seen(&[(2, 1), (3, 2)], &[], 3), (30, 40));
    let verdict = check(&both.0);
    let (_, reads) =
        verdict.rules.iter().find(|(rule, _)| rule.starts_with(READS)).expect("a rule");
    assert!(matches!(reads, Found::Violation(why) if why.contains("more holders than fit")));
}

#[test]
fn a_look_at_holders_that_do_not_fit_is_found() {
    let two = Script::default().take(1, 1, (0, 5)).take(2, 2, (6, 1_000));
    two.clone().look(seen(&[(2, 2)], &[], 2), (995, 1_001)).is_legal();
    two.look(seen(&[(1, 1), (2, 2)], &[], 2), (995, 1_001)).breaks(&[READS, SEARCH]);
}

#[test]
fn a_refusal_names_who_holds() {
    let refused = |token, (called, returned)| {
        let refusal = Refusal { kind: "lock-held".to_owned(), holders: vec![token] };
        let call = acquire(9, vec![exclusive("a")], 0);
        let held = Script::default().take(1, 1, (0, 5)).release(1, (10, 12));
        held.take(2, 2, (1, 12)).push(call, (called, returned), Outcome::Failed(refusal))
    };
    refused(1, (6, 7)).is_legal();
    refused(2, (20, 21)).is_legal();
    refused(1, (20, 21)).breaks(&[ORDER, IN_TIME, SEARCH]);
}

#[test]
fn the_fence_knows_what_is_held() {
    let fence = |token, moments, held| {
        let call = Call::Fence { lock: "a".to_owned(), token };
        let script = Script::default().take(1, 1, (0, 5)).release(1, (10, 12));
        if held {
            return script.push(call, moments, Outcome::Ok(Answer::Done));
        }
        let refusal = Refusal { kind: "token-stale".to_owned(), holders: Vec::new() };
        script.push(call, moments, Outcome::Failed(refusal))
    };
    fence(1, (6, 8), true).is_legal();
    fence(1, (11, 14), false).is_legal();
    fence(1, (6, 8), false).breaks(&[IN_TIME, SEARCH]);
    fence(1, (13, 14), true).breaks(&[IN_TIME, SEARCH]);
}

#[test]
fn a_write_refused_to_a_believer_is_found() {
    let mut script = Script::default().take(1, 1, (0, 5));
    script.0.stranded.push(Stranded { lock: "a".to_owned(), token: 1, highest: 2, at: at(7) });
    script.breaks(&["B the guarded"]);
}

#[test]
fn a_value_is_the_last_that_was_written() {
    let one = Script::default().take(1, 1, (0, 5)).set(1, 70, (6, 7));
    one.clone().get(Some((70, 1)), (8, 9)).is_legal();
    one.clone().get(None, (8, 9)).breaks(&[VALUES, SEARCH]);
    one.clone().get(None, (6, 9)).is_legal();
    one.clone().get(Some((71, 1)), (8, 9)).breaks(&[VALUES, SEARCH]);
    one.clone().get(Some((70, 2)), (8, 9)).breaks(&[VALUES]);
    let again = one.clone().set(1, 71, (10, 11));
    again.clone().get(Some((70, 1)), (12, 13)).breaks(&[VALUES, SEARCH]);
    again.get(Some((70, 1)), (10, 13)).is_legal();
    let next = one.release(1, (20, 21)).take(2, 2, (15, 21)).set(2, 72, (22, 23));
    next.clone().get(Some((72, 2)), (30, 31)).is_legal();
    next.get(Some((70, 1)), (30, 31)).breaks(&[VALUES, SEARCH]);
}

#[test]
fn a_value_is_written_by_a_holder_only() {
    let late = Script::default().take(1, 1, (0, 5)).take(2, 2, (6, 1_000));
    late.set(1, 70, (1_001, 1_002)).breaks(&[ORDER, SEARCH]);
}

#[test]
fn a_lost_write_may_show_or_not() {
    let set = Call::SetValue { request: 1, lock: "a".to_owned(), value: 70 };
    let lost = Script::default().take(1, 1, (0, 5)).lost(set, (6, 7));
    lost.clone().get(Some((70, 1)), (8, 9)).is_legal();
    lost.clone().get(None, (8, 9)).is_legal();
    lost.get(Some((70, 1)), (8, 9)).get(None, (10, 11)).breaks(&[SEARCH]);
}

#[test]
fn who_stood_before_another_is_served_first() {
    let queue = |first, second| {
        Script::default()
            .take(1, 1, (0, 5))
            .look(seen(&[(1, 1)], &[2, 3], 1), (10, 12))
            .release(1, (20, 21))
            .take(2, first, (6, 60))
            .release(2, (60, 61))
            .take(3, second, (7, 62))
            .release(3, (62, 63))
    };
    queue(2, 3).is_legal();
    queue(3, 2).breaks(&[ORDER, QUEUE, SEARCH]);
}

#[test]
fn nobody_overtakes_who_was_seen_to_wait() {
    let overtakes = |asked| {
        Script::default()
            .take(1, 1, (0, 5))
            .look(seen(&[(1, 1)], &[2], 1), (10, 12))
            .release(1, (20, 21))
            .take(3, 2, (asked, 40))
            .release(3, (41, 42))
            .take(2, 3, (6, 60))
    };
    overtakes(13).breaks(&[QUEUE]);
    overtakes(11).is_legal();
}

#[test]
fn several_locks_are_granted_in_one_step() {
    let both = || vec![exclusive("a"), exclusive("b")];
    Script::default().take_all(both(), 1, vec![4, 5], (0, 5)).is_legal();
    Script::default().take_all(both(), 1, vec![4, 6], (0, 5)).breaks(&[MANY]);
    Script::default().take_all(both(), 1, vec![5, 4], (0, 5)).breaks(&[MANY]);
    Script::default().take_all(both(), 1, vec![4], (0, 5)).breaks(&[ONCE]);
}

#[test]
fn nobody_holds_one_lock_while_it_waits_for_another() {
    let look = |lock: &str, seen| {
        let call = Call::Look { lock: lock.to_owned() };
        move |script: Script, moments| script.push(call, moments, Outcome::Ok(Answer::Seen(seen)))
    };
    let other = Script::default().take(1, 1, (0, 5));
    let holds = look("b", seen(&[(2, 8)], &[], 2))(other.clone(), (10, 12));
    look("a", seen(&[(1, 1)], &[8], 2))(holds, (13, 14)).breaks(&[MANY]);
    let waits = look("a", seen(&[(1, 1)], &[8], 2))(other, (10, 12));
    look("b", seen(&[(2, 8)], &[], 2))(waits, (13, 14)).is_legal();
}

#[test]
fn who_was_refused_neither_holds_nor_waits() {
    let refused = |outcome: Outcome| {
        let other = Script::default().take(1, 1, (0, 5));
        other.push(acquire(8, vec![exclusive("b")], 500), (6, 10), outcome)
    };
    let look = |script: Script, seen, moments| {
        let call = Call::Look { lock: "b".to_owned() };
        script.push(call, moments, Outcome::Ok(Answer::Seen(seen)))
    };
    let no = |kind: &str| Outcome::Failed(Refusal { kind: kind.to_owned(), holders: Vec::new() });
    for seen in [seen(&[(2, 8)], &[], 2), seen(&[], &[8], 2)] {
        look(refused(no("wait-timeout")), seen.clone(), (11, 12)).breaks(&[REFUSED]);
        look(refused(no("unreachable")), seen.clone(), (11, 12)).breaks(&[REFUSED]);
        look(refused(no("wait-timeout")), seen.clone(), (10, 12)).is_legal();
        look(refused(no("lease-gone")), seen.clone(), (11, 12)).is_legal();
        look(refused(Outcome::Unknown("lost".to_owned())), seen, (11, 12)).is_legal();
    }
}
