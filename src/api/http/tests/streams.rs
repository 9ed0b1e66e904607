//! Streams: what each tells, how it resumes, and how it ends. Time is paused; each wait for a frame
//! ends by itself because every stream has keep-alives.

use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use axum::response::Response;
use http_body_util::BodyExt as _;
use serde_json::Value;
use tower_service::Service as _;

use super::Node;
use crate::service::Options;
use crate::service::replicator::Leadership;

const REQUEST: &str = "8a4f31b4-5a5c-4a3a-9d50-0a54f8f8a111";

struct Events {
    body: Body,
    status: StatusCode,
}

struct Told {
    kind: String,
    id: Option<u64>,
    data: Value,
}

impl Events {
    async fn frame(&mut self) -> Option<String> {
        let frame = self.body.frame().await?.expect("a frame").into_data().expect("data");
        Some(String::from_utf8(frame.to_vec()).expect("UTF-8"))
    }

    /// The next event; comments are passed over.
    async fn next(&mut self) -> Option<Told> {
        loop {
            let frame = self.frame().await?;
            let field = |name: &str| frame.lines().find_map(|line| line.strip_prefix(name));
            let Some(kind) = field("event: ") else {
                assert_eq!(frame, ": ping\n\n");
                continue;
            };
            let data = serde_json::from_str(field("data: ").expect("data")).expect("JSON");
            let id = field("id: ").map(|id| id.parse().expect("a number"));
            return Some(Told { kind: kind.to_owned(), id, data });
        }
    }

    async fn expect(&mut self, kind: &str) -> Told {
        let told = self.next().await.unwrap_or_else(|| panic!("an end instead of {kind}"));
        assert_eq!(told.kind, kind, "{}", told.data);
        told
    }
}

impl Node {
    async fn stream(&self, method: &str, path: &str, body: &str, last: Option<u64>) -> Events {
        let mut request =
            Request::builder().method(method).uri(path).header("accept", "text/event-stream");
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let request = request.body(Body::from(body.to_owned())).expect("a request");
        let Ok(response): Result<Response, _> = self.router.clone().call(request).await;
        Events { status: response.status(), body: response.into_body() }
    }

    async fn watch(&self, query: &str) -> Events {
        self.stream("GET", &format!("/v1/watch{query}"), "", None).await
    }

    async fn wait(&self, lock: &str) -> Events {
        let body = r#"{"owner":"you","ttl_ms":30000,"wait_ms":600000}"#;
        self.stream("POST", &format!("/v1/locks/{lock}"), body, None).await
    }

    async fn hold(&self, lock: &str) -> Events {
        let path = format!("/v1/hold/{lock}?owner=me&grace_ms=3000&request_id={REQUEST}");
        self.stream("GET", &path, "", None).await
    }

    fn holders(&self, lock: &str) -> u64 {
        let name = oarlock_core::ids::LockName::new(lock).expect("a name");
        self.solo.with_lock(&name)
    }
}

impl crate::service::solo::Solo {
    fn with_lock(&self, name: &oarlock_core::ids::LockName) -> u64 {
        use crate::service::replicator::Replicator as _;
        self.with_machine(|machine| machine.lock(name, 1, 0).holder_count)
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_tells_what_happens_to_its_prefix_and_no_lease_id() {
    let node = Node::new();
    let mut events = node.watch("?prefix=a").await;
    let (lease, token) = node.take("/v1/locks/a/1").await;
    node.take("/v1/locks/b").await;
    node.delete(&format!("/v1/leases/{lease}")).await.ok();
    let granted = events.expect("granted").await;
    assert_eq!(granted.data["token"], token);
    assert_eq!(granted.data["lock"], "a/1");
    let released = events.expect("released").await;
    assert_eq!(released.id, released.data["revision"].as_u64());
    assert!(released.id > granted.id);
    for told in [granted, released] {
        assert!(!told.data.to_string().contains(&lease), "{}", told.data);
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_resumes_behind_its_last_event() {
    let node = Node::new();
    let mut events = node.watch("").await;
    node.take("/v1/locks/a").await;
    let first = events.expect("granted").await.id;
    drop(events);
    node.take("/v1/locks/b").await;
    let mut events = node.stream("GET", "/v1/watch?from_revision=1", "", first).await;
    assert_eq!(events.expect("granted").await.data["lock"], "b");
    let mut events = node.watch("?from_revision=1").await;
    assert_eq!(events.expect("granted").await.data["lock"], "a");
}

fn small() -> Node {
    Node::with(Options { events_kept_max: 4, streams_max: 1, ..Options::default() })
}

#[tokio::test(start_paused = true)]
async fn a_revision_that_is_dropped_is_gone_and_the_oldest_is_named() {
    let node = small();
    for lock in 0..9 {
        node.take(&format!("/v1/locks/{lock}")).await;
    }
    let answer = node.get("/v1/watch?from_revision=1").await;
    let problem = answer.refused(410, "revision-gone");
    let oldest = problem["oldest_revision"].as_u64().expect("a revision");
    let mut events = node.watch(&format!("?from_revision={oldest}")).await;
    assert_eq!(events.expect("granted").await.id, Some(oldest));
}

#[tokio::test(start_paused = true)]
async fn a_slow_watcher_is_told_of_its_gap_and_goes_on() {
    let node = small();
    let mut events = node.watch("").await;
    for lock in 0..9 {
        node.take(&format!("/v1/locks/{lock}")).await;
    }
    let oldest = events.expect("gap").await.data["oldest_revision"].as_u64();
    assert_eq!(events.expect("granted").await.id, oldest);
}

#[tokio::test(start_paused = true)]
async fn streams_above_the_cap_are_refused_until_one_ends() {
    let node = small();
    let events = node.watch("").await;
    node.get("/v1/watch").await.refused(503, "overloaded");
    drop(events);
    assert_eq!(node.watch("").await.status, StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn a_watch_says_why_it_ends() {
    let node = Node::new();
    let mut events = node.watch("").await;
    node.solo.set_leadership(Leadership { leader_id: None, term: 2, serving_here: false });
    assert_eq!(events.expect("end").await.data["why"], "no leader is known");
    assert!(events.next().await.is_none());
    let node = Node::new();
    let mut events = node.watch("").await;
    node.service.drain();
    assert_eq!(events.expect("end").await.data["why"], "this node is shutting down");
}

#[tokio::test(start_paused = true)]
async fn a_hold_ends_and_says_so_when_its_node_lost_the_majority() {
    let node = Node::new();
    let mut events = node.hold("a").await;
    events.expect("granted").await;
    let began = tokio::time::Instant::now();
    node.solo.set_leadership(Leadership { leader_id: None, term: 2, serving_here: false });
    assert_eq!(events.expect("end").await.data["why"], "no leader is known");
    assert!(events.next().await.is_none(), "it is the last event");
    // Not at the first election, and not much later than its silence would mislead.
    let after = began.elapsed();
    assert!(Duration::from_secs(5) < after && after < Duration::from_secs(20), "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn a_hold_outlives_an_election() {
    let node = Node::new();
    let mut events = node.hold("a").await;
    events.expect("granted").await;
    node.solo.set_leadership(Leadership { leader_id: None, term: 2, serving_here: false });
    // The clock of the lease runs on here, as it would not without a leader.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    node.solo.set_leadership(Leadership { leader_id: Some(1), term: 3, serving_here: true });
    for _ in 0..20 {
        assert_eq!(events.frame().await.as_deref(), Some(": ping\n\n"));
    }
    assert_eq!(node.holders("a"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_watcher_that_is_always_behind_is_told_of_every_gap_and_ends_with_its_token() {
    let node = Node::with(Options { events_kept_max: 4, ..Options::default() });
    let admin = node.close().await;
    let (one, id) = node.token(&admin, &["inspect"], serde_json::json!({})).await;
    let watch = node.open(&axum::http::Method::GET, "/v1/watch", "", Some(&one)).await;
    let mut events = Events { status: watch.status(), body: watch.into_body() };
    // More than the ring keeps happens between any two of its frames.
    let mut happens = 0..;
    let mut overtake = async || {
        for lock in happens.by_ref().take(9) {
            let body = serde_json::json!({ "owner": "me", "ttl_ms": null });
            let taken = node.ask("POST", &format!("/v1/locks/{lock}"), body, &admin).await;
            assert_eq!(taken.0, 200, "{}", taken.1);
        }
    };
    let mut oldest = 0;
    for _ in 0..10 {
        overtake().await;
        let told = loop {
            let told = events.next().await.expect("it goes on");
            if told.kind == "gap" {
                break told.data["oldest_revision"].as_u64().expect("a revision");
            }
            overtake().await;
        };
        assert!(told > oldest, "{told} after {oldest}");
        oldest = told;
    }
    let revoked = node.ask("DELETE", &format!("/v1/tokens/{id}"), Value::Null, &admin).await;
    assert_eq!(revoked.0, 200, "{}", revoked.1);
    // At most what was ready for it already.
    let mut last = None;
    for _ in 0..8 {
        overtake().await;
        match events.next().await {
            Some(told) => last = Some(told),
            None => break,
        }
    }
    let last = last.expect("an event");
    let why = last.data["why"].as_str().unwrap_or_default();
    assert!(last.kind == "end" && why.contains("revoked"), "{} {}", last.kind, last.data);
}

#[tokio::test(start_paused = true)]
async fn a_wait_over_events_is_queued_with_its_reason_then_granted() {
    let node = Node::new();
    let (lease, _) = node.take("/v1/locks/a").await;
    let mut events = node.wait("a").await;
    let queued = events.expect("queued").await.data;
    assert_eq!((&queued["position"], &queued["why"]["cause"]), (&1.into(), &"held".into()));
    assert_eq!(queued["why"]["holders"][0]["owner"], "me");
    assert!(!queued.to_string().contains(&lease), "{queued}");
    node.delete(&format!("/v1/leases/{lease}")).await.ok();
    assert_eq!(events.expect("granted").await.data["owner"], "you");
    assert!(events.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_refused_wait_ends_with_its_problem() {
    let node = Node::new();
    node.take("/v1/locks/a").await;
    let body = r#"{"owner":"you","ttl_ms":30000}"#;
    let mut events = node.stream("POST", "/v1/locks/a", body, None).await;
    let problem = events.expect("refused").await.data;
    assert_eq!((&problem["type"], &problem["why"]["cause"]), (&"lock-held".into(), &"held".into()));
}

#[tokio::test(start_paused = true)]
async fn a_held_lock_is_renewed_while_its_connection_lives_and_free_within_grace_after() {
    let node = Node::new();
    let mut events = node.hold("a").await;
    let granted = events.expect("granted").await.data;
    assert!(granted["note"].as_str().expect("a note").contains("no client-side bound"));
    for _ in 0..20 {
        assert_eq!(events.frame().await.as_deref(), Some(": ping\n\n"));
    }
    assert_eq!(node.holders("a"), 1);
    drop(events);
    tokio::time::sleep(Duration::from_millis(3_200)).await;
    assert_eq!(node.holders("a"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_reconnect_with_the_same_request_id_resumes_the_hold() {
    let node = Node::new();
    let mut events = node.hold("a").await;
    let first = events.expect("granted").await.data;
    drop(events);
    tokio::time::sleep(Duration::from_millis(2_800)).await;
    let mut events = node.hold("a").await;
    assert_eq!(events.expect("granted").await.data["token"], first["token"]);
    for _ in 0..6 {
        assert_eq!(events.frame().await.as_deref(), Some(": ping\n\n"));
    }
    let token = &first["token"];
    node.delete(&format!("/v1/locks/a?token={token}")).await.ok();
    assert_eq!(events.expect("lost").await.data["how"], "forced");
}

#[tokio::test(start_paused = true)]
async fn an_estimate_is_within_a_factor_of_two_on_steady_holds() {
    let node = Node::new();
    for _ in 0..5 {
        let (lease, _) = node.take("/v1/locks/a").await;
        tokio::time::sleep(Duration::from_secs(4)).await;
        node.delete(&format!("/v1/leases/{lease}")).await.ok();
    }
    let (lease, _) = node.take("/v1/locks/a").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut events = node.wait("a").await;
    let estimate = events.expect("queued").await.data["estimate_ms"].as_u64().expect("a guess");
    tokio::time::sleep(Duration::from_millis(2_950)).await;
    node.delete(&format!("/v1/leases/{lease}")).await.ok();
    let waited = events.expect("granted").await.data["waited_ms"].as_u64().expect("a time");
    assert!(estimate <= waited * 2 && waited <= estimate * 2, "{estimate} for {waited}");
    assert!(node.get("/metrics").await.text.contains("oarlock_wait_estimate_ratio_count 1"));
}

#[tokio::test(start_paused = true)]
async fn a_stream_for_several_locks_tells_the_place_in_each_queue() {
    let node = Node::new();
    let (first, _) = node.take("/v1/locks/a").await;
    let (second, _) = node.take("/v1/locks/b").await;
    let mut before = node.wait("b").await;
    before.expect("queued").await;
    let body = r#"{"owner":"you","ttl_ms":30000,"wait_ms":600000,"locks":[{"name":"a"},{"name":"b"}],
        "request_id":"8a4f31b4-5a5c-4a3a-9d50-0a54f8f8a112"}"#;
    let mut events = node.stream("POST", "/v1/locks", body, None).await;
    let mut places = Vec::new();
    for _ in 0..2 {
        let told = events.expect("queued").await.data;
        places.push((told["lock"].to_string(), told["position"].to_string()));
    }
    places.sort();
    let expected = [("\"a\"", "1"), ("\"b\"", "2")].map(|(l, p)| (l.to_owned(), p.to_owned()));
    assert_eq!(places, expected);
    // A repeat is told the same, under the leases of the first.
    let mut repeat = node.stream("POST", "/v1/locks", body, None).await;
    repeat.expect("queued").await;
    repeat.expect("queued").await;
    node.delete(&format!("/v1/leases/{first}")).await.ok();
    node.delete(&format!("/v1/leases/{second}")).await.ok();
    let lease = before.expect("granted").await.data["lease_id"].as_str().expect("an id").to_owned();
    node.delete(&format!("/v1/leases/{lease}")).await.ok();
    for mut stream in [events, repeat] {
        let granted = loop {
            let told = stream.next().await.expect("an event");
            if told.kind == "granted" {
                break told.data;
            }
        };
        assert_eq!(granted["leases"].as_array().map(Vec::len), Some(2));
        assert!(stream.next().await.is_none(), "it is the last event");
    }
}

#[tokio::test(start_paused = true)]
async fn refusals_and_inspections_say_why() {
    let node = Node::new();
    assert_eq!(node.get("/v1/locks/a").await.ok()["why"]["cause"], "free");
    let (lease, _) = node.take("/v1/locks/a").await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    let why = node.get("/v1/locks/a").await.ok()["why"].clone();
    assert_eq!(why["holders"][0]["renewed_ms_ago"], 700);
    node.post(&format!("/v1/leases/{lease}/renew"), "").await.ok();
    let body = r#"{"owner":"you","ttl_ms":30000,"wait_ms":100}"#;
    let why = node.post("/v1/locks/a", body).await.refused(409, "wait-timeout")["why"].clone();
    assert_eq!((&why["cause"], &why["ahead"]), (&"held".into(), &0.into()));
    assert_eq!(why["holders"][0]["renewed_ms_ago"], 100);
}

/// F15: 5,000 waiters of one lock, and one of them wakes for each hand-over.
#[tokio::test(start_paused = true)]
async fn f15_of_5000_waiting_streams_a_hand_over_wakes_one_and_a_round_a_second_the_rest() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    const WAITERS: usize = 5_000;
    let node = Node::new();
    let (lease, _) = node.take("/v1/locks/a").await;
    let frames = Arc::new(AtomicUsize::new(0));
    let (granted, mut grants) = tokio::sync::mpsc::channel(8);
    for _ in 0..WAITERS {
        let (mut events, frames, granted) =
            (node.wait("a").await, Arc::clone(&frames), granted.clone());
        tokio::spawn(async move {
            let mut polls = std::pin::pin!(async {
                loop {
                    let told = events.next().await.expect("an event");
                    if told.kind == "granted" {
                        return told.data["lease_id"].as_str().expect("an id").to_owned();
                    }
                }
            });
            let counted = std::future::poll_fn(|context| {
                frames.fetch_add(1, Ordering::Relaxed);
                polls.as_mut().poll(context)
            });
            let lease = counted.await;
            let _test_over = granted.send(lease).await;
        });
    }
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    let mut lease = lease;
    for _ in 0..3 {
        frames.store(0, Ordering::Relaxed);
        node.delete(&format!("/v1/leases/{lease}")).await.ok();
        lease = grants.recv().await.expect("a grant");
        assert!(frames.load(Ordering::Relaxed) <= 2, "{frames:?} wakes for one hand-over");
    }
    frames.store(0, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let wakes = frames.load(Ordering::Relaxed);
    assert!((WAITERS - 4..=WAITERS * 2).contains(&wakes), "{wakes} wakes for one round");
}
