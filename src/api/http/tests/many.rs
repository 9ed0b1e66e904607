//! Several locks in one decision, re-acquire, hand-over and deadlocks over HTTP.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::sleep;

use super::Node;

fn id(lease: &Value) -> String {
    lease["lease_id"].as_str().expect("an id").to_owned()
}

async fn session(node: &Node, owner: &str) -> String {
    let body = json!({"owner": owner, "ttl_ms": 30_000}).to_string();
    node.post("/v1/sessions", &body).await.ok()["session_id"].as_str().expect("an id").to_owned()
}

#[tokio::test(start_paused = true)]
async fn several_locks_are_granted_in_the_order_of_the_request() {
    let node = Node::new();
    let body = r#"{"owner":"me","ttl_ms":5000,"locks":[{"name":"b"},{"name":"a/x","mode":"shared"},
                  {"name":"c","mode":"permits","permits":2,"limit":3}]}"#;
    let answer = node.post("/v1/locks", body).await.ok();
    let leases = answer["leases"].as_array().expect("leases");
    let told: Vec<_> = leases.iter().map(|l| (l["lock"].clone(), l["token"].clone())).collect();
    let expected =
        [("b", 1), ("a/x", 2), ("c", 3)].map(|(lock, token)| (json!(lock), json!(token)));
    assert_eq!(told, expected);
    node.delete(&format!("/v1/leases/{}", id(&leases[1]))).await.ok();
    assert_eq!(node.get("/v1/locks/b").await.ok()["held"], true);
}

#[tokio::test(start_paused = true)]
async fn several_locks_are_refused_together_naming_who_is_in_the_way() {
    let node = Node::new();
    node.take("/v1/locks/b").await;
    let body = r#"{"owner":"you","ttl_ms":5000,"locks":[{"name":"a"},{"name":"b"}]}"#;
    let problem = node.post("/v1/locks", body).await.refused(409, "lock-held");
    assert_eq!((&problem["lock"], &problem["holders"][0]["owner"]), (&json!("b"), &json!("me")));
    assert_eq!(problem["why"]["cause"], "held");
    assert_eq!(problem["why"]["holders"][0]["owner"], "me");
    assert_eq!(node.get("/v1/locks/a").await.ok()["held"], false);
}

#[tokio::test(start_paused = true)]
async fn a_wait_for_several_locks_is_answered_with_all_of_them() {
    let node = Arc::new(Node::new());
    let (first, _) = node.take("/v1/locks/a").await;
    let (second, _) = node.take("/v1/locks/b").await;
    let waiting = Arc::clone(&node);
    let waiter = tokio::spawn(async move {
        let body =
            r#"{"owner":"you","ttl_ms":5000,"wait_ms":60000,"locks":[{"name":"a"},{"name":"b"}]}"#;
        waiting.post("/v1/locks", body).await.ok()
    });
    sleep(Duration::from_secs(1)).await;
    node.delete(&format!("/v1/leases/{first}")).await.ok();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(node.get("/v1/locks/a").await.ok()["held"], false, "none is held before all are");
    node.delete(&format!("/v1/leases/{second}")).await.ok();
    let answer = waiter.await.expect("no panic");
    assert_eq!(answer["leases"][1]["lock"], "b");
    assert_eq!(answer["leases"][0]["waited_ms"], 2_000);
}

#[tokio::test(start_paused = true)]
async fn a_wait_for_several_locks_that_runs_out_says_why() {
    let node = Node::new();
    node.take("/v1/locks/a").await;
    let body =
        r#"{"owner":"you","ttl_ms":5000,"wait_ms":1000,"locks":[{"name":"b"},{"name":"a"}]}"#;
    node.post("/v1/locks", body).await.refused(409, "wait-timeout");
    assert_eq!(node.get("/v1/locks/b").await.ok()["queue_length"], 0);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_away_leaves_all_queues_after_its_grace() {
    let node = Arc::new(Node::new());
    node.take("/v1/locks/a").await;
    let waiting = Arc::clone(&node);
    let waiter = tokio::spawn(async move {
        let body = r#"{"owner":"you","ttl_ms":5000,"wait_ms":60000,"grace_ms":2000,
                      "locks":[{"name":"b"},{"name":"a"}]}"#;
        waiting.post("/v1/locks", body).await
    });
    sleep(Duration::from_millis(100)).await;
    assert_eq!(node.get("/v1/locks/b").await.ok()["queue_length"], 1);
    waiter.abort();
    sleep(Duration::from_millis(3_100)).await;
    assert_eq!(node.get("/v1/locks/b").await.ok()["queue_length"], 0);
}

#[tokio::test(start_paused = true)]
async fn requests_for_several_locks_that_make_no_sense_are_refused() {
    let node = Node::new();
    let many: Vec<Value> = (0..65).map(|n| json!({"name": format!("l{n}")})).collect();
    for body in [
        json!({"owner": "me", "ttl_ms": 5000, "locks": []}),
        json!({"owner": "me", "ttl_ms": 5000, "locks": many}),
        json!({"owner": "me", "ttl_ms": 5000, "locks": [{"name": "a"}, {"name": "a"}]}),
        json!({"owner": "me", "ttl_ms": 5000, "locks": [{"name": "a", "ttl_ms": 1}]}),
        json!({"owner": "me", "locks": [{"name": "a"}]}),
        json!({"ttl_ms": 5000, "locks": [{"name": "a"}]}),
        json!({"owner": "me", "ttl_ms": 5000}),
    ] {
        node.post("/v1/locks", &body.to_string()).await.refused(400, "bad-request");
    }
    let bad = json!({"owner": "me", "ttl_ms": 5000, "locks": [{"name": "a//b"}]}).to_string();
    node.post("/v1/locks", &bad).await.refused(400, "bad-name");
}

#[tokio::test(start_paused = true)]
async fn a_session_may_take_its_lock_again() {
    let node = Node::new();
    let session_id = session(&node, "worker").await;
    let body = json!({"session_id": session_id}).to_string();
    let first = node.post("/v1/locks/a", &body).await.ok();
    let second = node.post("/v1/locks/a", &body).await.ok();
    assert_eq!(first["token"], second["token"]);
    assert_ne!(first["lease_id"], second["lease_id"]);
    node.delete(&format!("/v1/leases/{}", id(&first))).await.ok();
    assert_eq!(node.get("/v1/locks/a").await.ok()["held"], true);
    node.delete(&format!("/v1/leases/{}", id(&second))).await.ok();
    assert_eq!(node.get("/v1/locks/a").await.ok()["held"], false);
}

#[tokio::test(start_paused = true)]
async fn a_lock_is_handed_over_with_a_new_token() {
    let node = Node::new();
    let (lease_id, token) = node.take("/v1/locks/a").await;
    let path = format!("/v1/leases/{lease_id}/hand-over");
    let lease = node.post(&path, r#"{"owner":"next","ttl_ms":60000}"#).await.ok();
    assert_eq!((&lease["owner"], &lease["ttl_ms"]), (&json!("next"), &json!(60_000)));
    assert!(lease["token"].as_u64() > Some(token));
    let gone = node.post(&format!("/v1/leases/{lease_id}/renew"), "").await;
    assert_eq!(gone.refused(410, "lease-gone")["how"], "handed-over");
    node.post(&path, r#"{"owner":"next","ttl_ms":60000}"#).await.refused(410, "lease-gone");
    node.post(&path, r#"{"owner":"next"}"#).await.refused(400, "bad-request");
    node.post("/v1/leases/nonsense/hand-over", r#"{"owner":"next","ttl_ms":1000}"#)
        .await
        .refused(400, "bad-request");
}

#[tokio::test(start_paused = true)]
async fn a_deadlock_is_refused_and_spelled_out() {
    let node = Arc::new(Node::new());
    let (ann, ben) = (session(&node, "ann").await, session(&node, "ben").await);
    let ask = |session: &str, wait_ms: u64| {
        json!({"session_id": session, "wait_ms": wait_ms}).to_string()
    };
    node.post("/v1/locks/a", &ask(&ann, 0)).await.ok();
    node.post("/v1/locks/b", &ask(&ben, 0)).await.ok();
    let (waiting, body) = (Arc::clone(&node), ask(&ann, 60_000));
    let waiter = tokio::spawn(async move { waiting.post("/v1/locks/b", &body).await });
    sleep(Duration::from_millis(100)).await;
    let problem = node.post("/v1/locks/a", &ask(&ben, 60_000)).await;
    assert!(!problem.text.contains(&ann) && !problem.text.contains(&ben), "ids are rights");
    let problem = problem.refused(409, "deadlock");
    assert_eq!(problem["cycle"][0], json!({"owner": "ben", "waits_for": "a", "held_by": "ann"}));
    assert_eq!(problem["cycle"][1], json!({"owner": "ann", "waits_for": "b", "held_by": "ben"}));
    waiter.abort();
}
