//! A request (its first line the method and the path, the rest the body) is answered, and a refusal
//! is a problem that says what it did.

use std::sync::{Arc, Weak};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request, StatusCode, Uri};
use axum::response::Response;
use http_body_util::BodyExt as _;
use oarlock::api::http::{App, router};
use oarlock::service::observer::Silent;
use oarlock::service::replicator::Upcalls;
use oarlock::service::solo::Solo;
use oarlock::service::{Options, Service};
use serde_json::Value;
use tower_service::Service as _;

/// Longer than any call may take, waits included: time is paused.
const DEADLINE: Duration = Duration::from_secs(4_000);

pub(crate) fn run(data: &[u8]) {
    let mut parts = data.splitn(2, |byte| *byte == b'\n');
    let head = String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
    let body = parts.next().unwrap_or_default().to_vec();
    let (method, path) = head.split_once(' ').unwrap_or(("POST", &head));
    // What hyper would not let through.
    let (Ok(method), Ok(uri)) = (Method::from_bytes(method.as_bytes()), path.parse::<Uri>()) else {
        return;
    };
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().expect("a runtime");
    runtime.block_on(async {
        let request = Request::builder().method(method).uri(uri).body(Body::from(body));
        let call = answer(request.expect("a request"));
        tokio::time::timeout(DEADLINE, call).await.expect("every call ends");
    });
}

/// Asks one node these things, one after the other: the path, and the body of a POST. What it
/// answered, unless a path is none.
pub(super) fn asked(requests: &[(String, Option<&str>)]) -> Option<Vec<(StatusCode, Value)>> {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().expect("a runtime");
    runtime.block_on(async {
        let (mut router, mut answers) = (alone(), Vec::new());
        for (path, body) in requests {
            let uri = path.parse::<Uri>().ok()?;
            let method = if body.is_some() { Method::POST } else { Method::GET };
            let body = Body::from(body.unwrap_or_default().to_owned());
            let request = Request::builder().method(method).uri(uri).body(body);
            let Ok(response): Result<Response, _> = router.call(request.expect("a request")).await;
            let (head, body) = response.into_parts();
            let bytes = body.collect().await.expect("a body").to_bytes();
            answers.push((head.status, serde_json::from_slice(&bytes).expect("JSON")));
        }
        Some(answers)
    })
}

/// A node that is a cluster of its own, behind the API.
fn alone() -> Router {
    let solo = Solo::new();
    let next = std::sync::atomic::AtomicU64::new(1);
    let ids = move || u128::from(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
    let service =
        Service::new(Arc::clone(&solo), Arc::new(Silent), Box::new(ids), Options::default());
    let as_upcalls: Arc<dyn Upcalls> = service.clone();
    let upcalls: Weak<dyn Upcalls> = Arc::downgrade(&as_upcalls);
    solo.attach(upcalls);
    router(App::new(service, Arc::new(|_: &_| String::new())))
}

async fn answer(request: Request<Body>) {
    let is_head = request.method() == Method::HEAD;
    let mut router = alone();
    let Ok(response): Result<Response, _> = router.call(request).await;
    let (head, mut body) = response.into_parts();
    let is_json = |kind: &str| head.headers.get("content-type").is_some_and(|it| it == kind);
    if head.status == StatusCode::OK {
        // A stream may go on for ever; its first frame is enough.
        if is_json("text/event-stream") {
            let _first = body.frame().await;
            return;
        }
        body.collect().await.expect("a body");
        return;
    }
    let bytes = body.collect().await.expect("a body").to_bytes();
    if is_head {
        return assert!(bytes.is_empty(), "the answer to HEAD has no body");
    }
    assert!(is_json("application/problem+json"), "{head:?} {bytes:?}");
    let problem: Value = serde_json::from_slice(&bytes).expect("a problem in JSON");
    assert_eq!(problem["status"], head.status.as_u16(), "{problem}");
    assert!(problem["detail"].as_str().is_some_and(|text| text.len() > 5), "{problem}");
    assert!(problem["outcome"] == "not_done" || problem["outcome"] == "unknown", "{problem}");
    assert!(head.status.as_u16() < 500 || head.status == StatusCode::SERVICE_UNAVAILABLE);
}
