//! Monotonic clocks at other rates: some nodes run 0.9 % fast or slow, within what is promised for
//! any two clocks, or one clock stands still for a while, which may delay an end but never hasten it.

use oarlock_jepsen::chance::Chance;

use super::{order, someone};
use crate::cluster::Cluster;

/// In millionths; clients and the other nodes are right, so this is also the largest difference.
const OFF_PPM: i64 = 9_000;
const STILL_PPM: i64 = -1_000_000;

pub(super) const ORDER: &str = "clock_ppm";

pub(super) async fn begin(
    cluster: &mut Cluster,
    chance: &mut Chance,
) -> Result<(String, Vec<usize>), String> {
    let (whom, targets) = someone(cluster, chance, "all", cluster.machines()).await;
    let (how, ppm) = match chance.below(5) {
        0 => ("stands still", STILL_PPM),
        1 | 2 => ("is 0.9 % fast", OFF_PPM),
        _ => ("is 0.9 % slow", -OFF_PPM),
    };
    order(cluster, &targets, ORDER, &ppm)?;
    Ok((format!("clock of {whom} {how}"), targets))
}
