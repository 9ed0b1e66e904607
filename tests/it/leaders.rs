//! Leaders that change, hang and come back, and what becomes of leases meanwhile.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::cluster::{Cluster, eventually};
use crate::http::ask;

#[test]
fn a_leader_that_hung_answers_no_read_from_its_old_state() {
    let cluster = Cluster::start();
    let old = cluster.acquire("watched", r#"{"owner":"old","ttl_ms":600000}"#);
    let leader = cluster.leader(None);
    cluster.signal(leader, "-STOP");
    let next = cluster.leader(Some(leader));
    let released = ask(
        cluster.api(next),
        "DELETE",
        &format!("/v1/leases/{}", old.text("lease_id")),
        "",
        Duration::from_secs(30),
    );
    assert_eq!(released.expect("an answer").status, 200);
    let taken = ask(
        cluster.api(next),
        "POST",
        "/v1/locks/watched",
        r#"{"owner":"new","ttl_ms":600000}"#,
        Duration::from_secs(30),
    );
    assert_eq!(taken.expect("an answer").status, 200);
    std::thread::scope(|scope| {
        // Sent while it hangs, answered when it goes on.
        let reads: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    ask(
                        cluster.api(leader),
                        "GET",
                        "/v1/locks/watched",
                        "",
                        Duration::from_secs(40),
                    )
                })
            })
            .collect();
        std::thread::sleep(Duration::from_millis(300));
        cluster.signal(leader, "-CONT");
        for read in reads {
            let answer = read.join().expect("no panic").expect("an answer");
            if answer.status == 200 {
                assert_eq!(answer.body["holders"][0]["owner"], "new", "a stale answer");
            }
        }
    });
    eventually("it follows", || {
        let answer = cluster.get(leader, "/v1/locks/watched").ok()?;
        (answer.status == 200 && answer.body["holders"][0]["owner"] == "new").then_some(())
    });
}

#[test]
fn f9_twenty_leader_changes_lose_no_live_lock_and_free_the_dead_one() {
    let cluster = Cluster::start();
    let live = cluster.acquire("live", r#"{"owner":"alive","ttl_ms":5000}"#);
    let dead = cluster.acquire("dead", r#"{"owner":"gone","ttl_ms":20000}"#);
    let began = Instant::now();
    let (stop, renewals) = (AtomicBool::new(false), AtomicUsize::new(0));
    let apis: Vec<String> = cluster.nodes.iter().map(|node| node.api.clone()).collect();
    let renew = format!("/v1/leases/{}/renew", live.text("lease_id"));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut turn = 0;
            while !stop.load(Ordering::Relaxed) {
                turn += 1;
                if let Ok(answer) =
                    ask(&apis[turn % 3], "POST", &renew, "{}", Duration::from_millis(1500))
                {
                    assert_ne!(answer.status, 410, "the live holder lost its lock: {answer:?}");
                    assert_ne!(answer.status, 404, "the live holder lost its lock: {answer:?}");
                    renewals.fetch_add(usize::from(answer.status == 200), Ordering::Relaxed);
                }
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        let mut last = None;
        for _ in 0..20 {
            let leader = cluster.leader(last);
            cluster.signal(leader, "-STOP");
            cluster.leader(Some(leader));
            cluster.signal(leader, "-CONT");
            last = None;
        }
        let bound = Duration::from_secs(20) + 20 * Duration::from_secs(2) + began.elapsed();
        eventually("the dead holder's lock is free", || {
            let lock = cluster.insist("GET", "/v1/locks/dead", "");
            (lock.body["held"] == false).then_some(())
        });
        assert!(began.elapsed() < bound, "freed after {:?}", began.elapsed());
        stop.store(true, Ordering::Relaxed);
    });
    assert!(renewals.load(Ordering::Relaxed) > 20);
    let lock = cluster.insist("GET", "/v1/locks/live", "");
    assert_eq!(lock.body["holders"][0]["token"], live.number("token"));
    let next = cluster.acquire("dead", r#"{"owner":"next","ttl_ms":1000}"#);
    assert!(next.number("token") > dead.number("token"));
}

#[test]
fn a_waiter_without_a_request_id_survives_a_leader_change() {
    let mut cluster = Cluster::start();
    let held = cluster.acquire("queue", r#"{"owner":"one","ttl_ms":600000}"#);
    let leader = cluster.leader(None);
    let follower = leader % 3 + 1;
    let api = cluster.api(follower).to_owned();
    std::thread::scope(|scope| {
        let waiter = scope.spawn(move || {
            let body = r#"{"owner":"two","ttl_ms":60000,"wait_ms":50000,"grace_ms":20000}"#;
            ask(&api, "POST", "/v1/locks/queue", body, Duration::from_secs(70)).expect("an answer")
        });
        eventually("it waits", || {
            (cluster.get(follower, "/v1/locks/queue").ok()?.number("queue_length") == 1)
                .then_some(())
        });
        cluster.kill(leader);
        let path = format!("/v1/leases/{}", held.text("lease_id"));
        assert_eq!(cluster.insist("DELETE", &path, "").status, 200);
        let granted = waiter.join().expect("no panic");
        assert_eq!((granted.status, granted.text("owner").as_str()), (200, "two"), "{granted:?}");
    });
}
