//! Leaders that change, hang and come back, and what becomes of leases meanwhile.

use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::cluster::{Cluster, eventually};
use crate::http::{ask, page};

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
        eventually("the reads are there", || {
            (unread_connections(cluster.api(leader)) >= reads.len()).then_some(())
        });
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

/// Connections to an address with bytes that its process has not read, as the kernel lists them.
fn unread_connections(address: &str) -> usize {
    let (_, port) = address.rsplit_once(':').expect("a port");
    let local = format!(":{:04X}", port.parse::<u16>().expect("a port"));
    let table = std::fs::read_to_string("/proc/net/tcp").expect("the table of sockets");
    let has_unread = |line: &&str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, at, _, "01", queues, ..] = words.as_slice() else { return false };
        at.ends_with(&local) && queues.split_once(':').is_some_and(|(_, rx)| rx != "00000000")
    };
    table.lines().filter(has_unread).count()
}

/// A new leader goes on from what the log says of the time: the old one may have been ahead of that by
/// its last second.
const REWIND_MS_MAX: u64 = 2_000;

/// Ends the thread beside it however the test ends: else a failed test would wait for it for ever.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What is left of the lease that holds a lock; nothing once it is free.
fn remaining_ms(cluster: &Cluster, lock: &str) -> u64 {
    let lock = cluster.insist("GET", &format!("/v1/locks/{lock}"), "");
    lock.body["holders"][0]["remaining_ms"].as_u64().unwrap_or_default()
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
        let _stop = Stop(&stop);
        let mut left_ms = eventually("three seconds are over", || {
            let left_ms = remaining_ms(&cluster, "dead");
            (left_ms < 17_000).then_some(left_ms)
        });
        for _ in 0..20 {
            let leader = cluster.leader(None);
            cluster.signal(leader, "-STOP");
            cluster.leader(Some(leader));
            cluster.signal(leader, "-CONT");
            let now_ms = remaining_ms(&cluster, "dead");
            assert!(now_ms < left_ms + REWIND_MS_MAX, "{left_ms} ms were left, now {now_ms}");
            left_ms = now_ms;
        }
        let bound = Duration::from_secs(20) + 20 * Duration::from_secs(2) + began.elapsed();
        eventually("the dead holder's lock is free", || {
            let lock = cluster.insist("GET", "/v1/locks/dead", "");
            (lock.body["held"] == false).then_some(())
        });
        assert!(began.elapsed() < bound, "freed after {:?}", began.elapsed());
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

#[test]
fn leadership_is_handed_over_on_request_and_not_lost_when_nobody_takes_it() {
    let mut cluster = Cluster::start();
    let held = cluster.acquire("held", r#"{"owner":"me","ttl_ms":600000}"#);
    let first = cluster.leader(None);
    let others: Vec<u64> = (1..=3).filter(|id| *id != first).collect();
    let transfer = |cluster: &Cluster, to: &str| {
        cluster.insist("POST", "/v1/cluster/leader", &format!("{{{to}}}"))
    };
    let to = |id: u64| format!("\"node_id\":{id}");
    let answer = transfer(&cluster, &to(others[0]));
    assert_eq!((answer.status, answer.number("leader_id")), (200, others[0]), "{answer:?}");
    let again = transfer(&cluster, &to(others[0]));
    assert_eq!((again.status, again.number("leader_id")), (200, others[0]), "it leads already");
    assert_eq!(transfer(&cluster, &to(9)).status, 404);
    let anybody = transfer(&cluster, "");
    assert_ne!(anybody.number("leader_id"), others[0], "{anybody:?}");
    // A node that is down is not asked for long, and whoever holds a lock keeps it.
    let leader = cluster.leader(None);
    let down = (1..=3).find(|id| *id != leader).expect("two of them");
    cluster.kill(down);
    let body = format!("{{{}}}", to(down));
    let (mut leaders, api) = (0, cluster.api(leader).to_owned());
    eventually("it is known to be gone", || {
        let refused = ask(&api, "POST", "/v1/cluster/leader", &body, Duration::from_secs(30));
        let refused = refused.expect("an answer");
        let refusal = (refused.status, refused.text("type"));
        assert_eq!(refusal, (409, "not-transferred".to_owned()), "{refused:?}");
        leaders += 1;
        (refused.text("outcome") == "not_done").then_some(())
    });
    assert!(leaders <= 3, "whoever leads hears nothing from it");
    // The command line says so, and does not ask the next leader as well.
    let output = Command::new(env!("CARGO_BIN_EXE_oarlock"))
        .args(["transfer", &down.to_string(), "--endpoint", &api])
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("nobody was asked"), "{said}");
    let renew = format!("/v1/leases/{}/renew", held.text("lease_id"));
    assert_eq!(cluster.insist("POST", &renew, "").status, 200);
}

const MANY: usize = 20_000;
/// Locks of one request, as many as the API takes.
const AT_ONCE: usize = 64;

/// Takes the locks of these numbers, all in one request, so that they fall due at that moment.
fn take_until(cluster: &Cluster, numbers: std::ops::Range<usize>, due: Instant) {
    let locks: Vec<String> = numbers.map(|it| format!(r#"{{"name":"many/{it:05}"}}"#)).collect();
    let ttl_ms = due.saturating_duration_since(Instant::now()).as_millis();
    let body = format!(r#"{{"owner":"many","ttl_ms":{ttl_ms},"locks":[{}]}}"#, locks.join(","));
    let taken = cluster.insist("POST", "/v1/locks", &body);
    assert_eq!(taken.status, 200, "{taken:?}");
}

/// How many leases that node says are held.
fn held(cluster: &Cluster, node: u64) -> Option<usize> {
    let metrics = page(cluster.api(node), "/metrics", Duration::from_secs(10)).ok()?;
    let line = metrics.lines().find_map(|line| line.strip_prefix("oarlock_leases_held "))?;
    line.trim().parse().ok()
}

#[test]
fn f74_a_leader_change_loses_none_of_20000_leases_and_they_fall_due_in_time() {
    let mut cluster = Cluster::start();
    // How long this machine takes for all of them, by the first, which stay.
    let begun = Instant::now();
    let kept = MANY / 20 / AT_ONCE * AT_ONCE;
    let hour = begun + Duration::from_hours(1);
    (0..kept / AT_ONCE).for_each(|it| take_until(&cluster, it * AT_ONCE..(it + 1) * AT_ONCE, hour));
    let due = Instant::now() + 30 * begun.elapsed() + Duration::from_secs(5);
    for first in (kept..MANY).step_by(AT_ONCE) {
        take_until(&cluster, first..MANY.min(first + AT_ONCE), due);
    }
    let leader = cluster.leader(None);
    cluster.kill(leader);
    let next = cluster.leader(Some(leader));
    // It answers this when it has applied all that its predecessor acknowledged.
    assert_eq!(cluster.insist("GET", "/v1/locks/many/00000", "").status, 200);
    let earliest = due.checked_sub(Duration::from_millis(10)).expect("after the boot");
    let mut early = 0;
    eventually("all that fell due are over", || {
        let now_held = held(&cluster, next)?;
        if Instant::now() < earliest {
            assert_eq!(now_held, MANY, "a lease ended before it was due");
            early += 1;
        }
        (now_held == kept).then_some(())
    });
    // How late is a matter of the machine; `oarlock-jepsen drain` measures it.
    eprintln!("looked {early} times before; the last one ended {:?} late", due.elapsed());
    let lock = cluster.insist("GET", "/v1/locks/many/00000", "");
    assert_eq!(lock.body["held"], true, "{lock:?}");
    let lock = cluster.insist("GET", &format!("/v1/locks/many/{:05}", MANY - 1), "");
    assert_eq!(lock.body["held"], false, "{lock:?}");
}
