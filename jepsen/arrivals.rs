//! Calls that arrive at fixed moments, whatever became of those before: what a stall does to those
//! who come meanwhile counts as their latency, from the moment at which they meant to call.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use oarlock_client::wire::{AcquireRequest, TtlMs};
use oarlock_client::{Client, Options};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// Of each client, between two arrivals.
const EVERY: Duration = Duration::from_millis(25);

const DEADLINE: Duration = Duration::from_secs(30);

/// When an acquire and a release were meant to begin, and how long the longer of the two took.
pub(crate) type Arrival = (Instant, Duration);

/// Clients that take and release a lock of their own each.
pub(crate) struct Arrivals {
    stop: Arc<AtomicBool>,
    clients: JoinSet<Result<Vec<Arrival>, String>>,
}

impl Arrivals {
    /// Their locks are under that name, which nobody else uses meanwhile.
    pub(crate) fn start(endpoints: &[String], name: &str, clients: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut set = JoinSet::new();
        for number in 0..clients {
            let lock = format!("{name}/{number}");
            set.spawn(arrive(client(endpoints, number), lock, Arc::clone(&stop)));
        }
        Self { stop, clients: set }
    }

    /// Ends them, and tells all that they met.
    pub(crate) async fn stop(mut self) -> Result<Vec<Arrival>, String> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        while let Some(ended) = self.clients.join_next().await {
            all.extend(ended.map_err(|error| format!("a bystander failed: {error}"))??);
        }
        Ok(all)
    }
}

/// A client that begins at a node of its own.
pub(crate) fn client(endpoints: &[String], number: u64) -> Client {
    let mut endpoints = endpoints.to_vec();
    let shift = usize::try_from(number).unwrap_or(0) % endpoints.len();
    endpoints.rotate_left(shift);
    Client::new(Options { endpoints, deadline: DEADLINE, ..Options::default() })
}

/// How long those took that arrived between the two moments, the shortest first.
pub(crate) fn between(all: &[Arrival], from: Instant, to: Instant) -> Vec<Duration> {
    let inside = all.iter().filter(|(at, _)| from <= *at && *at <= to);
    let mut took: Vec<Duration> = inside.map(|(_, took)| *took).collect();
    took.sort_unstable();
    took
}

async fn arrive(
    client: Client,
    lock: String,
    stop: Arc<AtomicBool>,
) -> Result<Vec<Arrival>, String> {
    let (mut arrivals, mut meant) = (Vec::new(), Instant::now());
    while !stop.load(Ordering::Relaxed) {
        meant += EVERY;
        sleep_until(meant).await;
        let request = AcquireRequest {
            owner: Some("bystander".to_owned()),
            ttl_ms: TtlMs::Ms(60_000),
            ..AcquireRequest::default()
        };
        let taken = client.acquire(&lock, request).await;
        let (lease, _) = taken.map_err(|error| format!("a bystander's acquire: {error}"))?;
        let acquired = Instant::now();
        let released = client.release(&lease.lease_id).await;
        released.map_err(|error| format!("a bystander's release: {error}"))?;
        arrivals.push((meant, (acquired - meant).max(acquired.elapsed())));
    }
    Ok(arrivals)
}
