//! `oarlock bench`: arguments of the load generator, and its report.

use std::io::Write as _;
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::bench::{Latency, Plan, Report, Until, Workload, run as measure};
use crate::cli::Failure;
use crate::cli::locks::Target;

/// Longest run; a benchmark is no soak test.
const DURATION_MAX: Duration = Duration::from_mins(10);

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    /// Each client acquires and releases locks of its own
    Pairs,
    /// All clients queue for one lock
    Contended,
    /// Each client renews its own lease
    Renew,
    /// Each client acquires and releases locks whose names are new
    Names,
}

/// Closed loop: each client has one request in flight.
#[derive(Debug, Args)]
pub(super) struct Bench {
    /// Clients at once
    #[arg(long, short = 'c', default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=8192))]
    clients: u16,
    /// Measured time, at most 10 minutes
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// End after so many operations instead; all of them count
    #[arg(long, value_name = "N", conflicts_with = "duration")]
    operations: Option<u64>,
    /// Time before that, not counted
    #[arg(long, default_value = "2s", value_parser = humantime::parse_duration)]
    warmup: Duration,
    #[arg(long, value_enum, default_value = "pairs")]
    workload: Kind,
    /// All clients at the leader instead of spread over the endpoints
    #[arg(long)]
    leader_only: bool,
    /// Process ids of the nodes, to tell their CPU and memory
    #[arg(long, value_delimiter = ',')]
    pids: Vec<u32>,
}

pub(super) async fn run(target: &Target, bench: Bench) -> Result<(), Failure> {
    if bench.duration > DURATION_MAX || bench.duration.is_zero() {
        return Err(Failure::usage("--duration is above zero and at most 10 minutes"));
    }
    let mut endpoints = target.endpoints().to_vec();
    if bench.leader_only {
        let cluster = target.client().cluster().await?;
        let leader = cluster.members.iter().find(|member| Some(member.id) == cluster.leader_id);
        let leader = leader.ok_or_else(|| Failure::unreachable("nobody leads"))?;
        endpoints = vec![leader.api_address.clone()];
    }
    let plan = Plan {
        endpoints,
        workload: match bench.workload {
            Kind::Pairs => Workload::Pairs,
            Kind::Contended => Workload::Contended,
            Kind::Renew => Workload::Renew,
            Kind::Names => Workload::Names,
        },
        clients: usize::from(bench.clients),
        warmup: if bench.operations.is_some() { Duration::ZERO } else { bench.warmup },
        until: bench.operations.map_or(Until::Elapsed(bench.duration), Until::Operations),
        pids: bench.pids,
    };
    let progress = |elapsed: Duration, done: u64| {
        let of = match bench.operations {
            Some(total) => format!("{done} of {total}"),
            None => format!("{} of {} s", elapsed.as_secs(), bench.duration.as_secs()),
        };
        let _closed_pipe = writeln!(std::io::stderr(), "{of}");
    };
    let report = measure(&plan, progress).await.map_err(Failure::unreachable)?;
    target.show(&report, text);
    Ok(())
}

fn text(report: &Report) -> String {
    let line = |what: &str, latency: &Latency| {
        let Latency { p50_us, p90_us, p99_us, p999_us, max_us } = latency;
        format!(
            "{what} us: p50 {p50_us}  p90 {p90_us}  p99 {p99_us}  p99.9 {p999_us}  max {max_us}\n"
        )
    };
    let mut text = format!(
        "{} clients: {:.0} operations/s ({} in {:.1} s, {} errors), fairness {:.2}\n",
        report.clients,
        report.operations_per_s,
        report.operations,
        report.seconds,
        report.errors,
        report.fairness
    );
    text.push_str(&line("first  ", &report.acquire));
    text.push_str(&line("release", &report.release));
    if let Some(hand_over) = &report.hand_over {
        text.push_str(&line("handover", hand_over));
    }
    if let (Some(cpu), Some(memory)) = (report.cpu_s_per_10000, report.memory_mib) {
        let nodes =
            format!("nodes: {cpu:.2} CPU s for 10,000 operations, {memory:.0} MiB in all\n");
        text.push_str(&nodes);
    }
    text
}
