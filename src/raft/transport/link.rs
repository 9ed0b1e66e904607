//! One connection to a peer, made when it is needed and made anew after it broke.
//!
//! Requests carry an id and may be answered in any order. Whatever was queued before the
//! connection broke may have arrived: its callers learn that it broke, not that it failed.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;

use crate::raft::transport::peers::Local;
use crate::raft::transport::wire::{self, HelloReply, Request, Response};
use crate::service::replicator::NodeId;

/// Making a connection, hello included.
const CONNECT_DEADLINE: Duration = Duration::from_secs(1);

/// Frames waiting to be written to one connection; beyond it callers wait.
const QUEUED_FRAMES_MAX: usize = 4096;

/// Frames are gathered into one write up to about this size.
const WRITE_BYTES: usize = 256 * 1024;

type Pending = Arc<Mutex<Option<HashMap<u64, oneshot::Sender<Response>>>>>;

#[derive(Clone)]
struct Connection {
    frames: mpsc::Sender<Vec<u8>>,
    pending: Pending,
    _tasks: Arc<Tasks>,
}

struct Tasks(AbortHandle, AbortHandle);

impl Drop for Tasks {
    fn drop(&mut self) {
        self.0.abort();
        self.1.abort();
    }
}

/// A connection to one peer for one purpose.
pub(super) struct Link {
    local: Arc<Local>,
    to: NodeId,
    address: Mutex<String>,
    connection: tokio::sync::Mutex<Option<Connection>>,
    next_id: AtomicU64,
}

/// A request on its way. Dropped before the answer, it tells the peer that nobody waits.
pub(super) struct Answer {
    heard: oneshot::Receiver<Response>,
    id: u64,
    connection: Connection,
    cancel_on_drop: bool,
}

impl Answer {
    /// The answer, or an error if the connection broke first.
    pub(super) async fn wait(mut self) -> io::Result<Response> {
        let result = (&mut self.heard).await;
        self.cancel_on_drop = false;
        result.map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the connection broke"))
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        let pending = &mut *lock(&self.connection.pending);
        if let Some(pending) = pending {
            pending.remove(&self.id);
        }
        if self.cancel_on_drop {
            // A full queue means a dead or stuck peer; it learns by the connection's end.
            let _best_effort =
                self.connection.frames.try_send(wire::frame(self.id, &Request::Cancel));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Link {
    pub(super) fn new(local: Arc<Local>, to: NodeId, address: String) -> Self {
        Self {
            local,
            to,
            address: Mutex::new(address),
            connection: tokio::sync::Mutex::new(None),
            next_id: AtomicU64::new(1),
        }
    }

    pub(super) fn set_address(&self, address: &str) {
        let mut known = lock(&self.address);
        if *known != address {
            address.clone_into(&mut known);
        }
    }

    /// Sends a request. An error means that nothing was sent.
    pub(super) async fn start(
        &self,
        request: &Request,
        cancel_on_drop: bool,
    ) -> io::Result<Answer> {
        let connection = self.connect().await?;
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (reply, heard) = oneshot::channel();
        match &mut *lock(&connection.pending) {
            Some(pending) => pending.insert(id, reply),
            None => return Err(io::Error::new(io::ErrorKind::BrokenPipe, "the connection broke")),
        };
        let answer = Answer { heard, id, connection, cancel_on_drop };
        let sent = answer.connection.frames.send(wire::frame(id, request)).await;
        sent.map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the connection broke"))?;
        Ok(answer)
    }

    /// Sends and waits for the answer.
    pub(super) async fn ask(&self, request: &Request) -> io::Result<Response> {
        self.start(request, false).await?.wait().await
    }

    /// Sends a message without an answer if the connection is up and has room.
    pub(super) fn tell(&self, request: &Request) {
        if let Ok(slot) = self.connection.try_lock()
            && let Some(connection) = &*slot
        {
            let _lost_beacons_are_followed_by_others =
                connection.frames.try_send(wire::frame(0, request));
        }
    }

    async fn connect(&self) -> io::Result<Connection> {
        // An async mutex: concurrent callers wait for one connection instead of making several.
        let mut slot = self.connection.lock().await;
        if let Some(connection) = &*slot
            && lock(&connection.pending).is_some()
        {
            return Ok(connection.clone());
        }
        *slot = None;
        let address = lock(&self.address).clone();
        let made = tokio::time::timeout(CONNECT_DEADLINE, self.open(&address)).await;
        let connection = made.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        *slot = Some(connection.clone());
        Ok(connection)
    }

    async fn open(&self, address: &str) -> io::Result<Connection> {
        let mut stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        stream.write_all(&wire::frame(0, &self.local.hello(self.to))).await?;
        let (_, reply) = wire::read::<HelloReply>(&mut stream, &mut Vec::new()).await?;
        reply.map_err(|why| io::Error::other(format!("{address} refused this node: {why}")))?;
        let (reader, writer) = stream.into_split();
        let (frames, queue) = mpsc::channel(QUEUED_FRAMES_MAX);
        let pending: Pending = Arc::new(Mutex::new(Some(HashMap::new())));
        let writing = tokio::spawn(write_frames(queue, writer)).abort_handle();
        let reading = tokio::spawn(read_answers(reader, Arc::clone(&pending))).abort_handle();
        Ok(Connection { frames, pending, _tasks: Arc::new(Tasks(writing, reading)) })
    }
}

/// Writes frames, gathering what is queued into one write.
pub(super) async fn write_frames(mut queue: mpsc::Receiver<Vec<u8>>, mut writer: OwnedWriteHalf) {
    let mut bytes = Vec::new();
    while let Some(frame) = queue.recv().await {
        bytes.clear();
        bytes.extend_from_slice(&frame);
        while bytes.len() < WRITE_BYTES
            && let Ok(frame) = queue.try_recv()
        {
            bytes.extend_from_slice(&frame);
        }
        if writer.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

async fn read_answers(reader: OwnedReadHalf, pending: Pending) {
    let mut reader = BufReader::with_capacity(64 * 1024, reader);
    let mut buffer = Vec::new();
    while let Ok((id, response)) = wire::read::<Response>(&mut reader, &mut buffer).await {
        let reply = lock(&pending).as_mut().and_then(|pending| pending.remove(&id));
        if let Some(reply) = reply {
            let _caller_may_be_gone = reply.send(response);
        }
    }
    // Everybody who waits learns that the connection broke.
    *lock(&pending) = None;
}
