//! The metrics of one node, in the Prometheus text form.
//!
//! Counters hear events and outcomes; gauges are read when the page is asked for. No label ever
//! carries a lock name, an owner or an id: their number is not bounded.

use std::fmt::{Debug, Write as _};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use oarlock_core::command::LEVEL;
use oarlock_core::event::{Event, EventKind};
use oarlock_core::outcome::{EndReason, Outcome};
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Metric, Registry};

use crate::service::NodeState;
use crate::service::kinds::reason;
use crate::service::observer::Observer;

type Number = Gauge<u64, AtomicU64>;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct How {
    how: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answer {
    route: &'static str,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Build {
    version: &'static str,
    protocol: u16,
    level: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Listener {
    of: &'static str,
}

/// All metrics of one node.
pub struct Metrics {
    registry: Registry,
    grants: Counter,
    refusals: Family<Reason, Counter>,
    ended: Family<How, Counter>,
    left_queue: Family<How, Counter>,
    wait_seconds: Histogram,
    hold_seconds: Histogram,
    estimate_ratio: Histogram,
    leaderships: Counter,
    requests: Family<Answer, Counter>,
    request_seconds: Histogram,
    commit_seconds: Histogram,
    commands_per_entry: Histogram,
    fsync_seconds: Histogram,
    log_bytes: Number,
    snapshot_bytes: Number,
    audit: Audit,
    build: Family<Build, Number>,
    certificates: Family<Listener, Gauge>,
    gauges: Gauges,
}

/// How the audit file fares; all zero without one.
struct Audit {
    lines: Counter,
    entries_missing: Counter,
    write_errors: Counter,
}

/// Read from the node when the page is asked for.
#[derive(Debug, Default)]
struct Gauges {
    locks: Number,
    leases_held: Number,
    leases_waiting: Number,
    calls_waiting: Number,
    sessions: Number,
    answers: Number,
    term: Number,
    is_leader: Number,
    has_leader: Number,
    ready: Number,
    last_log_index: Number,
    applied_index: Number,
    snapshot_index: Number,
    lease_clock_ms: Number,
    staleness_ms: Number,
}

/// From 100 microseconds to 26 seconds.
fn latency() -> Histogram {
    Histogram::new(exponential_buckets(0.0001, 2.0, 19))
}

/// From a millisecond to 4.6 hours.
fn duration() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 4.0, 13))
}

fn keep<M: Metric + Clone>(registry: &mut Registry, name: &str, help: &str, metric: M) -> M {
    registry.register(name, help, metric.clone());
    metric
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("oarlock");
        let r = &mut registry;
        let (gauges, audit) = (Gauges::new(r), Audit::new(r));
        Self {
            grants: keep(r, "grants", "Leases granted, told by the leader", Counter::default()),
            refusals: keep(r, "refusals", "Commands refused, by reason", Family::default()),
            ended: keep(r, "leases_ended", "Held leases that ended, by how", Family::default()),
            left_queue: keep(r, "waiters_left", "Waiters not granted, by how", Family::default()),
            wait_seconds: keep(r, "wait_seconds", "Time from acquire to grant", duration()),
            hold_seconds: keep(r, "hold_seconds", "Time from grant to end", duration()),
            estimate_ratio: keep(
                r,
                "wait_estimate_ratio",
                "Estimated over actual wait of granted waiters; 1 is exact",
                Histogram::new(exponential_buckets(0.125, 2.0, 8)),
            ),
            leaderships: keep(
                r,
                "leaderships",
                "Times this node began to serve as leader; their sum is the elections",
                Counter::default(),
            ),
            requests: keep(r, "http_requests", "Answers by route and status", Family::default()),
            request_seconds: keep(
                r,
                "http_request_seconds",
                "Time to answer, waits in a queue included",
                duration(),
            ),
            commit_seconds: keep(r, "commit_seconds", "Proposal to applied, per entry", latency()),
            commands_per_entry: keep(
                r,
                "commands_per_entry",
                "Commands that shared one log entry",
                Histogram::new(exponential_buckets(1.0, 2.0, 13)),
            ),
            fsync_seconds: keep(r, "fsync_seconds", "Time of one fsync of the log", latency()),
            log_bytes: keep(r, "log_bytes", "Size of the log on disk", Number::default()),
            snapshot_bytes: keep(r, "snapshot_bytes", "Size of the snapshot", Number::default()),
            audit,
            build: keep(r, "build", "1, with what this node is and speaks", Family::default()),
            certificates: keep(
                r,
                "certificate_left_seconds",
                "Until the node's own certificate is over; less than nothing when it is",
                Family::default(),
            ),
            gauges,
            registry,
        }
    }
}

impl Audit {
    fn new(r: &mut Registry) -> Self {
        let mut counter = |name: &str, help: &str| keep(r, name, help, Counter::default());
        Self {
            lines: counter("audit_lines", "Lines written to the audit file"),
            entries_missing: counter(
                "audit_entries_missing",
                "Log entries whose lines the audit file of this node lacks, and says so",
            ),
            write_errors: counter("audit_write_errors", "Writes to the audit file that failed"),
        }
    }
}

impl Gauges {
    fn new(r: &mut Registry) -> Self {
        let mut gauge = |name: &str, help: &str| keep(r, name, help, Number::default());
        Self {
            locks: gauge("locks", "Locks held or waited for"),
            leases_held: gauge("leases_held", "Leases held"),
            leases_waiting: gauge("leases_waiting", "Requests that wait in a queue"),
            calls_waiting: gauge("calls_waiting", "Calls that wait on this node"),
            sessions: gauge("sessions", "Open sessions"),
            answers: gauge("answers_remembered", "Ended answers kept for repeats"),
            term: gauge("term", "The Raft term this node knows"),
            is_leader: gauge("is_leader", "1 while this node serves as leader"),
            has_leader: gauge("has_leader", "1 while this node knows a leader"),
            ready: gauge("ready", "1 while /readyz answers 200"),
            last_log_index: gauge("log_last_index", "Index of the newest log entry"),
            applied_index: gauge("log_applied_index", "Index of the newest applied entry"),
            snapshot_index: gauge("snapshot_index", "Index that the snapshot covers"),
            lease_clock_ms: gauge("lease_clock_ms", "The lease clock, in milliseconds"),
            staleness_ms: gauge(
                "staleness_ms",
                "How old this node's state may be, in milliseconds; 2^64-1 if unknown",
            ),
        }
    }

    fn set(&self, state: &NodeState) {
        self.locks.set(state.totals.locks);
        self.leases_held.set(state.totals.leases_held);
        self.leases_waiting.set(state.totals.leases_waiting);
        self.calls_waiting.set(u64::try_from(state.calls_waiting).unwrap_or(u64::MAX));
        self.sessions.set(state.totals.sessions);
        self.answers.set(state.totals.answers);
        self.term.set(state.leadership.term);
        self.is_leader.set(u64::from(state.leadership.serving_here));
        self.has_leader.set(u64::from(state.leadership.leader_id.is_some()));
        self.ready.set(u64::from(state.ready));
        self.last_log_index.set(state.status.last_log_index);
        self.applied_index.set(state.status.applied_index);
        self.snapshot_index.set(state.status.snapshot_index);
        self.lease_clock_ms.set(state.lease_now.0 / 1000);
        let staleness = state
            .staleness
            .map_or(u64::MAX, |age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
        self.staleness_ms.set(staleness);
    }
}

impl Metrics {
    /// All metrics at zero.
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// Which protocol this build speaks with its peers.
    pub fn speaks(&self, protocol: u16) {
        let version = env!("CARGO_PKG_VERSION");
        self.build.get_or_create(&Build { version, protocol, level: LEVEL }).set(1);
    }

    /// The page of `/metrics`.
    pub fn render(&self, state: &NodeState) -> String {
        self.gauges.set(state);
        let mut page = String::with_capacity(8 * 1024);
        if text::encode(&mut page, &self.registry).is_err() {
            // Writing to a string does not fail; a page that says so beats a silent half.
            let _infallible = writeln!(page, "# the metrics could not be written");
        }
        page
    }

    /// One entry was applied this long after it was proposed, with so many commands in it.
    pub fn commit(&self, took: Duration, commands: usize) {
        self.commit_seconds.observe(took.as_secs_f64());
        let commands = u32::try_from(commands).unwrap_or(u32::MAX);
        self.commands_per_entry.observe(f64::from(commands));
    }

    /// The log was made durable in this time.
    pub fn fsync(&self, took: Duration) {
        self.fsync_seconds.observe(took.as_secs_f64());
    }

    /// So many lines are in the audit file.
    pub fn audited(&self, lines: u64) {
        self.audit.lines.inc_by(lines);
    }

    /// The audit file lacks the lines of so many entries.
    pub fn audit_lacks(&self, entries: u64) {
        self.audit.entries_missing.inc_by(entries);
    }

    /// A write to the audit file failed.
    pub fn audit_failed(&self) {
        self.audit.write_errors.inc();
    }

    /// The log takes so many bytes on disk.
    pub fn log_size(&self, bytes: u64) {
        self.log_bytes.set(bytes);
    }

    /// The certificate of that listener is good for so long.
    pub fn certificate(&self, of: &'static str, left_s: i64) {
        self.certificates.get_or_create(&Listener { of }).set(left_s);
    }

    /// The newest snapshot takes so many bytes on disk.
    pub fn snapshot_size(&self, bytes: u64) {
        self.snapshot_bytes.set(bytes);
    }
}

fn seconds(ms: u64) -> f64 {
    Duration::from_millis(ms).as_secs_f64()
}

pub(super) fn how(reason: EndReason) -> &'static str {
    match reason {
        EndReason::Released => "released",
        EndReason::Expired => "expired",
        EndReason::Forced => "forced",
        EndReason::SessionClosed => "session-closed",
        EndReason::SessionExpired => "session-expired",
        EndReason::WaitTimeout => "wait-timeout",
        EndReason::Abandoned => "abandoned",
        EndReason::HandedOver => "handed-over",
    }
}

impl Observer for Metrics {
    fn event(&self, event: &Event) {
        match &event.kind {
            EventKind::Granted { grant, .. } => {
                self.grants.inc();
                self.wait_seconds.observe(seconds(grant.waited_ms));
            }
            EventKind::Ended { ended, held_ms, .. } => {
                let labels = How { how: how(ended.how) };
                if ended.token.is_some() {
                    self.ended.get_or_create(&labels).inc();
                    self.hold_seconds.observe(seconds(*held_ms));
                } else {
                    self.left_queue.get_or_create(&labels).inc();
                }
            }
            EventKind::Queued { .. }
            | EventKind::Reopened { .. }
            | EventKind::ValueChanged { .. }
            | EventKind::SessionOpened { .. }
            | EventKind::SessionEnded { .. } => {}
        }
    }

    fn outcome(&self, outcome: &Outcome) {
        match outcome {
            Outcome::Rejected(rejection) => {
                self.refusals.get_or_create(&Reason { reason: reason(rejection) }).inc();
            }
            Outcome::Done
            | Outcome::Granted(_)
            | Outcome::Queued(_)
            | Outcome::Renewed(_)
            | Outcome::Released(_)
            | Outcome::ForceReleased(_)
            | Outcome::SessionOpened(_)
            | Outcome::SessionRenewed(_)
            | Outcome::SessionClosed { .. }
            | Outcome::ValueSet(_)
            | Outcome::ValueDeleted { .. }
            | Outcome::GrantedMany(_)
            | Outcome::QueuedMany(_)
            | Outcome::RecordPut(_) => {}
        }
    }

    fn leadership_began(&self) {
        self.leaderships.inc();
    }

    fn estimated(&self, estimated_ms: u64, waited_ms: u64) {
        // A millisecond more on both sides, so that a wait of zero has a ratio too.
        let ratio = seconds(estimated_ms.saturating_add(1)) / seconds(waited_ms.saturating_add(1));
        self.estimate_ratio.observe(ratio);
    }

    fn answered(&self, route: &'static str, status: u16, took: Duration) {
        self.requests.get_or_create(&Answer { route, status }).inc();
        self.request_seconds.observe(took.as_secs_f64());
    }
}
