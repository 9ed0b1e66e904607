//! Giving leadership away: on request, before a shutdown, when the disk is full.

use std::time::Duration;

use openraft::async_runtime::WatchReceiver;

use super::{RaftReplicator, leads_by};
use crate::raft::clock;
use crate::raft::types::RaftHandle;
use crate::service::replicator::{
    Leadership, MemberStatus, NodeId, ProposeError, Replicator, Transfer,
};

/// Election timeouts that a transfer is waited for: when who was asked does not take over, the
/// others elect after one.
const TRANSFER_TIMEOUTS: u32 = 4;

/// … and no longer than this, however long elections take: the call has to end by its deadline.
const TRANSFER_WAIT_MAX: Duration = Duration::from_secs(8);

impl RaftReplicator {
    /// Who acknowledged this leader within a leader lease.
    pub(super) fn heard_from(&self) -> Vec<NodeId> {
        heard_lately(&self.raft, self.leader_lease)
    }

    pub(super) async fn transfer(&self, to: Option<NodeId>) -> Result<Transfer, ProposeError> {
        let members = self.members();
        let others = || members.iter().filter(|m| m.voter && m.id != self.node_id);
        let heard = self.heard_from();
        // While who was asked does not take over nobody serves, so only who lives is asked.
        let lives = |member: &&MemberStatus| heard.contains(&member.id);
        let target = match to {
            Some(id) if id == self.node_id => return Ok(Transfer::To(id)),
            Some(id) if !others().any(|member| member.id == id) => {
                return Ok(Transfer::NoSuchVoter);
            }
            None if others().next().is_none() => return Ok(Transfer::NoSuchVoter),
            Some(id) => others().filter(lives).find(|member| member.id == id),
            None => others().filter(lives).min_by_key(|it| it.lag_entries.unwrap_or(u64::MAX)),
        };
        let Some(target) = target else { return Ok(Transfer::NotHeard) };
        self.offer(target.id).await?;
        let mut leadership = self.leadership();
        let elsewhere = |now: &Leadership| now.leader_id.filter(|id| *id != self.node_id);
        let gone = leadership.wait_for(|now| elsewhere(now).is_some());
        let patience = TRANSFER_WAIT_MAX.min(self.leader_lease * TRANSFER_TIMEOUTS);
        let known = tokio::time::timeout(patience, gone).await;
        let leader = known.ok().and_then(Result::ok).and_then(|now| elsewhere(&now));
        Ok(leader.map_or(Transfer::NotInTime, Transfer::To))
    }

    /// Asks another node to take this leadership over, whether or not it lives. From then on this one
    /// takes no more commands; openraft knows no way back.
    pub async fn offer(&self, to: NodeId) -> Result<(), ProposeError> {
        let vote = self.raft.server_metrics().borrow_watched().vote;
        let leads = leads_by(&vote, self.node_id);
        self.offered.send_if_modified(|offered| std::mem::replace(offered, leads) != leads);
        let asked = self.raft.trigger().transfer_leader(to).await;
        asked.map_err(|_| ProposeError::NotDone("this node is stopping"))
    }

    /// Offers the leadership again, to whoever lives by then. A node that was lost right after it was
    /// asked would leave a leader that refuses everything, and that the others do not replace for as
    /// long as its log still travels to one that comes back: its lease is renewed by that.
    pub(super) async fn offer_for_ever(&self) {
        for round in 0.. {
            tokio::time::sleep(self.leader_lease).await;
            let members = self.members();
            let others: Vec<_> =
                members.iter().filter(|it| it.voter && it.id != self.node_id).collect();
            let heard = self.heard_from();
            let alive = others.iter().filter(|it| heard.contains(&it.id));
            let nearest = alive.min_by_key(|it| it.lag_entries.unwrap_or(u64::MAX));
            // With nobody heard of one after the other is as good a guess as any.
            let next = nearest.or_else(|| others.get(round % others.len().max(1)));
            if let Some(next) = next {
                let _stopping_if_not = self.offer(next.id).await;
            }
        }
    }
}

/// Who acknowledged this leader within that time.
pub(super) fn heard_lately(raft: &RaftHandle, within: Duration) -> Vec<NodeId> {
    let data = raft.data_metrics();
    let data = data.borrow_watched();
    let heartbeat = data.heartbeat.iter().flatten();
    let lately = heartbeat.filter(|(_, acked)| {
        acked.as_ref().is_some_and(|at| clock::age_of(at.into_inner()) <= within)
    });
    lately.map(|(id, _)| *id).collect()
}
