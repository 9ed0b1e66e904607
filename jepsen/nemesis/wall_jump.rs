//! Wall clocks that jump by hours, each node's by others. It may show in what people read, and must
//! change no answer.

use oarlock_jepsen::chance::Chance;

use super::{LOOK_PAUSE, LOOKS_MAX};
use crate::cluster::Cluster;

const HOUR_MS: i64 = 3_600_000;

pub(super) fn begin(
    cluster: &mut Cluster,
    chance: &mut Chance,
) -> Result<(String, Vec<usize>, Vec<i64>), String> {
    // Also one that joins, which may lead soon, but not one that goes.
    let mut targets = cluster.members();
    targets.extend(cluster.joining());
    let mut jumped_ms = Vec::new();
    for &node in &targets {
        let hours = i64::try_from(1 + chance.below(48)).unwrap_or(1);
        let sign = if chance.below(2) == 0 { 1 } else { -1 };
        // Not by whole hours, so that no two jumps are the same.
        let more = i64::try_from(chance.below(HOUR_MS.unsigned_abs())).unwrap_or(0);
        let jump_ms = sign * (hours * HOUR_MS + more);
        cluster.orders(node)?.give("wall_ms", &jump_ms)?;
        jumped_ms.push(jump_ms);
    }
    Ok(("wall clocks jump by hours".to_owned(), targets, jumped_ms))
}

/// The wall clock is read where entries are made, so only a leader shows that it jumped; who led
/// before may show an earlier jump still.
pub(super) async fn end(
    cluster: &mut Cluster,
    targets: &[usize],
    jumped_ms: &[i64],
) -> Result<(), String> {
    for &node in targets {
        cluster.launch_if_down(node)?;
    }
    for _ in 0..LOOKS_MAX {
        for (&node, jump_ms) in targets.iter().zip(jumped_ms) {
            if cluster.said(node, "wall_ms") == *jump_ms {
                return targets
                    .iter()
                    .try_for_each(|&node| cluster.orders(node)?.withdraw("wall_ms"));
            }
        }
        tokio::time::sleep(LOOK_PAUSE).await;
    }
    Err("no node read a wall clock that had jumped".to_owned())
}
