//! A power cut: processes are killed while a sync of theirs is under way, and what they wrote and
//! had not synced is lost, all of it or torn at the sectors.

use std::time::Duration;

use oarlock_jepsen::chance::Chance;

use super::someone;
use crate::cluster::Cluster;

const LOOK_PAUSE: Duration = Duration::from_millis(20);

/// Looks for something that is not synced: under another fault nothing may be written at all.
const LOOKS_MAX: usize = 100;

pub(super) async fn begin(
    cluster: &mut Cluster,
    chance: &mut Chance,
) -> Result<(String, Vec<usize>), String> {
    let (whom, targets) = someone(cluster, chance, "all", cluster.nodes()).await;
    for &node in &targets {
        cluster.orders(node)?.give("sync", "holds")?;
    }
    let mut lost = 0;
    for _ in 0..LOOKS_MAX {
        tokio::time::sleep(LOOK_PAUSE).await;
        lost = 0;
        for &node in &targets {
            lost += cluster.orders(node)?.evidence("unsynced_bytes");
        }
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
    Ok((format!("power of {whom} cut, {lost} bytes not synced"), targets))
}
