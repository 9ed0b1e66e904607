//! Every call of the API, as it should go.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use serde_json::json;
use tokio::time::sleep;

use super::Node;
use crate::service::replicator::Leadership;

#[tokio::test(start_paused = true)]
async fn acquire_answers_the_lease_and_names_the_leader() {
    let node = Node::new();
    let body = r#"{"owner":"ci-42","ttl_ms":30000,"metadata":{"job":"17"}}"#;
    let answer = node.post("/v1/locks/deploy/prod", body).await;
    assert_eq!(answer.headers["oarlock-leader"], "1");
    let lease = answer.ok();
    assert_eq!(lease["lock"], "deploy/prod");
    assert_eq!(lease["mode"], "exclusive");
    assert_eq!(lease["owner"], "ci-42");
    assert_eq!(lease["token"], 1);
    assert_eq!(lease["ttl_ms"], 30_000);
    assert_eq!(lease["remaining_ms"], 30_000);
    assert_eq!(lease["waited_ms"], 0);
    assert_eq!(lease["metadata"], json!({"job": "17"}));
    assert_eq!(lease["lease_id"].as_str().map(str::len), Some(32));
}

#[tokio::test(start_paused = true)]
async fn a_held_lock_is_refused_naming_the_holder_and_the_queue() {
    let node = Node::new();
    let (lease_id, token) = node.take("/v1/locks/a").await;
    let answer = node.post("/v1/locks/a", r#"{"owner":"you","ttl_ms":1000}"#).await;
    let problem = answer.refused(409, "lock-held");
    assert_eq!(problem["holders"][0]["owner"], "me");
    assert_eq!(problem["holders"][0]["token"], token);
    assert_eq!(problem["holders"][0]["remaining_ms"], 30_000);
    assert_eq!(problem["queue_length"], 0);
    assert!(!answer.text.contains(&lease_id), "the lease id is the holder's alone");
}

#[tokio::test(start_paused = true)]
async fn a_wait_is_answered_at_the_hand_over() {
    let node = Arc::new(Node::new());
    let (lease_id, _) = node.take("/v1/locks/a").await;
    let waiting = Arc::clone(&node);
    let waiter = tokio::spawn(async move {
        let body = r#"{"owner":"you","ttl_ms":1000,"wait_ms":60000}"#;
        waiting.post("/v1/locks/a", body).await.ok()
    });
    sleep(Duration::from_secs(5)).await;
    let seen = node.get("/v1/locks/a").await.ok();
    assert_eq!(seen["waiters"][0]["owner"], "you");
    assert_eq!(seen["waiters"][0]["position"], 1);
    assert_eq!(node.delete(&format!("/v1/leases/{lease_id}")).await.ok()["released"], true);
    let lease = waiter.await.expect("no panic");
    assert_eq!(lease["token"], 2);
    assert_eq!(lease["waited_ms"], 5_000);
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_runs_out_names_who_is_in_the_way() {
    let node = Node::new();
    node.take("/v1/locks/a").await;
    let body = r#"{"owner":"you","ttl_ms":1000,"wait_ms":2000}"#;
    let problem = node.post("/v1/locks/a", body).await.refused(409, "wait-timeout");
    assert_eq!(problem["holders"][0]["owner"], "me");
    assert_eq!(problem["queue_length"], 0);
    assert_eq!(problem["how"], "wait-timeout");
}

#[tokio::test(start_paused = true)]
async fn shared_holders_share_and_a_lock_without_expiry_is_asked_for_with_null() {
    let node = Node::new();
    let body = r#"{"owner":"r","ttl_ms":null,"mode":"shared"}"#;
    let first = node.post("/v1/locks/a", body).await.ok();
    assert_eq!(first["ttl_ms"], json!(null));
    assert_eq!(first["remaining_ms"], json!(null));
    assert_eq!(node.post("/v1/locks/a", body).await.ok()["token"], 2);
    let seen = node.get("/v1/locks/a").await.ok();
    assert_eq!(seen["holder_count"], 2);
    assert_eq!(seen["last_token"], 2);
}

#[tokio::test(start_paused = true)]
async fn renew_release_and_look_follow_the_life_of_a_lease() {
    let node = Node::new();
    let (id, token) = node.take("/v1/locks/a").await;
    sleep(Duration::from_secs(10)).await;
    let look = node.get(&format!("/v1/leases/{id}")).await.ok();
    assert_eq!(look["state"], "held");
    assert_eq!(look["remaining_ms"], 20_000);
    let renewed = node.post(&format!("/v1/leases/{id}/renew"), "{}").await.ok();
    assert_eq!(renewed["remaining_ms"], 30_000);
    assert_eq!(node.post(&format!("/v1/leases/{id}/renew"), "").await.ok()["token"], token);
    for _ in 0..2 {
        let released = node.delete(&format!("/v1/leases/{id}")).await.ok();
        assert_eq!(released, json!({"released":true,"lease_id":id,"lock":"a","token":token}));
    }
    let gone = node.get(&format!("/v1/leases/{id}")).await.refused(410, "lease-gone");
    assert_eq!(gone["how"], "released");
    let gone = node.post(&format!("/v1/leases/{id}/renew"), "").await;
    gone.refused(410, "lease-gone");
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_expired_is_gone_and_says_how() {
    let node = Node::new();
    let (id, _) = node.take("/v1/locks/a").await;
    sleep(Duration::from_secs(31)).await;
    let gone = node.delete(&format!("/v1/leases/{id}")).await.refused(410, "lease-gone");
    assert_eq!(gone["how"], "expired");
    assert_eq!(node.get("/v1/locks/a").await.ok()["held"], false);
}

#[tokio::test(start_paused = true)]
async fn a_repeat_under_the_same_request_id_is_the_same_lease() {
    let node = Node::new();
    let id = "6fa459ea-ee8a-3ca4-894e-db77e160355e";
    let body = format!(r#"{{"owner":"me","ttl_ms":30000,"request_id":"{id}"}}"#);
    let first = node.post("/v1/locks/a", &body).await.ok();
    let by_header = Request::post("/v1/locks/a")
        .header("Idempotency-Key", id)
        .body(Body::from(r#"{"owner":"me","ttl_ms":30000}"#));
    let second = node.request(by_header.expect("a request")).await.ok();
    assert_eq!(first["lease_id"], second["lease_id"]);
    assert_eq!(first["token"], second["token"]);
    node.post("/v1/locks/b", &body).await.refused(422, "request-id-reused");
}

#[tokio::test(start_paused = true)]
async fn listing_goes_page_by_page_through_a_prefix() {
    let node = Node::new();
    for name in ["a/1", "a/2", "a/3", "b/1"] {
        node.take(&format!("/v1/locks/{name}")).await;
    }
    let page = node.get("/v1/locks?prefix=a%2F&limit=2").await.ok();
    assert_eq!(page["locks"][0]["lock"], "a/1");
    assert_eq!(page["locks"][1]["lock"], "a/2");
    let cursor = page["cursor"].as_str().expect("a cursor");
    let rest = node.get(&format!("/v1/locks?prefix=a/&limit=2&cursor={cursor}")).await.ok();
    assert_eq!(rest["locks"].as_array().map(Vec::len), Some(1));
    assert_eq!(rest["locks"][0]["lock"], "a/3");
    assert_eq!(rest["cursor"], json!(null));
}

#[tokio::test(start_paused = true)]
async fn force_release_ends_one_grant_once_and_tells_the_holder() {
    let node = Node::new();
    let (id, token) = node.take("/v1/locks/a").await;
    let path = format!("/v1/locks/a?token={token}&reason=stuck&lock_delay_ms=0");
    let ended = node.delete(&path).await.ok();
    assert_eq!(ended, json!({"lock":"a","released":[{"token":token}]}));
    assert_eq!(node.delete(&path).await.ok()["released"], json!([]));
    let gone = node.post(&format!("/v1/leases/{id}/renew"), "").await.refused(410, "lease-gone");
    assert_eq!(gone["how"], "forced");
    node.take("/v1/locks/a").await;
    let all = node.delete("/v1/locks/a?all=true").await.ok();
    assert_eq!(all["released"].as_array().map(Vec::len), Some(1));
}

#[tokio::test(start_paused = true)]
async fn a_session_keeps_its_leases_and_ends_with_them() {
    let node = Node::new();
    let session = node.post("/v1/sessions", r#"{"owner":"svc","ttl_ms":10000}"#).await.ok();
    let id = session["session_id"].as_str().expect("an id").to_owned();
    let body = format!(r#"{{"session_id":"{id}"}}"#);
    let lease = node.post("/v1/locks/a", &body).await.ok();
    assert_eq!(lease["owner"], "svc", "defaults to the session's");
    assert_eq!(lease["session_id"], id.as_str());
    sleep(Duration::from_secs(9)).await;
    node.post(&format!("/v1/sessions/{id}/renew"), "{}").await.ok();
    sleep(Duration::from_secs(9)).await;
    let look = node.get(&format!("/v1/sessions/{id}")).await.ok();
    assert_eq!(look["leases"], 1);
    assert_eq!(look["remaining_ms"], 1_000);
    let closed = node.delete(&format!("/v1/sessions/{id}")).await.ok();
    assert_eq!(closed["leases_ended"], 1);
    assert_eq!(node.delete(&format!("/v1/sessions/{id}")).await.ok()["closed"], true);
    node.get(&format!("/v1/sessions/{id}")).await.refused(410, "session-gone");
    node.post("/v1/locks/a", &body).await.refused(410, "session-gone");
    assert_eq!(node.get("/v1/locks/a").await.ok()["held"], false);
}

#[tokio::test(start_paused = true)]
async fn the_fence_holds_exactly_while_the_token_does() {
    let node = Node::new();
    let (id, token) = node.take("/v1/locks/a").await;
    let body = format!(r#"{{"name":"a","token":{token}}}"#);
    let held = node.post("/v1/fence", &body).await.ok();
    assert_eq!(held["held"], true);
    assert!(held["note"].as_str().is_some_and(|note| note.contains("does not protect")));
    node.post("/v1/fence", r#"{"name":"a","token":99}"#).await.refused(409, "token-stale");
    node.delete(&format!("/v1/leases/{id}")).await.ok();
    node.post("/v1/fence", &body).await.refused(409, "token-stale");
}

#[tokio::test(start_paused = true)]
async fn stale_reads_say_their_age_and_fresh_ones_do_not() {
    let node = Node::new();
    node.take("/v1/locks/a").await;
    let fresh = node.get("/v1/locks/a").await.ok();
    assert_eq!(fresh.get("staleness_ms"), None);
    let stale = node.get("/v1/locks/a?consistency=stale").await.ok();
    assert_eq!(stale["staleness_ms"], 0);
    node.solo.set_leadership(Leadership::default());
    let lost = node.get("/v1/locks?consistency=stale").await.ok();
    assert_eq!(lost["staleness_ms"], "unknown");
}

#[tokio::test(start_paused = true)]
async fn without_a_leader_calls_are_refused_and_the_node_is_not_ready() {
    let node = Node::new();
    node.get("/readyz").await.headers.get("oarlock-leader").expect("a leader");
    node.solo.set_leadership(Leadership::default());
    let answer = node.post("/v1/locks/a", r#"{"owner":"me","ttl_ms":1000}"#).await;
    answer.refused(503, "no-leader");
    assert_eq!(answer.headers["retry-after"], "1");
    assert_eq!(answer.headers.get("oarlock-leader"), None);
    node.get("/readyz").await.refused(503, "not-ready");
    assert_eq!(node.get("/livez").await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_answers_a_waiter_with_what_to_do() {
    let node = Arc::new(Node::new());
    node.take("/v1/locks/a").await;
    let waiting = Arc::clone(&node);
    let waiter = tokio::spawn(async move {
        let body = r#"{"owner":"you","ttl_ms":1000,"wait_ms":60000}"#;
        waiting.post("/v1/locks/a", body).await
    });
    sleep(Duration::from_secs(1)).await;
    node.service.drain();
    let answer = waiter.await.expect("no panic");
    assert_eq!(answer.status, 503);
    let problem = answer.json();
    assert_eq!(problem["type"], "shutting-down");
    assert_eq!(problem["outcome"], "unknown");
    assert!(problem["detail"].as_str().is_some_and(|text| text.contains("same request id")));
    node.get("/v1/locks/a").await.refused(503, "shutting-down");
}

#[tokio::test(start_paused = true)]
async fn the_cluster_the_index_and_the_metrics_tell_of_the_node() {
    let node = Node::new();
    node.take("/v1/locks/secret-name").await;
    node.post("/v1/locks/secret-name", r#"{"owner":"you","ttl_ms":1000}"#).await;
    let cluster = node.get("/v1/cluster").await.ok();
    assert_eq!(cluster["leader_id"], 1);
    assert_eq!(cluster["members"][0]["voter"], true);
    assert_eq!(cluster["cluster_id"], format!("{:032x}", 1));
    assert!(node.get("/").await.text.contains("POST   /v1/locks/{name}"));
    let page = node.get("/metrics").await.text;
    for line in [
        "oarlock_grants_total 1",
        "oarlock_refusals_total{reason=\"lock-held\"} 1",
        "oarlock_leases_held 1",
        "oarlock_http_requests_total{route=\"/v1/locks/{name}\",status=\"409\"} 1",
        "oarlock_is_leader 1",
    ] {
        assert!(page.contains(line), "{line} is missing in\n{page}");
    }
    assert!(!page.contains("secret-name"));
}
