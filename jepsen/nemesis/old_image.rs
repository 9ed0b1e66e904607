//! The disk of one node goes back to an image that was taken while the cluster went on. Its peers
//! know what it acknowledged since and must refuse it; the newest directory brings it back.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use oarlock_jepsen::chance::Chance;

use super::refuses_to_start;
use crate::cluster::Cluster;

/// How long the node goes on after the image was taken, so that it acknowledges more.
const LIFE: Duration = Duration::from_millis(500);

fn copy(from: &Path, to: &Path) -> Result<(), String> {
    let status = Command::new("cp").arg("-r").args([from, to]).status();
    let status = status.map_err(|error| format!("run cp: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("copy {}: {status}", from.display())) }
}

/// Of a follower: what a leader acknowledges to itself nobody else knows.
pub(super) async fn begin(
    cluster: &mut Cluster,
    chance: &mut Chance,
) -> Result<(String, usize, PathBuf), String> {
    let nodes = cluster.members();
    let leader = cluster.leader_if_known().await.unwrap_or(nodes[0]);
    let at = nodes.iter().position(|node| *node == leader).unwrap_or(0);
    let shift = 1 + usize::try_from(chance.below(nodes.len() as u64 - 1)).unwrap_or(0);
    let node = nodes[(at + shift) % nodes.len()];
    let data = cluster.data(node);
    let (image, kept) = (data.with_extension("image"), data.with_extension("kept"));
    cluster.kill(node).await?;
    copy(&data, &image)?;
    cluster.launch_if_down(node)?;
    cluster.wait_ready().await?;
    tokio::time::sleep(LIFE).await;
    cluster.kill(node).await?;
    fs::rename(&data, &kept)
        .and_then(|()| fs::rename(&image, &data))
        .map_err(|error| format!("put an old image in the place of {}: {error}", data.display()))?;
    let logged = cluster.log_length(node);
    cluster.may_end(node, true);
    cluster.launch_if_down(node)?;
    // Before another fault begins, which might end the processes that know.
    refuses_to_start(cluster, node, logged, &["went back", "new id"]).await?;
    Ok(("disk of follower went back".to_owned(), node, kept))
}

/// The directory of the present comes back.
pub(super) fn end(cluster: &mut Cluster, node: usize, newest: &Path) -> Result<(), String> {
    let data = cluster.data(node);
    fs::remove_dir_all(&data)
        .and_then(|()| fs::rename(newest, &data))
        .map_err(|error| format!("restore {}: {error}", data.display()))?;
    cluster.launch_if_down(node)?;
    cluster.may_end(node, false);
    Ok(())
}
