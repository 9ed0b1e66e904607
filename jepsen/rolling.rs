//! `oarlock-jepsen rolling`: restarts all nodes one after the other, again and again, under load, and
//! measures the longest time in which nobody was granted anything.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use tokio::time::Instant;

use crate::cluster::{Cluster, Setup};
use crate::load::{Load, longest_gap};
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
        let load = Load::start(&cluster.endpoints(), self.clients, 0);
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
