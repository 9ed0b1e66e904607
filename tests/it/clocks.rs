//! Nodes whose clocks have nothing in common but their rate.

use serde_json::Value;

use crate::cluster::{Cluster, eventually};

const TTL_MS: u64 = 700;

/// What a node itself remembers of a lock's past.
fn past(cluster: &Cluster, node: u64, lock: &str) -> Option<Value> {
    let answer = cluster.get(node, &format!("/v1/history/{lock}?consistency=stale")).ok()?;
    (answer.status == 200).then(|| answer.body["grants"].clone())
}

/// F1, F19: no node judges an expiry by its own clock, so all put it at the same place.
#[test]
fn f1_f19_nodes_whose_clocks_are_hours_apart_agree_on_every_expiry() {
    let cluster = Cluster::with_clocks_apart(7, "");
    let body = format!(r#"{{"owner":"me","ttl_ms":{TTL_MS}}}"#);
    let mut locks = Vec::new();
    let mut take = |from: u64, to: u64| {
        for number in from..to {
            let lock = format!("clocks-{number}");
            assert_eq!(cluster.acquire(&lock, &body).status, 200, "{lock}");
            locks.push(lock);
        }
    };
    take(0, 6);
    // The next leader counts by a clock that is hours ahead or behind.
    let leader = cluster.leader(None);
    cluster.insist("POST", "/v1/locks/clocks-live", r#"{"owner":"me","ttl_ms":600000}"#);
    cluster.signal(leader, "-STOP");
    cluster.leader(Some(leader));
    take(6, 12);
    cluster.signal(leader, "-CONT");
    for lock in &locks {
        let pasts = eventually("all nodes know how it ended", || {
            let pasts: Option<Vec<Value>> = (1..=3).map(|id| past(&cluster, id, lock)).collect();
            pasts.filter(|pasts| pasts.iter().all(|past| past[0]["how"] == "expired"))
        });
        assert!(pasts.iter().all(|past| *past == pasts[0]), "{lock}: {pasts:?}");
        let held_ms = pasts[0][0]["held_ms"].as_u64().expect("a time");
        assert!(held_ms >= TTL_MS, "{lock} expired early: {held_ms}");
        assert!(held_ms < TTL_MS + 3_600_000, "{lock} lived by another clock: {held_ms}");
    }
    let live = cluster.insist("GET", "/v1/locks/clocks-live", "");
    assert_eq!(live.body["held"], true, "no other clock ended it");
}
