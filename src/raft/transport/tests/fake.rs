//! A stand-in for Raft, nodes that serve it over loopback, and a network in memory.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use futures_util::FutureExt;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::vote::RaftLeaderIdExt;
use tokio::io::DuplexStream;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;

use crate::raft::store::identity::Identity;
use crate::raft::store::snapshot::{Incoming, SnapshotFile};
use crate::raft::store::snapshots::Snapshots;
use crate::raft::transport::inbound::{self, Handlers};
use crate::raft::transport::peers::{Local, Peers};
use crate::raft::transport::raft_peer::RaftPeer;
use crate::raft::transport::stream::{Connector, Stream};
use crate::raft::types::{
    LogEntry, LogId, Member, SnapshotMeta, StoredMembership, TypeConfig, Vote,
};
use crate::service::replicator::{BoxFuture, NodeId};

pub(super) const CLUSTER: u128 = 7;

type LeaderId = <TypeConfig as openraft::RaftTypeConfig>::LeaderId;

pub(super) fn log_id(index: u64) -> LogId {
    LogId::new(LeaderId::new_committed(3, 1), index)
}

pub(super) fn vote() -> Vote {
    Vote::new_committed(3, 1)
}

/// An append of one blank entry.
pub(super) fn append(index: u64) -> AppendEntriesRequest<TypeConfig> {
    AppendEntriesRequest {
        vote: vote(),
        prev_log_id: index.checked_sub(1).map(log_id),
        entries: vec![<LogEntry as openraft::entry::RaftEntry>::new_blank(log_id(index))],
        leader_commit: None,
    }
}

pub(super) fn member(id: NodeId) -> Member {
    Member { instance_id: 100 + u128::from(id), ..Member::default() }
}

/// Nodes 1 to 3 formed the cluster.
pub(super) fn identity(node_id: NodeId, cluster_id: u128) -> Identity {
    let members = (1..=3).map(|id| (id, member(id))).collect();
    Identity { cluster_id, node_id, members, joined: true, invited: false }
}

/// What the fake did, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Did {
    Appended(Option<u64>),
    Voted,
    PreVoted,
    Transferred,
    Installed(SnapshotMeta),
}

/// Raft that agrees to everything and writes down what it was asked.
pub(super) struct FakeRaft {
    pub(super) did: Mutex<Vec<Did>>,
    /// An append ends when it finds a permit here.
    pub(super) disk: Semaphore,
    door: Semaphore,
    pub(super) installed: Mutex<Option<SnapshotFile>>,
    pub(super) snapshots: Snapshots,
    pub(super) members: BTreeMap<NodeId, Member>,
    _dir: tempfile::TempDir,
}

impl FakeRaft {
    pub(super) fn new(members: BTreeMap<NodeId, Member>) -> Arc<Self> {
        let dir = tempfile::tempdir().expect("directory");
        let snapshots = Snapshots::open(dir.path(), CLUSTER, None).expect("snapshots");
        Arc::new(Self {
            did: Mutex::default(),
            disk: Semaphore::new(0),
            door: Semaphore::new(1_000),
            installed: Mutex::default(),
            snapshots,
            members,
            _dir: dir,
        })
    }

    /// Its disk is fast from now on.
    pub(super) fn flow(&self) {
        self.disk.add_permits(1_000_000);
    }

    fn note(&self, did: Did) {
        self.did.lock().expect("unpoisoned").push(did);
    }

    pub(super) fn appended(&self) -> Vec<Option<u64>> {
        let did = self.did.lock().expect("unpoisoned");
        let indexes = did.iter().filter_map(|did| match did {
            Did::Appended(index) => Some(*index),
            _ => None,
        });
        indexes.collect()
    }
}

impl RaftPeer for Arc<FakeRaft> {
    fn append(
        &self,
        rpc: AppendEntriesRequest<TypeConfig>,
    ) -> BoxFuture<io::Result<AppendEntriesResponse<TypeConfig>>> {
        let fake = Arc::clone(self);
        async move {
            // The real one hands requests over through a channel, which may send a task that did
            // much at once to the back of the run queue.
            let _through = fake.door.acquire().await.map_err(io::Error::other)?;
            fake.note(Did::Appended(rpc.entries.last().map(|entry| entry.log_id.index)));
            // A heartbeat needs no disk.
            if !rpc.entries.is_empty() {
                fake.disk.acquire().await.map_err(io::Error::other)?.forget();
            }
            Ok(AppendEntriesResponse::Success)
        }
        .boxed()
    }

    fn vote(
        &self,
        rpc: VoteRequest<TypeConfig>,
    ) -> BoxFuture<io::Result<VoteResponse<TypeConfig>>> {
        self.note(Did::Voted);
        std::future::ready(Ok(VoteResponse::new(rpc.vote, None, true))).boxed()
    }

    fn pre_vote(
        &self,
        rpc: VoteRequest<TypeConfig>,
    ) -> BoxFuture<io::Result<VoteResponse<TypeConfig>>> {
        self.note(Did::PreVoted);
        std::future::ready(Ok(VoteResponse::new(rpc.vote, None, false))).boxed()
    }

    fn transfer(
        &self,
        _rpc: TransferLeaderRequest<TypeConfig>,
    ) -> BoxFuture<io::Result<TransferLeaderResponse<TypeConfig>>> {
        self.note(Did::Transferred);
        std::future::ready(Ok(Ok(()))).boxed()
    }

    fn receive(&self) -> io::Result<Incoming> {
        self.snapshots.receive()
    }

    fn install(
        &self,
        vote: Vote,
        meta: SnapshotMeta,
        snapshot: SnapshotFile,
    ) -> BoxFuture<io::Result<SnapshotResponse<TypeConfig>>> {
        self.note(Did::Installed(meta));
        *self.installed.lock().expect("unpoisoned") = Some(snapshot);
        std::future::ready(Ok(SnapshotResponse::new(vote))).boxed()
    }

    fn member(&self, id: NodeId) -> Option<Member> {
        self.members.get(&id).cloned()
    }
}

/// The hash of a row in snapshots, from its definition: the store keeps its own to itself.
fn row_hash(key: &[u8], value: &[u8]) -> u64 {
    const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut state = 0xcbf2_9ce4_8422_2325_u64;
    for part in [key, value] {
        state = (state ^ part.len() as u64).wrapping_mul(STEP);
        for chunk in part.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            state = (state ^ u64::from_le_bytes(word)).wrapping_mul(STEP);
            state ^= state >> 29;
        }
    }
    for factor in [0xff51_afd7_ed55_8ccd, 0xc4ce_b9fe_1a85_ec53] {
        state = (state ^ (state >> 33)).wrapping_mul(factor);
    }
    state ^ (state >> 33)
}

/// A snapshot of so many rows of a kilobyte.
pub(super) fn snapshot(dir: &Snapshots, rows: u64) -> SnapshotFile {
    let meta = SnapshotMeta {
        last_log_id: Some(log_id(rows)),
        last_membership: StoredMembership::default(),
    };
    let mut writer = dir.begin(meta, rows).expect("begin");
    let mut sum = 0_u64;
    for row in 0..rows {
        let (key, value) = (row.to_be_bytes(), [row.to_le_bytes()[0]; 1024]);
        writer.push(&key, &value).expect("push");
        sum = sum.wrapping_add(row_hash(&key, &value));
    }
    writer.finish(sum).expect("finish")
}

/// A node that listens on loopback; dropped, it is gone with all its connections.
pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) address: String,
    pub(super) local: Arc<Local>,
    pub(super) handlers: Arc<Handlers>,
    pub(super) raft: Arc<FakeRaft>,
    task: JoinHandle<()>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Node {
    /// Node `id` of the cluster, with Raft running.
    pub(super) async fn start(id: NodeId) -> Self {
        let node = Self::start_as(id, Some(identity(id, CLUSTER)), "127.0.0.1:0").await;
        assert!(node.handlers.raft.set(Arc::clone(&node.raft)));
        node
    }

    pub(super) async fn start_as(id: NodeId, identity: Option<Identity>, address: &str) -> Self {
        let listener = TcpListener::bind(address).await.expect("bind");
        let address = listener.local_addr().expect("address").to_string();
        let local = Local::new(id, vec![(id, address.clone())], identity);
        let handlers = Arc::new(Handlers::default());
        let raft = FakeRaft::new(BTreeMap::from([(9, member(9))]));
        let serving = inbound::listen(listener, Arc::clone(&local), Arc::clone(&handlers));
        let task = tokio::spawn(serving);
        Self { id, address, local, handlers, raft, task }
    }

    /// Kills the node and waits until nothing of it is left.
    pub(super) async fn kill(mut self) {
        self.task.abort();
        let _cancelled = (&mut self.task).await;
    }
}

/// Node 1 of the cluster, which knows where node 2 is.
pub(super) fn peers(to: &Node) -> Arc<Peers> {
    peers_as(1, Some(identity(1, CLUSTER)), to.id, &to.address)
}

pub(super) fn peers_as(
    id: NodeId,
    identity: Option<Identity>,
    to: NodeId,
    address: &str,
) -> Arc<Peers> {
    Peers::new(Local::new(id, vec![(to, address.to_owned())], identity))
}

/// A network in memory: hands the other end of each connection to the test.
pub(super) struct Memory(mpsc::Sender<DuplexStream>);

impl Memory {
    pub(super) fn new() -> (Arc<Self>, mpsc::Receiver<DuplexStream>) {
        let (sender, receiver) = mpsc::channel(16);
        (Arc::new(Self(sender)), receiver)
    }
}

pub(super) fn halves(stream: DuplexStream) -> Stream {
    let (reader, writer) = tokio::io::split(stream);
    Stream { reader: Box::new(reader), writer: Box::new(writer), certified: None }
}

impl Connector for Memory {
    fn connect(
        &self,
        _to: NodeId,
        _address: String,
    ) -> futures_util::future::BoxFuture<'static, io::Result<Stream>> {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let sent = self.0.try_send(far).map_err(|_| io::ErrorKind::ConnectionRefused.into());
        std::future::ready(sent.map(|()| halves(near))).boxed()
    }
}
