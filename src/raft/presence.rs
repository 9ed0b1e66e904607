//! How a node that comes back shows its peers what it has on its disk, before it takes part in
//! anything, and stops if they know better (`transport/marks.rs`), also that it was removed.

use std::sync::Arc;

use crate::raft::store::identity::Identity;
use crate::raft::store::log::LogStore;
use crate::raft::store::snapshots::Snapshots;
use crate::raft::transport::Peers;
use crate::raft::transport::marks::{Mark, is_removal};
use crate::raft::transport::peers::Local;
use crate::raft::types::RaftHandle;
use crate::shutdown::Stop;

/// From now on every hello and every answer to one says what the node has, and which process it is:
/// a number by chance. Before that this node must not listen to its peers. `snapshots` are none
/// before the node was part of a cluster.
///
/// A snapshot that was installed is acknowledged before the log is durably purged up to it, so the
/// newest entry is that of the log or that of the snapshot, whichever is newer.
pub fn show(log: &LogStore, snapshots: Option<Arc<Snapshots>>, local: &Local, process: u64) {
    let newest = log.newest();
    local.set_mark(move || {
        let (vote, last) = newest();
        let snapshot = snapshots.as_ref().and_then(|all| all.current()?.meta().last_log_id);
        Mark { process, vote, last: last.max(snapshot) }
    });
}

/// A node that was part of the cluster greets all peers at once; a refusal is an error that says
/// what to do.
pub async fn greet(
    identity: &Identity,
    (local, peers): (&Arc<Local>, &Arc<Peers>),
) -> Result<(), String> {
    if identity.joined {
        peers.greet().await;
    }
    refused(local)
}

/// An error if a peer knows better than this node's disk what it promised.
pub fn refused(local: &Local) -> Result<(), String> {
    let Some(why) = local.refusal() else { return Ok(()) };
    Err(if is_removal(&why) {
        format!(
            "a peer refused this node: {why}. What is in its data directory is needed by nobody any \
             more: to bring the machine back, empty the directory and let it join under a new id, \
             with a token of `oarlock members add`"
        )
    } else {
        format!(
            "a peer refused this node: {why}. What it voted and acknowledged since is lost, so it \
             must not vote again under this id: put the newest copy of the data directory back, or \
             move it away and let the node join under a new id"
        )
    })
}

/// A peer that could not be reached at the start may know that the disk went back. Raft ends first:
/// what it would still vote and acknowledge cannot be relied on.
pub async fn stop_if_refused(local: Arc<Local>, raft: RaftHandle, stop: Stop) {
    let why = local.refused().await;
    tracing::error!(why, "this node stops");
    stop.trigger();
    if let Err(error) = raft.shutdown().await {
        tracing::warn!(%error, "Raft did not stop cleanly");
    }
}
