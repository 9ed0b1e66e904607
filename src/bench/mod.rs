//! A load generator: clients in a closed loop, each with one request in flight.
//!
//! It shares the machine with the cluster, so it speaks HTTP with prepared requests and a parser
//! that knows only what oarlock answers. Closed loop means that a slow answer delays the next
//! request: latencies do not show what an open system would queue.

mod processes;
mod wire;

use std::time::{Duration, Instant};

use serde::Serialize;

pub use processes::ProcessSample;
use wire::Connection;

/// What each client does again and again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Workload {
    /// Acquire and release a lock of its own.
    Pairs,
    /// Acquire and release one lock that all share, waiting in its queue.
    Contended,
    /// Renew a lease of its own.
    Renew,
}

/// What to run.
#[derive(Debug, Clone)]
pub struct Plan {
    pub endpoints: Vec<String>,
    pub workload: Workload,
    pub clients: usize,
    pub warmup: Duration,
    pub duration: Duration,
    /// Node processes whose CPU and memory are read from /proc.
    pub pids: Vec<u32>,
}

/// Percentiles of one kind of request, in microseconds.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Latency {
    pub p50_us: u64,
    pub p90_us: u64,
    pub p99_us: u64,
    #[serde(rename = "p99_9_us")]
    pub p999_us: u64,
    pub max_us: u64,
}

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub clients: usize,
    pub seconds: f64,
    /// Pairs, hand-overs or renewals.
    pub operations: u64,
    pub operations_per_s: f64,
    pub acquire: Latency,
    pub release: Latency,
    /// Fewest by one client over most by one client.
    pub fairness: f64,
    pub errors: u64,
    /// CPU of all node processes for 10,000 operations; absent without their pids.
    pub cpu_s_per_10000: Option<f64>,
    pub memory_mib: Option<f64>,
}

#[derive(Default)]
struct Tally {
    operations: u64,
    errors: u64,
    acquire_us: Vec<u64>,
    release_us: Vec<u64>,
}

/// Runs the plan; `progress` hears the operations of each second.
pub async fn run(plan: &Plan, progress: impl Fn(u64)) -> Result<Report, String> {
    let start = Instant::now() + plan.warmup;
    let end = start + plan.duration;
    let mut clients = Vec::new();
    for number in 0..plan.clients {
        let endpoint = plan.endpoints[number % plan.endpoints.len()].clone();
        let connection = Connection::open(&endpoint).await?;
        clients.push(tokio::spawn(client(plan.workload, number, connection, start, end)));
    }
    tokio::time::sleep_until(start.into()).await;
    let before = processes::sample(&plan.pids);
    for second in 1..=plan.duration.as_secs() {
        tokio::time::sleep_until((start + Duration::from_secs(second)).into()).await;
        progress(second);
    }
    tokio::time::sleep_until(end.into()).await;
    let after = processes::sample(&plan.pids);
    let mut tallies = Vec::new();
    for client in clients {
        tallies.push(client.await.map_err(|error| error.to_string())?);
    }
    Ok(report(plan, tallies, before.zip(after)))
}

async fn client(
    workload: Workload,
    number: usize,
    mut connection: Connection,
    start: Instant,
    end: Instant,
) -> Tally {
    let mut tally = Tally::default();
    let mut round = 0_u64;
    let mut held: Option<String> = None;
    while Instant::now() < end {
        round += 1;
        let began = Instant::now();
        let name = match workload {
            Workload::Contended => "bench/shared".to_owned(),
            Workload::Pairs => format!("bench/{number}/{}", round % 64),
            Workload::Renew => format!("bench/renew/{number}"),
        };
        let first = match &held {
            Some(lease) => connection.renew(lease).await.map(|()| lease.clone()),
            None => connection.acquire(&name, number).await,
        };
        let acquired = Instant::now();
        let Ok(lease) = first else {
            tally.errors += 1;
            tokio::time::sleep(Duration::from_millis(10)).await;
            held = None;
            continue;
        };
        if workload == Workload::Renew {
            held = Some(lease);
        } else if connection.release(&lease).await.is_err() {
            tally.errors += 1;
            continue;
        }
        if began >= start && acquired < end {
            tally.operations += 1;
            tally.acquire_us.push(micros(acquired - began));
            tally.release_us.push(micros(acquired.elapsed()));
        }
    }
    if let Some(lease) = held {
        let _ends_by_its_ttl_else = connection.release(&lease).await;
    }
    tally
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn latency(mut samples: Vec<u64>) -> Latency {
    samples.sort_unstable();
    let at = |per_mille: usize| {
        let place = (samples.len() * per_mille / 1000).min(samples.len().saturating_sub(1));
        samples.get(place).copied().unwrap_or(0)
    };
    Latency {
        p50_us: at(500),
        p90_us: at(900),
        p99_us: at(990),
        p999_us: at(999),
        max_us: samples.last().copied().unwrap_or(0),
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts and sizes are far below 2^52")]
fn report(
    plan: &Plan,
    tallies: Vec<Tally>,
    samples: Option<(ProcessSample, ProcessSample)>,
) -> Report {
    let counts: Vec<u64> = tallies.iter().map(|tally| tally.operations).collect();
    let operations: u64 = counts.iter().sum();
    let most = counts.iter().max().copied().unwrap_or(0).max(1);
    let fewest = counts.iter().min().copied().unwrap_or(0);
    let errors = tallies.iter().map(|tally| tally.errors).sum();
    let (mut acquire, mut release) = (Vec::new(), Vec::new());
    for tally in tallies {
        acquire.extend(tally.acquire_us);
        release.extend(tally.release_us);
    }
    let seconds = plan.duration.as_secs_f64();
    let cpu = samples.map(|(before, after)| after.cpu_s - before.cpu_s);
    Report {
        clients: plan.clients,
        seconds,
        operations,
        operations_per_s: operations as f64 / seconds,
        acquire: latency(acquire),
        release: latency(release),
        fairness: fewest as f64 / most as f64,
        errors,
        cpu_s_per_10000: cpu.map(|cpu| cpu * 10_000.0 / operations.max(1) as f64),
        memory_mib: samples.map(|(_, after)| after.memory_bytes as f64 / 1_048_576.0),
    }
}
