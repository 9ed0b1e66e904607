//! The peer listener: who may speak, and handing what they say to Raft or the service.
//!
//! ```text
//!  reader ─ append ───> in order, many at once ──┐
//!         ─ snapshot ─> in order, one at a time ─┼─> queue of answers ─> writer
//!         ─ the rest ─> a task for each ─────────┘
//! ```
//! All that works for a connection ends with it: a caller that is gone is known to be gone.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use oarlock_core::planted::{Bug, planted};
use tokio::io::AsyncRead;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

use crate::raft::store::identity::Identity;
use crate::raft::transport::frame::{self, FrameReader};
use crate::raft::transport::peers::Local;
use crate::raft::transport::raft_peer::RaftSlot;
use crate::raft::transport::receiving::Receiver;
use crate::raft::transport::stream::{Acceptor, Stream};
use crate::raft::transport::wire::{
    self, Beacon, Hello, HelloReply, JoinReply, KIND_HELLO, KIND_REQUEST, KIND_WELCOME, Purpose,
    Request, Response,
};
use crate::service::error::ServiceError;
use crate::service::members::Join;
use crate::service::replicator::{BoxFuture, Call, NodeId, Reply};

/// A connection says hello within this time.
const HELLO_DEADLINE: Duration = Duration::from_secs(5);

/// Largest hello: nobody has said yet who they are.
const HELLO_BYTES_MAX: usize = 1024;

/// A connection on which nothing comes for this long, not even pings, is cut.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// Connections at once; three for each peer, with room for reconnects.
const CONNECTIONS_MAX: usize = 256;

/// Calls of one connection being worked on at once; most of them wait in a queue of a lock.
const CALLS_MAX: usize = 65_536;

/// Tasks of one connection; beyond the calls there are only votes and heartbeats.
const TASKS_MAX: usize = CALLS_MAX + 4096;

/// Requests of one connection that wait for their turn where there is an order.
const ORDERED_REQUESTS_MAX: usize = 256;

/// Appends that Raft works on at once for one connection.
const APPENDS_IN_FLIGHT_MAX: usize = 64;

/// Answers waiting to be written to one connection.
const QUEUED_ANSWERS_MAX: usize = 4096;

type CallHandler =
    Box<dyn Fn(Option<String>, Call) -> BoxFuture<Result<Reply, ServiceError>> + Send + Sync>;
type JoinHandler = Box<dyn Fn(Join) -> BoxFuture<JoinReply> + Send + Sync>;
type BirthHandler = Box<dyn Fn(Identity) -> Result<(), String> + Send + Sync>;

/// What the listener hands on to, once the node has it.
#[derive(Default)]
pub struct Handlers {
    /// Raft and where received snapshots go.
    pub raft: RaftSlot,
    /// Answers forwarded calls. Dropping the future means that the caller is gone.
    pub call: OnceLock<CallHandler>,
    /// Hears beacons. Must not block.
    pub beacon: OnceLock<Box<dyn Fn(Beacon) + Send + Sync>>,
    /// Asks the leader to take a machine in.
    pub join: OnceLock<JoinHandler>,
    /// Accepts or refuses an identity in a new cluster.
    pub birth: OnceLock<BirthHandler>,
}

/// Serves peers until the future is dropped, and all their connections end with it.
pub async fn listen(mut listener: impl Acceptor, local: Arc<Local>, handlers: Arc<Handlers>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let refused = Arc::new(Refused::default());
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
        let refused = Arc::clone(&refused);
        connections.spawn(async move {
            match serve(stream, local, handlers).await {
                Ok(()) => {}
                Err(Ended::Refused(why)) => refused.note(&from, &why),
                Err(Ended::Broken(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {}
                Err(Ended::Broken(error)) => {
                    tracing::info!(%from, %error, "a peer connection ended");
                }
            }
            drop(permit);
        });
    }
}

/// Why a connection ended.
#[derive(Debug)]
enum Ended {
    /// By this node, which told the peer why.
    Refused(String),
    Broken(io::Error),
}

impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Self {
        Self::Broken(error)
    }
}

/// Refused peers come again and again; each reason of each host is logged once.
#[derive(Default)]
struct Refused(Mutex<BTreeMap<String, String>>);

impl Refused {
    fn note(&self, from: &str, why: &str) {
        let host = from.rsplit_once(':').map_or(from, |(host, _)| host);
        let mut known = lock(&self.0);
        if known.get(host).is_none_or(|known| known != why) {
            tracing::warn!(from, why, "a peer was refused");
            // More hosts than connections: begin anew rather than grow.
            if known.len() >= CONNECTIONS_MAX {
                known.clear();
            }
            known.insert(host.to_owned(), why.to_owned());
        }
    }
}

async fn serve(stream: Stream, local: Arc<Local>, handlers: Arc<Handlers>) -> Result<(), Ended> {
    let mut writer = stream.writer;
    let mut reader = FrameReader::new(stream.reader, HELLO_BYTES_MAX, HELLO_DEADLINE);
    let hello = timeout(HELLO_DEADLINE, reader.next::<Hello>(KIND_HELLO)).await;
    let admitted = match hello.map_err(io::Error::from)? {
        Ok((_, hello)) => {
            let member = handlers.raft.get().ok().and_then(|raft| raft.member(hello.from));
            let certified = certified(stream.certified, hello.from);
            certified.and_then(|()| local.admit(&hello, member.as_ref())).map(|()| hello)
        }
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            Err(format!("what it says is not a hello of this protocol ({error})"))
        }
        Err(error) => return Err(error.into()),
    };
    let reply: HelloReply = admitted.as_ref().map(|_| local.welcome()).map_err(Clone::clone);
    frame::write_all(&mut writer, &wire::frame(KIND_WELCOME, 0, &reply)).await?;
    let Hello { purpose, from, .. } = admitted.map_err(Ended::Refused)?;
    reader.set_bounds(purpose.frame_bytes_max(), SILENCE_MAX);

    let (answers, queue) = mpsc::channel(QUEUED_ANSWERS_MAX);
    let (ordered, ordered_queue) = mpsc::channel(ORDERED_REQUESTS_MAX);
    let removed = Arc::clone(&local);
    let session = Session { purpose, local, handlers, answers, calls: Arc::default() };
    let in_order = async {
        match purpose {
            Purpose::Append => session.answer_appends(ordered_queue).await,
            Purpose::Snapshot => session.receive_snapshots(ordered_queue).await,
            Purpose::Control | Purpose::Birth => std::future::pending().await,
        }
    };
    tokio::select! {
        written = frame::write_frames(queue, writer) => Ok(written?),
        read = session.read(&mut reader, ordered) => Ok(read?),
        () = in_order => Ok(()),
        why = removed.removed(from) => Err(Ended::Refused(why)),
    }
}

/// A certificate is for one node; nobody speaks for another with it.
fn certified(by_certificate: Option<NodeId>, from: NodeId) -> Result<(), String> {
    match by_certificate {
        Some(id) if id != from => {
            Err(format!("it calls itself node {from}, its certificate is of node {id}"))
        }
        Some(_) | None => Ok(()),
    }
}

type Ordered = mpsc::Receiver<(u64, Request)>;

#[derive(Clone)]
struct Session {
    purpose: Purpose,
    local: Arc<Local>,
    handlers: Arc<Handlers>,
    answers: mpsc::Sender<Vec<u8>>,
    /// Calls being worked on, so that their callers can cancel them.
    calls: Arc<Mutex<BTreeMap<u64, AbortHandle>>>,
}

impl Session {
    async fn read(
        &self,
        reader: &mut FrameReader<impl AsyncRead + Unpin>,
        ordered: mpsc::Sender<(u64, Request)>,
    ) -> io::Result<()> {
        let mut tasks = JoinSet::new();
        loop {
            let (id, request) = tokio::select! {
                biased;
                Some(done) = tasks.join_next() => match done {
                    // Its caller would wait for ever.
                    Err(error) if error.is_panic() => return Err(io::Error::other(error)),
                    Ok(()) | Err(_) => continue,
                },
                read = reader.next::<Request>(KIND_REQUEST) => read?,
            };
            match (self.purpose, request) {
                (_, Request::Ping) => self.answer(id, &Response::Pong).await,
                (Purpose::Append, request @ Request::Append(_))
                | (
                    Purpose::Snapshot,
                    request @ (Request::SnapshotBegin { .. } | Request::SnapshotChunk { .. }),
                ) => ordered.send((id, request)).await.map_err(io::Error::other)?,
                (Purpose::Control, Request::Cancel) => {
                    if let Some(task) = lock(&self.calls).remove(&id) {
                        task.abort();
                    }
                }
                (Purpose::Control, Request::Beacon(beacon)) => {
                    if let Some(hear) = self.handlers.beacon.get() {
                        hear(beacon);
                    }
                }
                (Purpose::Control, Request::Call(call)) => {
                    self.begin(id, (None, call), &mut tasks).await;
                }
                (Purpose::Control, Request::CallAs(by, call)) => {
                    self.begin(id, (Some(by), call), &mut tasks).await;
                }
                (Purpose::Control | Purpose::Birth, request) => {
                    if tasks.len() > TASKS_MAX {
                        return Err(io::Error::other("the peer asks too much at once"));
                    }
                    let session = self.clone();
                    tasks.spawn(async move {
                        let response = session.handle(request).await;
                        session.answer(id, &response).await;
                    });
                }
                (Purpose::Append | Purpose::Snapshot, _) => {
                    return Err(io::Error::other("the peer asks what this connection is not for"));
                }
            }
        }
    }

    /// Queues an answer. The queue is bounded; what waits for a gone peer ends with its connection.
    async fn answer(&self, id: u64, response: &Response) {
        let mut frame = wire::response(id, response);
        if frame.len() > self.purpose.frame_bytes_max() {
            let text = format!("an answer of {} bytes is over the bound", frame.len());
            frame = wire::response(id, &Response::Failed(text));
        }
        let _gone = self.answers.send(frame).await;
    }

    /// Begins to work on a forwarded call.
    async fn begin(&self, id: u64, (by, call): (Option<String>, Call), tasks: &mut JoinSet<()>) {
        if lock(&self.calls).len() >= CALLS_MAX {
            let why = format!("{CALLS_MAX} calls of one node are being worked on");
            return self.answer(id, &Response::Call(Err(ServiceError::Overloaded(why)))).await;
        }
        let session = self.clone();
        let mut calls = lock(&self.calls);
        let task = tasks.spawn(async move {
            let result = match session.handlers.call.get() {
                Some(answer) => answer(by, call).await,
                None => Err(ServiceError::NotLeader(None)),
            };
            lock(&session.calls).remove(&id);
            session.answer(id, &Response::Call(result)).await;
        });
        calls.insert(id, task);
    }

    /// Appends of one connection reach Raft in their order and are answered in it; many at once.
    async fn answer_appends(&self, queue: Ordered) {
        let requests = futures_util::stream::unfold(queue, |mut queue| async move {
            queue.recv().await.map(|request| (request, queue))
        });
        let answers = requests.map(|(id, request)| {
            // Polled once before the next one is made: that fixes their order, unless tokio's
            // budget for one turn ends in between; so it must not count here.
            let mut answer = if planted(Bug::AppendsOvertake) {
                self.append(request).boxed()
            } else {
                tokio::task::unconstrained(self.append(request)).boxed()
            };
            let at_once = (&mut answer).now_or_never();
            async move {
                match at_once {
                    Some(response) => (id, response),
                    None => (id, answer.await),
                }
            }
        });
        let mut answers = std::pin::pin!(answers.buffered(APPENDS_IN_FLIGHT_MAX));
        while let Some((id, response)) = answers.next().await {
            self.answer(id, &response).await;
        }
    }

    async fn append(&self, request: Request) -> Response {
        let Request::Append(rpc) = request else {
            return Response::Failed("this is not an append".to_owned());
        };
        let response = async { self.handlers.raft.get()?.append(rpc).await };
        failed(response.await.map(Response::Append))
    }

    /// One piece after the other, so that they cannot be mixed up.
    async fn receive_snapshots(&self, mut queue: Ordered) {
        let mut receiver = Receiver::default();
        while let Some((id, request)) = queue.recv().await {
            let response = match self.handlers.raft.get() {
                Ok(raft) => failed(receiver.take(request, raft).await),
                Err(error) => Response::Failed(error.to_string()),
            };
            self.answer(id, &response).await;
        }
    }

    async fn handle(&self, request: Request) -> Response {
        match (self.purpose, request) {
            (Purpose::Birth, Request::Probe) => Response::Probe(self.local.probe()),
            (Purpose::Birth, Request::Birth(identity)) => Response::Birth(self.birth(identity)),
            (Purpose::Birth, Request::Join(join)) => Response::Join(self.join(*join).await),
            (Purpose::Control, request @ Request::Append(_)) => self.append(request).await,
            (Purpose::Control, request) => failed(self.handle_raft(request).await),
            (Purpose::Birth | Purpose::Append | Purpose::Snapshot, _) => {
                Response::Failed("this connection is not for that".to_owned())
            }
        }
    }

    async fn join(&self, join: Join) -> JoinReply {
        match self.handlers.join.get() {
            Some(ask) => ask(join).await,
            None => Err("it is starting".to_owned()),
        }
    }

    fn birth(&self, identity: Identity) -> Result<(), String> {
        if let Some(accept) = self.handlers.birth.get() {
            return accept(identity);
        }
        // Born before this process started; the one who offers may not have heard it.
        match self.local.identity() {
            Some(known)
                if known.cluster_id == identity.cluster_id && known.members == identity.members =>
            {
                Ok(())
            }
            Some(_) => Err("it was born into another cluster".to_owned()),
            None => Err("it is starting".to_owned()),
        }
    }

    async fn handle_raft(&self, request: Request) -> io::Result<Response> {
        let raft = self.handlers.raft.get()?;
        match request {
            Request::Vote(rpc) => raft.vote(rpc).await.map(Response::Vote),
            Request::PreVote(rpc) => raft.pre_vote(rpc).await.map(Response::Vote),
            Request::Transfer(rpc) => raft.transfer(rpc).await.map(Response::Transfer),
            Request::Append(_)
            | Request::SnapshotBegin { .. }
            | Request::SnapshotChunk { .. }
            | Request::Call(_)
            | Request::CallAs(..)
            | Request::Cancel
            | Request::Beacon(_)
            | Request::Probe
            | Request::Birth(_)
            | Request::Join(_)
            | Request::Ping => Err(io::Error::other("this connection is not for that")),
        }
    }
}

fn failed(response: io::Result<Response>) -> Response {
    response.unwrap_or_else(|error| Response::Failed(error.to_string()))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
