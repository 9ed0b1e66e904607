//! A disk on which every sync takes long, as one does that is about to die.

use std::time::Duration;

use oarlock_jepsen::chance::Chance;

use super::{someone, wait_for_evidence};
use crate::cluster::Cluster;

pub(super) async fn begin(
    cluster: &mut Cluster,
    chance: &mut Chance,
) -> Result<(String, Vec<usize>), String> {
    let (whom, targets) = someone(cluster, chance, "all", cluster.nodes()).await;
    let takes = Duration::from_millis(50 + chance.below(1_450));
    for &node in &targets {
        cluster.orders(node)?.give("sync", &takes.as_millis())?;
    }
    Ok((format!("syncs of {whom} take {takes:?}"), targets))
}

pub(super) async fn end(
    cluster: &mut Cluster,
    targets: &[usize],
    before: &[i64],
) -> Result<(), String> {
    for &node in targets {
        cluster.launch_if_down(node)?;
    }
    wait_for_evidence(cluster, targets, before, "syncs_slowed").await?;
    targets.iter().try_for_each(|&node| cluster.orders(node)?.withdraw("sync"))
}
