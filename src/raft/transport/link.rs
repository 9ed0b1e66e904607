//! One connection to a peer for one purpose, made when it is needed and made anew after it broke.
//!
//! ```text
//!  start -> queue of frames -> writer          one task per connection; whichever of them ends
//!  wait  <- pending by id   <- reader          ends the others, and then everybody who waits
//!           ping, every second -> queue        learns that the connection broke
//! ```
//! A request that was queued before the connection broke may have arrived: its caller learns that
//! the connection broke, not that it failed. Connecting belongs to the link, not to the caller who
//! began it, so that callers with short deadlines do not undo each other's attempts.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::{BoxFuture, Shared};
use futures_util::{FutureExt, TryFutureExt};
use tokio::io::AsyncRead;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use crate::raft::transport::frame::{self, FrameReader};
use crate::raft::transport::peers::Local;
use crate::raft::transport::stream::Connector;
use crate::raft::transport::wire::{
    self, HelloReply, KIND_HELLO, KIND_RESPONSE, KIND_WELCOME, Purpose, Request, Response,
};
use crate::service::replicator::NodeId;

/// Making a connection, hello included.
pub(super) const CONNECT_DEADLINE: Duration = Duration::from_secs(1);

/// Pause before the second attempt in a row; doubled for each further one, up to eight times.
const RETRY_PAUSE: Duration = Duration::from_millis(10);

/// Frames waiting to be written to one connection; beyond it callers wait.
const QUEUED_FRAMES_MAX: usize = 4096;

/// Requests of one connection that wait for an answer; beyond it callers are refused.
const PENDING_MAX: usize = 65_536;

/// Pace of pings. They show within some seconds that a peer is cut off, whose machine can no
/// longer say so itself, and keep the other end from hanging up.
const PING_INTERVAL: Duration = Duration::from_secs(1);

/// A peer that answers not even pings for this long is gone. Appends and snapshots are handled in
/// order, so there a ping waits for the disk.
const fn silence_max(purpose: Purpose) -> Duration {
    match purpose {
        Purpose::Control | Purpose::Birth => Duration::from_secs(3),
        Purpose::Append | Purpose::Snapshot => Duration::from_secs(10),
    }
}

/// Who waits for which answer, in the order in which they asked, in which they also learn of an end;
/// `None` once the connection broke.
type Pending = Arc<Mutex<Option<BTreeMap<u64, oneshot::Sender<Response>>>>>;

/// A connection that was made. Clones share it; it ends with the last of them.
#[derive(Clone)]
pub(super) struct Connection {
    frames: mpsc::Sender<Vec<u8>>,
    pending: Pending,
    task: Arc<Task>,
}

/// Ends a task with its owner.
struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Connection {
    fn is_up(&self) -> bool {
        lock(&self.pending).is_some()
    }

    /// Gives the connection up: everybody who waits learns it, and the next caller makes another.
    pub(super) fn close(&self) {
        *lock(&self.pending) = None;
        self.task.0.abort();
    }
}

/// Why there is no connection; shared by everybody who waited for it.
type Failure = Arc<io::Error>;

/// One attempt to connect, going on or done.
struct Attempt {
    made: Shared<BoxFuture<'static, Result<Connection, Failure>>>,
    /// How many attempts failed in a row before this one.
    failures: u32,
    _task: Task,
}

/// A connection to one peer for one purpose.
pub(super) struct Link {
    end: Arc<End>,
    attempt: Mutex<Option<Attempt>>,
    next_id: AtomicU64,
}

/// The other end, and how to get there.
struct End {
    local: Arc<Local>,
    connector: Arc<dyn Connector>,
    to: NodeId,
    purpose: Purpose,
    /// `host:port`, and the instance that must answer there if one is known.
    place: Mutex<(String, u128)>,
    /// The last refusal, which is logged once.
    refused: Mutex<String>,
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
    pub(super) async fn wait(&mut self) -> io::Result<Response> {
        let result = (&mut self.heard).await;
        self.cancel_on_drop = false;
        result.map_err(|_| broken())
    }

    /// The connection on which the answer will come.
    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(pending) = &mut *lock(&self.connection.pending) {
            pending.remove(&self.id);
        }
        if self.cancel_on_drop {
            // A full queue means a dead or stuck peer; it learns by the connection's end.
            let cancel = wire::request(self.id, &Request::Cancel);
            let _best_effort = self.connection.frames.try_send(cancel);
        }
    }
}

fn broken() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the connection broke")
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Link {
    pub(super) fn new(
        local: Arc<Local>,
        connector: Arc<dyn Connector>,
        to: NodeId,
        address: String,
        purpose: Purpose,
    ) -> Self {
        let place = Mutex::new((address, 0));
        let end = End { local, connector, to, purpose, place, refused: Mutex::default() };
        Self { end: Arc::new(end), attempt: Mutex::default(), next_id: AtomicU64::new(1) }
    }

    pub(super) fn set_place(&self, address: &str, instance_id: u128) {
        let mut place = lock(&self.end.place);
        if place.0 != address {
            address.clone_into(&mut place.0);
        }
        place.1 = instance_id;
    }

    /// Sends a request. An error means that nothing was sent: `QuotaExceeded` if too many wait for
    /// an answer already, else that there is no connection. Dropped early, nothing was sent either.
    pub(super) async fn start(
        &self,
        request: &Request,
        cancel_on_drop: bool,
    ) -> io::Result<Answer> {
        let connection = self.connection().await?;
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let frame = wire::request(id, request);
        if frame.len() > self.end.purpose.frame_bytes_max() {
            let text = format!("a message of {} bytes is over the bound", frame.len());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let (reply, heard) = oneshot::channel();
        match &mut *lock(&connection.pending) {
            Some(pending) if pending.len() >= PENDING_MAX => {
                let text = format!("{PENDING_MAX} calls to node {} are waiting", self.end.to);
                return Err(io::Error::new(io::ErrorKind::QuotaExceeded, text));
            }
            Some(pending) => pending.insert(id, reply),
            None => return Err(broken()),
        };
        let mut answer = Answer { heard, id, connection, cancel_on_drop: false };
        answer.connection.frames.send(frame).await.map_err(|_| broken())?;
        answer.cancel_on_drop = cancel_on_drop;
        Ok(answer)
    }

    /// Sends and waits for the answer, within a deadline that includes connecting.
    pub(super) async fn ask(&self, request: &Request, deadline: Duration) -> io::Result<Response> {
        let answer = async { self.start(request, false).await?.wait().await };
        timeout(deadline, answer).await?
    }

    /// Sends a message without an answer if the connection is up and has room.
    pub(super) fn tell(&self, request: &Request) {
        let attempt = lock(&self.attempt);
        if let Some(Attempt { made, .. }) = &*attempt
            && let Some(Ok(connection)) = made.peek()
        {
            let frame = wire::request(0, request);
            let _the_next_one_makes_up_for_it = connection.frames.try_send(frame);
        }
    }

    /// Makes the connection if there is none.
    pub(super) async fn reach(&self) -> io::Result<()> {
        self.connection().await.map(drop)
    }

    /// The connection, made if there is none. Concurrent callers wait for the same attempt, which
    /// goes on when they give up.
    async fn connection(&self) -> io::Result<Connection> {
        let made = {
            let mut slot = lock(&self.attempt);
            let failures = match &*slot {
                None => Some(0),
                Some(attempt) => match attempt.made.peek() {
                    None => None,
                    Some(Ok(connection)) if connection.is_up() => return Ok(connection.clone()),
                    Some(Ok(_)) => Some(0),
                    Some(Err(_)) => Some(attempt.failures.saturating_add(1)),
                },
            };
            if let Some(failures) = failures {
                *slot = Some(self.attempt(failures));
            }
            match &*slot {
                Some(attempt) => attempt.made.clone(),
                None => return Err(broken()),
            }
        };
        made.await.map_err(|error| io::Error::new(error.kind(), error.to_string()))
    }

    fn attempt(&self, failures: u32) -> Attempt {
        let end = Arc::clone(&self.end);
        let task = tokio::spawn(async move {
            if failures > 0 {
                sleep(RETRY_PAUSE * (1 << failures.min(4)) / 2).await;
            }
            if let Ok(opened) = timeout(CONNECT_DEADLINE, end.open()).await {
                opened.map_err(Arc::new)
            } else {
                let text = format!("node {} did not answer a hello in time", end.to);
                Err(Arc::new(io::Error::new(io::ErrorKind::TimedOut, text)))
            }
        });
        let owner = Task(task.abort_handle());
        let ended = |error| Arc::new(io::Error::other(error));
        let made = task.map_err(ended).map(Result::flatten).boxed().shared();
        Attempt { made, failures, _task: owner }
    }
}

impl End {
    async fn open(&self) -> io::Result<Connection> {
        let (address, instance_id) = lock(&self.place).clone();
        let connected = self.connector.connect(self.to, address.clone()).await;
        let mut stream = connected.inspect_err(|error| {
            if error.kind() == io::ErrorKind::InvalidData {
                self.note(&address, Some(&error.to_string()));
            }
        })?;
        let hello = wire::frame(KIND_HELLO, 0, &self.local.hello(self.to, self.purpose));
        frame::write_all(&mut stream.writer, &hello).await?;
        let (bytes_max, silence) = (self.purpose.frame_bytes_max(), silence_max(self.purpose));
        let mut reader = FrameReader::new(stream.reader, bytes_max, silence);
        let (_, reply) = reader.next::<HelloReply>(KIND_WELCOME).await?;
        let agreed = match reply {
            Ok(welcome) => self.local.check(&welcome, self.to, instance_id, self.purpose),
            Err(why) => {
                self.local.marks.was_refused(&why);
                Err(format!("it refused this node: {why}"))
            }
        };
        self.note(&address, agreed.as_ref().err());
        agreed.map_err(|why| io::Error::other(format!("{address}: {why}")))?;

        let (frames, queue) = mpsc::channel(QUEUED_FRAMES_MAX);
        let pending: Pending = Arc::new(Mutex::new(Some(BTreeMap::new())));
        let (pings, waiting, to) = (frames.clone(), Arc::clone(&pending), self.to);
        let task = tokio::spawn(async move {
            let ended = tokio::select! {
                written = frame::write_frames(queue, stream.writer) => written,
                read = read_answers(reader, &waiting) => read,
                () = ping(pings) => Ok(()),
            };
            *lock(&waiting) = None;
            if let Err(error) = ended {
                tracing::debug!(peer = to, %error, "a connection to a peer ended");
            }
        });
        Ok(Connection { frames, pending, task: Arc::new(Task(task.abort_handle())) })
    }

    /// Logs why a peer does not fit, once: it is asked again and again.
    fn note(&self, address: &str, why: Option<&String>) {
        let why = why.cloned().unwrap_or_default();
        let mut known = lock(&self.refused);
        if !why.is_empty() && *known != why {
            tracing::warn!(peer = self.to, address, why, "no connection to a peer");
        }
        *known = why;
    }
}

async fn read_answers(
    mut reader: FrameReader<impl AsyncRead + Unpin>,
    pending: &Pending,
) -> io::Result<()> {
    loop {
        let (id, response) = reader.next::<Response>(KIND_RESPONSE).await?;
        let reply = lock(pending).as_mut().and_then(|pending| pending.remove(&id));
        if let Some(reply) = reply {
            let _caller_may_be_gone = reply.send(response);
        }
    }
}

/// Pings until the connection ends. A full queue needs none: it shows by itself whether the peer
/// still reads.
async fn ping(frames: mpsc::Sender<Vec<u8>>) {
    let mut ticks = tokio::time::interval(PING_INTERVAL);
    loop {
        ticks.tick().await;
        if frames.is_closed() {
            return;
        }
        let _full = frames.try_send(wire::request(0, &Request::Ping));
    }
}
