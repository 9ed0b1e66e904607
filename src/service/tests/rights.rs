//! The gate between two nodes: the leader has the last word, and a change of the credentials is seen
//! at once where it was applied.

use oarlock_core::command::Expected;
use oarlock_core::ids::{RecordKey, RecordValue};
use oarlock_core::time::LeaseTime;

use super::doubts::{Scripted, Upset};
use super::*;
use crate::auth::credential::{Quotas, RECORDS};
use crate::auth::key::Key;
use crate::auth::right::{Right, Scope, Verb};
use crate::service::gate::{Caller, Shown};
use crate::service::tokens::{TokensRefusal, Wanted};

fn wanted(rights: &[&str], ttl_ms: Option<u64>) -> Wanted {
    Wanted {
        name: "one".to_owned(),
        certificate: false,
        rights: rights.iter().map(|text| text.parse().expect("a right")).collect(),
        ttl_ms,
        quotas: Quotas::default(),
    }
}

/// The administrator, and a token with those rights: its id and its word.
async fn closed<R: Replicator>(service: &Service<R>, rights: &[&str]) -> (Caller, String, String) {
    let first = Wanted { rights: Right::all(), ..wanted(&[], None) };
    let made = service.create_credential(&Caller::default(), first, true).await;
    let (_, key) = made.expect("an answer").expect("made");
    let word = key.expect("a key").word();
    let admin = service.identify(Shown::Key(&word), format_args!("a test")).expect("known");
    let made = service.create_credential(&admin, wanted(rights, None), false).await;
    let (id, key) = made.expect("an answer").expect("made");
    (admin, id, key.expect("a key").word())
}

#[tokio::test(start_paused = true)]
async fn a_leader_decides_again_what_a_follower_let_in() {
    let pair = follower_of(&[]);
    let (admin, id, word) = closed(&pair.far, &["acquire:deploy"]).await;
    // The follower has heard of no credential, and lets everybody in.
    assert!(!pair.near.is_gate_closed());
    let refused = ask(&pair.near, acquire(7, 0, None)).await;
    assert!(matches!(refused, Err(ServiceError::Unauthenticated(_))), "{refused:?}");
    let by = |by: &str, call: Call| pair.far.call_of_peer(Some(by.to_owned()), call);
    assert!(by(&id, acquire(7, 0, None)).await.is_ok());
    let other = Call::Propose(Command::DeleteValue { name: LockName::new("x").expect("a name") });
    let refused = by(&id, other).await;
    assert!(matches!(refused, Err(ServiceError::Forbidden(_))), "{refused:?}");
    let refused = by("0123456789abcdef", acquire(8, 0, None)).await;
    assert!(matches!(refused, Err(ServiceError::Unauthenticated(_))), "{refused:?}");

    let caller = pair.far.identify(Shown::Key(&word), format_args!("a test")).expect("known");
    let revoked = pair.far.revoke_credential(&admin, &id).await;
    assert_eq!(revoked, Ok(Ok(true)));
    let refused = by(&id, Call::Propose(release(7))).await;
    assert!(matches!(refused, Err(ServiceError::Unauthenticated(_))), "{refused:?}");
    // Nor does it help to have been let in before.
    assert!(pair.far.permit(&caller, Verb::Acquire, Scope::Any).is_err());
    assert_eq!(pair.far.revoke_credential(&admin, &id).await, Ok(Ok(false)));
}

#[tokio::test(start_paused = true)]
async fn what_is_forwarded_carries_the_name_of_its_caller() {
    let pair = follower_of(&[]);
    let (_, id, word) = closed(&pair.far, &["acquire"]).await;
    // The follower applies the same log.
    for (key, record) in pair.far_solo.with_machine(|machine| {
        let all = machine.cluster_records("auth/");
        all.map(|(key, it)| (key.clone(), it.value.clone())).collect::<Vec<_>>()
    }) {
        let expected = Expected::Anything;
        pair.follower.near.set_leadership(serves(1));
        let put = Command::PutRecord { key, value: Some(record), expected };
        pair.follower.near.propose(put).await.expect("applied");
    }
    pair.follower.near.set_leadership(leads(2, 1));
    pair.near.keep_gate_now();
    let caller =
        pair.near.identify(Shown::Key(&word), format_args!("a test")).expect("known there as well");
    assert_eq!(caller.name(), "one");
    let call = acquire(7, 0, None);
    let deadline = deadline_of(&call);
    let reply = pair.near.call_as(&caller, call, deadline).await.expect("let in by both");
    assert!(matches!(reply.body, ReplyBody::Outcome(Outcome::Granted(_))), "{reply:?}");
    let by = pair.follower.by.lock().unwrap_or_else(PoisonError::into_inner).clone();
    assert_eq!(by, [Some(id)]);
}

#[tokio::test(start_paused = true)]
async fn a_credential_ends_by_the_lease_clock_at_both_ends() {
    let (solo, service) = leader();
    let (admin, _, _) = closed(&service, &["inspect"]).await;
    let made = service.create_credential(&admin, wanted(&["acquire"], Some(60_000)), false).await;
    let (id, key) = made.expect("an answer").expect("made");
    let word = key.expect("a key").word();
    assert!(service.identify(Shown::Key(&word), format_args!("a test")).is_ok());
    assert!(solo.lease_now() < LeaseTime(60_000_000));
    sleep(Duration::from_secs(61)).await;
    assert!(service.identify(Shown::Key(&word), format_args!("a test")).is_err());
    let refused = service.call_of_peer(Some(id), acquire(7, 0, None)).await;
    assert!(matches!(refused, Err(ServiceError::Unauthenticated(_))), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn of_two_revocations_at_once_one_finds_the_last_administrator() {
    let slow = || Some(Upset::Delayed(Duration::from_secs(1)));
    let (_replicator, service) = Scripted::new(vec![None, None, slow(), slow(), slow(), slow()]);
    let (admin, other, word) = closed(&service, &["admin"]).await;
    let first = service.credentials().into_iter().find(|(it, _)| it.id != other).expect("there").0;
    let another = service.identify(Shown::Key(&word), format_args!("a test")).expect("known");
    let (one, two) = tokio::join!(
        service.revoke_credential(&admin, &other),
        service.revoke_credential(&another, &first.id),
    );
    let done = [&one, &two].into_iter().filter(|it| **it == Ok(Ok(true))).count();
    assert_eq!(done, 1, "{one:?} {two:?}");
    assert!([one, two].contains(&Ok(Err(TokensRefusal::LastAdmin))));
    assert!(service.is_gate_closed());
}

#[tokio::test(start_paused = true)]
async fn a_leader_asks_again_who_calls() {
    let (solo, service) = leader();
    solo.set_leadership(Leadership::default());
    let call = start(&service, acquire(7, 0, None));
    settle().await;
    let key = RecordKey::new(&format!("{RECORDS}0123456789abcdef")).expect("a key");
    let value = Some(RecordValue::new(b"of a newer version").expect("a value"));
    let expected = Expected::Absent;
    solo.apply(Command::PutRecord { key, value, expected }).expect("applied");
    solo.set_leadership(serves(3));
    let refused = call.await.expect("no panic");
    assert!(matches!(refused, Err(ServiceError::Unauthenticated(_))), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn a_key_of_the_configuration_opens_when_no_other_does_and_every_use_is_told() {
    let pair = follower_of(&[]);
    let (_admin, _, _) = closed(&pair.far, &["inspect"]).await;
    let spare = Key::new(1, 77);
    let shown = spare.word();
    let open = || pair.far.identify(Shown::Key(&shown), format_args!("GET /v1/tokens"));
    assert!(open().is_err(), "it is configured nowhere");
    let heard = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&heard);
    pair.far.on_break_glass(Box::new(move |asked| {
        told.lock().unwrap_or_else(PoisonError::into_inner).push(asked.to_owned());
    }));
    assert!(pair.far.set_break_glass(Some(spare.hash())));
    assert!(!pair.far.set_break_glass(Some(spare.hash())), "that is no change");
    let caller = open().expect("no other way is left");
    assert_eq!(caller.name(), "break-glass");
    for verb in Verb::ALL {
        pair.far.permit(&caller, verb, Scope::Any).expect("all rights");
    }
    let made = pair.far.create_credential(&caller, wanted(&["admin"], None), false).await;
    assert!(matches!(made, Ok(Ok(_))), "{made:?}");
    assert_eq!(*heard.lock().unwrap_or_else(PoisonError::into_inner), ["GET /v1/tokens"]);

    // The leader takes the word of a member, but not for what only the cluster itself does.
    let by = |call| pair.far.call_of_peer(Some("break-glass".to_owned()), call);
    assert!(by(acquire(9, 0, None)).await.is_ok());
    let refused = by(Call::Propose(Command::Advance)).await;
    assert!(matches!(refused, Err(ServiceError::Forbidden(_))), "{refused:?}");

    assert!(pair.far.set_break_glass(None));
    assert!(open().is_err(), "and it is over with the setting");
    assert!(pair.far.permit(&caller, Verb::Admin, Scope::Any).is_err());
}

#[tokio::test(start_paused = true)]
async fn time_passes_in_the_log_of_an_idle_cluster_while_a_token_may_run_out() {
    let (solo, service) = leader();
    let (admin, _, _) = closed(&service, &["inspect"]).await;
    sleep(Duration::from_mins(10)).await;
    let applied = || solo.with_machine(Machine::now);
    assert!(applied() < LeaseTime(60_000_000), "nothing runs out, and nothing is written");
    let made =
        |ttl_ms| service.create_credential(&admin, wanted(&["inspect"], Some(ttl_ms)), false);
    let (_, key) = made(3_600_000).await.expect("an answer").expect("made");
    let word = key.expect("a key").word();
    let began = applied();
    // What a change of leaders forgets is what passed since the last entry.
    sleep(Duration::from_mins(30)).await;
    assert!(applied() >= began.plus_ms(28 * 60_000), "{:?}", applied());
    // And a follower knows no other time than that of the last entry.
    sleep(Duration::from_millis(30 * 60_000 + 100)).await;
    assert!(applied() >= began.plus_ms(3_600_000), "{:?}", applied());
    assert!(service.identify(Shown::Key(&word), format_args!("a test")).is_err());
    let over = applied();
    sleep(Duration::from_mins(10)).await;
    assert_eq!(applied(), over, "nothing is left to run out");
}
