//! What clients see of a healthy cluster: followers answer, waiters are served, repeats are safe.

use std::sync::Barrier;
use std::time::Duration;

use crate::cluster::{Cluster, eventually};
use crate::http::{ask, send_only};

const LONG: Duration = Duration::from_secs(40);

#[test]
fn every_node_answers_and_a_waiter_gets_the_lock_when_it_is_released() {
    let cluster = Cluster::start();
    let first = cluster.acquire("a/b", r#"{"owner":"one","ttl_ms":60000}"#);
    assert_eq!((first.status, first.number("token")), (200, 1));
    for id in 1..=3 {
        let lock = cluster.get(id, "/v1/locks/a/b").expect("an answer");
        assert_eq!(lock.body["holders"][0]["owner"], "one");
        let refused = ask(
            cluster.api(id),
            "POST",
            "/v1/locks/a/b",
            r#"{"owner":"two","ttl_ms":60000}"#,
            LONG,
        );
        let refused = refused.expect("an answer");
        assert_eq!((refused.status, refused.text("type").as_str()), (409, "lock-held"));
        assert!(refused.text("detail").contains("one"), "a refusal names the holder");
    }
    std::thread::scope(|scope| {
        let waiter = scope
            .spawn(|| cluster.acquire("a/b", r#"{"owner":"two","ttl_ms":60000,"wait_ms":30000}"#));
        eventually("it waits", || {
            (cluster.get(1, "/v1/locks/a/b").ok()?.number("queue_length") == 1).then_some(())
        });
        let released =
            cluster.insist("DELETE", &format!("/v1/leases/{}", first.text("lease_id")), "");
        assert_eq!(released.status, 200);
        let second = waiter.join().expect("no panic");
        assert_eq!((second.status, second.number("token")), (200, 2));
    });
    let again = cluster.insist("DELETE", &format!("/v1/leases/{}", first.text("lease_id")), "");
    assert_eq!(again.status, 200, "a release may be repeated");
    let late =
        cluster.insist("POST", &format!("/v1/leases/{}/renew", first.text("lease_id")), "{}");
    assert_eq!((late.status, late.text("type").as_str()), (410, "lease-gone"));
}

#[test]
fn f6_of_a_thousand_acquires_at_once_exactly_one_holds() {
    let cluster = Cluster::start();
    let (threads, each) = (50, 20);
    let start = Barrier::new(threads);
    let granted: usize = std::thread::scope(|scope| {
        let tasks: Vec<_> = (0..threads)
            .map(|thread| {
                let (cluster, start) = (&cluster, &start);
                scope.spawn(move || {
                    start.wait();
                    let body = format!(r#"{{"owner":"t{thread}","ttl_ms":600000}}"#);
                    let one = |n: usize| {
                        let id = (thread + n) as u64 % 3 + 1;
                        ask(cluster.api(id), "POST", "/v1/locks/one", &body, LONG)
                            .expect("an answer")
                    };
                    (0..each).filter(|n| one(*n).status == 200).count()
                })
            })
            .collect();
        tasks.into_iter().map(|task| task.join().expect("no panic")).sum()
    });
    assert_eq!(granted, 1);
}

#[test]
fn f10_a_request_repeated_after_every_kind_of_cut_has_one_token() {
    let mut cluster = Cluster::start();
    let id = "7f2c1d8e-0b1a-4c7d-9e55-1a2b3c4d5e6f";
    let body = format!(r#"{{"owner":"me","ttl_ms":600000,"request_id":"{id}"}}"#);
    // The answer is never read.
    drop(send_only(cluster.api(1), "POST", "/v1/locks/once", &body).expect("sent"));
    let first = cluster.acquire("once", &body);
    assert_eq!(first.status, 200);
    // Through every node, and after the leader died.
    for id in 1..=3 {
        let again = ask(cluster.api(id), "POST", "/v1/locks/once", &body, LONG).expect("an answer");
        assert_eq!((again.status, again.number("token")), (200, first.number("token")));
    }
    let leader = cluster.leader(None);
    cluster.kill(leader);
    let again = cluster.acquire("once", &body);
    assert_eq!(again.text("lease_id"), first.text("lease_id"));
    assert_eq!(again.number("token"), first.number("token"));
    let other = body.replace("\"me\"", "\"you\"");
    let reused = cluster.acquire("once", &other);
    assert_eq!((reused.status, reused.text("type").as_str()), (422, "request-id-reused"));
}

#[test]
fn a_client_that_goes_away_leaves_the_queue_after_its_grace() {
    let cluster = Cluster::start();
    let held = cluster.acquire("busy", r#"{"owner":"one","ttl_ms":600000}"#);
    assert_eq!(held.status, 200);
    for id in 1..=3 {
        let body = r#"{"owner":"gone","ttl_ms":60000,"wait_ms":3600000,"grace_ms":200}"#;
        let stream = send_only(cluster.api(id), "POST", "/v1/locks/busy", body).expect("sent");
        let length =
            || cluster.get(1, "/v1/locks/busy").ok().map(|lock| lock.number("queue_length"));
        eventually("it waits", || (length()? == 1).then_some(()));
        drop(stream);
        eventually("it left", || (length()? == 0).then_some(()));
    }
}

#[test]
fn without_a_majority_every_call_ends_and_says_what_is_known() {
    let mut cluster = Cluster::start();
    let held = cluster.acquire("before", r#"{"owner":"one","ttl_ms":600000}"#);
    assert_eq!(held.status, 200);
    cluster.kill(2);
    cluster.kill(3);
    for path in ["/v1/locks/new", "/v1/locks/before"] {
        let answer = ask(cluster.api(1), "POST", path, r#"{"owner":"x","ttl_ms":1000}"#, LONG);
        let answer = answer.expect("it does not hang");
        match answer.status {
            503 => assert_eq!(answer.text("outcome"), "not_done"),
            504 => assert_eq!(answer.text("outcome"), "unknown"),
            status => panic!("{status} without a majority: {answer:?}"),
        }
    }
    let read = ask(cluster.api(1), "GET", "/v1/locks/before", "", LONG).expect("it does not hang");
    assert_eq!(read.status, 503, "a fresh read needs a majority: {read:?}");
    let stale = ask(cluster.api(1), "GET", "/v1/locks/before?consistency=stale", "", LONG);
    let stale = stale.expect("an answer");
    assert_eq!((stale.status, &stale.body["holders"][0]["owner"]), (200, &"one".into()));
    assert!(!stale.body["staleness_ms"].is_null(), "and it says how old it may be: {stale:?}");
}
