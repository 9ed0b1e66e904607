//! Tests of the native API on a node without log or disk. Those about time call the router under a
//! paused clock; those about connections use real sockets.

mod bad_input;
mod calls;
mod connections;
mod many;
mod metrics;
mod openapi;
mod records;
mod rights;
mod streams;

use oarlock_core::planted;

use std::sync::{Arc, Weak};

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::Value;
use tower_service::Service as _;

use crate::api::http::{App, router};
use crate::observe::metrics::Metrics;
use crate::service::replicator::Upcalls;
use crate::service::solo::Solo;
use crate::service::{Options, Service};

struct Node {
    solo: Arc<Solo>,
    service: Arc<Service<Solo>>,
    router: Router,
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    text: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("not JSON: {}", self.text))
    }

    /// Checks that this is a problem of one kind that changed nothing.
    fn refused(&self, status: u16, kind: &str) -> Value {
        let problem = self.json();
        assert_eq!(problem["type"], kind, "{problem}");
        assert_eq!(self.status.as_u16(), status, "{problem}");
        assert_eq!(problem["status"], status, "{problem}");
        assert_eq!(problem["outcome"], "not_done", "{problem}");
        assert_eq!(self.headers["content-type"], "application/problem+json");
        problem
    }

    fn ok(&self) -> Value {
        assert_eq!(self.status, StatusCode::OK, "{}", self.text);
        self.json()
    }
}

/// Connections from there are of another user than the node's.
const PORT_OF_A_PROXY: u16 = 8080;

impl Node {
    fn new() -> Self {
        Self::with(Options::default())
    }

    fn with(options: Options) -> Self {
        planted::choose(std::env::var(planted::VARIABLE).ok()).expect("a planted bug");
        let solo = Solo::new();
        let metrics = Metrics::new();
        let next = std::sync::atomic::AtomicU64::new(1);
        let ids = move || u128::from(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        let observer = Arc::clone(&metrics);
        let service = Service::new(Arc::clone(&solo), observer, Box::new(ids), options);
        let as_upcalls: Arc<dyn Upcalls> = service.clone();
        let upcalls: Weak<dyn Upcalls> = Arc::downgrade(&as_upcalls);
        solo.attach(upcalls);
        let expiring = Arc::clone(&service);
        tokio::spawn(async move { expiring.expire().await });
        let page = Arc::new(move |state: &_| metrics.render(state));
        let mut app = App::new(Arc::clone(&service), page);
        app.is_own = |from, _| from.port() != PORT_OF_A_PROXY;
        let router = router(app);
        Self { solo, service, router }
    }

    async fn send(&self, method: &str, path: &str, body: impl Into<Body>) -> Answer {
        let request = Request::builder().method(method).uri(path);
        self.request(request.body(body.into()).expect("a request")).await
    }

    async fn request(&self, request: Request<Body>) -> Answer {
        let Ok(response) = self.router.clone().call(request).await;
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.expect("a body").to_bytes();
        let text = String::from_utf8(bytes.to_vec()).expect("UTF-8");
        Answer { status: parts.status, headers: parts.headers, text }
    }

    async fn post(&self, path: &str, body: &str) -> Answer {
        self.send("POST", path, body.to_owned()).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, Body::empty()).await
    }

    async fn delete(&self, path: &str) -> Answer {
        self.send("DELETE", path, Body::empty()).await
    }

    /// Takes a lock for 30 s; its lease id and token.
    async fn take(&self, path: &str) -> (String, u64) {
        let lease = self.post(path, r#"{"owner":"me","ttl_ms":30000}"#).await.ok();
        let id = lease["lease_id"].as_str().expect("an id").to_owned();
        (id, lease["token"].as_u64().expect("a token"))
    }
}
