//! A disk whose syncs fail: the process must end at once, because nobody knows what the disk has,
//! and must come back from what it finds there.

use oarlock_jepsen::chance::Chance;

use super::{LOOK_PAUSE, LOOKS_MAX, someone};
use crate::cluster::Cluster;

pub(super) async fn begin(
    cluster: &mut Cluster,
    chance: &mut Chance,
) -> Result<(String, Vec<usize>), String> {
    let (whom, targets) = someone(cluster, chance, "all", cluster.machines()).await;
    for &node in &targets {
        cluster.may_end(node, true);
        cluster.orders(node)?.give("sync", "fails")?;
    }
    Ok((format!("syncs of {whom} fail"), targets))
}

/// One after the other comes back, as each has ended: a leader whose followers are all down has
/// nothing to write, and meets its disk only when there are some again.
pub(super) async fn end(cluster: &mut Cluster, targets: &[usize]) -> Result<(), String> {
    let mut left = targets.to_vec();
    for _ in 0..LOOKS_MAX {
        for node in std::mem::take(&mut left) {
            // Another fault may have killed it first; then it meets its disk when it starts.
            cluster.launch_if_killed(node)?;
            if cluster.runs(node) {
                left.push(node);
            } else {
                came_back(cluster, node).await?;
            }
        }
        if left.is_empty() {
            return Ok(());
        }
        tokio::time::sleep(LOOK_PAUSE).await;
    }
    let log = cluster.log_since(left[0], 0);
    Err(format!("nodes {left:?} run on with syncs that fail:\n{log}"))
}

async fn came_back(cluster: &mut Cluster, node: usize) -> Result<(), String> {
    let code = cluster.wait_ended(node).await?;
    let failed = cluster.orders(node)?.evidence("syncs_failed");
    if code == 0 || failed == 0 {
        let log = cluster.log_since(node, 0);
        return Err(format!("node {node} ended with {code} after {failed} failed syncs:\n{log}"));
    }
    cluster.orders(node)?.withdraw("sync")?;
    cluster.launch_if_down(node)?;
    cluster.may_end(node, false);
    Ok(())
}
