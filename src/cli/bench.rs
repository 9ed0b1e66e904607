//! `oarlock bench`: arguments of the load generator, and its report.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use clap::{Args, ValueEnum};
use oarlock_client::wire::Cluster;

use crate::bench::plan::{
    CLIENTS_MAX, OPERATIONS_MAX, Plan, RATE_MAX, SESSIONS_MAX, Until, Workload,
};
use crate::bench::{Latency, Outside, Report, draw, of_nodes, run as measure, short};
use crate::cli::locks::Target;
use crate::cli::{Failure, stop_signal};

const EXAMPLES: &str = "\
Without --rate each client asks again once it is answered (closed loop): that finds the highest
throughput, and a slow answer delays the next request. With --rate operations are meant to begin at
fixed moments and latency counts from those, so that a pause shows in all that had to wait for it:
that is what users feel. Choose a rate below the throughput of the closed loop.

If the nodes run on this machine, their CPU and memory stand beside the result; the CPU of the
generator itself is told apart. Compare ratios of runs on one machine, not numbers of two.

All locks are below bench/ and a random number, and are given back at the end, also after Ctrl-C. If
the process is killed, they end by themselves: live locks within two hours, others in ten minutes.

Examples:
  oarlock bench -c 64 --leader-only              pairs of acquire and release, 64 clients
  oarlock bench -c 64 --rate 2000 --svg p.svg    2,000 pairs a second, with a picture
  oarlock bench --workload contended -c 8        hand-overs of one lock, and how fair they are
  oarlock bench --live 1000000                   pairs beside a million locks that are held
  oarlock bench --workload renew-sessions --sessions 10000 --session-leases 1 --rate 1000
                                                 10,000 sessions, each renewed every 10 s
  oarlock bench --workload failover              then kill the leader: the longest gap is told

Exit codes:
  0  measured; errors of single requests are in the report
  2  wrong usage, or the file of the picture cannot be written
  3  no node or no leader could be reached, or nothing at all succeeded";

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    /// Each client acquires and releases locks of its own
    Pairs,
    /// All clients queue for one lock; tells hand-over times and fairness
    Contended,
    /// Each client renews its own lease
    Renew,
    /// Clients renew sessions, each with many leases
    RenewSessions,
    /// Five pairs, two renewals, one of a session, one read and one contended pair, by turns
    Mixed,
    /// Pairs while you kill the leader; the longest gap without a success is what counts
    Failover,
    /// Each client acquires and releases locks whose names are new
    Names,
    /// No requests: what the cluster takes at rest
    Idle,
}

impl From<Kind> for Workload {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Pairs => Self::Pairs,
            Kind::Contended => Self::Contended,
            Kind::Renew => Self::Renew,
            Kind::RenewSessions => Self::RenewSessions,
            Kind::Mixed => Self::Mixed,
            Kind::Failover => Self::Failover,
            Kind::Names => Self::Names,
            Kind::Idle => Self::Idle,
        }
    }
}

/// Measure throughput, latency and cost of a cluster.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Bench {
    #[arg(long, value_enum, default_value = "pairs")]
    workload: Kind,
    /// Clients at once, each with one connection and one request in flight
    #[arg(long, short = 'c', default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=i64::from(CLIENTS_MAX)))]
    clients: u16,
    /// Measured time, at most 10 minutes
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// End after so many operations instead; all of them count
    #[arg(long, value_name = "N", conflicts_with = "duration", value_parser = clap::value_parser!(u64).range(1..=OPERATIONS_MAX))]
    operations: Option<u64>,
    /// Time before that, not counted
    #[arg(long, default_value = "2s", value_parser = humantime::parse_duration)]
    warmup: Duration,
    /// Operations that are meant to begin in each second, of all clients together (open loop)
    #[arg(long, value_name = "PER_S", value_parser = clap::value_parser!(u32).range(1..=i64::from(RATE_MAX)))]
    rate: Option<u32>,
    /// Locks that are held meanwhile, created beforehand; at most 5,000,000
    #[arg(long, value_name = "N", default_value_t = 0)]
    live: u64,
    /// Hold them by sessions of 1,000 leases each, instead of by leases with a TTL of their own
    #[arg(long, requires = "live")]
    live_in_sessions: bool,
    /// Of renew-sessions: sessions of all clients together [default: one for each client]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(SESSIONS_MAX)))]
    sessions: Option<u32>,
    /// Of renew-sessions: leases of each session
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u16).range(0..=1000))]
    session_leases: u16,
    /// All clients at the leader instead of spread over the endpoints
    #[arg(long)]
    leader_only: bool,
    /// Process ids of the nodes, to tell their CPU and memory [default: looked up if they run here]
    #[arg(long, value_delimiter = ',')]
    pids: Vec<u32>,
    /// Write a picture of the latency distribution there
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

pub(super) async fn run(target: &Target, bench: Bench) -> Result<(), Failure> {
    let svg = bench.svg.clone();
    // Told now rather than after ten minutes, before anything is asked of the cluster.
    bench.plan(target).check().map_err(Failure::usage)?;
    if let Some(path) = &svg {
        write(path, "")?;
    }
    let cluster = target.client().cluster().await?;
    let plan = bench.in_cluster(target, &cluster).await?;
    let outside = Outside { stop: stopped_by_signal(), tell: &note };
    let report = tokio::select! {
        report = measure(&plan, &outside) => report.map_err(Failure::unreachable)?,
        () = second_signal() => {
            return Err(Failure::usage("interrupted twice: its locks are left to end by themselves"));
        }
    };
    if let Some(path) = &svg {
        write(path, &draw(&report))?;
    }
    target.show(&report, text);
    if report.operations == 0 && plan.workload != Workload::Idle {
        let why = report.first_error.as_deref().unwrap_or("it was too short");
        return Err(Failure::unreachable(format!("nothing succeeded: {why}")));
    }
    Ok(())
}

impl Bench {
    fn plan(&self, target: &Target) -> Plan {
        Plan {
            endpoints: target.addresses(),
            identity: target.identity(),
            leader_only: self.leader_only,
            workload: self.workload.into(),
            clients: self.clients,
            rate_per_s: self.rate,
            warmup: if self.operations.is_some() { Duration::ZERO } else { self.warmup },
            until: self.operations.map_or(Until::Elapsed(self.duration), Until::Operations),
            live_locks: self.live,
            live_in_sessions: self.live_in_sessions,
            sessions: self.sessions.unwrap_or(0).max(self.clients.into()),
            leases_per_session: self.session_leases,
            deadline: target.timeout(),
            members: Vec::new(),
            pids: self.pids.clone(),
        }
    }

    async fn in_cluster(&self, target: &Target, cluster: &Cluster) -> Result<Plan, Failure> {
        let mut plan = self.plan(target);
        plan.members = cluster.members.iter().map(|member| member.api_address.clone()).collect();
        if self.leader_only {
            let leader = cluster.members.iter().find(|it| Some(it.id) == cluster.leader_id);
            let leader = leader.ok_or_else(|| Failure::unreachable("nobody leads"))?;
            // The others only serve once it is gone.
            plan.endpoints.retain(|endpoint| *endpoint != leader.api_address);
            plan.endpoints.insert(0, leader.api_address.clone());
        }
        if plan.pids.is_empty() {
            plan.pids = of_nodes(&plan.members).await.unwrap_or_default();
        }
        Ok(plan)
    }
}

/// Set at the first signal.
fn stopped_by_signal() -> Arc<AtomicBool> {
    let stop: Arc<AtomicBool> = Arc::default();
    let flag = Arc::clone(&stop);
    tokio::spawn(async move {
        stop_signal().await;
        note("ending early; once more ends at once and leaves locks behind");
        flag.store(true, Relaxed);
    });
    stop
}

async fn second_signal() {
    stop_signal().await;
    stop_signal().await;
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let failed = |error| Failure::usage(format!("--svg {}: {error}", path.display()));
    std::fs::write(path, text).map_err(failed)
}

fn note(text: &str) {
    let _closed_pipe = writeln!(std::io::stderr(), "{text}");
}

fn text(report: &Report) -> String {
    let Report { operations, seconds, errors, .. } = report;
    let rate = report.rate_per_s.map_or_else(String::new, |rate| format!(" at {rate}/s meant"));
    let live = if report.live_locks == 0 {
        String::new()
    } else {
        format!(" beside {} live locks", report.live_locks)
    };
    let mut text = format!(
        "{}, {} clients at {}{rate}{live}: {:.0} operations/s ({operations} in {seconds:.1} s, {errors} errors)\n",
        report.workload,
        report.clients,
        if report.clients_at == "leader" { "the leader" } else { "all nodes" },
        report.operations_per_s,
    );
    for (kind, latency) in &report.latency {
        text.push_str(&line(kind, latency));
    }
    if let Some(leases) = report.leases_renewed_per_s {
        let _infallible = writeln!(text, "leases renewed by their sessions: {leases:.0} a second");
    }
    if !report.latency.is_empty() {
        let _infallible = writeln!(
            text,
            "longest gap without a success: {:.0} ms, {:.1} s after the start; fairness {:.2}",
            report.longest_gap_ms, report.longest_gap_began_s, report.fairness
        );
    }
    // A few are on their way at any end.
    if let Some(missed) = report.missed.filter(|missed| missed * 100 > *operations) {
        let _infallible = writeln!(
            text,
            "the rate was not reached: {missed} operations had not begun by the end"
        );
    }
    text.push_str(&costs(report));
    if let Some(why) = &report.first_error {
        let _infallible = writeln!(text, "first error: {why}");
    }
    if let Some(what) = &report.left_behind {
        let _infallible = writeln!(text, "left behind: {what}");
    }
    text
}

fn line(kind: &str, latency: &Latency) -> String {
    let Latency { p50_us, p90_us, p99_us, p999_us, max_us, .. } = latency;
    let [p50, p90, p99, p999, max] = [p50_us, p90_us, p99_us, p999_us, max_us].map(|us| short(*us));
    let kind = kind.replace('_', " ");
    format!("  {kind:<14} p50 {p50:<9} p90 {p90:<9} p99 {p99:<9} p99.9 {p999:<9} max {max}\n")
}

fn costs(report: &Report) -> String {
    let mut text = String::new();
    if let Some(nodes) = &report.nodes {
        let each = nodes.cpu_s_per_10000;
        let each =
            each.map_or_else(String::new, |s| format!("{s:.2} CPU s for 10,000 operations, "));
        let _infallible = writeln!(
            text,
            "{} nodes: {each}{:.2} cores busy, {:.0} MiB in all",
            nodes.processes, nodes.cpu_cores, nodes.memory_mib
        );
        if let Some(bytes) = nodes.bytes_per_live_lock {
            let _infallible = writeln!(text, "each node grew by {bytes:.0} bytes per live lock");
        }
    }
    if let Some(syncs) = report.syncs_per_s {
        let _infallible = writeln!(text, "logs synced to disk {syncs:.0} times a second in all");
    }
    if let Some(cpu_s) = report.generator_cpu_s_per_10000 {
        let _infallible = writeln!(text, "this generator: {cpu_s:.2} CPU s for 10,000 operations");
    }
    text
}
