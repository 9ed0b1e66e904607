//! openraft's view of the transport.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::BoxStream;
use futures_util::{FutureExt, Stream, StreamExt};
use openraft::OptionalSend;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::v2::RaftNetworkV2;
use openraft::network::{RPCOption, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::type_config::alias::SnapshotOf;

use crate::raft::store::snapshot::SnapshotFile;
use crate::raft::transport::link::Link;
use crate::raft::transport::peers::{PeerLinks, Peers};
use crate::raft::transport::wire::{CHUNK_BYTES, Request, Response};
use crate::raft::types::{Member, TypeConfig, Vote};
use crate::service::replicator::NodeId;

/// Appends on their way to one follower; the rest waits in openraft, which may merge it.
const APPENDS_IN_FLIGHT_MAX: usize = 64;

/// One step of a snapshot transfer; verifying and installing a large one is the longest.
const SNAPSHOT_STEP_DEADLINE: Duration = Duration::from_mins(2);

type RpcResult<T> = Result<T, RPCError<TypeConfig>>;

/// Makes the clients that openraft asks for.
pub struct NetworkFactory(pub Arc<Peers>);

/// A client of one peer over one of its connections.
pub struct Network {
    link: Option<Arc<Link>>,
}

impl NetworkFactory {
    fn client(&self, id: NodeId, node: &Member, pick: impl Fn(&PeerLinks) -> Arc<Link>) -> Network {
        Network { link: self.0.links_to(id, Some(&node.peer_address)).map(|links| pick(&links)) }
    }
}

impl RaftNetworkFactory<TypeConfig> for NetworkFactory {
    type Network = Network;

    async fn new_client(&mut self, target: NodeId, node: &Member) -> Network {
        self.client(target, node, |links| Arc::clone(&links.append))
    }

    async fn new_heartbeat_client(&mut self, target: NodeId, node: &Member) -> Network {
        self.client(target, node, |links| Arc::clone(&links.control))
    }

    async fn new_snapshot_client(&mut self, target: NodeId, node: &Member) -> Network {
        self.client(target, node, |links| Arc::clone(&links.snapshot))
    }
}

fn unreachable(error: &io::Error) -> RPCError<TypeConfig> {
    RPCError::Unreachable(Unreachable::new(error))
}

fn unexpected(response: &Response) -> io::Error {
    match response {
        Response::Failed(why) => io::Error::other(why.clone()),
        Response::Append(_)
        | Response::Vote(_)
        | Response::Transfer(_)
        | Response::SnapshotWanted
        | Response::Snapshot(_)
        | Response::Call(_)
        | Response::Probe(_)
        | Response::Birth(_) => io::Error::other("the answer is of another kind"),
    }
}

impl Network {
    fn link(&self) -> io::Result<&Arc<Link>> {
        self.link.as_ref().ok_or(io::ErrorKind::NotFound.into())
    }

    async fn ask(&self, request: &Request, deadline: Duration) -> io::Result<Response> {
        tokio::time::timeout(deadline, self.link()?.ask(request)).await?
    }

    async fn send_snapshot(
        &self,
        vote: Vote,
        snapshot: SnapshotOf<TypeConfig, SnapshotFile>,
    ) -> io::Result<SnapshotResponse<TypeConfig>> {
        let file = snapshot.snapshot;
        let begin = Request::SnapshotBegin { vote, meta: snapshot.meta, bytes: file.bytes() };
        match self.ask(&begin, SNAPSHOT_STEP_DEADLINE).await? {
            Response::SnapshotWanted => {}
            Response::Snapshot(done) => return Ok(done),
            other => return Err(unexpected(&other)),
        }
        let mut offset = 0;
        while offset < file.bytes() {
            let left = usize::try_from(file.bytes() - offset).unwrap_or(usize::MAX);
            let mut bytes = vec![0; left.min(CHUNK_BYTES)];
            file.read_at(&mut bytes, offset)?;
            let length = bytes.len() as u64;
            let chunk = Request::SnapshotChunk { offset, bytes };
            match self.ask(&chunk, SNAPSHOT_STEP_DEADLINE).await? {
                Response::SnapshotWanted => offset += length,
                Response::Snapshot(done) => return Ok(done),
                other => return Err(unexpected(&other)),
            }
        }
        Err(io::Error::other("the peer wants more than the snapshot has"))
    }
}

impl RaftNetworkV2<TypeConfig> for Network {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> RpcResult<AppendEntriesResponse<TypeConfig>> {
        match self.ask(&Request::Append(rpc), option.hard_ttl()).await {
            Ok(Response::Append(response)) => Ok(response),
            Ok(other) => Err(unreachable(&unexpected(&other))),
            Err(error) => Err(unreachable(&error)),
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
        let deadline = option.hard_ttl();
        async move {
            let link = Arc::clone(self.link().map_err(|error| unreachable(&error))?);
            // `then` sends one after the other, so the order on the wire is the order of the
            // input; `buffered` lets the answers of many be waited for at once, in order.
            let sent = input.then(move |request| {
                let link = Arc::clone(&link);
                async move {
                    let prev = request.prev_log_id;
                    let last = request.entries.last().map(|entry| entry.log_id).or(prev);
                    let request = Request::Append(request);
                    let started = tokio::time::timeout(deadline, link.start(&request, false));
                    (prev, last, started.await)
                }
            });
            let answers = sent.map(move |(prev, last, started)| async move {
                let answer =
                    started.map_err(io::Error::from).flatten().map_err(|e| unreachable(&e))?;
                let waited = tokio::time::timeout(deadline, answer.wait()).await;
                match waited.map_err(io::Error::from).flatten() {
                    Ok(Response::Append(response)) => Ok(response.into_stream_result(prev, last)),
                    Ok(other) => Err(unreachable(&unexpected(&other))),
                    Err(error) => Err(RPCError::Network(NetworkError::new(&error))),
                }
            });
            Ok(answers.buffered(APPENDS_IN_FLIGHT_MAX).boxed())
        }
        .boxed()
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> RpcResult<VoteResponse<TypeConfig>> {
        match self.ask(&Request::Vote(rpc), option.hard_ttl()).await {
            Ok(Response::Vote(response)) => Ok(response),
            Ok(other) => Err(unreachable(&unexpected(&other))),
            Err(error) => Err(unreachable(&error)),
        }
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> RpcResult<VoteResponse<TypeConfig>> {
        match self.ask(&Request::PreVote(rpc), option.hard_ttl()).await {
            Ok(Response::Vote(response)) => Ok(response),
            Ok(other) => Err(unreachable(&unexpected(&other))),
            Err(error) => Err(unreachable(&error)),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: SnapshotOf<TypeConfig, SnapshotFile>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = self.send_snapshot(vote, snapshot) => {
                sent.map_err(|error| StreamingError::Unreachable(Unreachable::new(&error)))
            }
        }
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> RpcResult<TransferLeaderResponse<TypeConfig>> {
        match self.ask(&Request::Transfer(req), option.hard_ttl()).await {
            Ok(Response::Transfer(response)) => Ok(response),
            Ok(other) => Err(unreachable(&unexpected(&other))),
            Err(error) => Err(unreachable(&error)),
        }
    }
}
