//! kill -9: nothing is flushed but what was synced.

use oarlock_jepsen::chance::Chance;

use super::someone;
use crate::cluster::Cluster;

pub(super) async fn begin(
    cluster: &mut Cluster,
    chance: &mut Chance,
) -> Result<(String, Vec<usize>), String> {
    let (whom, targets) = someone(cluster, chance, "all", cluster.machines()).await;
    for &node in &targets {
        cluster.kill(node).await?;
    }
    Ok((format!("kill {whom}"), targets))
}
