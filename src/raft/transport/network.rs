//! openraft's view of the transport.
//!
//! A client of a peer uses all its connections: log entries go over the append stream, heartbeats,
//! votes and transfers over the control stream, whatever openraft made the client for; snapshots
//! over their own. What could not be sent or was refused is `Unreachable`, so that openraft waits
//! before it tries again.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt, Stream, StreamExt};
use openraft::OptionalSend;
use openraft::errors::{
    NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable,
};
use openraft::network::v2::RaftNetworkV2;
use openraft::network::{RPCOption, RPCTypes, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::type_config::alias::SnapshotOf;
use tokio::time::{Instant, timeout, timeout_at};

use crate::raft::clock;
use crate::raft::store::snapshot::SnapshotFile;
use crate::raft::transport::blocking::blocking;
use crate::raft::transport::link::{Answer, CONNECT_DEADLINE, Link};
use crate::raft::transport::marks::Acknowledged;
use crate::raft::transport::peers::{Local, PeerLinks, Peers};
use crate::raft::transport::wire::{Bytes, CHUNK_BYTES, Request, Response};
use crate::raft::types::{LogId, Member, TypeConfig, Vote};
use crate::service::replicator::NodeId;

/// Appends on their way to one follower; the rest waits in openraft, which may merge it.
const APPENDS_IN_FLIGHT_MAX: usize = 64;

/// An append stream on which nothing is answered for this long is given up with its connection.
/// openraft's own limit for it is one heartbeat, which a slow disk or a large entry may well
/// exceed; heartbeats, which decide who leads, keep that limit.
const APPEND_PROGRESS_DEADLINE: Duration = Duration::from_secs(1);

/// Pieces of a snapshot on their way: hides the round trip, bounds what the receiver must hold.
const CHUNKS_IN_FLIGHT_MAX: usize = 4;

/// Writing one piece of a snapshot; the last, which verifies and installs it, has openraft's limit.
const CHUNK_DEADLINE: Duration = Duration::from_secs(30);

type RpcResult<T> = Result<T, RPCError<TypeConfig>>;

/// Makes the clients that openraft asks for.
pub struct NetworkFactory(pub Arc<Peers>);

/// A client of one peer.
pub struct Network {
    local: Arc<Local>,
    target: NodeId,
    links: Arc<PeerLinks>,
    /// Whether its appends are heartbeats.
    heartbeat: bool,
}

impl NetworkFactory {
    fn client(&self, target: NodeId, node: &Member, heartbeat: bool) -> Network {
        let links = self.0.know(target, &node.peer_address, node.instance_id);
        Network { local: Arc::clone(&self.0.local), target, links, heartbeat }
    }
}

impl RaftNetworkFactory<TypeConfig> for NetworkFactory {
    type Network = Network;

    async fn new_client(&mut self, target: NodeId, node: &Member) -> Network {
        self.client(target, node, false)
    }

    async fn new_heartbeat_client(&mut self, target: NodeId, node: &Member) -> Network {
        self.client(target, node, true)
    }
}

fn unreachable(error: &io::Error) -> RPCError<TypeConfig> {
    RPCError::Unreachable(Unreachable::new(error))
}

fn broken(error: &io::Error) -> RPCError<TypeConfig> {
    RPCError::Network(NetworkError::new(error))
}

impl Network {
    fn timed_out(&self, action: RPCTypes, timeout: Duration) -> RPCError<TypeConfig> {
        let (id, target) = (self.local.node_id, self.target);
        RPCError::Timeout(Timeout { action, id, target, timeout })
    }

    fn acknowledged(&self, what: Acknowledged) {
        self.local.marks.acknowledged(self.target, what);
    }

    fn append_link(&self) -> &Link {
        if self.heartbeat { &self.links.control } else { &self.links.append }
    }

    /// One request and its answer over the control stream.
    async fn ask(&self, request: &Request, deadline: Duration) -> RpcResult<Response> {
        let answer = self.links.control.ask(request, deadline).await;
        answer.map_err(|error| unreachable(&error))
    }

    async fn send_snapshot(
        &self,
        vote: Vote,
        snapshot: SnapshotOf<TypeConfig, SnapshotFile>,
        install_deadline: Duration,
    ) -> io::Result<SnapshotResponse<TypeConfig>> {
        let (file, link) = (snapshot.snapshot, &self.links.snapshot);
        let total = file.bytes();
        let begin = Request::SnapshotBegin { vote, meta: snapshot.meta, bytes: total };
        match link.ask(&begin, CHUNK_DEADLINE).await? {
            Response::SnapshotWanted => {}
            other => return Err(other.unexpected()),
        }
        let mut offset = 0;
        let mut waiting: VecDeque<Answer> = VecDeque::new();
        loop {
            while offset < total && waiting.len() < CHUNKS_IN_FLIGHT_MAX {
                let bytes = read_chunk(file.clone(), offset).await?;
                let length = bytes.len() as u64;
                let chunk = Request::SnapshotChunk { offset, bytes: Bytes(bytes) };
                waiting.push_back(timeout(CHUNK_DEADLINE, link.start(&chunk, false)).await??);
                offset += length;
            }
            let Some(mut answer) = waiting.pop_front() else {
                return Err(io::Error::other("the peer wants more than the snapshot has"));
            };
            let last = offset == total && waiting.is_empty();
            let deadline = if last { install_deadline } else { CHUNK_DEADLINE };
            let Ok(answered) = timeout(deadline, answer.wait()).await else {
                answer.connection().close();
                return Err(io::Error::new(io::ErrorKind::TimedOut, "the peer took no piece"));
            };
            match answered? {
                Response::SnapshotWanted => {}
                Response::Snapshot(done) => return Ok(done),
                other => return Err(other.unexpected()),
            }
        }
    }
}

async fn read_chunk(file: SnapshotFile, offset: u64) -> io::Result<Vec<u8>> {
    let left = usize::try_from(file.bytes() - offset).unwrap_or(usize::MAX);
    blocking(move || {
        let mut bytes = vec![0; left.min(CHUNK_BYTES)];
        file.read_at(&mut bytes, offset)?;
        Ok(bytes)
    })
    .await
}

/// Appends on their way, answered in the order in which they were sent.
struct Pipeline<'a, S> {
    network: &'a Network,
    /// `None` once it ended.
    input: Option<S>,
    waiting: VecDeque<Sent>,
    deadline: Duration,
    /// When the last answer came, or the first of the waiting requests was sent.
    progress_at: Instant,
    failed: bool,
}

struct Sent {
    answer: Answer,
    prev: Option<LogId>,
    last: Option<LogId>,
    /// What the follower has durably once it agrees.
    acknowledged: Acknowledged,
}

enum Step<T> {
    Input(Option<AppendEntriesRequest<TypeConfig>>),
    Answered(T),
}

impl<S> Pipeline<'_, S>
where
    S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Unpin,
{
    /// The next answer; `None` once all are given or one was an error.
    async fn next(&mut self) -> Option<RpcResult<StreamAppendResult<TypeConfig>>> {
        loop {
            if self.failed || (self.input.is_none() && self.waiting.is_empty()) {
                return None;
            }
            let result = match self.step().await {
                Step::Answered(answer) => match self.take(answer) {
                    Some(result) => result,
                    None => continue,
                },
                Step::Input(None) => {
                    self.input = None;
                    continue;
                }
                Step::Input(Some(request)) => match self.send(request).await {
                    Ok(()) => continue,
                    Err(error) => Err(error),
                },
            };
            self.failed = !matches!(result, Ok(Ok(_)));
            return Some(result);
        }
    }

    /// What comes first: an answer, or something to send while there is room. Losing the race
    /// loses nothing.
    async fn step(&mut self) -> Step<io::Result<Response>> {
        let full = self.waiting.len() >= APPENDS_IN_FLIGHT_MAX;
        let give_up_at = self.progress_at + self.deadline;
        let answered = async {
            match self.waiting.front_mut() {
                Some(sent) => timeout_at(give_up_at, sent.answer.wait()).await,
                None => std::future::pending().await,
            }
        };
        let input = async {
            match &mut self.input {
                Some(input) if !full => input.next().await,
                Some(_) | None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            answer = answered => Step::Answered(answer.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))),
            request = input => Step::Input(request),
        }
    }

    async fn send(&mut self, request: AppendEntriesRequest<TypeConfig>) -> RpcResult<()> {
        let prev = request.prev_log_id;
        let last = request.entries.last().map(|entry| entry.log_id).or(prev);
        // What is not committed may still be taken back.
        let acknowledged =
            Acknowledged { vote: Some(request.vote), last: last.min(request.leader_commit) };
        let request = Request::Append(request);
        let started = timeout(self.deadline, self.network.append_link().start(&request, false));
        let answer = match started.await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Err(unreachable(&error)),
            Err(error) => return Err(unreachable(&error.into())),
        };
        if self.waiting.is_empty() {
            self.progress_at = clock::timer_now();
        }
        self.waiting.push_back(Sent { answer, prev, last, acknowledged });
        Ok(())
    }

    /// What an answer means, or nothing where a later one will say it.
    ///
    /// openraft knows a request that was answered by its last entry alone, and takes the moment at
    /// which the newest of that entry was sent for one at which this leader was still heard. A request
    /// without entries has the last entry of the one before it. So when both are on their way the
    /// first answer is kept back: after a pause it may be an old one, and would vouch for the present.
    fn take(
        &mut self,
        answer: io::Result<Response>,
    ) -> Option<RpcResult<StreamAppendResult<TypeConfig>>> {
        let Some(sent) = self.waiting.pop_front() else {
            return Some(Err(broken(&io::ErrorKind::BrokenPipe.into())));
        };
        let result = self.meaning(&sent, answer);
        let repeated = self.waiting.iter().any(|later| later.last <= sent.last);
        if repeated && matches!(result, Ok(Ok(_))) { None } else { Some(result) }
    }

    fn meaning(
        &mut self,
        sent: &Sent,
        answer: io::Result<Response>,
    ) -> RpcResult<StreamAppendResult<TypeConfig>> {
        self.progress_at = clock::timer_now();
        match answer {
            Ok(Response::Append(AppendEntriesResponse::Conflict)) if sent.prev.is_none() => {
                Err(broken(&io::Error::other("the peer disagrees about the start of the log")))
            }
            Ok(Response::Append(response)) => {
                if matches!(response, AppendEntriesResponse::Success) && !self.network.heartbeat {
                    self.network.acknowledged(sent.acknowledged);
                }
                Ok(response.into_stream_result(sent.prev, sent.last))
            }
            Ok(other) => Err(unreachable(&other.unexpected())),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                // Forwarded calls share the control stream; there, pings find out who is gone.
                if !self.network.heartbeat {
                    sent.answer.connection().close();
                }
                Err(self.network.timed_out(RPCTypes::AppendEntries, self.deadline))
            }
            Err(error) => Err(broken(&error)),
        }
    }
}

impl RaftNetworkV2<TypeConfig> for Network {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> RpcResult<AppendEntriesResponse<TypeConfig>> {
        let answer = self.append_link().ask(&Request::Append(rpc), option.soft_ttl()).await;
        match answer.map_err(|error| unreachable(&error))? {
            Response::Append(response) => Ok(response),
            other => Err(unreachable(&other.unexpected())),
        }
    }

    fn stream_append<S>(
        &mut self,
        input: S,
        option: RPCOption,
    ) -> futures_util::future::BoxFuture<
        '_,
        RpcResult<BoxStream<'_, RpcResult<StreamAppendResult<TypeConfig>>>>,
    >
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        let deadline = if self.heartbeat {
            option.hard_ttl()
        } else {
            option.hard_ttl().max(APPEND_PROGRESS_DEADLINE).max(CONNECT_DEADLINE)
        };
        let pipeline = Pipeline {
            network: self,
            input: Some(input),
            waiting: VecDeque::new(),
            deadline,
            progress_at: clock::timer_now(),
            failed: false,
        };
        let answers = stream::unfold(pipeline, |mut pipeline| async move {
            pipeline.next().await.map(|answer| (answer, pipeline))
        });
        std::future::ready(Ok(answers.boxed())).boxed()
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> RpcResult<VoteResponse<TypeConfig>> {
        let vote = Some(rpc.vote);
        match self.ask(&Request::Vote(rpc), option.soft_ttl()).await? {
            Response::Vote(response) => {
                if response.vote_granted {
                    self.acknowledged(Acknowledged { vote, last: None });
                }
                Ok(response)
            }
            other => Err(unreachable(&other.unexpected())),
        }
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> RpcResult<VoteResponse<TypeConfig>> {
        match self.ask(&Request::PreVote(rpc), option.soft_ttl()).await? {
            Response::Vote(response) => Ok(response),
            other => Err(unreachable(&other.unexpected())),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: SnapshotOf<TypeConfig, SnapshotFile>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = self.send_snapshot(vote, snapshot, option.soft_ttl()) => {
                sent.map_err(|error| StreamingError::Unreachable(Unreachable::new(&error)))
            }
        }
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> RpcResult<TransferLeaderResponse<TypeConfig>> {
        match self.ask(&Request::Transfer(req), option.soft_ttl()).await? {
            Response::Transfer(response) => Ok(response),
            other => Err(unreachable(&other.unexpected())),
        }
    }
}
