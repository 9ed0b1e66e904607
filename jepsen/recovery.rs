//! `oarlock-jepsen recovery`: kills the leader again and again, and measures how long nobody was
//! granted anything.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use oarlock_client::wire::{AcquireRequest, TtlMs};
use oarlock_client::{Client, Options};
use tokio::time::{Instant, timeout};

use crate::cluster::{Cluster, Setup};
use crate::say;

/// Of the configuration that the nodes have: the defaults.
const ELECTION_TIMEOUT_MAX: Duration = Duration::from_secs(1);

/// A gap of three of these is what is promised; one longer than this ends the measurement.
const GIVE_UP: Duration = Duration::from_mins(1);

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
            network: None,
            small_disks: false,
            proxies: false,
            seed: 1,
            settings: "",
        })
        .await?;
        let mut gaps = Vec::new();
        for kill in 1..=self.kills {
            let leader = serving_leader(&cluster).await?;
            let killed_at = Instant::now();
            cluster.kill(leader).await?;
            let gap = first_grant(&cluster, leader, kill).await?.duration_since(killed_at);
            say(&format!("kill {kill} of {}: node {}, {gap:.2?}", self.kills, leader + 1));
            gaps.push(gap);
            cluster.launch_if_down(leader)?;
            cluster.wait_ready().await?;
        }
        self.judge(gaps)
    }

    fn judge(&self, mut gaps: Vec<Duration>) -> Result<String, String> {
        gaps.sort_unstable();
        let (Some(least), Some(most)) = (gaps.first(), gaps.last()) else {
            return Err("no leader was killed".to_owned());
        };
        let bound = 3 * ELECTION_TIMEOUT_MAX;
        let late = gaps.iter().filter(|gap| **gap > bound).count();
        let told = format!(
            "{} leaders killed: until the next grant least {least:.2?}, median {:.2?}, most \
             {most:.2?}; {late} took longer than three election timeouts ({bound:?})",
            gaps.len(),
            gaps[gaps.len() / 2],
        );
        if late == 0 || self.lenient { Ok(told) } else { Err(told) }
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
    let client = Client::new(Options { endpoints, deadline: TRY_DEADLINE });
    let request = AcquireRequest {
        owner: Some("recovery".to_owned()),
        ttl_ms: TtlMs::Ms(100),
        wait_ms: Some(500),
        ..AcquireRequest::default()
    };
    client.acquire(name, request).await.is_ok()
}
