//! The state view of one node is lost; the log and its snapshots are the truth and stay.

use super::someone;
use crate::Chance;
use crate::cluster::Cluster;

pub(super) async fn begin(
    cluster: &mut Cluster,
    chance: &mut Chance,
) -> Result<(String, Vec<usize>), String> {
    let (whom, targets) = someone(cluster, chance, "leader", 1).await;
    for &node in &targets {
        cluster.kill(node).await?;
        cluster.remove_view(node)?;
    }
    Ok((format!("view of {whom} lost"), targets))
}
