//! The peer listener: who may speak, and handing what they say to Raft or the service.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use openraft::type_config::alias::SnapshotOf;
use tokio::io::BufReader;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet};

use crate::raft::store::identity::Identity;
use crate::raft::store::snapshot::{Incoming, SnapshotFile};
use crate::raft::store::snapshots::Snapshots;
use crate::raft::transport::link::write_frames;
use crate::raft::transport::peers::Local;
use crate::raft::transport::wire::{self, Beacon, Hello, HelloReply, Request, Response};
use crate::raft::types::{RaftHandle, SnapshotMeta, TypeConfig, Vote};
use crate::service::error::ServiceError;
use crate::service::replicator::{BoxFuture, Call, Reply};

/// A connection says hello within this time.
const HELLO_DEADLINE: Duration = Duration::from_secs(5);

/// Connections at once; three for each peer, with room for reconnects.
const CONNECTIONS_MAX: usize = 256;

/// Requests of one connection being worked on at once.
const REQUESTS_MAX: usize = 65_536;

/// Answers waiting to be written to one connection.
const QUEUED_ANSWERS_MAX: usize = 4096;

type CallHandler = Box<dyn Fn(Call) -> BoxFuture<Result<Reply, ServiceError>> + Send + Sync>;
type BirthHandler = Box<dyn Fn(Identity) -> Result<(), String> + Send + Sync>;
type Append = openraft::raft::AppendEntriesRequest<TypeConfig>;

/// A snapshot being received: whose, what it stands for, its bytes, and what has come.
type Receiving = (Vote, SnapshotMeta, u64, Incoming);

/// What the listener hands on to, once the node has it.
#[derive(Default)]
pub struct Handlers {
    /// Raft and where received snapshots go.
    pub raft: OnceLock<(RaftHandle, Arc<Snapshots>)>,
    /// Answers forwarded calls.
    pub call: OnceLock<CallHandler>,
    /// Hears beacons.
    pub beacon: OnceLock<Box<dyn Fn(Beacon) + Send + Sync>>,
    /// Accepts or refuses an identity in a new cluster.
    pub birth: OnceLock<BirthHandler>,
}

/// Serves peers until the future is dropped.
pub async fn listen(listener: TcpListener, local: Arc<Local>, handlers: Arc<Handlers>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "accepting a peer failed");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        while connections.try_join_next().is_some() {}
        let (local, handlers) = (Arc::clone(&local), Arc::clone(&handlers));
        connections.spawn(async move {
            if let Err(error) = serve(stream, local, handlers).await
                && error.kind() != io::ErrorKind::UnexpectedEof
            {
                tracing::info!(%from, %error, "a peer connection ended");
            }
            drop(permit);
        });
    }
}

async fn serve(
    mut stream: TcpStream,
    local: Arc<Local>,
    handlers: Arc<Handlers>,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::new();
    let hello = tokio::time::timeout(HELLO_DEADLINE, wire::read::<Hello>(&mut stream, &mut buffer));
    let (_, hello) = hello.await??;
    let refusal = local.refuse(&hello);
    let reply: HelloReply = refusal.clone().map_or(Ok(()), Err);
    tokio::io::AsyncWriteExt::write_all(&mut stream, &wire::frame(0, &reply)).await?;
    if let Some(why) = refusal {
        tracing::warn!(from = hello.from, why, "a peer was refused");
        return Err(io::Error::other(why));
    }
    let (reader, writer) = stream.into_split();
    let (answers, queue) = mpsc::channel(QUEUED_ANSWERS_MAX);
    let session = Session {
        member: hello.cluster_id.is_some()
            && hello.cluster_id == local.identity().map(|identity| identity.cluster_id),
        local,
        handlers,
        answers,
        running: Arc::default(),
        incoming: Arc::default(),
    };
    let mut reader = BufReader::with_capacity(64 * 1024, reader);
    let (appends, append_queue) = mpsc::channel(64);
    let mut tasks = JoinSet::new();
    tasks.spawn(session.clone().answer_appends(append_queue));
    let writing = write_frames(queue, writer);
    tokio::select! {
        () = writing => Ok(()),
        read = session.read(&mut reader, &mut buffer, &appends, &mut tasks) => read,
    }
}

#[derive(Clone)]
struct Session {
    /// Whether the peer belongs to this cluster; before birth only probes and offers are heard.
    member: bool,
    local: Arc<Local>,
    handlers: Arc<Handlers>,
    answers: mpsc::Sender<Vec<u8>>,
    running: Arc<Mutex<HashMap<u64, AbortHandle>>>,
    incoming: Arc<tokio::sync::Mutex<Option<Receiving>>>,
}

impl Session {
    async fn read(
        &self,
        reader: &mut BufReader<tokio::net::tcp::OwnedReadHalf>,
        buffer: &mut Vec<u8>,
        appends: &mpsc::Sender<(u64, Append)>,
        tasks: &mut JoinSet<()>,
    ) -> io::Result<()> {
        loop {
            let (id, request) = wire::read::<Request>(reader, buffer).await?;
            while tasks.try_join_next().is_some() {}
            match request {
                Request::Append(append) if self.member => {
                    appends.send((id, append)).await.map_err(io::Error::other)?;
                }
                Request::Cancel => {
                    if let Some(task) = lock(&self.running).remove(&id) {
                        task.abort();
                    }
                }
                Request::Beacon(beacon) => {
                    if let Some(hear) = self.handlers.beacon.get() {
                        hear(beacon);
                    }
                }
                request => {
                    if tasks.len() > REQUESTS_MAX {
                        return Err(io::Error::other("the peer asks too much at once"));
                    }
                    let session = self.clone();
                    let mut running = lock(&self.running);
                    let task = tasks.spawn(async move {
                        let response = session.handle(request).await;
                        lock(&session.running).remove(&id);
                        // The queue is bounded; a gone connection ends this task anyway.
                        let _peer_may_be_gone =
                            session.answers.send(wire::frame(id, &response)).await;
                    });
                    running.insert(id, task);
                }
            }
        }
    }

    /// Appends of one connection reach Raft in their order and are answered in it; many at once.
    async fn answer_appends(self, queue: mpsc::Receiver<(u64, Append)>) {
        let Some((raft, _)) = self.raft().await else { return };
        let requests = futures_util::stream::unfold(queue, |mut queue| async move {
            queue.recv().await.map(|request| (request, queue))
        });
        let answers = requests.map(|(id, request)| {
            let raft = raft.clone();
            async move {
                let response = match raft.append_entries(request).await {
                    Ok(response) => Response::Append(response),
                    Err(error) => Response::Failed(error.to_string()),
                };
                wire::frame(id, &response)
            }
        });
        let mut answers = std::pin::pin!(answers.buffered(64));
        while let Some(frame) = answers.next().await {
            if self.answers.send(frame).await.is_err() {
                return;
            }
        }
    }

    /// Raft, once this node runs it. A peer may be up first; it asks again later.
    async fn raft(&self) -> Option<(RaftHandle, Arc<Snapshots>)> {
        let mut ticks = tokio::time::interval(Duration::from_millis(20));
        loop {
            if let Some(raft) = self.handlers.raft.get() {
                return Some(raft.clone());
            }
            if self.answers.is_closed() {
                return None;
            }
            ticks.tick().await;
        }
    }

    async fn handle(&self, request: Request) -> Response {
        match request {
            Request::Probe => Response::Probe(self.local.probe()),
            Request::Birth(identity) => Response::Birth(match self.handlers.birth.get() {
                Some(accept) => accept(identity),
                None => Err("this node was born already".to_owned()),
            }),
            _ if !self.member => Response::Failed("this node is not of your cluster".to_owned()),
            Request::Call(call) => Response::Call(match self.handlers.call.get() {
                Some(answer) => answer(call).await,
                None => Err(ServiceError::NotLeader(None)),
            }),
            Request::Append(_) | Request::Cancel | Request::Beacon(_) => {
                Response::Failed("handled elsewhere".to_owned())
            }
            request => match self.handlers.raft.get() {
                Some((raft, snapshots)) => {
                    let handled = self.handle_raft(request, raft, snapshots).await;
                    handled.unwrap_or_else(|error| Response::Failed(error.to_string()))
                }
                None => Response::Failed("this node is starting".to_owned()),
            },
        }
    }

    async fn handle_raft(
        &self,
        request: Request,
        raft: &RaftHandle,
        snapshots: &Arc<Snapshots>,
    ) -> io::Result<Response> {
        match request {
            Request::Vote(rpc) => {
                raft.vote(rpc).await.map(Response::Vote).map_err(io::Error::other)
            }
            Request::PreVote(rpc) => {
                raft.pre_vote(rpc).await.map(Response::Vote).map_err(io::Error::other)
            }
            Request::Transfer(rpc) => raft
                .handle_transfer_leader(rpc)
                .await
                .map(Response::Transfer)
                .map_err(io::Error::other),
            Request::SnapshotBegin { vote, meta, bytes } => {
                let mut slot = self.incoming.lock().await;
                *slot = Some((vote, meta, bytes, snapshots.receive()?));
                Ok(Response::SnapshotWanted)
            }
            Request::SnapshotChunk { offset, bytes } => self.chunk(offset, &bytes, raft).await,
            Request::Append(_)
            | Request::Call(_)
            | Request::Cancel
            | Request::Beacon(_)
            | Request::Probe
            | Request::Birth(_) => Ok(Response::Failed("handled elsewhere".to_owned())),
        }
    }

    async fn chunk(&self, offset: u64, bytes: &[u8], raft: &RaftHandle) -> io::Result<Response> {
        let mut slot = self.incoming.lock().await;
        let Some((_, _, total, incoming)) = slot.as_mut() else {
            return Err(io::Error::other("no snapshot was announced"));
        };
        if incoming.bytes() != offset {
            return Err(io::Error::other("a part of the snapshot is missing"));
        }
        incoming.write(bytes)?;
        if incoming.bytes() < *total {
            return Ok(Response::SnapshotWanted);
        }
        let Some((vote, meta, _, incoming)) = slot.take() else {
            return Err(io::Error::other("no snapshot was announced"));
        };
        let finish = tokio::task::spawn_blocking(move || incoming.finish());
        let snapshot = finish.await.map_err(io::Error::other)??;
        let snapshot = SnapshotOf::<TypeConfig, SnapshotFile> { meta, snapshot };
        let installed = raft.install_full_snapshot(vote, snapshot).boxed().await;
        installed.map(Response::Snapshot).map_err(io::Error::other)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
