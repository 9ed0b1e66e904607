//! The members as Raft has them, and how they change: what the quorum allows, one change at a time.
//!
//! A change of voters is two entries: one by which both the old and the new majority are needed, and
//! one that ends the old. A leader that is lost between them leaves the first, which any later leader
//! finishes; so does a caller that gives up.

use std::collections::BTreeSet;
use std::time::Duration;

use oarlock_core::machine::Machine;
use openraft::ChangeMembers;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::metrics::RaftDataMetrics;
use tokio::time::timeout;

use super::RaftReplicator;
use crate::raft::types::{Member, StoredMembership, TypeConfig};
use crate::service::members::{KnownMember, MemberChange, MembersRefusal, REMOVED, removed_id};
use crate::service::replicator::{
    Leadership, MemberStatus, NodeId, ProposeError, Replicator, Transfer,
};

/// A learner that is to vote is waited for so long; who asks may ask again.
const CATCH_UP_MAX: Duration = Duration::from_secs(7);

/// With fewer voters the loss of one stops the cluster.
const VOTERS_MIN: usize = 3;

/// A change that stands half way for so many election timeouts has nobody who finishes it.
const HALF_WAY_TIMEOUTS: u32 = 2;

/// Nobody was heard of for so many: perhaps nobody will be.
const LOST_TIMEOUTS: u32 = 4;

/// What became of a change, as far as replication says.
type Changed = Result<Result<(), MembersRefusal>, ProposeError>;

type WriteError = RaftError<TypeConfig, ClientWriteError<TypeConfig>>;

impl RaftReplicator {
    pub(super) fn members(&self) -> Vec<MemberStatus> {
        let server = self.raft.server_metrics();
        let data = self.raft.data_metrics();
        let (server, data) = (server.borrow_watched(), data.borrow_watched());
        let last = data.last_log.as_ref().map_or(0, |id| id.index);
        let voters: Vec<NodeId> = server.membership_config.voter_ids().collect();
        let lag = |id: NodeId| {
            if id == self.node_id {
                return data.replication.as_ref().map(|_| 0);
            }
            let matched = data.replication.as_ref()?.get(&id)?.as_ref().map_or(0, |id| id.index);
            Some(last.saturating_sub(matched))
        };
        let mut members: Vec<_> = server
            .membership_config
            .nodes()
            .map(|(&id, member)| MemberStatus {
                id,
                api_address: member.api_address.clone(),
                peer_address: member.peer_address.clone(),
                voter: voters.contains(&id),
                instance_id: member.instance_id,
                lag_entries: lag(id),
            })
            .collect();
        members.sort_by_key(|member| member.id);
        members
    }

    /// Makes a change, once whatever speaks against it was looked at.
    pub(super) async fn change(&self, change: MemberChange) -> Changed {
        let Some(membership) = self.settled_membership() else {
            return Ok(Err(MembersRefusal::Busy));
        };
        let voters: BTreeSet<NodeId> = membership.voter_ids().collect();
        let is_member = |id: NodeId| membership.nodes().any(|(known, _)| *known == id);
        match change {
            MemberChange::Add(member) => self.add(member).await,
            MemberChange::Promote(id) if !is_member(id) => {
                Ok(Err(MembersRefusal::NoSuchMember(id)))
            }
            MemberChange::Promote(id) if voters.contains(&id) => Ok(Ok(())),
            MemberChange::Promote(id) => {
                let behind = self.catch_up(id).await?;
                if behind.is_err() {
                    return Ok(behind);
                }
                self.write(ChangeMembers::AddVoterIds([id].into())).await
            }
            MemberChange::Remove { node_id, .. } if !is_member(node_id) => Ok(Ok(())),
            MemberChange::Remove { node_id, .. } if !voters.contains(&node_id) => {
                self.write(ChangeMembers::RemoveNodes([node_id].into())).await
            }
            MemberChange::Remove { node_id, force } => {
                let left = voters.iter().copied().filter(|id| *id != node_id).collect();
                if let Some(refusal) = self.at_risk(&left, force) {
                    return Ok(Err(refusal));
                }
                self.unless_leader(node_id).await?;
                self.write(ChangeMembers::RemoveVoters([node_id].into())).await
            }
            MemberChange::Replace { old, new } => {
                self.replace(old, new, &voters, is_member(old), is_member(new)).await
            }
        }
    }

    async fn replace(
        &self,
        old: NodeId,
        new: NodeId,
        voters: &BTreeSet<NodeId>,
        is_old: bool,
        is_new: bool,
    ) -> Changed {
        if !is_old && voters.contains(&new) {
            return Ok(Ok(()));
        }
        if let Some(missing) = [(old, is_old), (new, is_new)].iter().find(|(_, known)| !known) {
            return Ok(Err(MembersRefusal::NoSuchMember(missing.0)));
        }
        let behind = self.catch_up(new).await?;
        if behind.is_err() {
            return Ok(behind);
        }
        let others = voters.iter().copied().filter(|id| *id != old);
        let left = others.chain([new]).collect();
        // As many as before: only whether they answer matters.
        if let Some(refusal) = self.out_of_touch(&left) {
            return Ok(Err(refusal));
        }
        self.unless_leader(old).await?;
        let mut steps = vec![ChangeMembers::AddVoterIds([new].into())];
        steps.push(if voters.contains(&old) {
            ChangeMembers::RemoveVoters([old].into())
        } else {
            ChangeMembers::RemoveNodes([old].into())
        });
        self.write(ChangeMembers::Batch(steps)).await
    }

    /// The members, unless a change of them is under way.
    fn settled_membership(&self) -> Option<StoredMembership> {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.as_ref();
        let joint = membership.membership().get_joint_config().len() > 1;
        (!joint).then(|| membership.clone())
    }

    async fn add(&self, member: KnownMember) -> Changed {
        let KnownMember { node_id, peer_address, api_address, instance_id } = member;
        let member = Member { peer_address, api_address, instance_id };
        self.write(ChangeMembers::AddNodes([(node_id, member)].into())).await
    }

    /// Waits until a member has what the leader has now.
    async fn catch_up(&self, id: NodeId) -> Changed {
        let mut metrics = self.raft.data_metrics();
        let wanted = metrics.borrow_watched().last_log.as_ref().map_or(0, |id| id.index);
        let matched = |metrics: &RaftDataMetrics<TypeConfig>| {
            let of = metrics.replication.as_ref()?.get(&id)?.as_ref()?;
            Some(of.index)
        };
        let caught_up = async {
            while matched(&metrics.borrow_watched()).is_none_or(|index| index < wanted) {
                if metrics.changed().await.is_err() || !self.leadership.borrow().serving_here {
                    return Err(ProposeError::NotLeader(None));
                }
            }
            Ok(())
        };
        if let Ok(done) = timeout(CATCH_UP_MAX, caught_up).await {
            return done.map(Ok);
        }
        if !self.leadership.borrow().serving_here {
            return Err(ProposeError::NotLeader(None));
        }
        let metrics = self.raft.data_metrics();
        let matched = matched(&metrics.borrow_watched());
        let entries = matched.map(|index| wanted.saturating_sub(index));
        Ok(Err(MembersRefusal::Behind { node_id: id, entries }))
    }

    /// Why these voters alone would be too few.
    fn at_risk(&self, left: &BTreeSet<NodeId>, force: bool) -> Option<MembersRefusal> {
        if left.is_empty() || (left.len() < VOTERS_MIN && !force) {
            let left = u64::try_from(left.len()).unwrap_or(u64::MAX);
            return Some(MembersRefusal::TooFew { left });
        }
        if force { None } else { self.out_of_touch(left) }
    }

    /// Whether too few of these voters acknowledged this leader lately.
    fn out_of_touch(&self, voters: &BTreeSet<NodeId>) -> Option<MembersRefusal> {
        let heard = self.heard_from();
        let answers = |id: &NodeId| *id == self.node_id || heard.contains(id);
        let count = |size: usize| u64::try_from(size).unwrap_or(u64::MAX);
        let answer = count(voters.iter().filter(|id| answers(id)).count());
        let needed = count(voters.len() / 2 + 1);
        (answer < needed).then_some(MembersRefusal::OutOfTouch { answer, needed })
    }

    /// Hands leadership over if it is this node that has to go: the next leader goes on.
    async fn unless_leader(&self, id: NodeId) -> Result<(), ProposeError> {
        if id != self.node_id {
            return Ok(());
        }
        match self.transfer_leader(None).await? {
            Transfer::To(leader) => Err(ProposeError::NotLeader(Some(leader))),
            // Nobody else votes, or nobody takes over.
            Transfer::NoSuchVoter | Transfer::NotInTime | Transfer::NotHeard => {
                Err(ProposeError::NotDone(
                    "the leader cannot remove itself, and no other voter took leadership over in time",
                ))
            }
        }
    }

    async fn write(&self, change: ChangeMembers<NodeId, Member>) -> Changed {
        match self.raft.change_membership(change, false).await {
            Ok(_) => Ok(Ok(())),
            Err(error) => refused(error, self.node_id),
        }
    }

    /// As leader, finishes a change of voters that stands half way; for ever.
    pub(super) async fn finish_changes(&self) {
        let mut metrics = self.raft.server_metrics();
        let mut leadership = self.leadership.subscribe();
        loop {
            let half_way = {
                let metrics = metrics.borrow_watched();
                let joint = metrics.membership_config.membership().get_joint_config().len() > 1;
                joint && self.leadership.borrow().serving_here
            };
            if !half_way {
                tokio::select! {
                    changed = metrics.changed() => if changed.is_err() {
                        return std::future::pending().await;
                    },
                    // Its sender lives as long as this does.
                    _ = leadership.changed() => {}
                }
                continue;
            }
            let before = self.raft.server_metrics().borrow_watched().membership_config.clone();
            tokio::time::sleep(self.leader_lease * HALF_WAY_TIMEOUTS).await;
            if self.raft.server_metrics().borrow_watched().membership_config == before {
                // Changes nothing but that: of both sets of voters the newer stays.
                let finish = ChangeMembers::AddVoterIds(BTreeSet::new());
                let _again_after_a_while = timeout(self.leader_lease, self.write(finish)).await;
            }
        }
    }

    /// Tells the transport who was removed for good.
    pub(super) fn publish_removed(&self) {
        let removed = |machine: &Machine| -> BTreeSet<NodeId> {
            machine.cluster_records(REMOVED).filter_map(|(key, _)| removed_id(key)).collect()
        };
        let revision = self.machine.with(Machine::record_revision);
        if self.removed_at.swap(revision.0, std::sync::atomic::Ordering::AcqRel) != revision.0 {
            self.peers.set_removed(self.machine.with(removed));
        }
    }

    /// Says hello to the peers when no leader was heard of for long: this node may have been removed
    /// meanwhile, and then they say so.
    pub(super) async fn greet_if_lost(&self) {
        let Leadership { serving_here, .. } = *self.leadership.borrow();
        let heard = self.heard_age();
        if !serving_here && heard.is_none_or(|age| age > LOST_TIMEOUTS * self.leader_lease) {
            self.peers.greet().await;
        }
    }
}

/// What an error of openraft means for the one who asked.
fn refused(error: WriteError, own: NodeId) -> Changed {
    match error {
        RaftError::Fatal(_) => Err(ProposeError::NotDone("this node is stopping")),
        RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => {
            Err(ProposeError::NotLeader(forward.leader_id.filter(|id| *id != own)))
        }
        RaftError::APIError(ClientWriteError::ChangeMembershipError(
            ChangeMembershipError::LearnerNotFound(unknown),
        )) => Ok(Err(MembersRefusal::NoSuchMember(unknown.node_id))),
        RaftError::APIError(ClientWriteError::ChangeMembershipError(
            ChangeMembershipError::EmptyMembership(_),
        )) => Ok(Err(MembersRefusal::TooFew { left: 0 })),
        RaftError::APIError(ClientWriteError::ChangeMembershipError(_)) => {
            Ok(Err(MembersRefusal::Busy))
        }
        RaftError::APIError(
            ClientWriteError::LogEntryDiscarded(_) | ClientWriteError::PreconditionFailed(_),
        ) => Err(ProposeError::Unknown("the leader was lost before the change was committed")),
    }
}
