//! Quotas of locks and sessions: the leader counts them for each credential, whatever node was asked.

use oarlock_core::command::OpenSession;
use oarlock_core::ids::SessionId;

use super::doubts::{Scripted, Upset};
use super::*;
use crate::auth::credential::Quotas;
use crate::auth::right::Right;
use crate::service::gate::{Caller, Shown};
use crate::service::tokens::Wanted;

fn bounded(locks: Option<u32>, sessions: Option<u32>) -> Wanted {
    let quotas = Quotas { locks, sessions, ..Quotas::default() };
    let rights = vec!["acquire".parse().expect("a right")];
    Wanted { name: "one".to_owned(), certificate: false, rights, ttl_ms: None, quotas }
}

/// The id of a credential with these bounds, in a closed cluster.
async fn credential<R: Replicator>(service: &Service<R>, wanted: Wanted) -> String {
    let first = Wanted { rights: Right::all(), ..bounded(None, None) };
    let made = service.create_credential(&Caller::default(), first, true).await;
    let key = made.expect("an answer").expect("made").1.expect("a key");
    let admin = service.identify(Shown::Key(&key.word()), format_args!("a test")).expect("known");
    service.create_credential(&admin, wanted, false).await.expect("an answer").expect("made").0
}

/// The same of another lock.
fn on(name: &str, call: Call) -> Call {
    let Call::Propose(Command::Acquire(mut acquire)) = call else { panic!("an acquire") };
    acquire.name = LockName::new(name).expect("a name");
    Call::Propose(Command::Acquire(acquire))
}

/// A lock of its own for each lease.
fn take(id: u128, request: Option<u128>) -> Call {
    on(&format!("lock-{id}"), acquire(id, 0, request))
}

/// The same under a session.
fn under(session: u128, call: Call) -> Call {
    let Call::Propose(Command::Acquire(mut acquire)) = call else { panic!("an acquire") };
    acquire.term = LeaseTerm::Session(SessionId(session));
    Call::Propose(Command::Acquire(acquire))
}

fn open(id: u128) -> Call {
    Call::Propose(Command::OpenSession(OpenSession {
        session_id: SessionId(id),
        owner: Owner::new("me").expect("an owner"),
        ttl: Ttl::new(30_000).expect("a TTL"),
        request_id: None,
        metadata: Metadata::default(),
    }))
}

fn is_over(answer: &Result<Reply, ServiceError>) -> bool {
    matches!(answer, Err(ServiceError::OverQuota { .. }))
}

#[tokio::test(start_paused = true)]
async fn a_credential_holds_no_more_locks_and_sessions_than_its_quota() {
    let (_solo, service) = leader();
    let one = credential(&service, bounded(Some(2), Some(1))).await;
    let by = async |call| service.call_of_peer(Some(one.clone()), call).await;
    assert!(by(take(1, Some(91))).await.is_ok() && by(take(2, None)).await.is_ok());
    let refused = by(take(3, None)).await;
    assert!(is_over(&refused), "{refused:?}");
    let told = refused.expect_err("refused");
    assert!(told.is_not_done() && told.to_string().contains("2 locks"), "{told}");
    // A repeat takes nothing more, and must not be told that nothing was done.
    let repeat = on("lock-1", take(8, Some(91)));
    let repeat = by(repeat).await.expect("answered by the first one's lease");
    let ReplyBody::Outcome(Outcome::Granted(grant)) = repeat.body else { panic!("{repeat:?}") };
    assert_eq!(grant.lease_id, LeaseId(1));
    // Nobody's own bounds are another's.
    assert!(service.call_of_peer(None, take(9, None)).await.is_err(), "nobody is asked for");
    assert!(by(Call::Propose(release(2))).await.is_ok());
    assert!(by(take(4, None)).await.is_ok(), "what ended counts no more");
    assert!(is_over(&by(take(5, None)).await));
    sleep(Duration::from_secs(31)).await;
    settle().await;
    assert!(by(take(6, None)).await.is_ok(), "nor does what ran out");

    assert!(by(open(71)).await.is_ok());
    let refused = by(open(72)).await;
    assert!(is_over(&refused) && format!("{refused:?}").contains("sessions"), "{refused:?}");
    let close = Command::CloseSession { session_id: SessionId(71) };
    assert!(by(Call::Propose(close)).await.is_ok() && by(open(73)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_refused_lock_does_not_count_and_a_new_leader_learns_by_renewals() {
    let (solo, service) = leader();
    let one = credential(&service, bounded(Some(2), None)).await;
    let by = async |call| service.call_of_peer(Some(one.clone()), call).await;
    assert!(by(take(1, None)).await.is_ok());
    for id in 20..30 {
        let held = by(on("lock-1", take(id, None))).await.expect("an answer");
        assert!(matches!(held.body, ReplyBody::Outcome(Outcome::Rejected(_))), "{held:?}");
    }
    assert!(by(take(2, None)).await.is_ok(), "what was refused is not there");

    // The same state under another service, as under a new leader.
    let options = Options::default();
    let next = Service::new(Arc::clone(&solo), Arc::new(Silent), counting_ids(), options);
    let by = async |call| next.call_of_peer(Some(one.clone()), call).await;
    for id in [1, 2] {
        let renew = Command::Renew { lease_id: LeaseId(id) };
        assert!(by(Call::Propose(renew)).await.is_ok());
    }
    assert!(is_over(&by(take(3, None)).await), "two were renewed here");
    // Their ends were heard by the other one; after a while that is found out.
    service.call_of_peer(Some(one.clone()), Call::Propose(release(1))).await.expect("released");
    sleep(Duration::from_secs(11)).await;
    assert!(by(take(4, None)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_second_try_finds_its_own_booking() {
    let (_solo, service) = leader();
    let one = credential(&service, bounded(None, Some(1))).await;
    let by = async |call| service.call_of_peer(Some(one.clone()), call).await;
    assert!(by(open(1)).await.is_ok());
    let again = by(open(1)).await;
    assert!(again.is_ok(), "{again:?}");
    assert!(is_over(&by(open(2)).await));
}

#[tokio::test(start_paused = true)]
async fn a_new_leader_books_a_session_with_all_its_leases_once_it_is_renewed_or_used() {
    let (solo, service) = leader();
    let one = credential(&service, bounded(Some(3), None)).await;
    let by = async |call| service.call_of_peer(Some(one.clone()), call).await;
    assert!(by(open(71)).await.is_ok());
    for id in [1, 2, 3] {
        assert!(by(under(71, take(id, None))).await.is_ok());
    }
    let renew = || Call::Propose(Command::RenewSession { session_id: SessionId(71) });
    for first in [renew(), under(71, take(4, None))] {
        // The same state under another service, as under a new leader.
        let options = Options::default();
        let next = Service::new(Arc::clone(&solo), Arc::new(Silent), counting_ids(), options);
        let by = async |call| next.call_of_peer(Some(one.clone()), call).await;
        let answer = by(first.clone()).await;
        assert_eq!(is_over(&answer), first != renew(), "{answer:?}");
        assert!(is_over(&by(take(5, None)).await));
    }
}

#[tokio::test(start_paused = true)]
async fn who_leads_again_learns_what_a_session_took_under_others() {
    let (solo, service) = leader();
    let one = credential(&service, bounded(Some(2), Some(5))).await;
    let by = async |call| service.call_of_peer(Some(one.clone()), call).await;
    assert!(by(open(71)).await.is_ok());
    // Another node led, and granted these.
    for id in [1, 2] {
        let Call::Propose(command) = under(71, take(id, None)) else { panic!("a command") };
        assert!(matches!(solo.apply(command), Ok(Outcome::Granted(_))));
    }
    solo.set_leadership(serves(3));
    assert!(is_over(&by(under(71, take(3, None))).await));
}

#[tokio::test(start_paused = true)]
async fn a_repeat_that_comes_before_its_first_was_applied_shares_its_booking() {
    let (replicator, service) = Scripted::new(Vec::new());
    let one = credential(&service, bounded(Some(1), None)).await;
    let by = async |call| Upcalls::call(&*service, Some(one.clone()), call).await;
    let repeat = || on("lock-1", take(2, Some(91)));
    let second = Duration::from_secs(1);
    replicator.then(Upset::Delayed(second));
    let (first, repeated) = tokio::join!(by(take(1, Some(91))), by(repeat()));
    assert_eq!(first.expect("granted").body, repeated.expect("the same").body);
    assert!(is_over(&by(take(3, None)).await), "one lock is held");
    assert!(by(Call::Propose(release(2))).await.is_ok());

    // The first one's client hung up, and its fate is not known.
    replicator.then(Upset::Hangs);
    let hung_up = tokio::time::timeout(second, by(take(5, Some(92)))).await;
    assert!(hung_up.is_err());
    assert!(by(on("lock-5", take(6, Some(92)))).await.is_ok());
    assert!(is_over(&by(take(7, None)).await));
    // What is refused to all calls of a request leaves nothing behind.
    assert!(by(Call::Propose(release(6))).await.is_ok());
    let busy = || Upset::Answers(ProposeError::NotDone("busy"));
    replicator.then(busy());
    replicator.then(busy());
    let (first, repeated) =
        tokio::join!(by(take(8, Some(93))), by(on("lock-8", take(9, Some(93)))));
    assert!(first.is_err() && repeated.is_err());
    assert!(by(take(10, None)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_call_that_hung_up_before_its_refusal_leaves_no_booking() {
    let (replicator, service) = Scripted::new(Vec::new());
    let one = credential(&service, bounded(Some(1), None)).await;
    let by = async |call| Upcalls::call(&*service, Some(one.clone()), call).await;
    replicator.then(Upset::Hangs);
    let hung_up = tokio::time::timeout(Duration::from_millis(10), by(take(1, None))).await;
    assert!(hung_up.is_err());
    let next = by(take(2, None)).await;
    assert!(next.is_ok(), "the machine does not know the first one: {next:?}");
}
