//! `oarlock-jepsen recovery`: kills the leader again and again, and measures three things apart: how
//! long nobody was granted anything, how long others waited who called meanwhile, and what those wait
//! for their locks who come before the kill or from the first grant after it on.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use oarlock_client::wire::{AcquireRequest, TtlMs};
use oarlock_client::{Client, Options};
use oarlock_jepsen::report::percentile;
use tokio::time::{Instant, timeout};

use crate::arrivals::{Arrival, Arrivals};
use crate::cluster::{Cluster, Setup};
use crate::say;

/// Of the configuration that the nodes have: the defaults.
const ELECTION_TIMEOUT_MAX: Duration = Duration::from_millis(800);

/// A gap of three of these is what is promised; one longer than this ends the measurement.
const GIVE_UP: Duration = Duration::from_mins(1);

/// Who take and release locks of their own at fixed moments: so many before and across each kill, and
/// so many others from the next grant on. Those of before have calls to make up for by then, and wait
/// between their tries.
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
        let mut seen = Seen::default();
        for kill in 1..=self.kills {
            let gap = self.kill(&mut cluster, kill, &mut seen).await?;
            say(&format!("kill {kill} of {}: {gap:.2?}", self.kills));
        }
        self.judge(seen)
    }

    /// Kills whoever leads, and starts it again.
    async fn kill(
        &self,
        cluster: &mut Cluster,
        kill: usize,
        seen: &mut Seen,
    ) -> Result<Duration, String> {
        let watch = Duration::from_secs(self.watch_s);
        let leader = serving_leader(cluster).await?;
        let across = Arrivals::start(&cluster.endpoints(), "across", BYSTANDERS);
        tokio::time::sleep(watch).await;
        let killed_at = Instant::now();
        cluster.kill(leader).await?;
        let gap = first_grant(cluster, leader, kill).await?.duration_since(killed_at);
        // With a node less, as it is after a failure.
        let after = Arrivals::start(&cluster.endpoints(), "after", BYSTANDERS);
        seen.across(&across.stop().await?, killed_at);
        tokio::time::sleep_until(killed_at + gap + watch).await;
        seen.after.extend(after.stop().await?.iter().map(|(_, took)| *took));
        seen.gaps.push(gap);
        cluster.launch_if_down(leader)?;
        cluster.wait_ready().await?;
        Ok(gap)
    }

    fn judge(&self, mut seen: Seen) -> Result<String, String> {
        for all in [&mut seen.gaps, &mut seen.waits, &mut seen.before, &mut seen.after] {
            all.sort_unstable();
        }
        let Seen { gaps, waits, before, after } = &seen;
        let (Some(least), Some(most)) = (gaps.first(), gaps.last()) else {
            return Err("no leader was killed".to_owned());
        };
        let bound = 3 * ELECTION_TIMEOUT_MAX;
        let (p99_before, p99_after) = (percentile(before, 99), percentile(after, 99));
        let late = gaps.iter().filter(|gap| **gap > bound).count();
        let told = format!(
            "{} leaders killed: until the next grant least {least:.2?}, median {:.2?}, most \
             {most:.2?}; {late} took longer than three election timeouts ({bound:?}); who called \
             across a kill waited {:.2?} at most; {} acquires and releases before the kills with a \
             p99 of {p99_before:.1?}, {} begun in the {} s after the next grant with {p99_after:.1?}",
            gaps.len(),
            percentile(gaps, 50),
            percentile(waits, 100),
            before.len(),
            after.len(),
            self.watch_s,
        );
        let slow = p99_after > P99_FLOOR.max(p99_before * P99_TIMES) || after.is_empty();
        if (late == 0 && !slow) || self.lenient { Ok(told) } else { Err(told) }
    }
}

/// What was measured over all kills.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    /// From each kill to the next grant.
    gaps: Vec<Duration>,
    /// The longest wait of each kill, of calls that the kill met.
    waits: Vec<Duration>,
    /// Of calls that were over before a kill, …
    before: Vec<Duration>,
    /// … and of calls of others that began after the next grant.
    after: Vec<Duration>,
}

impl Seen {
    /// Parts what was answered before the kill from what the kill met.
    fn across(&mut self, arrivals: &[Arrival], killed_at: Instant) {
        let (over, met): (Vec<Arrival>, Vec<Arrival>) =
            arrivals.iter().partition(|(at, took)| *at + *took < killed_at);
        self.before.extend(over.into_iter().map(|(_, took)| took));
        self.waits.extend(met.into_iter().map(|(_, took)| took).max());
    }
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
    fn calls_that_a_kill_met_are_told_apart_from_those_before_and_after() {
        let zero = Instant::now();
        let at = |ms| zero + Duration::from_millis(ms);
        let took = Duration::from_millis;
        let arrivals = [
            (at(500), took(1)),
            (at(2_000), took(3)),
            // Begun before the kill, and in the gap.
            (at(2_950), took(1_900)),
            (at(3_500), took(1_350)),
        ];
        let mut seen = Seen { after: vec![took(4)], gaps: vec![took(1_700)], ..Seen::default() };
        seen.across(&arrivals, at(3_000));
        assert_eq!((&seen.before, &seen.waits), (&vec![took(1), took(3)], &vec![took(1_900)]));

        let command = |lenient| Recovery { kills: 1, nodes: 3, watch_s: 1, lenient, binary: None };
        let told = command(false).judge(seen).expect("what waited across the kill is no latency");
        assert!(told.contains("1.90s at most") && told.contains("with 4.0ms"), "{told}");
        // A gap that is too long, and others who are slow after it, are judged unless all is only shown.
        for (gap_ms, after_ms) in [(3_001, 4), (1_700, 101)] {
            let seen = || Seen {
                gaps: vec![took(gap_ms)],
                after: vec![took(after_ms)],
                ..Seen::default()
            };
            assert!(command(false).judge(seen()).is_err());
            assert!(command(true).judge(seen()).is_ok());
        }
    }
}
