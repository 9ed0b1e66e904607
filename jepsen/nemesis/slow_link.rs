//! A link that takes its time: between all nodes, or to and from one of them.

use std::time::Duration;

use oarlock_jepsen::chance::Chance;

use super::someone;
use crate::cluster::Cluster;

pub(super) async fn begin(
    cluster: &Cluster,
    chance: &mut Chance,
) -> Result<(String, Vec<usize>), String> {
    let (whom, targets) = someone(cluster, chance, "all", cluster.machines()).await;
    // The longest are above the election timeout.
    let delay = Duration::from_millis(20 + chance.below(1_200));
    for &one in &targets {
        for other in cluster.talking().into_iter().filter(|&node| node != one) {
            cluster.links().slow(one, other, delay)?;
            cluster.links().slow(other, one, delay)?;
        }
    }
    Ok((format!("links of {whom} take {delay:?}"), targets))
}
