//! Traces from real nodes to a collector that keeps what it is sent. For a build with the feature `otel`;
//! the nodes are those of `oarlock dev`, to which the standard variables pass.

#![expect(clippy::disallowed_methods, reason = "a test may block its own thread between two looks")]

mod collector;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use self::collector::{Collector, Span};

/// Conditions come true within this time, on slow machines too.
const PATIENCE: Duration = Duration::from_mins(1);

fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < until, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Clusters of this process so far.
static STARTED: AtomicU16 = AtomicU16::new(0);

/// A cluster of `oarlock dev`.
struct Nodes {
    dev: Child,
    dir: tempfile::TempDir,
    port_base: u16,
    count: u16,
}

impl Nodes {
    fn start(count: u16, variables: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        // Below the ports that the kernel gives to connections, and each cluster apart from the others.
        let process = u16::try_from(std::process::id() % 70).expect("small");
        let port_base = 24_100 + process * 90 + 30 * STARTED.fetch_add(1, Ordering::Relaxed);
        let free = |base: &u16| {
            let ports = (0..count).flat_map(|node| [base + 10 * node, base + 10 * node + 1]);
            ports.map(|port| TcpListener::bind(("127.0.0.1", port))).all(|bound| bound.is_ok())
        };
        let port_base = (port_base..port_base + 8).step_by(2).find(free).expect("free ports");
        let dev = Command::new(env!("CARGO_BIN_EXE_oarlock"))
            .args(["dev", "--nodes", &count.to_string(), "--port-base", &port_base.to_string()])
            .arg("--data-dir")
            .arg(dir.path())
            .env("OARLOCK_PROOF", "1")
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("it starts");
        let nodes = Self { dev, dir, port_base, count };
        for node in 1..=count {
            eventually(&format!("node {node} is ready: {}", nodes.log(node)), || {
                (nodes.ask(node, "GET", "/readyz", "", "").0 == 200).then_some(())
            });
        }
        nodes
    }

    fn address(&self, node: u16) -> String {
        format!("127.0.0.1:{}", self.port_base + 10 * (node - 1))
    }

    fn log(&self, node: u16) -> String {
        let path = self.dir.path().join(format!("node{node}.log"));
        std::fs::read_to_string(path).unwrap_or_default()
    }

    fn ask(&self, node: u16, method: &str, path: &str, headers: &str, body: &str) -> (u16, Value) {
        ask(&self.address(node), method, path, headers, body).unwrap_or((0, Value::Null))
    }

    /// The leader and another one.
    fn leader_and_follower(&self) -> (u16, u16) {
        let leader = eventually("somebody leads", || {
            let leader = self.ask(1, "GET", "/v1/cluster", "", "").1["leader_id"].as_u64()?;
            u16::try_from(leader).ok()
        });
        (leader, leader % self.count + 1)
    }

    /// Stops as a service manager does, and waits.
    fn stop(mut self) {
        signal(&self.dev, "-TERM");
        let _status = self.dev.wait().expect("it ends");
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        let _may_have_ended = self.dev.kill();
        let _may_have_ended = self.dev.wait();
    }
}

fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill").args([name, &child.id().to_string()]).status();
    assert!(sent.expect("kill runs").success());
}

fn ask(
    address: &str,
    method: &str,
    path: &str,
    headers: &str,
    body: &str,
) -> std::io::Result<(u16, Value)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\ncontent-length: {length}\r\n\
         {headers}connection: close\r\n\r\n"
    );
    stream.write_all((head + body).as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let status = answer.get(9..12).and_then(|status| status.parse().ok()).unwrap_or_default();
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Ok((status, serde_json::from_str(body).unwrap_or(Value::Null)))
}

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";
const UNSAMPLED: &str = "5bf92f3577b34da6a3ce929d0e0e4736";
const REQUEST_ID: &str = "6fa459ea-ee8a-4ca4-894e-db77e160355e";
const OWNER: &str = "an-owner-that-is-nobodys-business";

fn traceparent(trace: &str, flags: &str) -> String {
    format!("traceparent: 00-{trace}-{CALLER}-{flags}\r\n")
}

fn named<'a>(spans: &'a [Span], trace: &str, name: &str) -> Vec<&'a Span> {
    spans.iter().filter(|span| span.trace == trace && span.name == name).collect()
}

fn has(span: &Span, expected: &[(&str, &str)]) {
    for (key, value) in expected {
        let found = span.attributes.get(*key).map(String::as_str);
        assert_eq!(found, Some(*value), "{key} of {span:#?}");
    }
    assert_eq!(span.attribute_count, span.attributes.len(), "told twice: {span:#?}");
}

fn variables(collector: &str) -> Vec<(&str, &str)> {
    vec![
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-key=the-key-of-the-collector"),
        ("OTEL_SERVICE_NAME", "locks-of-a-test"),
        ("OTEL_BSP_SCHEDULE_DELAY", "100"),
    ]
}

#[test]
fn a_trace_goes_from_the_caller_through_a_follower_and_holds_no_secret() {
    let collector = Collector::start();
    let nodes = Nodes::start(3, &variables(&collector.url));
    let (leader, follower) = nodes.leader_and_follower();
    let body = format!(
        r#"{{"owner":"{OWNER}","ttl_ms":60000,"request_id":"{REQUEST_ID}","metadata":{{"k":"{OWNER}"}}}}"#
    );
    let sampled = traceparent(TRACE, "01");
    let (status, lease) = nodes.ask(follower, "POST", "/v1/locks/traced/one", &sampled, &body);
    assert_eq!(status, 200, "{lease}");
    let unsampled = traceparent(UNSAMPLED, "00");
    let (status, _) = nodes.ask(follower, "GET", "/v1/locks/traced/one", &unsampled, "");
    assert_eq!(status, 200);
    // Another one waits at the leader until the first lets go, at the follower.
    let waiting = {
        let (address, sampled) = (nodes.address(leader), sampled.clone());
        let body = format!(r#"{{"owner":"{OWNER}","ttl_ms":60000,"wait_ms":50000}}"#);
        std::thread::spawn(move || ask(&address, "POST", "/v1/locks/traced/one", &sampled, &body))
    };
    eventually("it waits", || {
        let lock = nodes.ask(leader, "GET", "/v1/locks/traced/one", &unsampled, "").1;
        (lock["queue_length"] == 1).then_some(())
    });
    let lease_id = lease["lease_id"].as_str().expect("a lease").to_owned();
    let path = format!("/v1/leases/{lease_id}");
    assert_eq!(nodes.ask(follower, "DELETE", &path, &sampled, "").0, 200);
    let (status, second) = waiting.join().expect("no panic").expect("an answer");
    assert_eq!(status, 200, "{second}");
    let second_id = second["lease_id"].as_str().expect("a lease").to_owned();

    let spans = eventually("both acquires and the release are there", || {
        let spans = collector.spans();
        let acquires = named(&spans, TRACE, "POST /v1/locks/{name}").len();
        let releases = named(&spans, TRACE, "DELETE /v1/leases/{id}").len();
        (acquires == 2 && releases == 1).then_some(spans)
    });
    check_the_request(&spans, (leader, follower));
    check_the_wait(&spans, leader);
    let answered = eventually("the leader tells of the follower's call", || {
        let spans = collector.spans();
        let is_root = |span: &&Span| span.name == "answer a follower" && span.parent.is_empty();
        let roots: Vec<&Span> = spans.iter().filter(is_root).collect();
        let is_acquire = |span: &&Span| {
            span.name == "propose"
                && span.attributes.get("oarlock.command").is_some_and(|it| it == "acquire")
                && roots.iter().any(|root| root.id == span.parent)
        };
        spans.iter().find(is_acquire).cloned()
    });
    has(&answered, &[("oarlock.lock", "traced/one"), ("oarlock.outcome", "granted")]);
    assert!(collector.spans().iter().all(|span| span.trace != UNSAMPLED), "it was not sampled");
    // Everything that is told when the nodes stop, too.
    nodes.stop();
    let exports = collector.exports();
    assert!(exports.iter().all(|export| export.head.contains("the-key-of-the-collector")));
    let bytes: Vec<u8> = exports.into_iter().flat_map(|export| export.body).collect();
    for secret in [&lease_id, &second_id, REQUEST_ID, &REQUEST_ID.replace('-', ""), OWNER] {
        let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
        assert!(!found, "{secret} was sent");
    }
}

/// The caller's span, above that of the request, above that of the way to the leader.
fn check_the_request(spans: &[Span], (leader, follower): (u16, u16)) {
    let (leader, follower) = (leader.to_string(), follower.to_string());
    let of = |span: &&&Span| span.attributes.get("oarlock.node_id") == Some(&follower);
    let requests = named(spans, TRACE, "POST /v1/locks/{name}");
    let request = requests.iter().find(of).expect("that of the follower");
    assert_eq!((request.parent.as_str(), request.kind), (CALLER, 2));
    assert_eq!(request.service, "locks-of-a-test");
    has(
        request,
        &[
            ("http.request.method", "POST"),
            ("http.route", "/v1/locks/{name}"),
            ("http.response.status_code", "200"),
            ("url.scheme", "http"),
            ("server.address", "127.0.0.1"),
            ("oarlock.command", "acquire"),
            ("oarlock.lock", "traced/one"),
            ("oarlock.outcome", "granted"),
        ],
    );
    let forwards = named(spans, TRACE, "forward to leader");
    let forward = forwards.iter().find(|span| span.parent == request.id).expect("its way");
    assert_eq!(forward.kind, 3);
    has(forward, &[("oarlock.leader_id", &leader), ("oarlock.lock", "traced/one")]);
    assert!(forward.attributes.contains_key("oarlock.term"));
    let releases = named(spans, TRACE, "DELETE /v1/leases/{id}");
    has(releases[0], &[("oarlock.outcome", "released"), ("oarlock.lock", "traced/one")]);
}

/// A wait shows as a proposal that queued, and then the queue.
fn check_the_wait(spans: &[Span], leader: u16) {
    let leader = leader.to_string();
    let of = |span: &&&Span| span.attributes.get("oarlock.node_id") == Some(&leader);
    let requests = named(spans, TRACE, "POST /v1/locks/{name}");
    let request = requests.iter().find(of).expect("that of the leader");
    let below = |name: &str| {
        let spans = named(spans, TRACE, name);
        let found = spans.into_iter().find(|span| span.parent == request.id);
        found.unwrap_or_else(|| panic!("{name} is below the request")).clone()
    };
    has(&below("propose"), &[("oarlock.command", "acquire"), ("oarlock.outcome", "queued")]);
    let wait = below("wait in queue");
    assert_eq!(wait.kind, 1);
    has(&wait, &[("oarlock.lock", "traced/one"), ("oarlock.outcome", "granted")]);
    has(&wait, &[("oarlock.position", "1")]);
}

#[test]
fn a_collector_that_is_away_or_hangs_harms_nothing_and_is_told_of_once() {
    // Nobody listens there; and there somebody listens and never answers.
    let closed =
        TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("its address");
    let hanging = TcpListener::bind("127.0.0.1:0").expect("a port");
    let hangs = hanging.local_addr().expect("its address");
    for (collector, timeout_ms) in [(closed, "10000"), (hangs, "300"), (hangs, "30000")] {
        let url = format!("http://{collector}");
        let mut variables = variables(&url);
        variables.push(("OTEL_EXPORTER_OTLP_TIMEOUT", timeout_ms));
        // So small that most spans find no place.
        variables.push(("OTEL_BSP_MAX_QUEUE_SIZE", "16"));
        variables.push(("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "8"));
        let nodes = Nodes::start(1, &variables);
        let body = format!(r#"{{"owner":"{OWNER}","ttl_ms":60000}}"#);
        for lock in 0..100 {
            let began = Instant::now();
            let path = format!("/v1/locks/away/{lock}");
            assert_eq!(nodes.ask(1, "POST", &path, &traceparent(TRACE, "01"), &body).0, 200);
            assert!(began.elapsed() < Duration::from_secs(5), "it waited for the collector");
        }
        let complaint = "traces do not reach the collector";
        if timeout_ms != "30000" {
            eventually("it is told", || nodes.log(1).contains(complaint).then_some(()));
            // Several batches later it is still told once.
            let from = Instant::now();
            while from.elapsed() < Duration::from_secs(1) {
                assert_eq!(nodes.ask(1, "GET", "/v1/cluster", "", "").0, 200);
            }
        }
        let log = nodes.log(1);
        assert!(log.matches(complaint).count() <= 1, "{log}");
        assert!(!log.contains("the-key-of-the-collector"), "{log}");
        let began = Instant::now();
        nodes.stop();
        assert!(began.elapsed() < Duration::from_secs(4), "the last batch is given up in time");
    }
}

#[test]
fn what_is_queued_at_a_stop_is_sent() {
    let collector = Collector::start();
    let mut variables: BTreeMap<&str, &str> = variables(&collector.url).into_iter().collect();
    variables.insert("OTEL_BSP_SCHEDULE_DELAY", "600000");
    variables.insert("OTEL_TRACES_SAMPLER", "always_on");
    let nodes = Nodes::start(1, &variables.into_iter().collect::<Vec<_>>());
    assert_eq!(nodes.ask(1, "GET", "/v1/cluster", "", "").0, 200);
    assert!(collector.spans().is_empty(), "the delay is long");
    nodes.stop();
    assert!(collector.spans().iter().any(|span| span.name == "GET /v1/cluster"));
}

#[test]
fn what_cannot_work_is_refused_at_the_start() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = dir.path().join("node.toml");
    std::fs::write(&config, format!("data_dir = {:?}\n", dir.path().join("data"))).expect("a file");
    for (name, value, told) in [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://127.0.0.1:4318", "http://host:port"),
        ("OARLOCK_TRACES_ENDPOINT", "https://127.0.0.1:4318", "http://host:port"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "http/protobuf"),
        ("OTEL_TRACES_SAMPLER", "xray", "always_on"),
        ("OTEL_TRACES_EXPORTER", "zipkin", "otlp"),
        ("OTEL_PROPAGATORS", "b3", "tracecontext"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s", "milliseconds"),
    ] {
        assert!(refusal(&config, (name, value)).contains(told), "{name}");
    }
}

/// What `serve` says when it does not start.
fn refusal(config: &Path, variable: (&str, &str)) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_oarlock"))
        .args(["serve", "--exit-with-stdin", "--config"])
        .arg(config)
        .env("OARLOCK_PROOF", "1")
        .env("OARLOCK_TRACES_ENDPOINT", "http://127.0.0.1:1")
        .env(variable.0, variable.1)
        .stdin(Stdio::null())
        .output()
        .expect("it runs");
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}
