//! `oarlock-jepsen recovery`: kills the leader again and again, and measures how long nobody was
//! granted anything, and what others wait for their locks before each kill and after each recovery.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use oarlock_client::wire::{AcquireRequest, TtlMs};
use oarlock_client::{Client, Options};
use oarlock_jepsen::report::percentile;
use tokio::time::{Instant, timeout};

use crate::arrivals::{Arrival, Arrivals, between};
use crate::cluster::{Cluster, Setup};
use crate::say;

/// Of the configuration that the nodes have: the defaults.
const ELECTION_TIMEOUT_MAX: Duration = Duration::from_secs(1);

/// A gap of three of these is what is promised; one longer than this ends the measurement.
const GIVE_UP: Duration = Duration::from_mins(1);

/// Who take and release locks of their own at fixed moments.
const BYSTANDERS: u64 = 4;

/// How much longer the slowest of a hundred may wait once somebody leads again: so many times as
/// long as before, or so long, whatever is more.
const P99_TIMES: u32 = 2;
const P99_FLOOR: Duration = Duration::from_millis(100);

const TRY_DEADLINE: Duration = Duration::from_secs(1);
const TRY_PAUSE: Duration = Duration::from_millis(10);

#[derive(Debug, Args)]
pub(crate) struct Recovery {
    /// Leaders to kill, one after the other
    #[arg(long, default_value_t = 100)]
    kills: usize,
    /// Nodes of the cluster
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(3..=5))]
    nodes: u8,
    /// How long before each kill and after each recovery latencies are measured, in seconds
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=60))]
    watch_s: u64,
    /// Print the gaps, and judge only that each ended: for machines that are slow or busy
    #[arg(long)]
    lenient: bool,
    /// The node's program; else the one beside this
    #[arg(long)]
    binary: Option<PathBuf>,
}

impl Recovery {
    pub(crate) async fn measure(&self) -> Result<String, String> {
        let binary = self.binary.clone().map_or_else(crate::beside_this, Ok)?;
        let mut cluster = Cluster::start(Setup {
            binary,
            nodes: usize::from(self.nodes),
            spares: 0,
            network: None,
            small_disks: false,
            proxies: false,
            seed: 1,
            settings: "",
        })
        .await?;
        let watch = Duration::from_secs(self.watch_s);
        let arrivals = Arrivals::start(&cluster.endpoints(), BYSTANDERS);
        let (mut gaps, mut moments) = (Vec::new(), Vec::new());
        for kill in 1..=self.kills {
            let leader = serving_leader(&cluster).await?;
            tokio::time::sleep(watch).await;
            let killed_at = Instant::now();
            cluster.kill(leader).await?;
            let gap = first_grant(&cluster, leader, kill).await?.duration_since(killed_at);
            say(&format!("kill {kill} of {}: node {}, {gap:.2?}", self.kills, leader + 1));
            gaps.push(gap);
            moments.push((killed_at, killed_at + gap));
            // With a node less, as it is after a failure.
            tokio::time::sleep(watch).await;
            cluster.launch_if_down(leader)?;
            cluster.wait_ready().await?;
        }
        self.judge(gaps, &latencies(&arrivals.stop().await?, &moments, watch))
    }

    /// Of the sorted latencies before the kills and after the recoveries.
    fn judge(
        &self,
        mut gaps: Vec<Duration>,
        [before, after]: &[Vec<Duration>; 2],
    ) -> Result<String, String> {
        gaps.sort_unstable();
        let (Some(least), Some(most)) = (gaps.first(), gaps.last()) else {
            return Err("no leader was killed".to_owned());
        };
        let bound = 3 * ELECTION_TIMEOUT_MAX;
        let (p99_before, p99_after) = (percentile(before, 99), percentile(after, 99));
        let late = gaps.iter().filter(|gap| **gap > bound).count();
        let told = format!(
            "{} leaders killed: until the next grant least {least:.2?}, median {:.2?}, most \
             {most:.2?}; {late} took longer than three election timeouts ({bound:?}); {} acquires \
             and releases before the kills with a p99 of {p99_before:.1?}, {} in the {} s after \
             the recoveries with {p99_after:.1?}",
            gaps.len(),
            gaps[gaps.len() / 2],
            before.len(),
            after.len(),
            self.watch_s,
        );
        let slow = p99_after > P99_FLOOR.max(p99_before * P99_TIMES) || after.is_empty();
        if (late == 0 && !slow) || self.lenient { Ok(told) } else { Err(told) }
    }
}

/// Sorted, in the time before each kill, and from each recovery on.
fn latencies(
    arrivals: &[Arrival],
    moments: &[(Instant, Instant)],
    watch: Duration,
) -> [Vec<Duration>; 2] {
    let (mut before, mut after) = (Vec::new(), Vec::new());
    for (killed_at, recovered_at) in moments {
        // A call that has begun when the leader is killed is not one before the kill.
        let began = killed_at.checked_sub(watch).unwrap_or(*killed_at);
        let upto = killed_at.checked_sub(P99_FLOOR).unwrap_or(began);
        before.extend(between(arrivals, began, upto));
        after.extend(between(arrivals, *recovered_at, *recovered_at + watch));
    }
    before.sort_unstable();
    after.sort_unstable();
    [before, after]
}

/// The leader, once it grants.
async fn serving_leader(cluster: &Cluster) -> Result<usize, String> {
    let until = Instant::now() + GIVE_UP;
    while Instant::now() < until {
        if let Some(leader) = cluster.leader_if_known().await
            && acquire(&cluster.endpoints()[leader], "recovery/before").await
            && cluster.leader_if_known().await == Some(leader)
        {
            return Ok(leader);
        }
        tokio::time::sleep(TRY_PAUSE).await;
    }
    Err("nobody comes to lead".to_owned())
}

/// When any node but that one granted something; all are asked at once, again and again.
async fn first_grant(cluster: &Cluster, except: usize, kill: usize) -> Result<Instant, String> {
    let mut asked = tokio::task::JoinSet::new();
    for (node, endpoint) in cluster.endpoints().into_iter().enumerate() {
        if node != except {
            asked.spawn(async move {
                let mut tries = 0_u32;
                loop {
                    tries += 1;
                    if acquire(&endpoint, &format!("recovery/{kill}/{node}/{tries}")).await {
                        return Instant::now();
                    }
                    tokio::time::sleep(TRY_PAUSE).await;
                }
            });
        }
    }
    match timeout(GIVE_UP, asked.join_next()).await {
        Ok(Some(Ok(at))) => Ok(at),
        Ok(Some(Err(_)) | None) | Err(_) => {
            Err(format!("no grant within {GIVE_UP:?} after node {} was killed", except + 1))
        }
    }
}

/// Whether a free lock was granted by this node, or through it.
async fn acquire(endpoint: &str, name: &str) -> bool {
    let endpoints = vec![endpoint.to_owned()];
    let client = Client::new(Options { endpoints, deadline: TRY_DEADLINE, ..Options::default() });
    let request = AcquireRequest {
        owner: Some("recovery".to_owned()),
        ttl_ms: TtlMs::Ms(100),
        wait_ms: Some(500),
        ..AcquireRequest::default()
    };
    client.acquire(name, request).await.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_are_those_before_each_kill_and_after_each_recovery() {
        let zero = Instant::now();
        let at = |ms| zero + Duration::from_millis(ms);
        let took = Duration::from_millis;
        let arrivals = [
            (at(500), took(1)),
            (at(2_000), took(3)),
            (at(2_500), took(2)),
            // Begun just before the kill, and in the gap.
            (at(2_950), took(900)),
            (at(3_500), took(700)),
            (at(4_100), took(5)),
            (at(5_900), took(4)),
            (at(6_100), took(1)),
        ];
        let moments = [(at(3_000), at(4_000))];
        let [before, after] = latencies(&arrivals, &moments, Duration::from_secs(2));
        assert_eq!(before, [took(2), took(3)]);
        assert_eq!(after, [took(4), took(5)]);
    }
}
