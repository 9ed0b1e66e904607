//! Members that come and go while a cluster serves.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::cluster::{Cluster, eventually};
use crate::http::{Answer, ask};

fn invite(cluster: &Cluster, body: &str) -> Answer {
    cluster.insist("POST", "/v1/members", body)
}

fn roles(cluster: &Cluster) -> Vec<(u64, bool)> {
    let answer = cluster.insist("GET", "/v1/members", "");
    let members = answer.body["members"].as_array().expect("members").iter();
    let role = |it: &serde_json::Value| Some((it["id"].as_u64()?, it["voter"].as_bool()?));
    members.map(|it| role(it).expect("a member")).collect()
}

/// Waits until whoever is asked knows these members.
fn wait_roles(cluster: &Cluster, expected: &[(u64, bool)]) {
    let what = format!("the members are {expected:?}");
    eventually(&what, || (roles(cluster) == expected).then_some(()));
}

/// Lets a machine in and waits until it is ready.
fn let_in(cluster: &mut Cluster) -> (u64, String) {
    let invitation = invite(cluster, "{}");
    assert_eq!(invitation.status, 200, "{invitation:?}");
    let (id, token) = (invitation.number("node_id"), invitation.text("join_token"));
    assert_eq!(cluster.one_more(id), id);
    cluster.restart_with(id, &token);
    cluster.wait_ready(id);
    (id, token)
}

fn is_refused(cluster: &mut Cluster, id: u64, why: &str) {
    assert_eq!(cluster.wait_exit(id), 5, "{}", cluster.log(id));
    assert!(cluster.log(id).contains(why), "{}", cluster.log(id));
}

/// Takes and releases one lock, over and over, at all of these; every token must be above the last,
/// and nothing may fail but for want of a leader.
fn work(apis: &[String], stop: &AtomicBool, done: &AtomicU64) {
    let (mut turn, mut last) = (0, 0);
    while !stop.load(Ordering::Relaxed) {
        turn += 1;
        let api = &apis[turn % apis.len()];
        let body = r#"{"owner":"worker","ttl_ms":5000,"wait_ms":5000}"#;
        let granted = ask(api, "POST", "/v1/locks/load", body, Duration::from_secs(20));
        // A node that was removed, or a leader that was lost, answers nothing.
        let Ok(granted) = granted else { continue };
        match granted.status {
            200 => {}
            // An answer that was lost left its lease behind.
            409 | 503 | 504 => continue,
            other => panic!("{other}: {granted:?}"),
        }
        let token = granted.number("token");
        assert!(token > last, "{token} after {last}");
        last = token;
        let path = format!("/v1/leases/{}", granted.text("lease_id"));
        for api in apis.iter().cycle().take(20 * apis.len()) {
            match ask(api, "DELETE", &path, "", Duration::from_secs(20)) {
                Ok(released) if released.status == 200 => break,
                Ok(released) if matches!(released.status, 503 | 504) => {}
                Ok(released) => panic!("{released:?}"),
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
        done.fetch_add(1, Ordering::Relaxed);
    }
}

struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn f60_a_member_joins_by_a_token_and_the_leader_is_removed_under_load() {
    let mut cluster = Cluster::start();
    let kept = cluster.acquire("kept", r#"{"owner":"me","ttl_ms":600000}"#);
    let apis: Vec<String> = cluster.nodes.iter().map(|node| node.api.clone()).collect();
    let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| work(&apis, &stop, &done));
        let _stop = Stop(&stop);
        let (id, token) = let_in(&mut cluster);
        assert_eq!(id, 4);
        wait_roles(&cluster, &[(1, true), (2, true), (3, true), (4, false)]);
        let promoted = cluster.insist("POST", "/v1/members/4/promote", "");
        assert_eq!(promoted.status, 200, "{promoted:?}");
        assert_eq!(promoted.text("is_now"), "voter");

        // The same token on another disk, and the same id once more.
        let twin = cluster.one_more(4);
        cluster.restart_with(twin, &token);
        is_refused(&mut cluster, twin, "was used by another machine");
        let again = invite(&cluster, r#"{"node_id":4}"#);
        assert_eq!(
            (again.status, again.text("type").as_str()),
            (409, "member-id-used"),
            "{again:?}"
        );
        // One that would leave none for those to come.
        let last = invite(&cluster, r#"{"node_id":18446744073709551615}"#);
        assert_eq!((last.status, last.text("type").as_str()), (400, "bad-request"), "{last:?}");

        let leader = cluster.leader(None);
        let removed = cluster.insist("DELETE", &format!("/v1/members/{leader}"), "");
        assert_eq!(removed.status, 200, "{removed:?}");
        is_refused(&mut cluster, leader, "it was removed from this cluster");
        let next = cluster.leader(Some(leader));
        let left: Vec<_> = (1..=4).filter(|id| *id != leader).map(|id| (id, true)).collect();
        wait_roles(&cluster, &left);
        cluster.restart(leader);
        is_refused(&mut cluster, leader, "let it join under a new id");

        let second = (1..=4).find(|id| *id != leader && *id != next).expect("another");
        let path = format!("/v1/members/{second}");
        let refused = cluster.insist("DELETE", &path, "");
        assert_eq!(
            (refused.status, refused.text("type").as_str()),
            (409, "quorum-at-risk"),
            "{refused:?}"
        );
        let before = done.load(Ordering::Relaxed);
        eventually("work goes on", || (done.load(Ordering::Relaxed) > before + 20).then_some(()));
        let forced = cluster.insist("DELETE", &format!("{path}?force=true"), "");
        assert_eq!(forced.status, 200, "{forced:?}");
        is_refused(&mut cluster, second, "it was removed from this cluster");
    });
    assert!(done.load(Ordering::Relaxed) > 20);
    let lock = cluster.insist("GET", "/v1/locks/kept", "");
    assert_eq!(lock.body["holders"][0]["token"], kept.number("token"));
    assert_eq!(invite(&cluster, "{}").number("node_id"), 5);
    // Who is in needs no token any more.
    let alive = roles(&cluster);
    assert!(alive.contains(&(4, true)) || alive.len() == 2, "{alive:?}");
    let id = alive.iter().map(|(id, _)| *id).max().expect("a member");
    cluster.kill(id);
    cluster.restart(id);
    cluster.wait_ready(id);
}

#[test]
fn f61_tokens_that_expired_or_are_not_of_this_cluster_open_nothing() {
    let mut cluster = Cluster::start();
    let invitation = invite(&cluster, r#"{"ttl_ms":1000}"#);
    // On the same clock.
    cluster.acquire("second", r#"{"owner":"me","ttl_ms":1100}"#);
    eventually("a second has passed", || {
        (cluster.insist("GET", "/v1/locks/second", "").body["held"] == false).then_some(())
    });
    let word = invitation.text("join_token");
    assert_eq!(cluster.one_more(4), 4);
    cluster.restart_with(4, &word);
    is_refused(&mut cluster, 4, "the join token has expired");
    for (token, why) in [
        ("hello", "this is not a join token"),
        (&word.replace("-4-", "-5-"), "the join token is for node 5"),
        (
            "oarlock1-00000000000000000000000000000007-4-00000000000000000000000000000008",
            "is of another cluster",
        ),
    ] {
        cluster.restart_with(4, token);
        is_refused(&mut cluster, 4, why);
    }
    let (secret_at, digit) = (word.len() - 1, if word.ends_with('0') { "1" } else { "0" });
    cluster.restart_with(4, &format!("{}{digit}", &word[..secret_at]));
    is_refused(&mut cluster, 4, "the cluster knows no such join token");
    // Without a token it neither forms a cluster nor joins one.
    cluster.restart(4);
    is_refused(&mut cluster, 4, "start it with its join token again");
    assert_eq!(roles(&cluster).len(), 3);
    let log = cluster.log(4);
    assert!(!log.contains(&word[word.len() - 32..]), "the secret is in the log");
}

#[test]
fn f94_a_machine_that_leads_the_others_astray_is_not_let_in() {
    let mut cluster = Cluster::start();
    let token = invite(&cluster, "{}").text("join_token");
    assert_eq!(cluster.one_more(4), 4);
    let right = std::fs::read_to_string(cluster.config(4)).expect("a config");
    let wrong = format!("{right}advertise_peer_address = \"169.254.169.254:80\"\n");
    std::fs::write(cluster.config(4), wrong).expect("a config");
    cluster.restart_with(4, &token);
    is_refused(&mut cluster, 4, "no member can reach it at 169.254.169.254:80");
    assert_eq!(roles(&cluster).len(), 3);
    // With its own address it comes in by the same token.
    std::fs::write(cluster.config(4), right).expect("a config");
    cluster.restart_with(4, &token);
    cluster.wait_ready(4);
    assert_eq!(roles(&cluster).len(), 4);
}

#[test]
fn f62_a_member_is_replaced_in_one_change() {
    let mut cluster = Cluster::start();
    let leader = cluster.leader(None);
    let (new, _) = let_in(&mut cluster);
    let unknown = cluster.insist("POST", &format!("/v1/members/{leader}/replace"), r#"{"with":9}"#);
    assert_eq!(
        (unknown.status, unknown.text("type").as_str()),
        (404, "member-unknown"),
        "{unknown:?}"
    );
    let replaced = cluster.insist(
        "POST",
        &format!("/v1/members/{leader}/replace"),
        &format!(r#"{{"with":{new}}}"#),
    );
    assert_eq!(replaced.status, 200, "{replaced:?}");
    is_refused(&mut cluster, leader, "it was removed from this cluster");
    let expected: Vec<(u64, bool)> =
        (1..=new).filter(|id| *id != leader).map(|id| (id, true)).collect();
    wait_roles(&cluster, &expected);
    let taken = cluster.acquire("after", r#"{"owner":"me","ttl_ms":60000}"#);
    assert_eq!(taken.status, 200, "{taken:?}");
}
