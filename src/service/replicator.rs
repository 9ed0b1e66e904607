//! The port through which the use cases reach replication, and the calls that cross it.
//!
//! Two implementations: `raft::RaftReplicator`, and [`crate::service::solo`], which applies locally
//! for tests of the surfaces. The port is about one node: it proposes here, reads here, and
//! forwards to another node when told to; deciding whom to ask belongs to the service.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use oarlock_core::command::Command;
use oarlock_core::event::Event;
use oarlock_core::history::{HistoryPage, PastGrant};
use oarlock_core::ids::{LeaseId, LockName, SessionId, Token};
use oarlock_core::machine::Machine;
use oarlock_core::outcome::{Holder, Outcome};
use oarlock_core::query::{LeaseView, LockPage, LockView, SessionView};
use oarlock_core::time::LeaseTime;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::service::error::ServiceError;
use crate::service::members::{MemberChange, MembersCall, MembersRefusal, MembersReply};
use crate::service::tokens::{TokensCall, TokensReply};

/// The number of a node, fixed by its configuration and never reused.
pub type NodeId = u64;

/// Who leads, as far as this node knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Leadership {
    /// The leader, if one is known.
    pub leader_id: Option<NodeId>,
    /// Its term; grows with each election.
    pub term: u64,
    /// Whether this node leads *and* may propose: its first entry is applied, its clock runs.
    pub serving_here: bool,
}

/// A call that any node may receive and only the leader answers. Sent between nodes: variants and
/// fields are appended, never reordered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Call {
    /// A command; an acquire that has to wait is answered when its wait ended.
    Propose(Command),
    /// A linearizable read.
    Read(Query),
    /// The log position that a state must have reached to hold all that was acknowledged before.
    Position,
    /// Hand leadership to this voter, or to the one that is closest behind.
    TransferLeader(Option<NodeId>),
    /// A change of the members.
    Members(MembersCall),
    /// A change of the credentials.
    Tokens(TokensCall),
}

/// What became of a transfer of leadership.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Transfer {
    /// This node leads now; another than was asked for if that one did not take over in time.
    To(NodeId),
    /// Nobody was asked: there is no such voter.
    NoSuchVoter,
    /// It was asked, and nobody was seen to lead within some election timeouts.
    NotInTime,
    /// Nobody was asked: that voter, or every other one, has not answered this leader lately.
    NotHeard,
}

/// A question about the replicated state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Query {
    Lock {
        name: LockName,
        waiters_max: u32,
    },
    Locks {
        prefix: String,
        after: Option<String>,
        limit: u32,
    },
    Lease(LeaseId),
    Session(SessionId),
    /// Does the token belong to a lease of that lock held at this instant?
    Fence {
        name: LockName,
        token: Token,
    },
    /// The grants of a lock, the newest first.
    History {
        name: LockName,
        before: Option<Token>,
        limit: u32,
    },
    /// The grant that had this token.
    Token(Token),
}

/// The answer to a [`Call`], with the lease clock of the moment it was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    pub now: LeaseTime,
    pub body: ReplyBody,
}

/// What was answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReplyBody {
    Outcome(Outcome),
    Lock(LockView),
    Locks(LockPage),
    Lease(LeaseView),
    Session(SessionView),
    /// `Some` while the token's lease is held, with its holder for the remaining time.
    Fence(Option<Holder>),
    History(HistoryPage),
    Grant(Option<PastGrant>),
    Position(u64),
    Transfer(Transfer),
    Members(MembersReply),
    Tokens(TokensReply),
}

/// A member of the cluster as status shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberStatus {
    pub id: NodeId,
    /// `host:port` of its HTTP API.
    pub api_address: String,
    /// `host:port` of its peer listener.
    pub peer_address: String,
    pub voter: bool,
    /// What must answer under its id.
    pub instance_id: u128,
    /// Log entries that the leader has and this member has not yet acknowledged; only the leader
    /// knows it.
    pub lag_entries: Option<u64>,
}

/// Reads of a backup: fills the buffer from an offset, or fails.
pub type ReadAt = Box<dyn Fn(&mut [u8], u64) -> std::io::Result<()> + Send + Sync>;

/// A consistent copy of the state, checksummed, that can be read for as long as it is kept.
pub struct Backup {
    /// The log position at which the state was copied.
    pub applied_index: u64,
    /// Length of the copy.
    pub bytes: u64,
    /// Blocks for a read of the disk.
    pub read_at: ReadAt,
}

/// What one node knows of its cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterStatus {
    pub cluster_id: Option<u128>,
    pub node_id: NodeId,
    pub leader_id: Option<NodeId>,
    pub term: u64,
    pub last_log_index: u64,
    pub applied_index: u64,
    pub snapshot_index: u64,
    pub members: Vec<MemberStatus>,
    /// Time since a majority last acknowledged the leader, as far as this node knows.
    pub quorum_age: Option<Duration>,
}

/// Why a proposal has no outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProposeError {
    /// Refused before anything was proposed: certainly not done.
    NotDone(&'static str),
    /// This node does not lead: certainly not done. The leader may be known.
    NotLeader(Option<NodeId>),
    /// It was handed to Raft and its fate is not known.
    Unknown(&'static str),
}

/// Why a forwarded call has no reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ForwardError {
    /// Nothing left this node: certainly not done.
    NotSent(String),
    /// It was sent and no answer came back: fate not known.
    Broken(String),
    /// The other node answered with an error.
    Remote(ServiceError),
}

/// A boxed future, for calls through trait objects.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send + 'static>>;

/// What replication calls back into; implemented by the service. Must not block.
pub trait Upcalls: Send + Sync + 'static {
    /// Events and outcomes of one applied entry, in log order, on every node.
    fn applied(&self, events: Vec<Event>, outcomes: &[Outcome]);
    /// A call that a peer forwarded here, let in there by that credential if one was shown. Dropping
    /// the future means that the caller is gone.
    fn call(&self, by: Option<String>, call: Call) -> BoxFuture<Result<Reply, ServiceError>>;
}

/// Replication, as the use cases need it.
pub trait Replicator: Send + Sync + 'static {
    /// Proposes a command on this node, stamps it on receipt, and answers once it is applied here.
    fn propose(
        &self,
        command: Command,
    ) -> impl Future<Output = Result<Outcome, ProposeError>> + Send;

    /// Queues a command whose outcome nobody waits for, in order with this node's proposals.
    /// Without effect when this node does not lead.
    fn propose_detached(&self, command: Command);

    /// Returns once a majority confirmed, after the call began, that this node leads, and all that
    /// was committed before is applied.
    fn read_barrier(&self) -> impl Future<Output = Result<(), ProposeError>> + Send;

    /// A copy of this node's state at this log position or a later one. Takes as long as the node
    /// needs to get there and to write it out; dropping the future gives up.
    fn backup(
        &self,
        applied_index: u64,
    ) -> impl Future<Output = Result<Backup, ProposeError>> + Send;

    /// Hands leadership to that voter, or to the one that is closest behind; without effect when it
    /// leads already. Who has not answered lately is not asked. Should it not take over, the others
    /// elect.
    fn transfer_leader(
        &self,
        to: Option<NodeId>,
    ) -> impl Future<Output = Result<Transfer, ProposeError>> + Send;

    /// Changes the members, one change at a time, and returns once that is committed. A leader that
    /// is to remove itself hands leadership over first, and says who leads now: ask there.
    fn change_members(
        &self,
        change: MemberChange,
    ) -> impl Future<Output = Result<Result<(), MembersRefusal>, ProposeError>> + Send;

    /// Who leads; changes wake the receiver.
    fn leadership(&self) -> watch::Receiver<Leadership>;

    /// Looks at this node's machine. The closure must be short: apply waits for it.
    fn with_machine<T>(&self, look: impl FnOnce(&Machine) -> T) -> T;

    /// The lease clock now: the leader's running clock, elsewhere the last applied stamp.
    fn lease_now(&self) -> LeaseTime;

    /// Asks another node, in the name of whoever showed that credential. The reply has no deadline of
    /// its own: the caller drops the future.
    fn forward(
        &self,
        to: NodeId,
        by: Option<String>,
        call: Call,
    ) -> impl Future<Output = Result<Reply, ForwardError>> + Send;

    /// What this node knows of its cluster.
    fn status(&self) -> ClusterStatus;

    /// How old this node's state may be; `None` if it cannot tell.
    fn staleness(&self) -> Option<Duration>;
}
