//! A rolling restart: each node is told to end, ends by itself, and starts again.

use crate::cluster::Cluster;

pub(super) async fn begin(cluster: &mut Cluster) -> Result<(String, Vec<usize>), String> {
    let mut restarted = Vec::new();
    for node in cluster.members() {
        // One that another fault holds back cannot end in time; it is that fault's turn.
        if cluster.is_stopped(node) || cluster.is_ending(node) || !cluster.runs(node) {
            continue;
        }
        cluster.terminate(node).await?;
        cluster.launch_if_down(node)?;
        restarted.push(node);
    }
    Ok(("rolling restart".to_owned(), restarted))
}
