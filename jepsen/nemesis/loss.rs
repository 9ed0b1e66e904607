//! A bad network: packets between the nodes are lost by chance, and TCP repeats them late.

use crate::cluster::Cluster;

const LOST_PERCENT: u64 = 33;

pub(super) fn begin(cluster: &Cluster) -> Result<(String, Vec<usize>), String> {
    let (nodes, network) = (cluster.talking(), cluster.links());
    for &one in &nodes {
        for &other in nodes.iter().filter(|node| **node != one) {
            network.lose(one, other, LOST_PERCENT)?;
        }
    }
    Ok((format!("{LOST_PERCENT} % loss"), nodes))
}
