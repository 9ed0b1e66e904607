//! What whoever keeps an audit hears of calls: at the node that was asked, with the credential.

use super::*;
use crate::auth::credential::Quotas;
use crate::auth::right::{Right, Scope, Verb};
use crate::service::called::End;
use crate::service::gate::{Caller, Shown};
use crate::service::tokens::Wanted;

type Heard = Arc<Mutex<Vec<String>>>;

/// Identity, what was asked for, the locks that were named, and the end.
fn hear<R: Replicator>(service: &Service<R>) -> Heard {
    let heard = Heard::default();
    let told = Arc::clone(&heard);
    service.on_called(Box::new(move |called| {
        let end = match called.end {
            End::Answered(reply) => match &reply.body {
                ReplyBody::Outcome(Outcome::Granted(_)) => "granted".to_owned(),
                ReplyBody::Outcome(Outcome::Rejected(_)) => "rejected".to_owned(),
                _ => "answered".to_owned(),
            },
            End::Failed(error) => error.to_string(),
            End::Unheard => "unheard".to_owned(),
        };
        let locks: Vec<&str> = called.locks.iter().map(LockName::as_str).collect();
        let line = format!("{} {} [{}] {end}", called.identity, called.asked, locks.join(" "));
        told.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }));
    heard
}

fn taken(heard: &Heard) -> Vec<String> {
    std::mem::take(&mut *heard.lock().unwrap_or_else(PoisonError::into_inner))
}

fn wanted(name: &str, rights: Vec<Right>) -> Wanted {
    let quotas = Quotas::default();
    Wanted { name: name.to_owned(), certificate: false, rights, ttl_ms: None, quotas }
}

/// The administrator: its id, and its word.
async fn first_of<R: Replicator>(service: &Service<R>) -> (String, String) {
    let nobody = Caller::default();
    let made = service.create_credential(&nobody, wanted("root", Right::all()), true).await;
    let (id, key) = made.expect("an answer").expect("made");
    (id, key.expect("a key").word())
}

fn known<R: Replicator>(service: &Service<R>, word: &str) -> Caller {
    service.identify(Shown::Key(word), format_args!("a test")).expect("known")
}

#[tokio::test(start_paused = true)]
async fn what_changes_something_is_told_with_who_asked_and_renewals_are_not() {
    let (_solo, service) = leader();
    let heard = hear(&service);
    service.call(take_any(1), REQUEST_DEADLINE).await.expect("open to anybody");
    assert_eq!(taken(&heard), [] as [&str; 0], "nobody is asked who they are");
    service.call(Call::Propose(release(1)), REQUEST_DEADLINE).await.expect("released");

    let (id, key) = first_of(&service).await;
    assert_eq!(taken(&heard), [format!("anonymous create-token {id} [] answered")]);
    let root = known(&service, &key);
    let call = async |call| service.call_as(&root, call, REQUEST_DEADLINE).await;
    call(take_any(2)).await.expect("granted");
    call(Call::Propose(Command::Renew { lease_id: LeaseId(2) })).await.expect("renewed");
    call(Call::Read(Query::Lease(LeaseId(2)))).await.expect("read");
    call(take_any(3)).await.expect("told");
    call(Call::Propose(release(2))).await.expect("released");
    let secret = service.revoke_credential(&root, &key).await;
    assert_eq!(secret, Ok(Ok(false)), "the word itself is no id");
    let by = format!("root/{id}");
    assert_eq!(
        taken(&heard),
        [
            format!("{by} acquire [deploy] granted"),
            format!("{by} acquire [deploy] rejected"),
            format!("{by} release [] answered"),
            format!("{by} revoke-token [] answered"),
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn who_is_denied_or_hangs_up_is_told_of_too() {
    let (_solo, service) = leader();
    let (root_id, key) = first_of(&service).await;
    let root = known(&service, &key);
    let narrow = vec!["acquire:ci/".parse().expect("a right")];
    let (id, key) = service
        .create_credential(&root, wanted("ci", narrow), false)
        .await
        .expect("an answer")
        .expect("made");
    let ci = known(&service, &key.expect("a key").word());
    let heard = hear(&service);
    let denied = |asked: &str, why: &str| {
        let lines = taken(&heard);
        let begins = format!("ci/{id} {asked} ");
        let fits = lines.len() == 1 && lines[0].starts_with(&begins) && lines[0].contains(why);
        assert!(fits, "{asked}: {lines:?}");
    };
    service.call_as(&ci, take_any(1), REQUEST_DEADLINE).await.expect_err("no right");
    denied("acquire", "lacks the right acquire over `deploy`");
    let query = || Query::Lock { name: name(), waiters_max: 1 };
    service.call_as(&ci, Call::Read(query()), REQUEST_DEADLINE).await.expect_err("no right");
    denied("read", "lacks the right inspect");
    service.stale_as(&ci, query()).expect_err("no right");
    denied("read", "lacks the right inspect");
    service.permit(&ci, Verb::Force, Scope::Name("deploy")).expect_err("no right");
    denied("force", "lacks the right force");
    let verbs = [Verb::Inspect, Verb::Admin];
    service.permit_one_of(&ci, &verbs, format_args!("GET /v1/x")).expect_err("no right");
    denied("GET /v1/x", "lacks the right inspect");
    let shown = Shown::Key("oarkey1-0000000000000000-00000000000000000000000000000000");
    service.identify(shown, format_args!("GET /v1/x")).expect_err("unknown");
    assert!(taken(&heard)[0].starts_with("an unknown token GET /v1/x [] "));
    let nobody = Caller::default();
    service.call_as(&nobody, take_any(1), REQUEST_DEADLINE).await.expect_err("nobody");
    assert!(taken(&heard)[0].starts_with("anonymous acquire [deploy] "));

    service.call_as(&root, take_any(2), REQUEST_DEADLINE).await.expect("granted");
    let waits = acquire(4, 60_000, None);
    let waiting = service.call_as(&root, waits, deadline_of(&acquire(4, 60_000, None)));
    assert!(tokio::time::timeout(Duration::from_secs(1), waiting).await.is_err(), "it waits");
    let told = taken(&heard);
    assert_eq!(told.last(), Some(&format!("root/{root_id} acquire [deploy] unheard")));
}

/// Without a wait, of the usual lock.
fn take_any(id: u128) -> Call {
    acquire(id, 0, None)
}
