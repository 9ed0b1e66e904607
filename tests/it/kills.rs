//! Nodes that die, under load and all at once.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::cluster::{Cluster, eventually};
use crate::http::ask;

#[test]
fn a_killed_leader_costs_no_token_and_no_exclusion_under_32_clients() {
    let mut cluster = Cluster::start();
    let (stop, done) = (AtomicBool::new(false), AtomicUsize::new(0));
    let apis: Vec<String> = cluster.nodes.iter().map(|node| node.api.clone()).collect();
    let grants = Mutex::new(BTreeMap::<u64, (Instant, Instant)>::new());
    std::thread::scope(|scope| {
        for client in 0..32_usize {
            let (apis, stop, done, grants) = (&apis, &stop, &done, &grants);
            scope.spawn(move || {
                let mut round = 0;
                while !stop.load(Ordering::Relaxed) {
                    round += 1;
                    let request = format!("00000000-0000-4000-8000-{client:04x}{round:08x}");
                    let path = format!("/v1/locks/shared/{}", client % 4);
                    let body = format!(r#"{{"owner":"c{client}","ttl_ms":60000,"wait_ms":20000,"request_id":"{request}"}}"#);
                    let mut turn = client;
                    let answer = eventually("it is granted", || {
                        turn += 1;
                        let answer = ask(&apis[turn % 3], "POST", &path, &body, Duration::from_secs(40)).ok()?;
                        (answer.status == 200).then_some(answer)
                    });
                    let from = Instant::now();
                    let token = answer.number("token");
                    let to = Instant::now();
                    let twice = grants.lock().expect("lock").insert(token, (from, to));
                    assert!(twice.is_none(), "token {token} was given twice");
                    let lease = format!("/v1/leases/{}", answer.text("lease_id"));
                    eventually("it is released", || {
                        turn += 1;
                        let answer = ask(&apis[turn % 3], "DELETE", &lease, "", Duration::from_secs(40)).ok()?;
                        (answer.status == 200).then_some(())
                    });
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let progress = |more: usize| {
            let target = done.load(Ordering::Relaxed) + more;
            eventually("clients go on", || (done.load(Ordering::Relaxed) >= target).then_some(()));
        };
        progress(100);
        for _ in 0..2 {
            let leader = cluster.leader(None);
            cluster.kill(leader);
            progress(100);
            cluster.restart(leader);
            cluster.wait_ready(leader);
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(grants.lock().expect("lock").len() >= 300);
}

#[test]
fn all_nodes_killed_at_once_forget_nothing_acknowledged() {
    let mut cluster = Cluster::start();
    let mut held = Vec::new();
    for n in 0..20 {
        let answer = cluster.acquire(&format!("kept/{n}"), r#"{"owner":"keeper","ttl_ms":600000}"#);
        assert_eq!(answer.status, 200);
        held.push(answer);
    }
    let released =
        cluster.insist("DELETE", &format!("/v1/leases/{}", held[7].text("lease_id")), "");
    assert_eq!(released.status, 200);
    (1..=3).for_each(|id| cluster.kill(id));
    (1..=3).for_each(|id| cluster.restart(id));
    (1..=3).for_each(|id| cluster.wait_ready(id));
    for (n, lease) in held.iter().enumerate() {
        let lock = cluster.insist("GET", &format!("/v1/locks/kept/{n}"), "");
        let expected = if n == 7 { 0 } else { lease.number("token") };
        assert_eq!(lock.body["holders"][0]["token"].as_u64().unwrap_or(0), expected, "{lock:?}");
    }
    let next = cluster.acquire("kept/7", r#"{"owner":"next","ttl_ms":1000}"#);
    assert!(next.number("token") > held[19].number("token"), "tokens only grow");
}

#[test]
fn a_node_stops_within_ten_seconds_of_sigterm_and_hands_over_first() {
    let mut cluster = Cluster::start();
    let leader = cluster.leader(None);
    let began = Instant::now();
    cluster.signal(leader, "-TERM");
    assert_eq!(cluster.wait_exit(leader), 0, "{}", cluster.log(leader));
    assert!(began.elapsed() < Duration::from_secs(10));
    let other = cluster.leader(Some(leader));
    assert_ne!(other, leader);
    assert_eq!(cluster.acquire("after", r#"{"owner":"a","ttl_ms":1000}"#).status, 200);
}

/// A SIGHUP asks for certificates to be read again; where there are none it must not end the node, as it
/// ends whoever does not listen to it.
#[test]
fn a_hangup_does_not_end_a_node_without_tls() {
    let cluster = Cluster::start();
    for id in 1..=3 {
        cluster.signal(id, "-HUP");
        // It was delivered before the node can answer anything more.
        let lives = cluster.get(id, "/livez").expect("it answers");
        assert_eq!(lives.status, 200, "{lives:?}");
    }
    let taken = cluster.acquire("after", r#"{"owner":"me","ttl_ms":60000}"#);
    assert_eq!(taken.status, 200, "{taken:?}");
}
