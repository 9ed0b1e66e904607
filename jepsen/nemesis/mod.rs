//! What is done to a cluster.

use std::time::Duration;

use crate::Chance;
use crate::cluster::Cluster;

/// Kills the leader, a follower, or all nodes; starts them again after a while.
pub(crate) async fn kill(
    cluster: &mut Cluster,
    chance: &mut Chance,
) -> Result<&'static str, String> {
    tokio::time::sleep(Duration::from_millis(200 + chance.below(800))).await;
    let leader = cluster.leader().await?;
    let follower = (leader + 1 + usize::try_from(chance.below(2)).unwrap_or(0)) % 3;
    let (what, targets) = match chance.below(3) {
        0 => ("leader", vec![leader]),
        1 => ("follower", vec![follower]),
        _ => ("all", vec![0, 1, 2]),
    };
    for &node in &targets {
        cluster.kill(node).await?;
    }
    tokio::time::sleep(Duration::from_millis(chance.below(2000))).await;
    for &node in &targets {
        cluster.launch(node)?;
    }
    cluster.wait_ready().await?;
    Ok(what)
}
