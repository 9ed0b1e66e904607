//! A power cut: processes are killed while a sync of theirs is under way, and what they wrote and
//! had not synced is lost, all of it or torn at the sectors.

use std::time::Duration;

use oarlock_jepsen::chance::Chance;

use super::{is_new, someone};
use crate::cluster::Cluster;

const LOOK_PAUSE: Duration = Duration::from_millis(20);

/// Looks for something that is not synced: under another fault nothing may be written at all.
const LOOKS_MAX: usize = 100;

pub(super) async fn begin(
    cluster: &mut Cluster,
    chance: &mut Chance,
    held_before: &[i64],
) -> Result<(String, Vec<usize>, u64), String> {
    let (whom, targets) = someone(cluster, chance, "all", cluster.machines()).await;
    for &node in &targets {
        cluster.orders(node)?.give("sync", "holds")?;
    }
    let mut lost = 0;
    for _ in 0..LOOKS_MAX {
        tokio::time::sleep(LOOK_PAUSE).await;
        let mut held = targets.iter().copied();
        // Bytes that a node would lose before any sync of it is held are no cut in the middle.
        if !held.any(|node| is_new(cluster.said(node, "syncs_held"), held_before[node])) {
            continue;
        }
        lost = targets.iter().map(|&node| cluster.said(node, "unsynced_bytes")).sum::<i64>();
        if lost > 0 {
            break;
        }
    }
    for &node in &targets {
        cluster.kill(node).await?;
        cluster.orders(node)?.withdraw("sync")?;
    }
    let lost = u64::try_from(lost).unwrap_or(0);
    cluster.lost_bytes += lost;
    Ok((format!("power of {whom} cut, {lost} bytes not synced"), targets, lost))
}
