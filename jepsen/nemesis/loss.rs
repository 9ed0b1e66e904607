//! A bad network: packets between the nodes are lost by chance, and TCP repeats them late.

use crate::cluster::Cluster;

const LOST_PERCENT: u64 = 33;

pub(super) fn begin(cluster: &Cluster) -> Result<(String, Vec<usize>), String> {
    let (nodes, network) = (cluster.nodes(), cluster.links());
    for one in 0..nodes {
        for other in (0..nodes).filter(|&node| node != one) {
            network.lose(one, other, LOST_PERCENT)?;
        }
    }
    Ok((format!("{LOST_PERCENT} % loss"), (0..nodes).collect()))
}
