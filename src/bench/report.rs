//! What was measured, as numbers.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::bench::histogram::{CurvePoint, Histogram};
use crate::bench::plan::Plan;
use crate::bench::processes::ProcessSample;
use crate::bench::tally::{Tally, Timed};

/// Locks from which on the growth of memory says something about one of them: below, what the nodes
/// keep of their log outweighs it.
const LOCKS_FOR_MEMORY: u64 = 100_000;

/// Percentiles of one kind of request, in microseconds, at most one per cent too high.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Latency {
    pub count: u64,
    pub mean_us: u64,
    pub p50_us: u64,
    pub p90_us: u64,
    pub p99_us: u64,
    #[serde(rename = "p99_9_us")]
    pub p999_us: u64,
    #[serde(rename = "p99_99_us")]
    pub p9999_us: u64,
    pub max_us: u64,
}

impl Latency {
    fn of(histogram: &Histogram) -> Self {
        let fractions = [500_000, 900_000, 990_000, 999_000, 999_900];
        let us = histogram.percentiles_us(fractions);
        Self {
            count: histogram.count(),
            mean_us: histogram.mean_us(),
            p50_us: us[0],
            p90_us: us[1],
            p99_us: us[2],
            p999_us: us[3],
            p9999_us: us[4],
            max_us: histogram.max_us(),
        }
    }
}

/// What the processes of all nodes took.
#[derive(Debug, Clone, Serialize)]
pub struct Nodes {
    pub processes: usize,
    /// For 10,000 operations, all nodes together; absent if there were none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_s_per_10000: Option<f64>,
    /// Of one core, all nodes together; 1 is a core that is never idle.
    pub cpu_cores: f64,
    /// At the end, all nodes together.
    pub memory_mib: f64,
    /// What each node grew by for each live lock while those were created; absent for few.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_per_live_lock: Option<f64>,
}

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub workload: &'static str,
    /// `leader` or `all`: where the clients connect to.
    pub clients_at: &'static str,
    pub clients: u16,
    /// Of the open loop; absent in a closed one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_per_s: Option<u32>,
    pub live_locks: u64,
    pub seconds: f64,
    /// Pairs, hand-overs, renewals, or those of the mixture.
    pub operations: u64,
    pub operations_per_s: f64,
    /// Leases kept alive in a second by renewing their sessions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leases_renewed_per_s: Option<f64>,
    /// By kind of request; at a fixed rate that which an operation begins with counts from the
    /// moment at which it was meant to begin.
    pub latency: BTreeMap<&'static str, Latency>,
    /// Fewest by one client over most by one client.
    pub fairness: f64,
    /// In which no operation of any client succeeded.
    pub longest_gap_ms: f64,
    pub longest_gap_began_s: f64,
    pub errors: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_error: Option<String>,
    /// Operations of the fixed rate that nobody had begun by the end; in the latencies they count
    /// with the time for which they had waited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missed: Option<u64>,
    /// Syncs of the logs of all nodes to disk, by their metrics.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub syncs_per_s: Option<f64>,
    /// Absent if the processes of the nodes are not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nodes: Option<Nodes>,
    /// CPU of the load generator itself for 10,000 operations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generator_cpu_s_per_10000: Option<f64>,
    /// What could not be cleaned up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left_behind: Option<String>,
    /// For the picture.
    #[serde(skip)]
    pub(super) curves: Vec<Curve>,
}

/// The distribution of one kind of request.
#[derive(Debug, Clone)]
pub(super) struct Curve {
    pub(super) name: &'static str,
    pub(super) latency: Latency,
    pub(super) points: Vec<CurvePoint>,
}

/// What is read from outside at one moment.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sample {
    pub(super) nodes: Option<ProcessSample>,
    pub(super) own: Option<ProcessSample>,
    /// Of all nodes since they started.
    pub(super) syncs: Option<u64>,
}

/// Everything that a report is made of.
pub(super) struct Measured<'a> {
    pub(super) plan: &'a Plan,
    pub(super) tally: &'a Tally,
    /// From the start of measuring.
    pub(super) took: Duration,
    /// Counted operations of each client.
    pub(super) by_client: Vec<u64>,
    pub(super) missed: Option<u64>,
    pub(super) before: Sample,
    pub(super) after: Sample,
    /// Before and after the live locks were created.
    pub(super) growth: Option<(ProcessSample, ProcessSample)>,
    pub(super) live_locks: u64,
}

#[expect(clippy::cast_precision_loss, reason = "counts and sizes are far below 2^52")]
impl Measured<'_> {
    pub(super) fn report(self) -> Report {
        let operations: u64 = self.by_client.iter().sum();
        let most = self.by_client.iter().max().copied().unwrap_or(0).max(1);
        let fewest = self.by_client.iter().min().copied().unwrap_or(0);
        let seconds = self.took.as_secs_f64().max(0.001);
        let gap = self.tally.longest_gap(self.tally.start + self.took);
        let of_each = |what: Timed| {
            let histogram = self.tally.latency(what);
            let (name, latency) = (what.name(), Latency::of(histogram));
            (latency.count > 0).then(|| Curve { name, latency, points: histogram.curve() })
        };
        let curves: Vec<Curve> = Timed::ALL.into_iter().filter_map(of_each).collect();
        let renewed = self.tally.latency(Timed::RenewSession).count();
        let leases = renewed * u64::from(self.plan.leases_per_session);
        let is_sessions = self.plan.workload == crate::bench::plan::Workload::RenewSessions;
        let syncs = self.before.syncs.zip(self.after.syncs);
        let own = self.before.own.zip(self.after.own);
        Report {
            workload: self.plan.workload.name(),
            clients_at: if self.plan.leader_only { "leader" } else { "all" },
            clients: self.plan.clients,
            rate_per_s: self.plan.rate_per_s,
            live_locks: self.live_locks,
            seconds,
            operations,
            operations_per_s: operations as f64 / seconds,
            leases_renewed_per_s: is_sessions.then(|| leases as f64 / seconds),
            latency: curves.iter().map(|curve| (curve.name, curve.latency.clone())).collect(),
            fairness: fewest as f64 / most as f64,
            longest_gap_ms: gap.us as f64 / 1_000.0,
            longest_gap_began_s: gap.began_us as f64 / 1e6,
            errors: self.tally.errors.load(std::sync::atomic::Ordering::Relaxed),
            first_error: self.tally.first_error(),
            missed: self.missed,
            syncs_per_s: syncs.map(|(from, to)| to.saturating_sub(from) as f64 / seconds),
            nodes: self.nodes(operations, seconds),
            generator_cpu_s_per_10000: own
                .and_then(|(from, to)| per_10000(to.cpu_s - from.cpu_s, operations)),
            left_behind: None,
            curves,
        }
    }

    fn nodes(&self, operations: u64, seconds: f64) -> Option<Nodes> {
        let (before, after) = self.before.nodes.zip(self.after.nodes)?;
        let cpu_s = after.cpu_s - before.cpu_s;
        let processes = self.plan.pids.len();
        let enough = self.live_locks >= LOCKS_FOR_MEMORY;
        let bytes_per_live_lock = self.growth.filter(|_| enough).map(|(from, to)| {
            let grown = to.memory_bytes.saturating_sub(from.memory_bytes) as f64;
            grown / processes.max(1) as f64 / self.live_locks as f64
        });
        Some(Nodes {
            processes,
            cpu_s_per_10000: per_10000(cpu_s, operations),
            cpu_cores: cpu_s / seconds,
            memory_mib: after.memory_bytes as f64 / 1_048_576.0,
            bytes_per_live_lock,
        })
    }
}

#[expect(clippy::cast_precision_loss, reason = "operations are far below 2^52")]
fn per_10000(cpu_s: f64, operations: u64) -> Option<f64> {
    (operations > 0).then(|| cpu_s * 10_000.0 / operations as f64)
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Instant;

    use super::*;
    use crate::bench::plan::{Workload, tests::plan};

    pub(in crate::bench) fn report(plan: &Plan) -> Report {
        let tally = Tally::new(Instant::now());
        for ms in 1..=1_000 {
            tally.time(Timed::Acquire, Duration::from_millis(ms));
            tally.time(Timed::Release, Duration::from_micros(ms * 10));
        }
        tally.time(Timed::RenewSession, Duration::from_millis(1));
        tally.error("none shall see <this> & that");
        let sample = |cpu_s, mib: u64, syncs| {
            let process = ProcessSample { cpu_s, memory_bytes: mib << 20 };
            Sample { nodes: Some(process), own: Some(process), syncs: Some(syncs) }
        };
        let (before, after) = (sample(1.0, 100, 50), sample(3.0, 160, 450));
        let measured = Measured {
            plan,
            tally: &tally,
            took: Duration::from_secs(2),
            by_client: vec![600, 400],
            missed: None,
            before,
            after,
            growth: before.nodes.zip(after.nodes),
            live_locks: plan.live_locks,
        };
        measured.report()
    }

    #[test]
    fn costs_stand_beside_the_throughput() {
        let plan = Plan { pids: vec![1, 2, 3], live_locks: 204_800, ..plan() };
        let report = report(&plan);
        let near = |found: f64, expected: f64| (found - expected).abs() < 0.01;
        assert_eq!((report.operations, report.errors), (1_000, 1));
        assert!(near(report.operations_per_s, 500.0) && near(report.fairness, 400.0 / 600.0));
        assert!(report.syncs_per_s.is_some_and(|syncs| near(syncs, 200.0)));
        let nodes = report.nodes.expect("their processes are known");
        assert!(
            nodes.cpu_s_per_10000.is_some_and(|cpu_s| near(cpu_s, 20.0))
                && near(nodes.cpu_cores, 1.0)
        );
        assert!(near(nodes.memory_mib, 160.0));
        assert!(nodes.bytes_per_live_lock.is_some_and(|bytes| near(bytes, 102.4)));
    }

    #[test]
    fn a_renewed_session_counts_with_all_its_leases() {
        let plan = Plan { workload: Workload::RenewSessions, leases_per_session: 300, ..plan() };
        assert_eq!(report(&plan).leases_renewed_per_s, Some(150.0));
        assert_eq!(report(&Plan { workload: Workload::Pairs, ..plan }).leases_renewed_per_s, None);
    }

    #[test]
    fn the_json_names_each_kind_and_its_percentiles() {
        let json = serde_json::to_value(report(&plan())).expect("it is a value");
        assert_eq!(json["latency"]["acquire"]["count"], 1_000);
        let p99 = json["latency"]["acquire"]["p99_us"].as_u64().expect("a number");
        assert!((990_000..=999_900).contains(&p99), "{p99}");
        assert!(json["latency"].get("read").is_none(), "it never happened");
        assert_eq!((&json["workload"], &json["clients_at"]), (&"pairs".into(), &"all".into()));
    }
}
