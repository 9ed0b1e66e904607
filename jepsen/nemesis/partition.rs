//! Links that carry nothing: both ways, one way, or all but a ring.

use std::time::Duration;

use oarlock_jepsen::chance::Chance;

use super::someone;
use crate::cluster::Cluster;

/// Links of three nodes, some times each.
const LINKS_TRIED_MAX: usize = 10;

/// One side hears and reaches nobody of the other.
pub(super) async fn isolate(
    cluster: &Cluster,
    chance: &mut Chance,
) -> Result<(String, Vec<usize>), String> {
    let minority = (cluster.members().len() - 1) / 2;
    let (whom, targets) = someone(cluster, chance, "minority with leader", minority).await;
    let network = cluster.links();
    for inside in targets.iter().copied() {
        for outside in cluster.talking().into_iter().filter(|node| !targets.contains(node)) {
            network.cut(inside, outside)?;
            network.cut(outside, inside)?;
        }
    }
    Ok((format!("partition {whom}"), targets))
}

/// One node hears all and reaches nobody, or the other way round.
pub(super) async fn one_way(
    cluster: &Cluster,
    chance: &mut Chance,
) -> Result<(String, Vec<usize>), String> {
    let (whom, targets) = someone(cluster, chance, "leader", 1).await;
    let mute = chance.below(2) == 0;
    let network = cluster.links();
    for one in targets.iter().copied() {
        for other in cluster.talking().into_iter().filter(|&node| node != one) {
            if mute {
                network.cut(one, other)?;
            } else {
                network.cut(other, one)?;
            }
        }
    }
    let how = if mute { "mute" } else { "deaf" };
    Ok((format!("{whom} {how}"), targets))
}

/// Two followers hardly talk, and who leads may change meanwhile: a link that stays silent is not
/// the leader's, and another is tried. Where nobody talks, as another fault may have it, the last
/// one is left as it is, and the end of the fault tells whether it was one.
async fn link_of_the_leader(cluster: &Cluster) -> Result<(String, Vec<usize>), String> {
    let network = cluster.links();
    let mut tries = 0;
    loop {
        tries += 1;
        let nodes = cluster.talking();
        let leader = cluster.leader_if_known().await.unwrap_or(nodes[0]);
        let at = nodes.iter().position(|node| *node == leader).unwrap_or(0);
        let other = nodes[(at + 1) % nodes.len()];
        network.cut(leader, other)?;
        network.cut(other, leader)?;
        tokio::time::sleep(Duration::from_millis(500)).await;
        if network.dropped()? > 0 || tries == LINKS_TRIED_MAX {
            return Ok(("link of the leader down".to_owned(), vec![leader, other]));
        }
        network.heal()?;
    }
}

/// Every node reaches its two neighbours only; with three nodes, one link of the leader is down.
pub(super) async fn ring(cluster: &Cluster) -> Result<(String, Vec<usize>), String> {
    let (nodes, network) = (cluster.talking(), cluster.links());
    let count = nodes.len();
    if count == 3 {
        return link_of_the_leader(cluster).await;
    }
    for (one_at, &one) in nodes.iter().enumerate() {
        for (other_at, &other) in nodes.iter().enumerate() {
            let distance = (one_at + count - other_at) % count;
            if !matches!(distance, 0 | 1) && distance != count - 1 {
                network.cut(one, other)?;
            }
        }
    }
    Ok(("ring".to_owned(), nodes))
}
