//! Streams of a real cluster: a follower's watch, a wait that is told of its place, and a hold that
//! ends with the process which held the connection.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use crate::cluster::{Cluster, PATIENCE, eventually};
use crate::http::ask;

/// A `curl -N` whose lines are read as they come; killed when it goes out of scope.
struct Curl {
    child: Child,
    lines: Receiver<String>,
}

impl Curl {
    fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new("curl")
            .args(["-sS", "-N"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("curl starts");
        let out = child.stdout.take().expect("its output");
        let (sends, lines) = sync_channel(1_000);
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if sends.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines }
    }

    /// Reads until a line holds the text.
    fn line(&self, text: &str) -> String {
        let until = Instant::now() + PATIENCE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left).unwrap_or_else(|_| panic!("no line: {text}"));
            if line.contains(text) {
                return line;
            }
        }
    }

    fn kill(&mut self) {
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("it is gone");
    }
}

impl Drop for Curl {
    fn drop(&mut self) {
        let _may_have_ended = self.child.kill();
        let _may_have_ended = self.child.wait();
    }
}

fn follower(cluster: &Cluster) -> (u64, u64) {
    let leader = cluster.leader(None);
    (leader, leader % 3 + 1)
}

#[test]
fn a_watch_at_a_follower_sees_a_grant_made_at_another_node() {
    let cluster = Cluster::start();
    let (leader, follower) = follower(&cluster);
    let watch = Curl::start(&[&format!("http://{}/v1/watch?prefix=a", cluster.api(follower))]);
    watch.line(": ping");
    let body = r#"{"owner":"me","ttl_ms":60000}"#;
    let path = "/v1/locks/a/b";
    let answer = ask(cluster.api(leader), "POST", path, body, Duration::from_secs(30));
    let lease = answer.expect("an answer");
    assert_eq!(lease.status, 200);
    watch.line("event: granted");
    let data = watch.line("data: ");
    assert!(data.contains(&format!("\"token\":{}", lease.number("token"))), "{data}");
    assert!(!data.contains(&lease.text("lease_id")), "{data}");
}

#[test]
fn a_wait_over_events_at_a_follower_is_queued_then_granted() {
    let cluster = Cluster::start();
    let (_, follower) = follower(&cluster);
    let lease = cluster.acquire("a", r#"{"owner":"me","ttl_ms":60000}"#);
    let wait = Curl::start(&[
        "-H",
        "accept: text/event-stream",
        "-d",
        r#"{"owner":"you","ttl_ms":60000,"wait_ms":60000}"#,
        &format!("http://{}/v1/locks/a", cluster.api(follower)),
    ]);
    wait.line("event: queued");
    assert!(wait.line("data: ").contains("\"position\":1"));
    let path = format!("/v1/leases/{}", lease.text("lease_id"));
    assert_eq!(cluster.insist("DELETE", &path, "").status, 200);
    wait.line("event: granted");
    assert!(wait.line("data: ").contains("\"owner\":\"you\""));
}

#[test]
fn a_hold_whose_client_is_killed_is_free_within_its_grace() {
    let cluster = Cluster::start();
    let (_, follower) = follower(&cluster);
    let url = format!(
        "http://{}/v1/hold/a?owner=me&grace_ms=3000&request_id=8a4f31b4-5a5c-4a3a-9d50-0a54f8f8a111",
        cluster.api(follower)
    );
    let mut hold = Curl::start(&[&url]);
    hold.line("event: granted");
    // More sign-of-life comments than one TTL has: it was renewed.
    (0..5).for_each(|_| drop(hold.line(": ping")));
    assert_eq!(cluster.insist("GET", "/v1/locks/a", "").body["held"], true);
    hold.kill();
    let killed = Instant::now();
    eventually("the lock is free", || {
        (cluster.insist("GET", "/v1/locks/a", "").body["held"] == false).then_some(())
    });
    // The grace, 200 ms (P4), and the time of a busy machine to notice.
    assert!(killed.elapsed() < Duration::from_secs(5), "{:?}", killed.elapsed());
}
