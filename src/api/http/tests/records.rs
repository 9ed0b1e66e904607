//! Permits, lock-delay, values and history over HTTP.

use serde_json::json;

use super::Node;

#[tokio::test(start_paused = true)]
async fn permits_are_shared_up_to_the_limit_that_the_cluster_keeps() {
    let node = Node::new();
    let ask = |permits: u64, limit: u64| {
        format!(
            r#"{{"owner":"me","ttl_ms":5000,"mode":"permits","permits":{permits},"limit":{limit}}}"#
        )
    };
    let lease = node.post("/v1/locks/pool", &ask(2, 3)).await.ok();
    assert_eq!((&lease["mode"], &lease["permits"]), (&json!("permits"), &json!(2)));
    node.post("/v1/locks/pool", &ask(1, 3)).await.ok();
    node.post("/v1/locks/pool", &ask(1, 3)).await.refused(409, "lock-held");
    let problem = node.post("/v1/locks/pool", &ask(1, 4)).await;
    assert_eq!(problem.refused(409, "permit-limit-differs")["limit"], 3);
    let lock = node.get("/v1/locks/pool").await.ok();
    assert_eq!(
        (&lock["holders"][0]["permits"], &lock["holders"][0]["limit"]),
        (&json!(2), &json!(3))
    );
}

#[tokio::test(start_paused = true)]
async fn permits_that_make_no_sense_are_refused() {
    let node = Node::new();
    for body in [
        r#"{"owner":"me","ttl_ms":5000,"mode":"permits"}"#,
        r#"{"owner":"me","ttl_ms":5000,"mode":"permits","permits":2,"limit":1}"#,
        r#"{"owner":"me","ttl_ms":5000,"mode":"permits","permits":0,"limit":1}"#,
        r#"{"owner":"me","ttl_ms":5000,"mode":"permits","permits":1,"limit":100001}"#,
        r#"{"owner":"me","ttl_ms":5000,"mode":"permits","permits":1.5,"limit":2}"#,
        r#"{"owner":"me","ttl_ms":5000,"permits":1,"limit":2}"#,
        r#"{"owner":"me","ttl_ms":5000,"lock_delay_ms":3600001}"#,
    ] {
        node.post("/v1/locks/pool", body).await.refused(400, "bad-request");
    }
    assert_eq!(node.get("/v1/locks/pool").await.ok()["token_ceiling"], 0);
}

#[tokio::test(start_paused = true)]
async fn a_forced_lock_says_how_long_it_stays_closed() {
    let node = Node::new();
    let (_, token) = node.take("/v1/locks/a").await;
    node.delete(&format!("/v1/locks/a?token={token}&reason=stuck")).await.ok();
    let problem = node.post("/v1/locks/a", r#"{"owner":"you","ttl_ms":1000}"#).await;
    let problem = problem.refused(409, "lock-held");
    assert_eq!(problem["why"]["cause"], "lock-delay");
    assert_eq!(problem["why"]["reopens_in_ms"], 30_000);
    assert!(problem["detail"].as_str().expect("a text").contains("closed for 30s"), "{problem}");
    let lease =
        node.post("/v1/locks/a", r#"{"owner":"you","ttl_ms":1000,"wait_ms":60000}"#).await.ok();
    assert_eq!(lease["waited_ms"], 30_000);
}

#[tokio::test(start_paused = true)]
async fn a_chosen_lock_delay_of_zero_opens_at_once() {
    let node = Node::new();
    node.take("/v1/locks/a").await;
    node.delete("/v1/locks/a?all=true&lock_delay_ms=0").await.ok();
    node.take("/v1/locks/a").await;
    node.delete("/v1/locks/a?all=true&lock_delay_ms=-1").await.refused(400, "bad-request");
}

#[tokio::test(start_paused = true)]
async fn why_tells_of_a_free_lock_and_of_a_queue() {
    let node = Node::new();
    assert_eq!(node.get("/v1/locks/a").await.ok()["why"]["cause"], "free");
    node.take("/v1/locks/a").await;
    let lock = node.get("/v1/locks/a").await.ok();
    assert_eq!(lock["why"]["cause"], "held");
    assert_eq!(lock["holders"][0]["renewed_ms_ago"], 0);
}

#[tokio::test(start_paused = true)]
async fn a_value_is_written_by_the_holder_and_read_by_all() {
    let node = Node::new();
    node.get("/v1/values/svc/leader").await.refused(404, "no-value");
    let (lease_id, token) = node.take("/v1/locks/svc/leader").await;
    let body = json!({"lease_id": lease_id, "value": "10.0.0.1:80"}).to_string();
    let value = node.send("PUT", "/v1/values/svc/leader", body).await.ok();
    assert_eq!((&value["token"], &value["current"]), (&json!(token), &json!(true)));
    let read = node.get("/v1/values/svc/leader").await;
    assert!(!read.text.contains(&lease_id), "the lease id is the holder's alone");
    assert_eq!(read.ok()["value"], "10.0.0.1:80");
    node.delete("/v1/values/svc/leader").await.refused(409, "lock-held");
    node.delete(&format!("/v1/leases/{lease_id}")).await.ok();
    assert_eq!(node.get("/v1/values/svc/leader").await.ok()["current"], false);
    assert_eq!(node.delete("/v1/values/svc/leader").await.ok()["deleted"], true);
    assert_eq!(node.delete("/v1/values/svc/leader").await.ok()["deleted"], false);
    node.get("/v1/values/svc/leader").await.refused(404, "no-value");
}

#[tokio::test(start_paused = true)]
async fn a_value_by_anybody_else_changes_nothing() {
    let node = Node::new();
    let (lease_id, _) = node.take("/v1/locks/a").await;
    let (other, _) = node.take("/v1/locks/b").await;
    let put = async |body: String| node.send("PUT", "/v1/values/a", body).await;
    let stranger = "0".repeat(32);
    let of = |lease: &str| json!({"lease_id": lease, "value": "x"}).to_string();
    put(of(&stranger)).await.refused(404, "lease-unknown");
    put(of(&other)).await.refused(409, "lease-of-another-lock");
    put(of("me")).await.refused(400, "bad-request");
    // Not saying the value is not deleting it.
    put(json!({"lease_id": lease_id}).to_string()).await.refused(400, "bad-request");
    let long = json!({"lease_id": lease_id, "value": "x".repeat(4097)}).to_string();
    put(long).await.refused(400, "bad-request");
    node.get("/v1/values/a").await.refused(404, "no-value");
    put(json!({"lease_id": lease_id, "value": "x".repeat(4096)}).to_string()).await.ok();
    let deleted = put(json!({"lease_id": lease_id, "value": null}).to_string()).await.ok();
    assert_eq!(deleted["deleted"], true);
}

#[tokio::test(start_paused = true)]
async fn the_history_tells_who_and_how_without_lease_ids() {
    let node = Node::new();
    let (lease_id, first) = node.take("/v1/locks/a/b").await;
    node.delete(&format!("/v1/leases/{lease_id}")).await.ok();
    let (held, second) = node.take("/v1/locks/a/b").await;
    let answer = node.get("/v1/history/a/b").await;
    assert!(!answer.text.contains(&lease_id) && !answer.text.contains(&held));
    let history = answer.ok();
    assert_eq!(
        (&history["grants"][0]["token"], &history["grants"][0]["how"]),
        (&json!(second), &json!(null))
    );
    assert_eq!(
        (&history["grants"][1]["token"], &history["grants"][1]["how"]),
        (&json!(first), &json!("released"))
    );
    assert_eq!(history["next"], json!(null));
    let page = node.get("/v1/history/a/b?limit=1").await.ok();
    assert_eq!(page["next"], second);
    let page = node.get(&format!("/v1/history/a/b?before={second}")).await.ok();
    assert_eq!(page["grants"][0]["token"], first);
    let grant = node.get(&format!("/v1/history?token={first}")).await.ok();
    assert_eq!((&grant["lock"], &grant["owner"]), (&json!("a/b"), &json!("me")));
    node.get("/v1/history?token=99").await.refused(404, "token-unknown");
    node.get("/v1/history").await.refused(400, "bad-request");
    node.get("/v1/history/a/b?limit=0").await.refused(400, "bad-request");
    node.get("/v1/history/").await.refused(400, "bad-name");
    node.post("/v1/history/a", "{}").await.refused(405, "method-not-allowed");
}
