//! Connections over real sockets: lengths, keep-alive, limits, clients that go away, the stop.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::Node;
use crate::api::http::{Limits, serve};

/// Nothing here should take longer, also on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

struct Running {
    node: Node,
    address: std::net::SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinHandle<()>,
}

async fn running(limits: Limits) -> Running {
    let node = Node::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let (stop, stopped) = oneshot::channel();
    let serving = tokio::spawn(serve(listener, node.router.clone(), limits, async move {
        let _dropped_counts_too = stopped.await;
    }));
    Running { node, address, stop: Some(stop), serving }
}

impl Running {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("a connection")
    }

    async fn waiters(&self, count: u64) {
        let all_there = async {
            while self.node.service.node_state().totals.leases_waiting != count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, all_there).await.expect("the waiters in time");
    }
}

fn post(path: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

/// Reads one response with a body of known length.
async fn response(stream: &mut TcpStream) -> (String, String) {
    let read = async {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.expect("more of the head"));
        }
        let head = String::from_utf8(head).expect("UTF-8").to_lowercase();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .unwrap_or_else(|| panic!("no length in {head}"));
        let mut body = vec![0; length.parse().expect("a number")];
        stream.read_exact(&mut body).await.expect("the body");
        (head, String::from_utf8(body).expect("UTF-8"))
    };
    timeout(PATIENCE, read).await.expect("a response in time")
}

async fn closed(stream: &mut TcpStream) -> String {
    let mut rest = Vec::new();
    let end = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("an end in time");
    // A reset is an end as well.
    drop(end);
    String::from_utf8_lossy(&rest).into_owned()
}

#[tokio::test]
async fn one_connection_carries_many_requests() {
    let running = running(Limits::default()).await;
    let mut stream = running.connect().await;
    for name in ["a", "b", "c"] {
        let request = post(&format!("/v1/locks/{name}"), r#"{"owner":"me","ttl_ms":30000}"#);
        stream.write_all(request.as_bytes()).await.expect("a write");
        let (head, body) = response(&mut stream).await;
        assert!(head.starts_with("http/1.1 200"), "{head}");
        assert!(body.contains("lease_id"), "{body}");
    }
}

#[tokio::test]
async fn a_client_that_closes_its_connection_is_detached() {
    let running = running(Limits::default()).await;
    running.node.take("/v1/locks/a").await;
    let mut stream = running.connect().await;
    let body = r#"{"owner":"you","ttl_ms":30000,"wait_ms":60000,"grace_ms":0}"#;
    stream.write_all(post("/v1/locks/a", body).as_bytes()).await.expect("a write");
    running.waiters(1).await;
    drop(stream);
    running.waiters(0).await;
}

#[tokio::test]
async fn a_large_body_is_drained_and_a_huge_one_closes_the_connection() {
    let running = running(Limits::default()).await;
    let mut stream = running.connect().await;
    let large = "x".repeat(500 * 1024);
    stream.write_all(post("/v1/locks/a", &large).as_bytes()).await.expect("a write");
    let (head, body) = response(&mut stream).await;
    assert!(head.starts_with("http/1.1 413"), "{head}");
    assert!(body.contains("body-too-large"), "{body}");
    let again = post("/v1/locks/a", r#"{"owner":"me","ttl_ms":30000}"#);
    stream.write_all(again.as_bytes()).await.expect("the connection still works");
    assert!(response(&mut stream).await.0.starts_with("http/1.1 200"));

    let mut stream = running.connect().await;
    let head = "POST /v1/locks/a HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999\r\n\r\n";
    stream.write_all(head.as_bytes()).await.expect("a write");
    let (head, _) = response(&mut stream).await;
    assert!(head.starts_with("http/1.1 413") && head.contains("connection: close"), "{head}");
    closed(&mut stream).await;
}

#[tokio::test]
async fn a_head_that_does_not_end_closes_the_connection() {
    let running = running(Limits::default()).await;
    let mut stream = running.connect().await;
    stream.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n").await.expect("a write");
    let began = std::time::Instant::now();
    closed(&mut stream).await;
    assert!(began.elapsed() >= Duration::from_secs(4), "it was given its time");
}

#[tokio::test]
async fn connections_above_the_cap_are_refused_readably() {
    let running = running(Limits { connections_max: 1, ..Limits::default() }).await;
    let mut first = running.connect().await;
    first.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("a write");
    response(&mut first).await;
    let mut second = running.connect().await;
    let (head, body) = response(&mut second).await;
    assert!(head.starts_with("http/1.1 503"), "{head}");
    let problem: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(problem["type"], "overloaded");
}

#[tokio::test]
async fn a_stop_answers_what_waits_and_closes_the_rest() {
    let mut running = running(Limits::default()).await;
    running.node.take("/v1/locks/a").await;
    let mut idle = running.connect().await;
    let mut waiting = running.connect().await;
    let body = r#"{"owner":"you","ttl_ms":30000,"wait_ms":60000}"#;
    waiting.write_all(post("/v1/locks/a", body).as_bytes()).await.expect("a write");
    running.waiters(1).await;
    running.node.service.drain();
    drop(running.stop.take());
    let (head, body) = response(&mut waiting).await;
    assert!(head.starts_with("http/1.1 503"), "{head}");
    assert!(body.contains("same request id"), "{body}");
    assert_eq!(closed(&mut idle).await, "");
    timeout(PATIENCE, running.serving).await.expect("an end in time").expect("no panic");
}

#[tokio::test]
async fn a_stream_outlives_the_idle_timeout_and_its_client_going_away_ends_it() {
    let running = running(Limits::default()).await;
    let mut stream = running.connect().await;
    stream.write_all(b"GET /v1/watch HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("a write");
    until(&mut stream, ": ping").await;
    tokio::time::pause();
    for _ in 0..20 {
        tokio::time::advance(Duration::from_secs(5)).await;
    }
    tokio::time::resume();
    running.node.take("/v1/locks/a").await;
    until(&mut stream, "event: granted").await;

    let hold = "GET /v1/hold/b?owner=me&grace_ms=1000\
                &request_id=8a4f31b4-5a5c-4a3a-9d50-0a54f8f8a111 HTTP/1.1\r\nhost: x\r\n\r\n";
    let mut stream = running.connect().await;
    stream.write_all(hold.as_bytes()).await.expect("a write");
    until(&mut stream, "event: granted").await;
    drop(stream);
    let free = async {
        while running.node.service.node_state().totals.leases_held != 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, free).await.expect("the hold ends");
}

/// Reads until the text has come.
async fn until(stream: &mut TcpStream, text: &str) {
    let read = async {
        let mut seen = Vec::new();
        while !String::from_utf8_lossy(&seen).contains(text) {
            seen.push(stream.read_u8().await.expect("more of the stream"));
        }
    };
    timeout(PATIENCE, read).await.expect("the text in time");
}

/// All that comes before the connection ends.
async fn everything(mut stream: TcpStream) -> String {
    let mut bytes = Vec::new();
    let reading = timeout(PATIENCE, stream.read_to_end(&mut bytes));
    let _may_be_reset = reading.await.expect("an end in time");
    String::from_utf8_lossy(&bytes).into_owned()
}

#[tokio::test]
async fn f85_a_request_with_two_lengths_is_refused_and_nothing_after_it_is_read() {
    let running = running(Limits::default()).await;
    let hidden = "DELETE /v1/locks/a?all=true HTTP/1.1\r\nhost: x\r\n\r\n";
    for lengths in [
        "content-length: 2\r\ncontent-length: 60",
        "content-length: 2, 60",
        "content-length: +2",
        "content-length: 2\r\ntransfer-encoding: identity",
        "transfer-encoding: chunked, identity",
        "transfer-encoding: xchunked",
    ] {
        let mut stream = running.connect().await;
        let sent = format!("POST /v1/locks/a HTTP/1.1\r\nhost: x\r\n{lengths}\r\n\r\n{{}}{hidden}");
        stream.write_all(sent.as_bytes()).await.expect("sent");
        let heard = everything(stream).await;
        assert!(heard.starts_with("HTTP/1.1 400 "), "{lengths}: {heard}");
        assert_eq!(heard.matches("HTTP/1.1 ").count(), 1, "{lengths}: {heard}");
    }
}
