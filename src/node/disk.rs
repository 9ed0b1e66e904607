//! The tasks of a node that look at its disk: whether there is room, and how much is used.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::{HAND_OVER_DEADLINE, hand_over};
use crate::observe::metrics::Metrics;
use crate::raft::replicator::RaftReplicator;
use crate::raft::store::log::LogStore;
use crate::raft::store::reserve::{DiskReserve, DiskState};
use crate::raft::store::snapshots::Snapshots;

/// How often the disk is looked at; at full speed it takes longer than this to fill the reserve.
const DISK_INTERVAL: Duration = Duration::from_secs(1);

/// Pace of the disk use gauges.
const SIZES_INTERVAL: Duration = Duration::from_secs(2);

/// Looks at the disk. When it is nearly full the reserve is given back, so that releases and
/// snapshots pass, and leadership moves to a node that has room.
pub(super) async fn watch(reserve: Arc<DiskReserve>, replicator: Arc<RaftReplicator>) {
    let mut ticks = tokio::time::interval(DISK_INTERVAL);
    loop {
        ticks.tick().await;
        let before = reserve.state();
        let looking = Arc::clone(&reserve);
        let looked = tokio::task::spawn_blocking(move || {
            let state = looking.check()?;
            if state == DiskState::Low && before == DiskState::Enough {
                looking.release()?;
            }
            Ok::<_, io::Error>(state)
        });
        match looked.await {
            Ok(Ok(DiskState::Low)) if before == DiskState::Enough => {
                let _in_time_or_by_election =
                    tokio::time::timeout(HAND_OVER_DEADLINE, hand_over(&replicator)).await;
            }
            Ok(Ok(DiskState::Low | DiskState::Enough)) => {}
            Ok(Err(error)) => tracing::warn!(%error, "looking at the disk failed"),
            Err(error) => tracing::error!(%error, "looking at the disk panicked"),
        }
    }
}

/// Keeps the gauges of disk use current; nothing decides by them.
pub(super) async fn measure(
    log: LogStore,
    snapshots: Arc<Snapshots>,
    segment_bytes: u64,
    metrics: Arc<Metrics>,
) {
    let mut ticks = tokio::time::interval(SIZES_INTERVAL);
    loop {
        ticks.tick().await;
        metrics.log_size(log.sizes().segments as u64 * segment_bytes);
        metrics.snapshot_size(snapshots.current().map_or(0, |file| file.bytes()));
    }
}
