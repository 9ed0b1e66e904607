//! A disk without room: below the reserve no new lock is granted, and with none at all the process
//! ends. Once there is room again the node works again by itself.

use std::time::Duration;

use oarlock_jepsen::chance::Chance;

use super::{LOOK_PAUSE, LOOKS_MAX, is_new, someone};
use crate::cluster::Cluster;

/// Left of the disk where the node keeps running: less than its reserve.
const NEARLY_BYTES: u64 = 4 * 1024 * 1024;

/// The node looks at its disk every second and gives the reserve back.
const RESERVE_GIVEN_BACK: Duration = Duration::from_millis(1_500);

/// What a node says that has too little room, or found none before it looked.
const SAYS: [&str; 2] = ["the disk is nearly full", "No space left on device"];

pub(super) async fn begin(
    cluster: &mut Cluster,
    chance: &mut Chance,
) -> Result<(String, Vec<usize>, Vec<usize>), String> {
    let (whom, targets) = someone(cluster, chance, "all", cluster.machines()).await;
    let (how, left) =
        if chance.below(2) == 0 { ("nearly full", NEARLY_BYTES) } else { ("full", 0) };
    let logged = targets.iter().map(|&node| cluster.log_length(node)).collect();
    for &node in &targets {
        cluster.may_end(node, true);
        fill(cluster, node, left)?;
    }
    if left == 0 {
        tokio::time::sleep(RESERVE_GIVEN_BACK).await;
        targets.iter().try_for_each(|&node| fill(cluster, node, left))?;
    }
    Ok((format!("disk of {whom} {how}"), targets, logged))
}

/// Without a disk of its own the node is told that there is no room.
fn fill(cluster: &mut Cluster, node: usize, left: u64) -> Result<(), String> {
    match cluster.disks() {
        Some(disks) => disks.fill(node, left),
        None => cluster.orders(node)?.give("disk", "full"),
    }
}

/// One after the other gets its room back, as each has noticed: a leader whose followers have all
/// ended has nothing to write, and meets its disk only when there are some again.
pub(super) async fn end(
    cluster: &mut Cluster,
    targets: &[usize],
    logged: &[usize],
    refused: &[i64],
) -> Result<(), String> {
    let mut left: Vec<(usize, usize)> =
        targets.iter().copied().zip(logged.iter().copied()).collect();
    for _ in 0..LOOKS_MAX {
        for (node, logged) in std::mem::take(&mut left) {
            // Another fault may have killed it first; then it meets its disk when it starts.
            cluster.launch_if_killed(node)?;
            if has_noticed(cluster, node, logged, refused[node]) {
                has_room_again(cluster, node)?;
            } else {
                left.push((node, logged));
            }
        }
        if left.is_empty() {
            return Ok(());
        }
        tokio::time::sleep(LOOK_PAUSE).await;
    }
    let (node, logged) = left[0];
    Err(format!("node {node} did not notice its full disk:\n{}", cluster.log_since(node, logged)))
}

fn has_noticed(cluster: &mut Cluster, node: usize, logged: usize, refused: i64) -> bool {
    if cluster.disks().is_some() {
        let log = cluster.log_since(node, logged);
        return SAYS.iter().any(|words| log.contains(words));
    }
    is_new(cluster.said(node, "writes_refused"), refused)
}

fn has_room_again(cluster: &mut Cluster, node: usize) -> Result<(), String> {
    match cluster.disks() {
        Some(disks) => disks.free(node)?,
        None => cluster.orders(node)?.withdraw("disk")?,
    }
    cluster.launch_if_down(node)?;
    cluster.may_end(node, false);
    Ok(())
}
