//! What one node knows of itself and its cluster: status, readiness, numbers for metrics.

use std::time::Duration;

use oarlock_core::query::Totals;
use oarlock_core::time::LeaseTime;

use crate::service::error::ServiceError;
use crate::service::handle::Service;
use crate::service::replicator::{ClusterStatus, Leadership, NodeId, Replicator, Reply, ReplyBody};

/// A node whose state may be older than this is not ready: it lost touch with the leader, or the
/// leader with its majority. Several heartbeats long, so that one lost beacon does not matter.
const READY_STALENESS_MAX: Duration = Duration::from_secs(3);

/// The numbers of one moment.
#[derive(Debug, Clone)]
pub struct NodeState {
    pub status: ClusterStatus,
    pub leadership: Leadership,
    pub totals: Totals,
    pub lease_now: LeaseTime,
    pub staleness: Option<Duration>,
    pub calls_waiting: usize,
    pub ready: bool,
}

impl<R: Replicator> Service<R> {
    /// What this node knows of its cluster.
    pub fn status(&self) -> ClusterStatus {
        self.replicator.status()
    }

    /// Gives leadership away, as leader.
    pub(super) async fn transfer_leader(&self, to: Option<NodeId>) -> Result<Reply, ServiceError> {
        let transfer = self.replicator.transfer_leader(to).await?;
        Ok(Reply { now: self.replicator.lease_now(), body: ReplyBody::Transfer(transfer) })
    }

    /// Everything that status and metrics show.
    pub fn node_state(&self) -> NodeState {
        NodeState {
            status: self.replicator.status(),
            leadership: self.leadership(),
            totals: self.replicator.with_machine(oarlock_core::machine::Machine::totals),
            lease_now: self.replicator.lease_now(),
            staleness: self.replicator.staleness(),
            calls_waiting: self.waiting.len(),
            ready: self.readiness().is_ok(),
        }
    }

    /// Whether a load balancer should send requests here; if not, why not.
    pub fn readiness(&self) -> Result<(), &'static str> {
        if self.is_draining() {
            return Err("this node is shutting down");
        }
        if self.leadership().leader_id.is_none() {
            return Err("no leader is known");
        }
        match self.replicator.staleness() {
            None => Err("this node has not heard from a leader with a majority"),
            Some(age) if age > READY_STALENESS_MAX => {
                Err("this node lost touch with the leader, or the leader with its majority")
            }
            Some(_) => Ok(()),
        }
    }
}
