//! One node comes back with an empty directory. It has lost its vote, so it must not take part; the
//! directory that was kept aside brings it back.

use std::fs;
use std::path::PathBuf;

use oarlock_jepsen::chance::Chance;

use super::{refuses_to_start, someone};
use crate::cluster::Cluster;

/// A directory that was put aside.
pub(crate) struct Aside {
    kept: PathBuf,
    logged: usize,
}

pub(super) async fn begin(
    cluster: &mut Cluster,
    chance: &mut Chance,
) -> Result<(String, usize, Aside), String> {
    let (whom, targets) = someone(cluster, chance, "leader", 1).await;
    let node = targets[0];
    cluster.kill(node).await?;
    let (data, logged) = (cluster.data(node), cluster.log_length(node));
    let aside = Aside { kept: data.with_extension("kept"), logged };
    fs::rename(&data, &aside.kept)
        .and_then(|()| fs::create_dir(&data))
        .map_err(|error| format!("wipe {}: {error}", data.display()))?;
    cluster.may_end(node, true);
    cluster.launch_if_down(node)?;
    Ok((format!("disk of {whom} wiped"), node, aside))
}

pub(super) async fn end(cluster: &mut Cluster, node: usize, aside: &Aside) -> Result<(), String> {
    refuses_to_start(cluster, node, aside.logged, &["must not vote", "new id"]).await?;
    let data = cluster.data(node);
    fs::remove_dir_all(&data)
        .and_then(|()| fs::rename(&aside.kept, &data))
        .map_err(|error| format!("restore {}: {error}", data.display()))?;
    cluster.launch_if_down(node)?;
    cluster.may_end(node, false);
    Ok(())
}
