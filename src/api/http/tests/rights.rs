//! Who may do what, over every call of this surface; and what becomes of those who may no longer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, Request};
use axum::response::Response;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower_service::Service as _;

use super::{Node, PORT_OF_A_PROXY};
use crate::api::http::listen::{Here, Peer};
use crate::api::http::routes::{App, Route, router};
use crate::auth::right::Verb;
use crate::service::Options;

const NAME: &str = "team/jobs/x";

/// One example of a call, exhaustive over the routes: a new one does not compile without. Ids are of
/// nobody, so what is let in answers 404 or the like.
fn example(route: Route, method: &Method) -> (String, &'static str) {
    let id = "0123456789abcdef0123456789abcdef";
    let body = match (route, method.as_str()) {
        (Route::Lock | Route::Sessions, "POST") | (Route::LeaseHandOver, _) => {
            r#"{"owner":"me","ttl_ms":5000}"#
        }
        (Route::Locks, "POST") => {
            r#"{"owner":"me","ttl_ms":5000,"locks":[{"name":"team/jobs/x"},{"name":"team/jobs/y"}]}"#
        }
        (Route::Fence, _) => r#"{"name":"team/jobs/x","token":1}"#,
        (Route::Value, "PUT") => r#"{"lease_id":"0123456789abcdef0123456789abcdef","value":"v"}"#,
        (Route::ClusterLeader, _) => r#"{"node_id":9}"#,
        (Route::Members, "POST") => r#"{"ttl_ms":60000}"#,
        (Route::MemberReplace, _) => r#"{"with":9}"#,
        (Route::Tokens, "POST") => r#"{"name":"new","rights":["inspect"]}"#,
        (Route::TokensInit, _) => r#"{"name":"new"}"#,
        _ => "",
    };
    let path = match (route, method.as_str()) {
        (Route::Locks, "GET") => "/v1/locks?prefix=team/jobs/".to_owned(),
        (Route::Watch, _) => "/v1/watch?prefix=team/jobs/".to_owned(),
        (Route::Lock, "DELETE") => format!("/v1/locks/{NAME}?all=true"),
        (Route::Grant, _) => "/v1/history?token=1".to_owned(),
        (Route::Hold, _) => {
            format!("/v1/hold/{NAME}?owner=me&request_id=8b0f3f9e-4b4e-4c07-9a3e-2f6a3a1c9a01")
        }
        (Route::Nowhere, _) => "/v1/nowhere".to_owned(),
        (Route::Member | Route::MemberPromote | Route::MemberReplace, _) => {
            route.pattern().replace("{id}", "9")
        }
        _ => route.pattern().replace("{name}", NAME).replace("{id}", id),
    };
    (path, body)
}

/// Every call there is.
fn calls() -> Vec<(Route, Method)> {
    let methods = |route: &Route| {
        let route = *route;
        let listed = route.allow().split(", ").filter(|method| *method != "HEAD");
        listed.map(move |method| (route, method.parse().expect("a method")))
    };
    Route::ALL.iter().flat_map(methods).collect()
}

/// Whether a call is about names, which its rights must cover.
fn is_about_names(route: Route) -> bool {
    matches!(
        route,
        Route::Locks
            | Route::Lock
            | Route::Fence
            | Route::Value
            | Route::History
            | Route::Watch
            | Route::Hold
    )
}

impl Node {
    /// Only the head of the answer: some answers never end.
    pub(super) async fn open(
        &self,
        method: &Method,
        path: &str,
        body: &str,
        token: Option<&str>,
    ) -> Response {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request.body(Body::from(body.to_owned())).expect("a request");
        let Ok(response) = self.router.clone().call(request).await;
        response
    }

    pub(super) async fn ask(
        &self,
        method: &str,
        path: &str,
        body: Value,
        token: &str,
    ) -> (u16, Value) {
        let method = method.parse().expect("a method");
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let response = self.open(&method, path, &body, Some(token)).await;
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await.expect("a body").to_bytes();
        (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    /// As from the machine of the node, or from that address.
    async fn init(&self, from: &str, passed_on: bool) -> (u16, Value) {
        let mut request = Request::builder().method("POST").uri("/v1/tokens/init");
        if passed_on {
            request = request.header("x-forwarded-for", "203.0.113.9");
        }
        let mut request = request.body(Body::from(r#"{"name":"root"}"#)).expect("a request");
        let address = |text: &str| text.parse::<SocketAddr>().expect("an address");
        request.extensions_mut().insert(Peer(address(from)));
        request.extensions_mut().insert(Here(address("127.0.0.1:7400")));
        let Ok(response) = self.router.clone().call(request).await;
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await.expect("a body").to_bytes();
        (status, serde_json::from_slice(&bytes).expect("JSON"))
    }

    /// The token of the administrator.
    async fn closed() -> (Self, String) {
        let node = Self::new();
        let admin = node.close().await;
        (node, admin)
    }

    /// The same of this node.
    pub(super) async fn close(&self) -> String {
        let (status, first) = self.init("127.0.0.1:40000", false).await;
        assert_eq!(status, 200, "{first}");
        first["access_token"].as_str().expect("a secret").to_owned()
    }

    pub(super) async fn token(
        &self,
        admin: &str,
        rights: &[&str],
        more: Value,
    ) -> (String, String) {
        let mut body = json!({ "name": "one", "rights": rights });
        body.as_object_mut()
            .expect("an object")
            .extend(more.as_object().cloned().unwrap_or_default());
        let (status, made) = self.ask("POST", "/v1/tokens", body, admin).await;
        assert_eq!(status, 200, "{made}");
        let text = |field: &str| made[field].as_str().expect("a text").to_owned();
        (text("access_token"), text("token_id"))
    }
}

fn scoped(verb: Verb, prefix: &str) -> String {
    if verb == Verb::Admin { "admin".to_owned() } else { format!("{verb}:{prefix}") }
}

#[tokio::test(start_paused = true)]
async fn every_call_asks_who_calls_and_whether_it_may() {
    let (node, admin) = Node::closed().await;
    let unknown = "oarkey1-0123456789abcdef-0123456789abcdef0123456789abcdef";
    let (revoked, id) =
        node.token(&admin, &["acquire", "inspect", "force", "admin"], json!({})).await;
    assert_eq!(node.ask("DELETE", &format!("/v1/tokens/{id}"), Value::Null, &admin).await.0, 200);
    let mut refused = 0;
    for (route, method) in calls() {
        let verbs = route.verbs(&method);
        let (path, body) = example(route, &method);
        let status = async |token: Option<&str>| {
            node.open(&method, &path, body, token).await.status().as_u16()
        };
        let what = format!("{method} {path}");
        if verbs.is_empty() {
            // Nothing about locks, or not for anybody who is not at the machine of the node.
            let expected = if route == Route::TokensInit { 403 } else { 200 };
            assert_eq!(status(None).await, expected, "{what}");
            assert_eq!(status(Some(unknown)).await, expected, "{what}");
            continue;
        }
        refused += 1;
        for nobody in [None, Some(unknown), Some(revoked.as_str()), Some("nonsense"), Some("")] {
            assert_eq!(status(nobody).await, 401, "{what} with {nobody:?}");
        }
        let others: Vec<String> = Verb::ALL
            .into_iter()
            .filter(|verb| !verbs.contains(verb))
            .map(|verb| verb.to_string())
            .collect();
        let others: Vec<&str> = others.iter().map(String::as_str).collect();
        let (without, _) = node.token(&admin, &others, json!({})).await;
        assert_eq!(status(Some(&without)).await, 403, "{what} without the right");
        for verb in verbs {
            let (elsewhere, _) = node.token(&admin, &[&scoped(*verb, "other/")], json!({})).await;
            let answered = status(Some(&elsewhere)).await;
            assert_eq!(answered == 403, is_about_names(route), "{what} over other names");
            let (with, _) = node.token(&admin, &[&scoped(*verb, "team/jobs/")], json!({})).await;
            let answered = status(Some(&with)).await;
            assert!(![401, 403].contains(&answered), "{what} with the right: {answered}");
        }
    }
    assert!(refused > 25, "only {refused} calls were tried");
}

#[tokio::test(start_paused = true)]
async fn the_first_token_is_made_at_the_machine_of_a_node_and_only_once() {
    let node = Node::new();
    for (from, passed_on) in
        [("192.0.2.7:9", false), ("127.0.0.1:9", true), ("[2001:db8::1]:9", false)]
    {
        assert_eq!(node.init(from, passed_on).await.0, 403, "{from}");
    }
    // A proxy on this machine that leaves no trace in what it passes on is known by its user.
    let (status, refused) = node.init(&format!("127.0.0.1:{PORT_OF_A_PROXY}"), false).await;
    assert_eq!(status, 403);
    assert!(refused["detail"].as_str().is_some_and(|it| it.contains("a proxy")), "{refused}");
    // Nobody may lock the others out either.
    let body = json!({ "name": "me", "rights": ["admin"] });
    assert_eq!(node.ask("POST", "/v1/tokens", body, "x").await.0, 403);
    assert_eq!(node.get("/v1/locks").await.status, 200, "nothing is configured yet");
    let (status, first) = node.init("[::ffff:127.0.0.1]:9", false).await;
    assert_eq!(status, 200, "{first}");
    assert_eq!(node.get("/v1/locks").await.status, 401, "and now it is");
    assert_eq!(node.init("127.0.0.1:9", false).await.0, 403, "there is one to ask");
    let admin = first["access_token"].as_str().expect("a secret");
    let (status, all) = node.ask("GET", "/v1/tokens", Value::Null, admin).await;
    assert_eq!((status, all["tokens"].as_array().map(Vec::len)), (200, Some(1)));
    assert!(!all.to_string().contains(admin), "{all}");
    let last = format!("/v1/tokens/{}", first["token_id"].as_str().expect("an id"));
    let (status, refused) = node.ask("DELETE", &last, Value::Null, admin).await;
    assert_eq!((status, refused["type"].as_str()), (409, Some("last-admin")), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn a_listener_for_clients_answers_no_administration_whoever_asks() {
    let (node, admin) = Node::closed().await;
    let app = App::new(Arc::clone(&node.service), Arc::new(|_: &_| String::new()));
    let clients = Node { router: router(app.for_clients()), ..node };
    let mut elsewhere = 0;
    for (route, method) in calls() {
        let (path, body) = example(route, &method);
        for token in [None, Some(admin.as_str())] {
            let status = clients.open(&method, &path, body, token).await.status().as_u16();
            let what = format!("{method} {path}: {status}");
            let verbs = route.verbs(&method);
            let is_administration =
                verbs.contains(&Verb::Admin) || matches!(route, Route::Metrics | Route::TokensInit);
            assert_eq!(status == 421, is_administration, "{what}");
            elsewhere += u32::from(status == 421);
        }
    }
    assert!(elsewhere > 20, "only {elsewhere}");
    let (_, refused) = clients.ask("GET", "/v1/tokens", Value::Null, &admin).await;
    assert_eq!(refused["type"], "other-listener");
    assert!(refused["detail"].as_str().is_some_and(|it| it.contains("admin_address")), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn a_closed_cluster_lets_nobody_in_before_the_first_token() {
    let node = Node::with(Options { auth_required: true, ..Options::default() });
    assert_eq!(node.get("/v1/locks/a").await.refused(401, "unauthenticated")["status"], 401);
    assert_eq!(node.get("/readyz").await.status, 200, "health has no secrets");
    assert_eq!(node.init("127.0.0.1:9", false).await.0, 200);
}

#[tokio::test(start_paused = true)]
async fn rights_hold_for_each_inner_operation() {
    let (node, admin) = Node::closed().await;
    let rights = ["acquire:a/", "inspect:a/"];
    let (one, _) = node.token(&admin, &rights, json!({})).await;
    let (other, _) = node.token(&admin, &["acquire:b/", "inspect"], json!({})).await;
    let both =
        json!({ "owner": "me", "ttl_ms": 5000, "locks": [{ "name": "a/x" }, { "name": "b/x" }] });
    let (status, refused) = node.ask("POST", "/v1/locks", both, &one).await;
    assert_eq!(status, 403);
    assert!(refused["detail"].as_str().is_some_and(|it| it.contains("`b/x`")), "{refused}");
    for (path, status) in [
        ("/v1/locks", 403),
        ("/v1/locks?prefix=a", 403),
        ("/v1/locks?prefix=a/", 200),
        ("/v1/locks?prefix=b/", 403),
        ("/v1/locks?prefix=&consistency=stale", 403),
        ("/v1/locks/b/x?consistency=stale", 403),
        ("/v1/watch", 403),
        ("/v1/watch?prefix=b/", 403),
        ("/v1/locks/a%2Fx", 200),
    ] {
        let answered = node.open(&Method::GET, path, "", Some(&one)).await.status();
        assert_eq!(answered, status, "{path}");
    }
    // Whose token it was is told to whoever may see that lock.
    let taken = json!({ "owner": "them", "ttl_ms": 60000 });
    let (_, lease) = node.ask("POST", "/v1/locks/b/x", taken, &other).await;
    let grant = format!("/v1/history?token={}", lease["token"]);
    assert_eq!(node.ask("GET", &grant, Value::Null, &one).await.0, 404);
    assert_eq!(node.ask("GET", &grant, Value::Null, &other).await.0, 200);
}

#[tokio::test(start_paused = true)]
async fn a_quota_of_locks_and_sessions_is_told_readably() {
    let (node, admin) = Node::closed().await;
    let (one, _) = node.token(&admin, &["acquire"], json!({ "locks": 1, "sessions": 1 })).await;
    let body = json!({ "owner": "me", "ttl_ms": 60000 });
    assert_eq!(node.ask("POST", "/v1/locks/a", body.clone(), &one).await.0, 200);
    assert_eq!(node.ask("POST", "/v1/sessions", body.clone(), &one).await.0, 200);
    for (path, what) in [("/v1/locks/b", "1 locks"), ("/v1/sessions", "1 open sessions")] {
        let (status, refused) = node.ask("POST", path, body.clone(), &one).await;
        assert_eq!((status, refused["type"].as_str()), (429, Some("quota-exceeded")), "{refused}");
        assert_eq!(
            (refused["outcome"].as_str(), refused["limit"].as_u64()),
            (Some("not_done"), Some(1))
        );
        assert!(refused["detail"].as_str().is_some_and(|it| it.contains(what)), "{refused}");
    }
    let (_, all) = node.ask("GET", "/v1/tokens", Value::Null, &admin).await;
    let listed = all["tokens"].as_array().expect("a list");
    assert!(listed.iter().any(|it| it["locks"] == 1 && it["sessions"] == 1), "{all}");
}

/// Everything that comes until the stream ends.
async fn rest(response: Response) -> String {
    assert_eq!(response.status(), 200);
    let body = tokio::time::timeout(Duration::from_mins(5), response.into_body().collect());
    let bytes = body.await.expect("the stream ends").expect("it is whole").to_bytes();
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

#[tokio::test(start_paused = true)]
async fn streams_and_waits_end_with_their_token() {
    let (node, admin) = Node::closed().await;
    let (one, id) = node.token(&admin, &["acquire", "inspect"], json!({})).await;
    let (_, taken) =
        node.ask("POST", "/v1/locks/q", json!({ "owner": "o", "ttl_ms": null }), &admin).await;
    assert_eq!(taken["token"], 1, "{taken}");
    let hold = "/v1/hold/h?owner=me&request_id=8b0f3f9e-4b4e-4c07-9a3e-2f6a3a1c9a01";
    let watch = node.open(&Method::GET, "/v1/watch", "", Some(&one)).await;
    let hold = node.open(&Method::GET, hold, "", Some(&one)).await;
    let queue = json!({ "owner": "me", "ttl_ms": 5000, "wait_ms": 3_600_000 });
    let waits = node.ask("POST", "/v1/locks/q", queue, &one);
    let revoke = async {
        while node.service.node_state().totals.leases_waiting == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        node.ask("DELETE", &format!("/v1/tokens/{id}"), Value::Null, &admin).await
    };
    let ((watch, hold), (waited, refused), (status, _)) =
        tokio::join!(async { tokio::join!(rest(watch), rest(hold)) }, waits, revoke);
    assert_eq!(status, 200);
    assert!(watch.contains("event: end") && watch.contains("revoked"), "{watch}");
    assert!(hold.contains("event: granted") && hold.contains("revoked"), "{hold}");
    assert_eq!((waited, refused["outcome"].as_str()), (401, Some("unknown")), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn a_token_expires_by_the_lease_clock_and_its_streams_end() {
    let (node, admin) = Node::closed().await;
    let (one, _) = node.token(&admin, &["inspect"], json!({ "ttl_ms": 60_000 })).await;
    let watch = node.open(&Method::GET, "/v1/watch", "", Some(&one)).await;
    tokio::time::advance(Duration::from_secs(59)).await;
    assert_eq!(node.ask("GET", "/v1/locks", Value::Null, &one).await.0, 200);
    assert!(rest(watch).await.contains("ran out"));
    let (status, refused) = node.ask("GET", "/v1/locks", Value::Null, &one).await;
    assert_eq!(status, 401);
    assert!(refused["detail"].as_str().is_some_and(|it| it.contains("expired")), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn quotas_are_counted_for_each_identity_and_named() {
    let (node, admin) = Node::closed().await;
    let limits = json!({ "requests_per_second": 5, "waiting": 1, "streams": 1 });
    let (one, _) = node.token(&admin, &["acquire", "inspect"], limits).await;
    let watch = node.open(&Method::GET, "/v1/watch", "", Some(&one)).await;
    let (status, refused) = node.ask("GET", "/v1/watch", Value::Null, &one).await;
    assert_eq!((status, refused["type"].as_str()), (429, Some("quota-exceeded")), "{refused}");
    assert!(refused["detail"].as_str().is_some_and(|it| it.contains("1 streams")), "{refused}");
    drop(watch);
    assert_eq!(node.open(&Method::GET, "/v1/watch", "", Some(&one)).await.status(), 200);

    tokio::time::advance(Duration::from_secs(2)).await;
    let (_, held) =
        node.ask("POST", "/v1/locks/q", json!({ "owner": "o", "ttl_ms": null }), &admin).await;
    assert_eq!(held["lock"], "q");
    let queue = || json!({ "owner": "me", "ttl_ms": 5000, "wait_ms": 1000 });
    let (first, second) = tokio::join!(
        node.ask("POST", "/v1/locks/q", queue(), &one),
        node.ask("POST", "/v1/locks/q", queue(), &one)
    );
    assert_eq!((first.0, second.0), (409, 429), "{second:?}");

    tokio::time::advance(Duration::from_secs(2)).await;
    let mut statuses = Vec::new();
    for _ in 0..8 {
        statuses.push(node.ask("GET", "/v1/locks", Value::Null, &one).await.0);
    }
    assert_eq!(statuses, [200, 200, 200, 200, 200, 429, 429, 429]);
    assert_eq!(node.ask("GET", "/v1/locks", Value::Null, &admin).await.0, 200, "it has none");
    tokio::time::advance(Duration::from_millis(200)).await;
    assert_eq!(node.ask("GET", "/v1/locks", Value::Null, &one).await.0, 200);
}
