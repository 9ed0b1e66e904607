//! A load generator: clients in a closed loop, each with one request in flight.
//!
//! It shares the machine with the cluster, so it speaks HTTP with prepared requests and a parser
//! that knows only what oarlock answers. Closed loop means that a slow answer delays the next
//! request: latencies do not show what an open system would queue.

mod processes;
mod wire;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
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
    /// Acquire and release a lock whose name was never used before.
    Names,
}

/// When a run is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// After this time.
    Elapsed(Duration),
    /// After so many operations of all clients together.
    Operations(u64),
}

/// What to run.
#[derive(Debug, Clone)]
pub struct Plan {
    pub endpoints: Vec<String>,
    pub workload: Workload,
    pub clients: usize,
    pub warmup: Duration,
    pub until: Until,
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
    /// From the call of a release to the next client's grant; of the contended workload only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hand_over: Option<Latency>,
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
    acquire_us: Vec<u32>,
    release_us: Vec<u32>,
    hand_over_us: Vec<u32>,
}

/// What all clients of a run share.
struct Run {
    workload: Workload,
    start: Instant,
    end: Option<Instant>,
    /// Operations that may still begin, if their number is what ends the run.
    left: Option<AtomicU64>,
    done: AtomicU64,
    /// When the last release was called, in microseconds since the start.
    released_us: AtomicU64,
    /// Part of every name, so that no two runs share one.
    number: u32,
}

impl Run {
    fn new(plan: &Plan) -> Self {
        let start = Instant::now() + plan.warmup;
        let (end, left) = match plan.until {
            Until::Elapsed(time) => (Some(start + time), None),
            Until::Operations(count) => (None, Some(AtomicU64::new(count))),
        };
        let number = uuid::Uuid::new_v4().as_fields().0;
        let (workload, done) = (plan.workload, AtomicU64::new(0));
        Self { workload, start, end, left, done, released_us: AtomicU64::new(0), number }
    }

    /// Whether one more operation may begin; takes it from those that are left.
    fn goes_on(&self) -> bool {
        let take = |left: &AtomicU64| {
            let one_less = |left: u64| left.checked_sub(1);
            left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok()
        };
        self.end.is_none_or(|end| Instant::now() < end) && self.left.as_ref().is_none_or(take)
    }

    fn counts(&self, began: Instant, acquired: Instant) -> bool {
        began >= self.start && self.end.is_none_or(|end| acquired < end)
    }

    fn name(&self, client: usize, round: u64) -> String {
        match self.workload {
            Workload::Contended => "bench/shared".to_owned(),
            Workload::Pairs => format!("bench/{client}/{}", round % 64),
            Workload::Renew => format!("bench/renew/{client}"),
            Workload::Names => format!("bench/names/{}/{client}/{round}", self.number),
        }
    }
}

/// Runs the plan; `progress` hears how long it runs and how many operations are done.
pub async fn run(plan: &Plan, progress: impl Fn(Duration, u64)) -> Result<Report, String> {
    let run = Arc::new(Run::new(plan));
    let mut clients = Vec::new();
    for number in 0..plan.clients {
        let endpoint = plan.endpoints[number % plan.endpoints.len()].clone();
        let connection = Connection::open(&endpoint).await?;
        clients.push(tokio::spawn(client(Arc::clone(&run), number, connection)));
    }
    tokio::time::sleep_until(run.start.into()).await;
    let before = processes::sample(&plan.pids);
    let all = async {
        let mut tallies = Vec::new();
        for client in clients {
            tallies.push(client.await.map_err(|error| error.to_string())?);
        }
        Ok::<_, String>(tallies)
    };
    tokio::pin!(all);
    let tallies = loop {
        tokio::select! {
            tallies = &mut all => break tallies?,
            () = tokio::time::sleep(Duration::from_secs(1)) => {
                progress(run.start.elapsed(), run.done.load(Ordering::Relaxed));
            }
        }
    };
    let took = run.end.map_or(run.start.elapsed(), |end| end - run.start);
    let after = processes::sample(&plan.pids);
    Ok(report(plan, took, tallies, before.zip(after)))
}

async fn client(run: Arc<Run>, number: usize, mut connection: Connection) -> Tally {
    let mut tally = Tally::default();
    let mut round = 0_u64;
    let mut held: Option<String> = None;
    while run.goes_on() {
        round += 1;
        let began = Instant::now();
        let first = match &held {
            Some(lease) => connection.renew(lease).await.map(|()| lease.clone()),
            None => connection.acquire(&run.name(number, round), number).await,
        };
        let acquired = Instant::now();
        let Ok(lease) = first else {
            tally.errors += 1;
            tokio::time::sleep(Duration::from_millis(10)).await;
            held = None;
            continue;
        };
        let since_release = u64::from(micros(acquired - run.start))
            .saturating_sub(run.released_us.load(Ordering::Relaxed));
        run.released_us.store(micros(run.start.elapsed()).into(), Ordering::Relaxed);
        if run.workload == Workload::Renew {
            held = Some(lease);
        } else if connection.release(&lease).await.is_err() {
            tally.errors += 1;
            continue;
        }
        run.done.fetch_add(1, Ordering::Relaxed);
        if run.counts(began, acquired) {
            tally.operations += 1;
            tally.acquire_us.push(micros(acquired - began));
            tally.release_us.push(micros(acquired.elapsed()));
            tally.hand_over_us.push(u32::try_from(since_release).unwrap_or(u32::MAX));
        }
    }
    if let Some(lease) = held {
        let _ends_by_its_ttl_else = connection.release(&lease).await;
    }
    tally
}

/// Up to 71 minutes; a run that is not timed has no use for the rest.
fn micros(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}

fn latency(mut samples: Vec<u32>) -> Latency {
    samples.sort_unstable();
    let at = |per_mille: usize| {
        let place = (samples.len() * per_mille / 1000).min(samples.len().saturating_sub(1));
        u64::from(samples.get(place).copied().unwrap_or(0))
    };
    Latency {
        p50_us: at(500),
        p90_us: at(900),
        p99_us: at(990),
        p999_us: at(999),
        max_us: samples.last().copied().unwrap_or(0).into(),
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts and sizes are far below 2^52")]
fn report(
    plan: &Plan,
    took: Duration,
    tallies: Vec<Tally>,
    samples: Option<(ProcessSample, ProcessSample)>,
) -> Report {
    let counts: Vec<u64> = tallies.iter().map(|tally| tally.operations).collect();
    let operations: u64 = counts.iter().sum();
    let most = counts.iter().max().copied().unwrap_or(0).max(1);
    let fewest = counts.iter().min().copied().unwrap_or(0);
    let errors = tallies.iter().map(|tally| tally.errors).sum();
    let (mut acquire, mut release, mut hand_over) = (Vec::new(), Vec::new(), Vec::new());
    for tally in tallies {
        acquire.extend(tally.acquire_us);
        release.extend(tally.release_us);
        hand_over.extend(tally.hand_over_us);
    }
    let seconds = took.as_secs_f64();
    let cpu = samples.map(|(before, after)| after.cpu_s - before.cpu_s);
    Report {
        clients: plan.clients,
        seconds,
        operations,
        operations_per_s: operations as f64 / seconds,
        acquire: latency(acquire),
        release: latency(release),
        hand_over: (plan.workload == Workload::Contended).then(|| latency(hand_over)),
        fairness: fewest as f64 / most as f64,
        errors,
        cpu_s_per_10000: cpu.map(|cpu| cpu * 10_000.0 / operations.max(1) as f64),
        memory_mib: samples.map(|(_, after)| after.memory_bytes as f64 / 1_048_576.0),
    }
}
