//! Replication through Raft, as the service's port wants it.
//!
//! ```text
//!  propose -> batcher -> openraft -> log + peers -> apply -> callback of the batcher -> outcome
//!  leadership: openraft's metrics -> this file -> clock and batcher start -> `serving_here`
//! ```
//!
//! A node serves as leader only after the first entry of its leadership (`DetachAll`) is applied:
//! before that its lease clock has no base and stamps nothing.

mod members;
mod transfer;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use oarlock_core::command::Command;
use oarlock_core::machine::Machine;
use oarlock_core::outcome::Outcome;
use oarlock_core::planted::{Bug, planted};
use oarlock_core::time::LeaseTime;
use openraft::ReadPolicy;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{LinearizableReadError, RaftError};
use openraft::vote::RaftLeaderId;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use crate::raft::batcher::Batcher;
use crate::raft::clock::{self, LeaseClock};
use crate::raft::size::takes_room;
use crate::raft::store::machine::MachineHandle;
use crate::raft::store::snapshot::SnapshotFile;
use crate::raft::transport::{Beacon, Peers};
use crate::raft::types::{CommittedLeaderId, LogId, RaftHandle, Vote};
use crate::service::members::{MemberChange, MembersRefusal};
use crate::service::replicator::{
    Backup, Call, ClusterStatus, ForwardError, Leadership, NodeId, ProposeError, Replicator, Reply,
    Transfer,
};

/// Pause before the first entry of a leadership is proposed again after a refusal.
const BEGIN_RETRY: Duration = Duration::from_millis(20);

/// How often a copy of the state is looked for, and asked for again: another one may be being built.
const BACKUP_RETRY: Duration = Duration::from_millis(50);

/// What the replicator is made of; built by the node.
pub struct Parts {
    pub raft: RaftHandle,
    pub machine: MachineHandle,
    pub peers: Arc<Peers>,
    pub cluster_id: u128,
    pub node_id: NodeId,
    pub heartbeat_interval: Duration,
    pub election_timeout_min: Duration,
    pub election_timeout_max: Duration,
    /// Whether the disk of this node has room for its reserve only.
    pub disk_is_low: Box<dyn Fn() -> bool + Send + Sync>,
    /// The wall clock in milliseconds since 1970, for display.
    pub wall_ms: fn() -> u64,
    /// Hears commit latency and commands per entry.
    pub observe_commit: Box<dyn Fn(Duration, usize) + Send + Sync>,
}

/// Beacons that wait for this node to apply what they speak of; at one each heartbeat, some
/// seconds. A follower that is farther behind has an unknown age.
const BEACONS_PENDING_MAX: usize = 64;

/// What followers heard of the leader's state, and how much of it they have.
#[derive(Default)]
struct Heard {
    /// The newest beacon whose state is applied here.
    reached: Option<(Beacon, Instant)>,
    pending: VecDeque<(Beacon, Instant)>,
}

impl Heard {
    fn hear(&mut self, beacon: Beacon, at: Instant) {
        if self.pending.len() == BEACONS_PENDING_MAX {
            self.pending.pop_back();
        }
        self.pending.push_back((beacon, at));
    }

    fn reached(&mut self, applied_index: u64) -> Option<&(Beacon, Instant)> {
        while let Some((beacon, _)) = self.pending.front()
            && beacon.applied_index <= applied_index
        {
            self.reached = self.pending.pop_front();
        }
        self.reached.as_ref()
    }
}

/// The port's implementation over openraft.
pub struct RaftReplicator {
    raft: RaftHandle,
    machine: MachineHandle,
    peers: Arc<Peers>,
    cluster_id: u128,
    node_id: NodeId,
    heartbeat_interval: Duration,
    leader_lease: Duration,
    batcher: Arc<Batcher>,
    leadership: watch::Sender<Leadership>,
    alone: Arc<AtomicBool>,
    /// The leadership that was offered to another node.
    offered: watch::Sender<Option<CommittedLeaderId>>,
    heard: Mutex<Heard>,
    /// At which revision of the records the transport was told who was removed.
    removed_at: AtomicU64,
    disk_is_low: Box<dyn Fn() -> bool + Send + Sync>,
}

impl RaftReplicator {
    /// Puts the parts together; nothing runs before [`Self::run`].
    pub fn new(parts: Parts) -> Arc<Self> {
        let leader_lease = parts.election_timeout_max;
        let alone = Arc::new(AtomicBool::new(false));
        let counts_until = {
            let (raft, alone) = (parts.raft.clone(), Arc::clone(&alone));
            let metrics = raft.data_metrics();
            Box::new(move || {
                if alone.load(Ordering::Acquire) {
                    return clock::now() + leader_lease;
                }
                let acked = metrics.borrow_watched().last_quorum_acked;
                acked.map_or_else(clock::now, |acked| {
                    clock::now() - clock::age_of(acked.into_inner()) + leader_lease
                })
            })
        };
        let lease_clock = LeaseClock::new(parts.election_timeout_min);
        let level = {
            let (raft, peers, node_id) = (parts.raft.clone(), parts.peers.clone(), parts.node_id);
            Box::new(move || {
                peers.levels().to_write(|| {
                    let here = transfer::heard_lately(&raft, leader_lease);
                    let metrics = raft.server_metrics();
                    let metrics = metrics.borrow_watched();
                    let members = metrics.membership_config.nodes().map(|(id, _)| *id);
                    let others = members.filter(|id| *id != node_id);
                    let others = others.map(|id| here.contains(&id).then_some(id));
                    others.collect::<Vec<_>>().into_iter()
                })
            })
        };
        let (wall_ms, observe) = (parts.wall_ms, parts.observe_commit);
        let batcher = Batcher::new(lease_clock, counts_until, level, wall_ms, observe);
        Arc::new(Self {
            raft: parts.raft,
            machine: parts.machine,
            peers: parts.peers,
            cluster_id: parts.cluster_id,
            node_id: parts.node_id,
            heartbeat_interval: parts.heartbeat_interval,
            leader_lease,
            batcher,
            leadership: watch::Sender::new(Leadership::default()),
            alone,
            offered: watch::Sender::new(None),
            heard: Mutex::new(Heard::default()),
            removed_at: AtomicU64::new(0),
            disk_is_low: parts.disk_is_low,
        })
    }

    /// The handle of openraft, for the node's own duties.
    pub fn raft(&self) -> &RaftHandle {
        &self.raft
    }

    /// Remembers what the leader said of its clock, quorum and state.
    pub fn hear(&self, beacon: Beacon) {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.hear(beacon, clock::now());
    }

    /// Runs the batcher, follows leadership and sends beacons until Raft is gone, by a shutdown or
    /// by an error of its own; then nobody serves here and nothing that waited is left waiting.
    pub async fn run(self: Arc<Self>) {
        tokio::select! {
            () = Arc::clone(&self.batcher).run(self.raft.clone()) => {}
            () = self.follow_leadership() => {}
            () = self.beat() => {}
            () = self.finish_changes() => {}
            () = self.look_around() => {}
        }
        self.batcher.end();
        self.leadership.send_modify(|known| {
            *known = Leadership { leader_id: None, serving_here: false, ..*known };
        });
    }

    /// Every heartbeat interval: lets the lease clock count, and tells the followers its state.
    async fn beat(&self) {
        let mut ticks = tokio::time::interval(self.heartbeat_interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.batcher.refuse_if_cut_off();
            if let Some(lease_time) = self.batcher.lease_now() {
                let leadership = *self.leadership.borrow();
                self.peers.broadcast_beacon(&Beacon {
                    leader_id: self.node_id,
                    term: leadership.term,
                    quorum_age_ms: self.quorum_age().map(as_ms),
                    lease_time,
                    applied_index: self.applied_index(),
                });
            }
        }
    }

    /// Every heartbeat interval: tells the transport who was removed; and now and then, with nobody
    /// heard of, asks the peers whether it was this node.
    async fn look_around(&self) {
        let mut ticks = tokio::time::interval(self.heartbeat_interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut lost_at = clock::now();
        loop {
            ticks.tick().await;
            self.peers.levels().applied(self.machine.with(Machine::level));
            self.publish_removed();
            if clock::now().saturating_duration_since(lost_at) > self.leader_lease {
                self.greet_if_lost().await;
                lost_at = clock::now();
            }
        }
    }

    async fn follow_leadership(&self) {
        let mut metrics = self.raft.server_metrics();
        let mut offered = self.offered.subscribe();
        let mut served: Option<CommittedLeaderId> = None;
        loop {
            let leads = leads_by(&metrics.borrow_watched().vote, self.node_id);
            let is_offered = leads.is_some() && *offered.borrow_and_update() == leads;
            if served.is_some() && (leads != served || is_offered) {
                self.batcher.end();
                served = None;
            }
            self.publish(served.is_some());
            if let Some(leader) = leads
                && served.is_none()
                && !is_offered
            {
                tokio::select! {
                    () = self.begin(leader) => { served = Some(leader); continue; }
                    changed = metrics.changed() => {
                        self.batcher.end();
                        if changed.is_err() { return; }
                        continue;
                    }
                    _ = offered.changed() => { self.batcher.end(); continue; }
                }
            }
            tokio::select! {
                changed = metrics.changed() => if changed.is_err() { return; },
                // Its sender lives as long as this does.
                _ = offered.changed() => {}
                () = self.offer_for_ever(), if is_offered => {}
            }
        }
    }

    /// Waits for the blank entry of this leadership, starts the clock from the machine, and gets
    /// `DetachAll` applied. Dropped when the leadership changes.
    async fn begin(&self, leader: CommittedLeaderId) {
        let mut metrics = self.raft.data_metrics();
        loop {
            let applied = metrics.borrow_watched().last_applied;
            if applied.is_some_and(|id| *id.committed_leader_id() == leader) {
                break;
            }
            if metrics.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
        loop {
            let (base, level) = self.machine.with(|machine| (machine.now(), machine.level()));
            self.peers.levels().applied(level);
            match self.batcher.begin(leader, base, level).await {
                Ok(Ok(_)) => return self.batcher.open(leader),
                // It was given away, in a moment in which this node did not know of it.
                Ok(Err(ProposeError::NotLeader(Some(to)))) if to != self.node_id => {
                    self.batcher.end();
                    self.offered.send_replace(Some(leader));
                    return std::future::pending().await;
                }
                Ok(Err(_)) | Err(_) => self.batcher.end(),
            }
            tokio::time::sleep(BEGIN_RETRY).await;
        }
    }

    /// Tells the service who leads, and the transport who is a member.
    fn publish(&self, serving_here: bool) {
        let metrics = self.raft.server_metrics();
        let now = {
            let metrics = metrics.borrow_watched();
            self.peers.set_members(metrics.membership_config.nodes().map(|(id, node)| (*id, node)));
            let mut voters = metrics.membership_config.voter_ids();
            let alone = voters.next() == Some(self.node_id) && voters.next().is_none();
            self.alone.store(alone, Ordering::Release);
            Leadership {
                leader_id: metrics.current_leader,
                term: metrics.vote.leader_id().term,
                serving_here,
            }
        };
        self.leadership.send_if_modified(|known| {
            let changed = *known != now;
            *known = now;
            changed
        });
    }

    /// Time since a majority acknowledged this leader; `None` on a follower.
    fn quorum_age(&self) -> Option<Duration> {
        if !self.leadership.borrow().serving_here {
            return None;
        }
        if self.alone.load(Ordering::Acquire) {
            return Some(Duration::ZERO);
        }
        let acked = self.raft.data_metrics().borrow_watched().last_quorum_acked?;
        Some(clock::age_of(acked.into_inner()))
    }

    fn applied_index(&self) -> u64 {
        self.machine.with_position(|_, at| at.last_applied.map_or(0, |id| id.index))
    }

    /// How old this follower's state may be: as old as the newest beacon whose state it has.
    fn heard_age(&self) -> Option<Duration> {
        let applied = self.applied_index();
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let (beacon, at) = heard.reached(applied)?;
        let quorum_age = Duration::from_millis(beacon.quorum_age_ms?);
        Some(quorum_age + clock::now().saturating_duration_since(*at))
    }
}

/// The leadership of this node that a vote stands for. The vote must come from the metrics whose
/// change was waited for: openraft's `as_leader` reads others, which are told later, and a leader
/// that looks there too early would not hear that it leads.
fn leads_by(vote: &Vote, node_id: NodeId) -> Option<CommittedLeaderId> {
    let leader = vote.leader_id();
    let leads = vote.is_committed() && *leader.node_id() == node_id;
    leads.then(|| leader.to_committed())
}

fn as_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn as_backup(file: SnapshotFile) -> Backup {
    let applied_index = file.meta().last_log_id.map_or(0, |id| id.index);
    let bytes = file.bytes();
    Backup { applied_index, bytes, read_at: Box::new(move |buffer, at| file.read_at(buffer, at)) }
}

impl Replicator for RaftReplicator {
    async fn propose(&self, command: Command) -> Result<Outcome, ProposeError> {
        let is_known = |id| self.with_machine(|machine| machine.knows_request(id));
        if (self.disk_is_low)() && takes_room(&command, is_known) {
            return Err(ProposeError::NotDone(
                "the disk of the leader is nearly full; releases still pass",
            ));
        }
        let (reply, heard) = oneshot::channel();
        self.batcher.submit(command, Some(reply))?;
        heard.await.unwrap_or(Err(ProposeError::Unknown("this node is stopping")))
    }

    fn propose_detached(&self, command: Command) {
        // Not leading means that the next leader detaches everybody anyway.
        let _not_leading = self.batcher.submit(command, None);
    }

    async fn read_barrier(&self) -> Result<(), ProposeError> {
        let recent = |age| age < 30 * self.leader_lease;
        if planted(Bug::ReadAsksNobody)
            || planted(Bug::ReadTrustsAnOldQuorum) && self.quorum_age().is_some_and(recent)
        {
            return Ok(());
        }
        match self.raft.ensure_linearizable(ReadPolicy::ReadIndex).await {
            Ok(_) => Ok(()),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => {
                Err(ProposeError::NotLeader(forward.leader_id.filter(|&id| id != self.node_id)))
            }
            Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => {
                Err(ProposeError::NotLeader(None))
            }
            Err(RaftError::Fatal(_)) => Err(ProposeError::NotDone("this node is stopping")),
        }
    }

    async fn transfer_leader(&self, to: Option<NodeId>) -> Result<Transfer, ProposeError> {
        self.transfer(to).await
    }

    async fn change_members(
        &self,
        change: MemberChange,
    ) -> Result<Result<(), MembersRefusal>, ProposeError> {
        self.change(change).await
    }

    async fn backup(&self, applied_index: u64) -> Result<Backup, ProposeError> {
        const STOPPING: ProposeError = ProposeError::NotDone("this node is stopping");
        let reached = |id: Option<LogId>| id.is_some_and(|id| id.index >= applied_index);
        let mut applied = self.machine.applied();
        applied.wait_for(|id| reached(*id)).await.map_err(|_| STOPPING)?;
        let snapshots = self.machine.snapshots();
        let newest = || snapshots.current().filter(|file| reached(file.meta().last_log_id));
        loop {
            if let Some(file) = newest() {
                return Ok(as_backup(file));
            }
            // One at a time: while another is built this does nothing, so it is asked for again.
            self.raft.trigger().snapshot().await.map_err(|_| STOPPING)?;
            tokio::time::sleep(BACKUP_RETRY).await;
        }
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.subscribe()
    }

    fn with_machine<T>(&self, look: impl FnOnce(&Machine) -> T) -> T {
        self.machine.with(look)
    }

    fn lease_now(&self) -> LeaseTime {
        self.batcher.lease_now().unwrap_or_else(|| self.machine.with(Machine::now))
    }

    async fn forward(
        &self,
        to: NodeId,
        by: Option<String>,
        call: Call,
    ) -> Result<Reply, ForwardError> {
        self.peers.forward_as(to, by, call).await
    }

    fn status(&self) -> ClusterStatus {
        let leadership = *self.leadership.borrow();
        let members = self.members();
        let applied_index = self.applied_index();
        let data = self.raft.data_metrics();
        let data = data.borrow_watched();
        ClusterStatus {
            cluster_id: Some(self.cluster_id),
            node_id: self.node_id,
            leader_id: leadership.leader_id,
            term: leadership.term,
            last_log_index: data.last_log.as_ref().map_or(0, |id| id.index),
            applied_index,
            snapshot_index: data.snapshot.as_ref().map_or(0, |id| id.index),
            members,
            quorum_age: self.staleness(),
        }
    }

    fn staleness(&self) -> Option<Duration> {
        self.quorum_age().or_else(|| self.heard_age())
    }
}

impl RaftReplicator {
    /// How long an acknowledged leader may be trusted to lead; also what one outage may cost.
    pub fn leader_lease(&self) -> Duration {
        self.leader_lease
    }
}

#[cfg(test)]
pub(crate) mod tests;
