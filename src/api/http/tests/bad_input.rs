//! Bad input gets a clear refusal, and nothing changes.

use axum::body::Body;
use axum::http::Request;
use oarlock_core::query::Totals;

use super::Node;

/// Sends each body to one path and expects the same refusal, with nothing changed.
async fn all_refused(path: &str, bodies: &[&str], status: u16, kind: &str) {
    let node = Node::new();
    for body in bodies {
        let answer = node.post(path, body).await;
        assert_eq!(answer.json()["type"], kind, "{body}");
        let problem = answer.refused(status, kind);
        assert!(problem["detail"].as_str().is_some_and(|text| text.len() > 10), "{body}");
    }
    assert_eq!(node.service.node_state().totals, Totals::default());
}

#[tokio::test]
async fn bodies_that_are_not_as_expected() {
    let deep = format!(
        r#"{{"owner":"me","ttl_ms":1000,"metadata":{}{}}}"#,
        "[".repeat(5_000),
        "]".repeat(5_000)
    );
    let bodies = [
        "",
        "   ",
        "null",
        "[]",
        r#"["me",1000]"#,
        "{",
        r#"{"owner":"me","ttl_ms":1000} x"#,
        r#"{"owner":"me","ttl_ms":1000,"tll_ms":1}"#,
        r#"{"owner":"me","owner":"you","ttl_ms":1000}"#,
        r#"{"owner":"me","ttl_ms":1000,"ttl_ms":1000}"#,
        r#"{"owner":"me","ttl_ms":1000,"metadata":{"a":"1","a":"2"}}"#,
        r#"{"owner":"me","ttl_ms":1000,"metadata":{"a":1}}"#,
        r#"{"owner":"me","ttl_ms":1000,"metadata":[]}"#,
        r#"{"owner":1,"ttl_ms":1000}"#,
        r#"{"owner":"","ttl_ms":1000}"#,
        r#"{"owner":"a\u0007b","ttl_ms":1000}"#,
        r#"{"ttl_ms":1000}"#,
        r#"{"owner":"me","ttl_ms":1000,"mode":"permits"}"#,
        r#"{"owner":"me","ttl_ms":1000,"mode":{"exclusive":null}}"#,
        r#"{"owner":"me","ttl_ms":1000,"request_id":"00000000-0000-0000-0000-000000000000"}"#,
        r#"{"owner":"me","ttl_ms":1000,"wait_ms":"5s"}"#,
        r#"{"owner":"me","ttl_ms":1000,"wait_ms":-1}"#,
        r#"{"owner":"me","ttl_ms":1000,"wait_ms":1.5}"#,
        r#"{"owner":"me","ttl_ms":1000,"wait_ms":3600001}"#,
        r#"{"owner":"me","ttl_ms":1000,"grace_ms":300001}"#,
        r#"{"owner":"me","ttl_ms":1000,"session_id":"00000000000000000000000000000001"}"#,
        r#"{"owner":"me","session_id":"nonsense"}"#,
        r#"{"owner":"me","ttl_ms":1000,"request_id":"1"}"#,
        r#"{"owner":"me","ttl_ms":1000,"request_id":"6fa459eaee8a3ca4894edb77e160355e"}"#,
        r#"{"owner":"me","ttl_ms":1000,"request_id":"6fa459ea-ee8a-3ca4-894e-db77e160355z"}"#,
        &deep,
    ];
    all_refused("/v1/locks/a", &bodies, 400, "bad-request").await;
}

#[tokio::test]
async fn ttls_out_of_bounds_say_why() {
    let node = Node::new();
    for (ttl, why) in [
        ("0", "100 to 86400000"),
        ("99", "100 to 86400000"),
        ("86400001", "100 to 86400000"),
        ("-5", "whole number of milliseconds"),
        ("1.5", "whole number of milliseconds"),
        ("1e3", "whole number of milliseconds"),
        ("99999999999999999999", "whole number of milliseconds"),
        ("\"30s\"", "whole number of milliseconds"),
        ("true", "whole number of milliseconds"),
    ] {
        let body = format!(r#"{{"owner":"me","ttl_ms":{ttl}}}"#);
        let problem = node.post("/v1/locks/a", &body).await.refused(400, "bad-request");
        let detail = problem["detail"].as_str().expect("a detail");
        assert!(detail.contains("ttl_ms") && detail.contains(why), "{ttl}: {detail}");
    }
    let problem = node.post("/v1/locks/a", r#"{"owner":"me"}"#).await.refused(400, "bad-request");
    assert!(problem["detail"].as_str().is_some_and(|text| text.contains("ttl_ms is missing")));
}

#[tokio::test]
async fn invalid_utf_8_in_a_body() {
    let node = Node::new();
    let body = b"{\"owner\":\"\xff\",\"ttl_ms\":1000}".to_vec();
    node.send("POST", "/v1/locks/a", body).await.refused(400, "bad-request");
}

#[tokio::test]
async fn names_that_proxies_would_rewrite_or_people_cannot_read() {
    let node = Node::new();
    let long = "n".repeat(513);
    let names = [
        "",
        "a//b",
        "/a",
        "a/",
        ".",
        "..",
        "a/./b",
        "a/../b",
        "%2E",
        "a/%2e%2E/b",
        "a%2F",
        "a%2F%2Fb",
        "%ff",
        "a%00b",
        "a%0Ab",
        "a%7Fb",
        "a%",
        "a%2",
        "a%zz",
        &long,
    ];
    for name in names {
        for method in ["GET", "POST", "DELETE"] {
            let path = format!("/v1/locks/{name}");
            node.send(method, &path, r#"{"owner":"me","ttl_ms":1000}"#)
                .await
                .refused(400, "bad-name");
        }
    }
    let body = r#"{"name":"a/../b","token":1}"#;
    node.post("/v1/fence", body).await.refused(400, "bad-name");
    let longest = "n".repeat(512);
    node.take(&format!("/v1/locks/{longest}")).await;
}

#[tokio::test]
async fn one_name_is_one_lock_however_it_is_encoded() {
    let node = Node::new();
    node.take("/v1/locks/a%2Fb+c%20%C3%A9").await;
    let seen = node.get("/v1/locks/a/b+c%20é").await.ok();
    assert_eq!(seen["lock"], "a/b+c é");
    assert_eq!(seen["held"], true);
    node.take("/v1/locks/%252F").await;
    assert_eq!(node.get("/v1/locks/%252F").await.ok()["lock"], "%2F");
}

#[tokio::test]
async fn ids_that_are_unknown_or_malformed() {
    let node = Node::new();
    let id = "f".repeat(32);
    node.get(&format!("/v1/leases/{id}")).await.refused(404, "lease-unknown");
    node.post(&format!("/v1/leases/{id}/renew"), "").await.refused(404, "lease-unknown");
    node.delete(&format!("/v1/leases/{id}")).await.refused(404, "lease-unknown");
    node.get(&format!("/v1/sessions/{id}")).await.refused(404, "session-unknown");
    node.post(&format!("/v1/sessions/{id}/renew"), "").await.refused(404, "session-unknown");
    node.delete(&format!("/v1/sessions/{id}")).await.refused(404, "session-unknown");
    let body = format!(r#"{{"session_id":"{id}"}}"#);
    node.post("/v1/locks/a", &body).await.refused(404, "session-unknown");
    node.get("/v1/leases/F00").await.refused(400, "bad-request");
    node.get("/v1/sessions/F00").await.refused(400, "bad-request");
}

#[tokio::test]
async fn queries_bodies_and_keys_that_do_not_belong() {
    let node = Node::new();
    let (id, _) = node.take("/v1/locks/a").await;
    for path in [
        "/v1/locks?limit=0",
        "/v1/locks?limit=1001",
        "/v1/locks?limit=x",
        "/v1/locks?prefixx=a",
        "/v1/locks?prefix=a&prefix=b",
        "/v1/locks?cursor=",
        "/v1/locks?cursor=%2B1",
        "/v1/locks?cursor=zz",
        "/v1/locks?cursor=f",
        "/v1/locks?prefix=%ff",
        "/v1/locks/a?consistency=weak",
        "/v1/cluster?x=1",
    ] {
        assert_eq!(node.get(path).await.json()["type"], "bad-request", "{path}");
    }
    for path in [
        "/v1/locks/a",
        "/v1/locks/a?token=1&all=true",
        "/v1/locks/a?all=yes",
        "/v1/locks/a?token=-1",
        "/v1/locks/a?token=9007199254740992",
        "/v1/locks/a?all=true&reason=",
    ] {
        assert_eq!(node.delete(path).await.json()["type"], "bad-request", "{path}");
    }
    let body = r#"{"ttl_ms":1}"#;
    node.post(&format!("/v1/leases/{id}/renew"), body).await.refused(400, "bad-request");
    node.post(&format!("/v1/leases/{id}/renew"), "[]").await.refused(400, "bad-request");
    let two_keys = Request::post("/v1/locks/b")
        .header("Idempotency-Key", "6fa459ea-ee8a-3ca4-894e-db77e160355e")
        .body(Body::from(
            r#"{"owner":"me","ttl_ms":1000,"request_id":"7fa459ea-ee8a-3ca4-894e-db77e160355e"}"#,
        ));
    node.request(two_keys.expect("a request")).await.refused(400, "bad-request");
    assert_eq!(node.service.node_state().totals.leases_held, 1, "nothing changed");
}

#[tokio::test]
async fn session_and_fence_bodies_that_are_not_as_expected() {
    let sessions = [
        r#"{"owner":"me"}"#,
        r#"{"owner":"me","ttl_ms":null}"#,
        r#"{"owner":"me","ttl_ms":0}"#,
        r#"{"owner":"me","ttl_ms":1000,"name":"a"}"#,
        r#"{"ttl_ms":1000}"#,
    ];
    all_refused("/v1/sessions", &sessions, 400, "bad-request").await;
    let fences = [r#"{"name":"a"}"#, r#"{"name":"a","token":-1}"#, r#"{"name":"a","token":"1"}"#];
    all_refused("/v1/fence", &fences, 400, "bad-request").await;
}

#[tokio::test]
async fn unknown_paths_and_methods() {
    let node = Node::new();
    for path in ["/v1/nothing", "/v1/leases", "/v1/leases/a/b", "/v2/locks/a"] {
        node.get(path).await.refused(404, "not-found");
    }
    let answer = node.send("PUT", "/v1/locks/a", "{}").await;
    answer.refused(405, "method-not-allowed");
    assert_eq!(answer.headers["allow"], "GET, HEAD, POST, DELETE");
    let answer = node.delete("/v1/locks").await;
    answer.refused(405, "method-not-allowed");
    assert_eq!(answer.headers["allow"], "GET, HEAD, POST");
    node.get("/v1/fence").await.refused(405, "method-not-allowed");
}

#[tokio::test]
async fn a_body_over_the_limit_gets_a_readable_refusal() {
    let node = Node::new();
    let padding = " ".repeat(65 * 1024);
    let body = format!(r#"{{"owner":"me","ttl_ms":1000}}{padding}"#);
    node.post("/v1/locks/a", &body).await.refused(413, "body-too-large");
    let object = r#"{"owner":"me","ttl_ms":1000}"#;
    let at_the_limit = " ".repeat(64 * 1024 - object.len()) + object;
    node.post("/v1/locks/a", &at_the_limit).await.ok();
}
