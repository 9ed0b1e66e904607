//! A disk on which every sync takes long, as one does that is about to die.

use std::time::Duration;

use oarlock_jepsen::chance::Chance;

use super::{order, someone};
use crate::cluster::Cluster;

pub(super) const ORDER: &str = "sync";

pub(super) async fn begin(
    cluster: &mut Cluster,
    chance: &mut Chance,
) -> Result<(String, Vec<usize>), String> {
    let (whom, targets) = someone(cluster, chance, "all", cluster.machines()).await;
    let takes = Duration::from_millis(50 + chance.below(1_450));
    order(cluster, &targets, ORDER, &takes.as_millis())?;
    Ok((format!("syncs of {whom} take {takes:?}"), targets))
}
