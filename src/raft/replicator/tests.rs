//! The replicator over a real Raft of one node, whose peers are the tests.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use futures_util::FutureExt;
use openraft::raft::AppendEntriesRequest;
use openraft::vote::RaftLeaderIdExt;
use openraft::{EntryPayload, Membership};
use tokio::task::JoinHandle;

use super::*;
use crate::raft::birth::random_u128;
use crate::raft::clock;
use crate::raft::presence;
use crate::raft::settings::{self, Timing};
use crate::raft::store::files::memory::MemoryFiles;
use crate::raft::store::log::{LogOptions, LogStore, Synced};
use crate::raft::store::start::{self, LogFacts};
use crate::raft::transport::NetworkFactory;
use crate::raft::transport::peers::Local;
use crate::raft::transport::stream::{Connector, Stream};
use crate::raft::types::{LogEntry, LogId, Member, TypeConfig, Vote};
use crate::service::observer::Silent;
use crate::service::replicator::Query;
use crate::service::{Options, Service};
use crate::shutdown::Stop;

type LeaderId = <TypeConfig as openraft::RaftTypeConfig>::LeaderId;

const CLUSTER: u128 = 7;

/// Longer than anything here takes, on any machine.
const PATIENCE: Duration = Duration::from_secs(10);

/// Longer than any test.
const NEVER_MS: u64 = 600_000;

/// Nobody answers; remembers where somebody was looked for.
#[derive(Default)]
struct Nobody(Mutex<BTreeSet<String>>);

impl Connector for Nobody {
    fn connect(
        &self,
        _to: NodeId,
        address: String,
    ) -> futures_util::future::BoxFuture<'static, io::Result<Stream>> {
        self.0.lock().expect("unpoisoned").insert(address);
        std::future::ready(Err(io::ErrorKind::ConnectionRefused.into())).boxed()
    }
}

/// The disk of a node, which outlives it.
pub(crate) struct Disk {
    log: MemoryFiles,
    dir: tempfile::TempDir,
}

impl Disk {
    pub(crate) fn new() -> Self {
        Self { log: MemoryFiles::new(), dir: tempfile::tempdir().expect("directory") }
    }
}

/// Node 1.
pub(crate) struct Node {
    pub(crate) raft: RaftHandle,
    pub(crate) machine: MachineHandle,
    pub(crate) replicator: Arc<RaftReplicator>,
    asked: Arc<Nobody>,
    pub(crate) running: JoinHandle<()>,
    pub(crate) synced: Synced,
}

impl Node {
    /// `patience_ms` is the shortest silence of a leader that it bears.
    pub(crate) async fn start(disk: &Disk, patience_ms: u64) -> Self {
        let log = LogStore::open(
            Arc::new(disk.log.clone()),
            LogOptions { segment_bytes: 1 << 20, ..LogOptions::default() },
            Box::new(|_, _| {}),
            Arc::new(|why| panic!("{why}")),
        )
        .expect("a log");
        let synced = log.synced();
        let options = start::Options::new(disk.dir.path().to_owned(), CLUSTER);
        let last_purged = log.bounds().1;
        let snapshots = start::open_snapshots(&options, last_purged).expect("snapshots");
        let facts = LogFacts { has: &|id| log.has(id), last_purged };
        let fatal = Arc::new(|why: &str| panic!("{why}"));
        let (state, machine) = start::open(&options, snapshots, &facts, fatal).expect("a state");
        let asked = Arc::new(Nobody::default());
        let local = Local::new(1, vec![(1, "p1:1".to_owned())], None);
        let peers = Peers::with_connector(local, Arc::clone(&asked) as Arc<dyn Connector>);
        let timing = Timing {
            heartbeat_interval_ms: 50,
            election_timeout_min_ms: patience_ms,
            election_timeout_max_ms: 2 * patience_ms,
        };
        let network = NetworkFactory(Arc::clone(&peers));
        let raft =
            settings::build((1, 7), timing, 1_000, network, (log, state)).await.expect("Raft");
        let replicator = RaftReplicator::new(Parts {
            raft: raft.clone(),
            machine: machine.clone(),
            peers,
            cluster_id: CLUSTER,
            node_id: 1,
            heartbeat_interval: Duration::from_millis(timing.heartbeat_interval_ms),
            election_timeout_min: Duration::from_millis(timing.election_timeout_min_ms),
            election_timeout_max: Duration::from_millis(timing.election_timeout_max_ms),
            disk_is_low: Box::new(|| false),
            wall_ms: clock::wall_ms,
            observe_commit: Box::new(|_, _| {}),
        });
        settings::run(&raft, 7).await;
        let running = tokio::spawn(Arc::clone(&replicator).run());
        Self { raft, machine, replicator, asked, running, synced }
    }

    /// Stops it as the node does.
    pub(crate) async fn stop(self) {
        self.raft.shutdown().await.expect("Raft stops");
        self.running.abort();
        let _cancelled = self.running.await;
        self.machine.close();
    }

    /// Waits until a call to that node is tried at that address.
    async fn finds(&self, id: NodeId, address: &str) {
        let query = Query::Locks { prefix: String::new(), after: None, limit: 1 };
        let found = async {
            while !self.asked.0.lock().expect("unpoisoned").contains(address) {
                let _nobody = self.replicator.forward(id, None, Call::Read(query.clone())).await;
                tokio::task::yield_now().await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, found).await;
        assert!(waited.is_ok(), "node {id} was not looked for at {address}");
    }
}

fn member(address: &str) -> Member {
    Member { peer_address: address.to_owned(), ..Member::default() }
}

fn log_id(index: u64) -> LogId {
    LogId::new(LeaderId::new_committed(1, 2), index)
}

/// What node 2, the leader, sends: an entry with the members 1 to 3, the last of them there.
fn told_members(index: u64, third: &str) -> AppendEntriesRequest<TypeConfig> {
    let nodes = BTreeMap::from([(1, member("p1:1")), (2, member("p2:1")), (3, member(third))]);
    let voters = vec![BTreeSet::from([1, 2, 3])];
    let membership = Membership::new(voters, nodes).expect("a membership");
    let payload = EntryPayload::Membership(membership);
    AppendEntriesRequest {
        vote: Vote::new_committed(1, 2),
        prev_log_id: index.checked_sub(1).map(log_id),
        entries: vec![LogEntry { log_id: log_id(index), payload }],
        leader_commit: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_finds_the_members_of_which_the_log_tells() {
    let disk = Disk::new();
    // It never stands for election, for which openraft would tell the transport of all voters.
    let node = Node::start(&disk, NEVER_MS).await;
    let answer = node.raft.append_entries(told_members(0, "p3:1")).await;
    assert!(answer.expect("Raft runs").is_success());
    node.finds(2, "p2:1").await;
    node.finds(3, "p3:1").await;
    let answer = node.raft.append_entries(told_members(1, "moved:1")).await;
    assert!(answer.expect("Raft runs").is_success());
    node.finds(3, "moved:1").await;
    node.stop().await;

    // Started again, it knows them from its own log.
    let node = Node::start(&disk, NEVER_MS).await;
    node.finds(3, "moved:1").await;
    node.stop().await;
}

fn beacon(applied_index: u64) -> Beacon {
    let lease_time = LeaseTime(0);
    Beacon { leader_id: 1, term: 1, quorum_age_ms: Some(0), lease_time, applied_index }
}

#[test]
fn a_beacon_counts_once_its_state_is_applied_here() {
    let mut heard = Heard::default();
    let at = clock::now();
    assert!(heard.reached(9).is_none(), "nothing was heard yet");
    heard.hear(beacon(5), at);
    heard.hear(beacon(7), at + Duration::from_millis(100));
    assert!(heard.reached(4).is_none(), "a follower that lags does not know its age");
    assert_eq!(heard.reached(6).map(|(beacon, _)| beacon.applied_index), Some(5));
    assert_eq!(heard.reached(7).map(|(beacon, _)| beacon.applied_index), Some(7));
    heard.hear(beacon(9), at);
    let still = heard.reached(8).map(|(beacon, _)| beacon.applied_index);
    assert_eq!(still, Some(7), "the age goes on from the newest state that is here");
}

#[test]
fn what_is_pending_is_bounded_and_keeps_the_oldest() {
    let mut heard = Heard::default();
    for index in 0..1_000 {
        heard.hear(beacon(index), clock::now());
    }
    assert_eq!(heard.pending.len(), BEACONS_PENDING_MAX);
    assert!(heard.reached(0).is_some());
}

impl Node {
    /// A cluster of this node alone.
    pub(crate) async fn alone(disk: &Disk) -> Self {
        let node = Self::start(disk, 100).await;
        let members = BTreeMap::from([(1, member("p1:1"))]);
        node.raft.initialize(members).await.expect("a cluster");
        let mut leadership = node.replicator.leadership();
        let serving = leadership.wait_for(|now| now.serving_here);
        tokio::time::timeout(PATIENCE, serving).await.expect("it leads").expect("it runs");
        node
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_raft_stopped_serves_no_more_and_says_so() {
    let disk = Disk::new();
    let mut node = Node::alone(&disk).await;
    assert_eq!(node.replicator.propose(Command::Advance).await, Ok(Outcome::Done));
    node.raft.shutdown().await.expect("Raft stops");
    let ended = tokio::time::timeout(PATIENCE, &mut node.running).await;
    ended.expect("run returns").expect("without a panic");
    let now = *node.replicator.leadership().borrow();
    assert_eq!((now.leader_id, now.serving_here), (None, false));
    let refused = node.replicator.propose(Command::Advance).await;
    assert_eq!(refused, Err(ProposeError::NotLeader(None)));
    node.machine.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_has_every_write_that_was_acknowledged_before_it() {
    let disk = Disk::new();
    let node = Node::alone(&disk).await;
    let ids = Box::new(random_u128);
    let replicator = Arc::clone(&node.replicator);
    let service = Service::new(replicator, Arc::new(Silent), ids, Options::default());
    let mut before = 0;
    for _ in 0..3 {
        // An older snapshot is there from the second time on.
        assert_eq!(node.replicator.propose(Command::Advance).await, Ok(Outcome::Done));
        let acknowledged = node.replicator.status().applied_index;
        assert!(acknowledged > before);
        let backup = tokio::time::timeout(
            PATIENCE,
            service.backup(&crate::service::gate::Caller::default()),
        )
        .await
        .expect("in time");
        before = backup.expect("a copy").applied_index;
        assert!(before >= acknowledged, "{before} of {acknowledged}");
    }
    drop(service);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_without_a_target_is_given_to_nobody_who_is_not_heard_from() {
    let disk = Disk::new();
    let node = Node::alone(&disk).await;
    let learner = openraft::ChangeMembers::AddNodes([(2, member("p2:1"))].into());
    node.raft.change_membership(learner, false).await.expect("it is a learner");
    let raft = node.raft.clone();
    // It is never committed, because the second voter never answers, and counts all the same.
    let voter = openraft::ChangeMembers::AddVoterIds([2].into());
    let waits = tokio::spawn(async move { raft.change_membership(voter, false).await.is_ok() });
    let is_voter = async {
        while !node.replicator.status().members.iter().any(|it| it.id == 2 && it.voter) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, is_voter).await.expect("it votes");
    for to in [None, Some(2)] {
        assert_eq!(node.replicator.transfer_leader(to).await, Ok(Transfer::NotHeard), "{to:?}");
    }
    assert_eq!(node.replicator.transfer_leader(Some(3)).await, Ok(Transfer::NoSuchVoter));
    waits.abort();
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn raft_of_a_node_that_is_refused_ends_before_the_rest_of_it() {
    let disk = Disk::new();
    let mut node = Node::alone(&disk).await;
    let (local, stop) = (Local::new(1, Vec::new(), None), Stop::new());
    let raft = node.raft.clone();
    let refused = presence::stop_if_refused(Arc::clone(&local), raft, stop.clone());
    let refused = tokio::spawn(refused);
    local.is_refused("its disk went back to an earlier state: …");
    tokio::time::timeout(PATIENCE, refused).await.expect("in time").expect("no panic");
    assert!(stop.is_triggered(), "the rest of the node stops, too");
    let ended = tokio::time::timeout(PATIENCE, &mut node.running).await;
    ended.expect("nothing votes or acknowledges any more").expect("no panic");
    node.machine.close();
}

#[test]
fn only_a_committed_vote_for_this_node_means_that_it_leads() {
    let leads = |vote| leads_by(&vote, 1).map(|id| id.term);
    assert_eq!(leads(Vote::new_committed(3, 1)), Some(3));
    assert_eq!(leads(Vote::new(3, 1)), None, "a candidate does not lead");
    assert_eq!(leads(Vote::new_committed(3, 2)), None, "another one does");
}
