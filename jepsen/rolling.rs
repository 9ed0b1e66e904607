//! `oarlock-jepsen rolling`: restarts all nodes one after the other, again and again, under load, and
//! measures the longest time in which nobody was granted anything.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Args;
use oarlock_client::Client;
use oarlock_client::wire::{AcquireRequest, TtlMs};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::arrivals::client;
use crate::cluster::{Cluster, Setup};
use crate::say;

/// What the longest gap of each restart is meant to stay below.
const GAP_MAX: Duration = Duration::from_millis(250);

/// Load before the first restart and after each, so that a gap has two ends.
const CALM: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(crate) struct Rolling {
    /// Restarts, one after the other; of a leader wherever one is due
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=1000))]
    restarts: u64,
    /// Clients that take and release locks of their own
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u64).range(1..=1000))]
    clients: u64,
    /// Print the gaps, and judge only that no call failed: for machines that are slow or busy
    #[arg(long)]
    lenient: bool,
    /// The node's program; else the one beside this
    #[arg(long)]
    binary: Option<PathBuf>,
}

impl Rolling {
    pub(crate) async fn measure(&self) -> Result<String, String> {
        let binary = self.binary.clone().map_or_else(crate::beside_this, Ok)?;
        let mut cluster = Cluster::start(Setup {
            binary,
            nodes: 3,
            spares: 0,
            network: None,
            small_disks: false,
            proxies: false,
            seed: 1,
            settings: "",
        })
        .await?;
        let load = Load::start(&cluster.endpoints(), self.clients);
        let mut windows = Vec::new();
        for restart in 1..=self.restarts {
            tokio::time::sleep(CALM).await;
            // Who leads is the one whose restart can cost anything.
            let node = leader(&cluster).await?;
            let began = Instant::now();
            cluster.terminate(node).await?;
            tokio::time::sleep(CALM).await;
            cluster.launch_if_down(node)?;
            cluster.wait_ready().await?;
            windows.push((began, Instant::now() + CALM));
            say(&format!("restart {restart} of {}: node {}", self.restarts, node + 1));
        }
        tokio::time::sleep(CALM).await;
        self.judge(&windows, &load.stop().await?)
    }

    fn judge(&self, windows: &[(Instant, Instant)], grants: &[Instant]) -> Result<String, String> {
        let gaps: Vec<Duration> =
            windows.iter().map(|(from, to)| longest_gap(grants, *from, *to)).collect();
        let shown: Vec<String> = gaps.iter().map(|gap| format!("{gap:.0?}")).collect();
        let over = gaps.iter().filter(|gap| **gap > GAP_MAX).count();
        let told = format!(
            "{} restarts under {} clients, {} grants, no call failed: longest time without a grant \
             around each {}; {over} above {GAP_MAX:?}",
            windows.len(),
            self.clients,
            grants.len(),
            shown.join(", "),
        );
        if over == 0 || self.lenient { Ok(told) } else { Err(told) }
    }
}

/// The longest time between two grants in a row of which one lies between the moments; without any
/// grant the whole time. The moments of the grants are sorted.
fn longest_gap(grants: &[Instant], from: Instant, to: Instant) -> Duration {
    let first = grants.partition_point(|at| *at < from);
    let inside = grants[first..].iter().take_while(|at| **at <= to);
    let (mut before, mut longest) = (from, Duration::ZERO);
    for at in inside.chain([&to]) {
        longest = longest.max(at.saturating_duration_since(before));
        before = *at;
    }
    longest
}

async fn leader(cluster: &Cluster) -> Result<usize, String> {
    let until = Instant::now() + Duration::from_mins(1);
    while Instant::now() < until {
        if let Some(leader) = cluster.leader_if_known().await {
            return Ok(leader);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Err("nobody comes to lead".to_owned())
}

/// Clients in a closed loop, each with a lock of its own.
struct Load {
    stop: Arc<AtomicBool>,
    clients: JoinSet<Result<Vec<Instant>, String>>,
}

impl Load {
    fn start(endpoints: &[String], clients: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut set = JoinSet::new();
        for number in 0..clients {
            set.spawn(work(client(endpoints, number), number, Arc::clone(&stop)));
        }
        Self { stop, clients: set }
    }

    /// The moments of all grants, sorted; an error if any call failed for good.
    async fn stop(mut self) -> Result<Vec<Instant>, String> {
        self.stop.store(true, Ordering::Relaxed);
        let mut grants = Vec::new();
        while let Some(ended) = self.clients.join_next().await {
            grants.extend(ended.map_err(|error| format!("a client failed: {error}"))??);
        }
        grants.sort_unstable();
        Ok(grants)
    }
}

/// The client repeats a call whose answer was lost under the same request id.
async fn work(client: Client, number: u64, stop: Arc<AtomicBool>) -> Result<Vec<Instant>, String> {
    let mut grants = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let request = AcquireRequest {
            owner: Some(format!("rolling-{number}")),
            ttl_ms: TtlMs::Ms(60_000),
            ..AcquireRequest::default()
        };
        let taken = client.acquire(&format!("rolling/{number}"), request).await;
        let (lease, _) = taken.map_err(|error| format!("an acquire failed: {error}"))?;
        grants.push(Instant::now());
        let released = client.release(&lease.lease_id).await;
        released.map_err(|error| format!("a release failed: {error}"))?;
    }
    Ok(grants)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_gap_is_between_grants_and_to_both_ends() {
        let zero = Instant::now();
        let at = |ms| zero + Duration::from_millis(ms);
        let grants = [at(10), at(100), at(150), at(500), at(900)];
        let gap = |from, to| longest_gap(&grants, at(from), at(to)).as_millis();
        assert_eq!(gap(0, 1_000), 400);
        assert_eq!(gap(100, 160), 50);
        assert_eq!(gap(600, 800), 200, "nothing at all");
        assert_eq!(gap(0, 120), 90);
    }
}
