//! Monotonic clocks at other rates: some nodes run 0.9 % fast or slow, within what is promised for
//! any two clocks, or one clock stands still for a while, which may delay an end but never hasten it.

use oarlock_jepsen::chance::Chance;

use super::{someone, wait_for_evidence};
use crate::cluster::Cluster;

/// In millionths; clients and the other nodes are right, so this is also the largest difference.
const OFF_PPM: i64 = 9_000;
const STILL_PPM: i64 = -1_000_000;

pub(super) async fn begin(
    cluster: &mut Cluster,
    chance: &mut Chance,
) -> Result<(String, Vec<usize>), String> {
    let (whom, targets) = someone(cluster, chance, "all", cluster.nodes()).await;
    let (how, ppm) = match chance.below(5) {
        0 => ("stands still", STILL_PPM),
        1 | 2 => ("is 0.9 % fast", OFF_PPM),
        _ => ("is 0.9 % slow", -OFF_PPM),
    };
    for &node in &targets {
        cluster.orders(node)?.give("clock_ppm", &ppm)?;
    }
    Ok((format!("clock of {whom} {how}"), targets))
}

pub(super) async fn end(
    cluster: &mut Cluster,
    targets: &[usize],
    before: &[i64],
) -> Result<(), String> {
    for &node in targets {
        cluster.launch_if_down(node)?;
    }
    wait_for_evidence(cluster, targets, before, "clock_gained_us").await?;
    targets.iter().try_for_each(|&node| cluster.orders(node)?.withdraw("clock_ppm"))
}
