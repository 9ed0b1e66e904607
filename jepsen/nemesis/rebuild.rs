//! The state view of one node is lost; the log and its snapshots are the truth and stay.

use oarlock_jepsen::chance::Chance;

use std::fs;

use super::someone;
use crate::cluster::Cluster;

pub(super) async fn begin(
    cluster: &mut Cluster,
    chance: &mut Chance,
) -> Result<(String, Vec<usize>), String> {
    let (whom, targets) = someone(cluster, chance, "leader", 1).await;
    for &node in &targets {
        cluster.kill(node).await?;
        let view = cluster.data(node).join("state");
        fs::remove_dir_all(&view).map_err(|error| format!("remove {}: {error}", view.display()))?;
    }
    Ok((format!("view of {whom} lost"), targets))
}
