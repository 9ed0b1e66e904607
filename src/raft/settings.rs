//! How openraft is set up, and why.

use std::sync::Arc;

use openraft::errors::Fatal;
use openraft::{Config, SnapshotPolicy};

use crate::raft::store::log::LogStore;
use crate::raft::store::machine::StateMachine;
use crate::raft::transport::NetworkFactory;
use crate::raft::types::{RaftHandle, SeededRuntime, TypeConfig};
use crate::service::replicator::NodeId;

/// Installing a snapshot on a slow disk; only a bound against a hang.
const INSTALL_SNAPSHOT_MS_MAX: u64 = 120_000;

/// The pace of a cluster, in milliseconds.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// Leader to followers.
    pub heartbeat_interval_ms: u64,
    /// Shortest time after the leader lease at which a follower that heard nothing stands for election.
    pub election_timeout_min_ms: u64,
    /// Longest such time, and the leader lease.
    pub election_timeout_max_ms: u64,
}

/// Builds Raft over what was recovered; nothing runs before [`run`]. All its chance, the jitter of
/// elections, comes from the seeds that both are given.
pub async fn build(
    (node_id, seed): (NodeId, u64),
    timing: Timing,
    snapshot_log_entries: u64,
    network: NetworkFactory,
    (log, machine): (LogStore, StateMachine),
) -> Result<RaftHandle, Fatal<TypeConfig>> {
    // Each heartbeat, and no longer the longer a member is away: its log goes on within two of these once
    // it is back, whoever else may be lost then.
    let retry = format!("{0}ms {0}ms {0}ms", timing.heartbeat_interval_ms);
    let config = Config {
        backoff: retry,
        cluster_name: "oarlock".to_owned(),
        heartbeat_interval: timing.heartbeat_interval_ms,
        election_timeout_min: timing.election_timeout_min_ms,
        election_timeout_max: timing.election_timeout_max_ms,
        // A node that was cut off must not depose a healthy leader when it comes back.
        enable_pre_vote: Some(true),
        // Ends the deadlock of a leader that hears one half and reaches the other.
        quorum_loss_probe_interval: Some(2 * timing.election_timeout_max_ms),
        snapshot_policy: SnapshotPolicy::LogsSinceLast(snapshot_log_entries),
        // One interval of log stays, so that the previous snapshot can be bridged.
        max_in_snapshot_log_to_keep: snapshot_log_entries,
        replication_lag_threshold: snapshot_log_entries.saturating_mul(2),
        install_snapshot_timeout: INSTALL_SNAPSHOT_MS_MAX,
        // A restarted leader stands for election like everybody: its lease clock has no base.
        enable_leader_restore: Some(false),
        ..Config::default()
    };
    let built = RaftHandle::build(node_id, Arc::new(config), network, log, machine);
    SeededRuntime::scope(seed, built).await
}

/// Lets Raft run. Only through here: its tasks draw their chance from the one that spawns them.
pub async fn run(raft: &RaftHandle, seed: u64) {
    SeededRuntime::scope(seed, async { raft.run() }).await;
}
