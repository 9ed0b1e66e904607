//! What the page of metrics says after a story whose numbers are known.

use std::time::Duration;

use super::Node;
use crate::observe::metrics::Metrics;

/// The value of one series.
fn value(page: &str, series: &str) -> f64 {
    let line = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {series} in\n{page}")).parse().expect("a number")
}

fn near(page: &str, series: &str, expected: f64) {
    let found = value(page, series);
    assert!((found - expected).abs() < 0.05, "{series} is {found}, not {expected}");
}

#[tokio::test(start_paused = true)]
async fn metrics_count_grants_refusals_waits_holds_and_how_leases_ended() {
    let node = Node::new();
    let (first, _) = node.take("/v1/locks/a").await;
    node.post("/v1/locks/a", r#"{"owner":"you","ttl_ms":1000}"#).await.refused(409, "lock-held");
    let waits = r#"{"owner":"you","ttl_ms":30000,"wait_ms":60000}"#;
    let (granted, ()) = tokio::join!(node.post("/v1/locks/a", waits), async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        near(&node.get("/metrics").await.text, "oarlock_leases_waiting", 1.0);
        node.delete(&format!("/v1/leases/{first}")).await.ok();
    });
    granted.ok();
    node.post("/v1/locks/b", r#"{"owner":"me","ttl_ms":1000}"#).await.ok();
    let late = r#"{"owner":"me","ttl_ms":1000,"wait_ms":500}"#;
    node.post("/v1/locks/a", late).await.refused(409, "wait-timeout");
    tokio::time::sleep(Duration::from_secs(2)).await;
    let page = node.get("/metrics").await.text;
    for (series, expected) in [
        ("oarlock_grants_total", 3.0),
        (r#"oarlock_refusals_total{reason="lock-held"}"#, 1.0),
        (r#"oarlock_leases_ended_total{how="released"}"#, 1.0),
        (r#"oarlock_leases_ended_total{how="expired"}"#, 1.0),
        (r#"oarlock_waiters_left_total{how="wait-timeout"}"#, 1.0),
        ("oarlock_leases_held", 1.0),
        ("oarlock_leases_waiting", 0.0),
        ("oarlock_locks", 1.0),
        ("oarlock_wait_seconds_count", 3.0),
        ("oarlock_wait_seconds_sum", 2.0),
        ("oarlock_hold_seconds_count", 2.0),
        ("oarlock_hold_seconds_sum", 3.0),
        ("oarlock_is_leader", 1.0),
        (r#"oarlock_http_requests_total{route="/v1/locks/{name}",status="409"}"#, 2.0),
    ] {
        near(&page, series, expected);
    }
}

/// Only a node with certificates has this family; an alert asks for it by this name.
#[tokio::test(start_paused = true)]
async fn the_end_of_a_certificate_is_shown_by_its_listener() {
    let (node, metrics) = (Node::new(), Metrics::new());
    metrics.certificate("clients", 86_400);
    let page = metrics.render(&node.service.node_state());
    near(&page, r#"oarlock_certificate_left_seconds{of="clients"}"#, 86_400.0);
}
