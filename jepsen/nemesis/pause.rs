//! SIGSTOP: a process that is not dead but does not move, like a suspended machine.

use oarlock_jepsen::chance::Chance;

use super::someone;
use crate::cluster::Cluster;
use crate::wait_for;

pub(super) async fn begin(
    cluster: &mut Cluster,
    chance: &mut Chance,
) -> Result<(String, Vec<usize>), String> {
    let majority = cluster.nodes() / 2 + 1;
    let (whom, targets) = someone(cluster, chance, "majority", majority).await;
    for &node in &targets {
        cluster.signal(node, "STOP")?;
        wait_for(&format!("node {node} to stop"), || cluster.is_stopped(node)).await?;
    }
    Ok((format!("pause {whom}"), targets))
}

pub(super) fn end(cluster: &Cluster, targets: &[usize]) -> Result<(), String> {
    targets.iter().try_for_each(|&node| cluster.signal(node, "CONT"))
}
