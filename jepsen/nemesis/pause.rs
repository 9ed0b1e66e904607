//! SIGSTOP: a process that is not dead but does not move, like a suspended machine.

use std::time::Duration;

use oarlock_jepsen::chance::Chance;
use tokio::time::{Instant, sleep_until};

use super::someone;
use crate::cluster::Cluster;
use crate::wait_for;

/// Longer than the longest silence before an election, and than the election.
const LENGTH_MIN: Duration = Duration::from_millis(1_500);

pub(super) async fn begin(
    cluster: &mut Cluster,
    chance: &mut Chance,
) -> Result<(String, Vec<usize>), String> {
    let majority = cluster.members().len() / 2 + 1;
    let (whom, targets) = someone(cluster, chance, "majority", majority).await;
    for &node in &targets {
        cluster.signal(node, "STOP")?;
        wait_for(&format!("node {node} to stop"), || cluster.is_stopped(node)).await?;
    }
    Ok((format!("pause {whom}"), targets))
}

pub(super) async fn end(
    cluster: &Cluster,
    targets: &[usize],
    began: Instant,
) -> Result<(), String> {
    sleep_until(began + LENGTH_MIN).await;
    targets.iter().try_for_each(|&node| cluster.signal(node, "CONT"))
}
