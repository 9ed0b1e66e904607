//! What is done to a cluster: one file for each kind of fault, begun and ended apart, so that
//! faults can overlap. Each proves that it happened; one that left no evidence fails the run.

mod kill;
mod loss;
mod partition;
mod pause;
mod rebuild;
mod restart;

use clap::ValueEnum;

use crate::Chance;
use crate::cluster::Cluster;

/// The kinds of faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// kill -9 of the leader, a follower, or all
    Kill,
    /// SIGSTOP of the leader, a follower, or a majority, for longer than an election
    Pause,
    /// The leader, a follower or a minority hears and reaches nobody
    Partition,
    /// One node's packets are lost on the way out, or on the way in
    OneWay,
    /// Each node reaches only its neighbours in a ring
    Ring,
    /// A third of the packets between the nodes is lost
    Loss,
    /// SIGTERM and start again, one node after the other
    Restart,
    /// A node loses its state view and rebuilds it from snapshot and log
    Rebuild,
}

impl Kind {
    /// Whether it needs the network of its own.
    pub(crate) fn needs_network(self) -> bool {
        match self {
            Self::Partition | Self::OneWay | Self::Ring | Self::Loss => true,
            Self::Kill | Self::Pause | Self::Restart | Self::Rebuild => false,
        }
    }
}

/// A fault under way.
pub(crate) struct Active {
    kind: Kind,
    /// Whom it hit, for the report.
    pub(crate) what: String,
    targets: Vec<usize>,
}

/// Begins a fault.
pub(crate) async fn begin(
    kind: Kind,
    cluster: &mut Cluster,
    chance: &mut Chance,
) -> Result<Active, String> {
    let (what, targets) = match kind {
        Kind::Kill => kill::begin(cluster, chance).await?,
        Kind::Pause => pause::begin(cluster, chance).await?,
        Kind::Partition => partition::isolate(cluster, chance).await?,
        Kind::OneWay => partition::one_way(cluster, chance).await?,
        Kind::Ring => partition::ring(cluster).await?,
        Kind::Loss => loss::begin(cluster)?,
        Kind::Restart => restart::begin(cluster).await?,
        Kind::Rebuild => rebuild::begin(cluster, chance).await?,
    };
    Ok(Active { kind, what, targets })
}

/// Ends it and brings back what it took.
pub(crate) fn end(active: &Active, cluster: &mut Cluster) -> Result<(), String> {
    match active.kind {
        Kind::Kill | Kind::Rebuild => {
            active.targets.iter().try_for_each(|&node| cluster.launch_if_down(node))
        }
        Kind::Pause => pause::end(cluster, &active.targets),
        Kind::Partition | Kind::OneWay | Kind::Ring | Kind::Loss => {
            match cluster.network()?.heal()? {
                0 => Err(format!("{} dropped no packet: it was no fault", active.what)),
                _ => Ok(()),
            }
        }
        Kind::Restart => Ok(()),
    }
}

/// The leader, a follower, or another set, by chance; and how to call it.
async fn someone(
    cluster: &Cluster,
    chance: &mut Chance,
    many: &'static str,
    count: usize,
) -> (&'static str, Vec<usize>) {
    let nodes = cluster.nodes();
    let leader = cluster.leader_if_known().await.unwrap_or(0);
    let shift = 1 + usize::try_from(chance.below(nodes as u64 - 1)).unwrap_or(0);
    match chance.below(3) {
        0 => ("leader", vec![leader]),
        1 => ("follower", vec![(leader + shift) % nodes]),
        _ => (many, (0..count).map(|n| (leader + n) % nodes).collect()),
    }
}
