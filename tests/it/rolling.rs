//! All nodes are restarted one after the other while clients work: no call fails beyond a retry with
//! the same request id, and nobody loses a lock.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::cluster::{Cluster, eventually};
use crate::http::{Answer, ask};

const CLIENTS: usize = 8;
/// Grants between two restarts, and at each end.
const GRANTS: usize = 50;
const DEADLINE: Duration = Duration::from_secs(40);

/// Asks one node after the other until one answers: a node that is down, or on its way down, says so
/// or refuses the connection. Anything else than 200 from one that answers fails the test.
fn retried(apis: &[String], turn: &mut usize, (method, path, body): (&str, &str, &str)) -> Answer {
    eventually(&format!("{method} {path}"), || {
        let answer = ask(&apis[*turn % apis.len()], method, path, body, DEADLINE);
        if let Ok(answer) = answer
            && !matches!(answer.status, 503 | 504)
        {
            assert_eq!(answer.status, 200, "{method} {path}: {answer:?}");
            return Some(answer);
        }
        *turn += 1;
        None
    })
}

#[test]
fn a_rolling_restart_under_load_fails_no_call_beyond_a_retry() {
    let mut cluster = Cluster::start();
    let kept = cluster.acquire("kept", r#"{"owner":"keeper","ttl_ms":3600000}"#);
    let apis: Vec<String> = cluster.nodes.iter().map(|node| node.api.clone()).collect();
    let (stop, done) = (AtomicBool::new(false), AtomicUsize::new(0));
    let tokens = Mutex::new(BTreeSet::new());
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (apis, stop, done, tokens) = (&apis, &stop, &done, &tokens);
            scope.spawn(move || {
                let (mut turn, mut round, mut last) = (client, 0, 0);
                while !stop.load(Ordering::Relaxed) {
                    round += 1;
                    let body = format!(
                        r#"{{"owner":"c{client}","ttl_ms":600000,"wait_ms":30000,"request_id":"00000000-0000-4000-8000-{client:04x}{round:08x}"}}"#
                    );
                    // Two clients share a lock, so that somebody waits when a node goes.
                    let path = format!("/v1/locks/rolling/{}", client / 2);
                    let granted = retried(apis, &mut turn, ("POST", &path, &body));
                    let token = granted.number("token");
                    assert!(token > last, "{token} after {last}");
                    last = token;
                    assert!(tokens.lock().expect("lock").insert(token), "{token} was given twice");
                    let lease = format!("/v1/leases/{}", granted.text("lease_id"));
                    retried(apis, &mut turn, ("DELETE", &lease, ""));
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let progress = || {
            let target = done.load(Ordering::Relaxed) + GRANTS;
            eventually("clients go on", || (done.load(Ordering::Relaxed) >= target).then_some(()));
        };
        progress();
        let mut order: Vec<u64> = (1..=3).collect();
        // Who leads goes first, so that leadership moves at least once.
        order.rotate_left(cluster.leader(None) as usize - 1);
        for id in order {
            cluster.signal(id, "-TERM");
            assert_eq!(cluster.wait_exit(id), 0, "{}", cluster.log(id));
            progress();
            cluster.restart(id);
            cluster.wait_ready(id);
            progress();
        }
        stop.store(true, Ordering::Relaxed);
    });
    let renew = format!("/v1/leases/{}/renew", kept.text("lease_id"));
    assert_eq!(cluster.insist("POST", &renew, "").status, 200, "nobody lost a lock");
    let next = cluster.acquire("next", r#"{"owner":"next","ttl_ms":1000}"#);
    assert!(next.number("token") > *tokens.lock().expect("lock").last().expect("grants"));
}
