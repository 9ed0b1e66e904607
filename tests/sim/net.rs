//! The network between the nodes: byte streams with delay under the real transport.
//!
//! It behaves as TCP does: what is written arrives in order or not at all. A lost piece is sent
//! again and holds up what is behind it; a cut link holds everything until it is mended or an end
//! gives up; a dead process closes its streams, a machine without power says nothing and resets
//! them once it is back. Streams are independent, so messages overtake each other between them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use oarlock::raft::transport::stream::{Acceptor, Connector, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;

use crate::random::Random;
use crate::trace::{Now, Trace, hash, lock};

/// Bytes on their way in one direction of a stream; then the writer waits.
const WINDOW_BYTES: usize = 256 * 1024;

/// Between two attempts to get a piece or a greeting through, in milliseconds.
const RETRY_MS: (u64, u64) = (40, 400);

/// How the links are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Weather {
    /// Of one way, in milliseconds.
    pub(crate) delay_ms: (u64, u64),
    /// Pieces lost of a thousand.
    pub(crate) lost_per_mille: u64,
    /// Pieces of a thousand with which their stream breaks.
    pub(crate) broken_per_mille: u64,
}

pub(crate) const CALM: Weather =
    Weather { delay_ms: (1, 3), lost_per_mille: 0, broken_per_mille: 0 };

#[expect(clippy::struct_excessive_bools, reason = "each is one thing that an end may have done")]
struct Pipe {
    from: u64,
    to: u64,
    /// The other direction.
    other: u64,
    /// Pieces in their order, each with the moment it arrives; an empty one is the end.
    flying: VecDeque<(u64, Vec<u8>)>,
    flying_bytes: usize,
    arrived: VecDeque<u8>,
    ended: bool,
    broken: bool,
    reader_gone: bool,
    /// The writer said its last.
    left: bool,
    /// An end lost its power: nothing is said any more.
    silent: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// Whom to tell, and what.
type Connected = (oneshot::Sender<io::Result<Stream>>, io::Result<Stream>);

struct Greeting {
    from: u64,
    to: u64,
    at: u64,
    reply: oneshot::Sender<io::Result<Stream>>,
}

#[derive(Default)]
struct Door {
    powered: bool,
    listening: bool,
    backlog: VecDeque<(Stream, String)>,
    acceptor: Option<Waker>,
}

struct State {
    random: Random,
    weather: Weather,
    blocked: BTreeSet<(u64, u64)>,
    doors: BTreeMap<u64, Door>,
    greetings: Vec<Greeting>,
    pipes: BTreeMap<u64, Pipe>,
    next_pipe: u64,
    held_up: u64,
}

/// All links. Clones share them.
#[derive(Clone)]
pub(crate) struct Net {
    now: Now,
    trace: Trace,
    state: Arc<Mutex<State>>,
}

impl Net {
    pub(crate) fn new(now: Now, trace: Trace, random: Random) -> Self {
        let state = State {
            random,
            weather: CALM,
            blocked: BTreeSet::new(),
            doors: BTreeMap::new(),
            greetings: Vec::new(),
            pipes: BTreeMap::new(),
            next_pipe: 1,
            held_up: 0,
        };
        Self { now, trace, state: Arc::new(Mutex::new(state)) }
    }

    /// A node's process begins to listen.
    pub(crate) fn listen(&self, node: u64) -> SimAcceptor {
        let mut state = lock(&self.state);
        let ids = state.pipes_of(node);
        for id in ids {
            state.break_pipe(id);
        }
        let door = Door { powered: true, listening: true, ..Door::default() };
        state.doors.insert(node, door);
        SimAcceptor { net: self.clone(), node }
    }

    pub(crate) fn connector(&self, node: u64) -> Arc<dyn Connector> {
        Arc::new(SimConnector { net: self.clone(), node })
    }

    /// The process ends; with the machine's power nobody even says so.
    pub(crate) fn stop(&self, node: u64, power: bool) {
        let backlog = {
            let mut state = lock(&self.state);
            // Here, in a fixed order, not when the tasks go, which is in any order.
            for id in state.pipes_of(node) {
                state.leave_pipe(id, node, power, self.now.ms());
            }
            let door = state.doors.entry(node).or_default();
            door.powered = !power;
            door.listening = false;
            std::mem::take(&mut door.backlog)
        };
        drop(backlog);
    }

    pub(crate) fn set_weather(&self, weather: Weather) {
        lock(&self.state).weather = weather;
    }

    /// Cuts the links from one to the other, one way.
    pub(crate) fn block(&self, links: &[(u64, u64)]) {
        lock(&self.state).blocked.extend(links);
    }

    pub(crate) fn unblock(&self, links: &[(u64, u64)]) {
        let mut state = lock(&self.state);
        for link in links {
            state.blocked.remove(link);
        }
    }

    /// Whether both can speak with each other.
    pub(crate) fn linked(&self, a: u64, b: u64) -> bool {
        let state = lock(&self.state);
        !state.blocked.contains(&(a, b)) && !state.blocked.contains(&(b, a))
    }

    /// Whether no link is cut.
    pub(crate) fn is_whole(&self) -> bool {
        lock(&self.state).blocked.is_empty()
    }

    /// Pieces and greetings that did not get through at once.
    pub(crate) fn held_up(&self) -> u64 {
        lock(&self.state).held_up
    }

    /// Lets arrive what is due.
    pub(crate) fn advance(&self) {
        let now = self.now.ms();
        let mut woken = Vec::new();
        let mut connected = Vec::new();
        {
            let mut state = lock(&self.state);
            self.greet(&mut state, now, &mut woken, &mut connected);
            let due = |pipe: &Pipe| pipe.flying.front().is_some_and(|(at, _)| *at <= now);
            let ids: Vec<u64> =
                state.pipes.iter().filter(|(_, pipe)| due(pipe)).map(|(id, _)| *id).collect();
            for id in ids {
                state.deliver(id, now, &self.trace, &mut woken);
            }
            state.pipes.retain(|_, pipe| !(pipe.reader_gone && (pipe.ended || pipe.broken)));
        }
        for (reply, stream) in connected {
            let _gave_up = reply.send(stream);
        }
        for waker in woken {
            waker.wake();
        }
    }

    fn greet(
        &self,
        state: &mut State,
        now: u64,
        woken: &mut Vec<Waker>,
        connected: &mut Vec<Connected>,
    ) {
        let mut later = Vec::new();
        for mut greeting in std::mem::take(&mut state.greetings) {
            let (from, to) = (greeting.from, greeting.to);
            if greeting.reply.is_closed() {
                continue;
            }
            if greeting.at > now {
                later.push(greeting);
                continue;
            }
            let cut = state.blocked.contains(&(from, to)) || state.blocked.contains(&(to, from));
            let door = state.doors.get(&to);
            if cut || !door.is_some_and(|door| door.powered) {
                state.held_up += 1;
                greeting.at = now + state.random.within(RETRY_MS.0, RETRY_MS.1);
                later.push(greeting);
                continue;
            }
            if !door.is_some_and(|door| door.listening) {
                connected.push((greeting.reply, Err(io::ErrorKind::ConnectionRefused.into())));
                continue;
            }
            let (near, far) = self.pair(state, from, to);
            if let Some(door) = state.doors.get_mut(&to) {
                door.backlog.push_back((far, format!("node-{from}:0")));
                woken.extend(door.acceptor.take());
            }
            connected.push((greeting.reply, Ok(near)));
        }
        state.greetings = later;
    }

    fn pair(&self, state: &mut State, from: u64, to: u64) -> (Stream, Stream) {
        let (there, back) = (state.next_pipe, state.next_pipe + 1);
        state.next_pipe += 2;
        state.pipes.insert(there, Pipe::new(from, to, back));
        state.pipes.insert(back, Pipe::new(to, from, there));
        let end = |id| PipeEnd { net: self.clone(), id };
        let stream = |read, write| Stream {
            reader: Box::new(Reader(end(read))),
            writer: Box::new(Writer(end(write))),
        };
        (stream(back, there), stream(there, back))
    }
}

impl Pipe {
    fn new(from: u64, to: u64, other: u64) -> Self {
        Self {
            from,
            to,
            other,
            flying: VecDeque::new(),
            flying_bytes: 0,
            arrived: VecDeque::new(),
            ended: false,
            broken: false,
            reader_gone: false,
            left: false,
            silent: false,
            reader: None,
            writer: None,
        }
    }
}

impl State {
    fn pipes_of(&self, node: u64) -> Vec<u64> {
        let of = self.pipes.iter().filter(|(_, pipe)| pipe.from == node || pipe.to == node);
        of.map(|(id, _)| *id).collect()
    }

    /// Breaks one direction: both ends learn it.
    fn break_pipe(&mut self, id: u64) {
        if let Some(pipe) = self.pipes.get_mut(&id) {
            pipe.broken = true;
            pipe.flying.clear();
            pipe.reader.take().into_iter().chain(pipe.writer.take()).for_each(Waker::wake);
        }
    }

    fn leave_pipe(&mut self, id: u64, node: u64, power: bool, now: u64) {
        let Some(pipe) = self.pipes.get_mut(&id) else { return };
        pipe.silent |= power;
        if pipe.from == node {
            self.send(id, now, Vec::new());
        } else {
            pipe.reader_gone = true;
            pipe.arrived.clear();
        }
    }

    fn send(&mut self, id: u64, now: u64, bytes: Vec<u8>) {
        let Some(pipe) = self.pipes.get_mut(&id) else { return };
        if pipe.silent || pipe.broken || pipe.left {
            return;
        }
        pipe.left = bytes.is_empty();
        let delay = self.random.within(self.weather.delay_ms.0, self.weather.delay_ms.1 + 1);
        let after = pipe.flying.back().map_or(0, |(at, _)| *at);
        pipe.flying_bytes += bytes.len();
        pipe.flying.push_back(((now + delay).max(after), bytes));
    }

    fn deliver(&mut self, id: u64, now: u64, trace: &Trace, woken: &mut Vec<Waker>) {
        let weather = self.weather;
        while let Some(pipe) = self.pipes.get_mut(&id)
            && pipe.flying.front().is_some_and(|(at, _)| *at <= now)
        {
            let (from, to, other) = (pipe.from, pipe.to, pipe.other);
            let cut = self.blocked.contains(&(from, to)) || pipe.silent;
            if cut || self.random.per_mille(weather.lost_per_mille) {
                self.held_up += 1;
                let again = now + self.random.within(RETRY_MS.0, RETRY_MS.1);
                if let Some(front) = pipe.flying.front_mut() {
                    front.0 = again;
                }
                return;
            }
            if self.random.per_mille(weather.broken_per_mille) {
                trace.note("break", &[id, from, to], 0);
                self.break_pipe(id);
                self.break_pipe(other);
                return;
            }
            let Some((_, bytes)) = pipe.flying.pop_front() else { return };
            trace.note("arrive", &[id, from, to], hash(&bytes));
            pipe.flying_bytes -= bytes.len();
            pipe.ended |= bytes.is_empty();
            if pipe.reader_gone && !bytes.is_empty() {
                self.break_pipe(id);
                self.break_pipe(other);
                return;
            }
            pipe.arrived.extend(bytes);
            woken.extend(pipe.reader.take());
            woken.extend(pipe.writer.take());
        }
    }
}

struct SimConnector {
    net: Net,
    node: u64,
}

impl Connector for SimConnector {
    fn connect(&self, address: String) -> BoxFuture<'static, io::Result<Stream>> {
        let (reply, heard) = oneshot::channel();
        let to = address.trim_start_matches("node-").trim_end_matches(":1").parse();
        let mut state = lock(&self.net.state);
        let (from, delay) = (self.node, state.random.within(1, 5));
        let greeting = Greeting { from, to: to.unwrap_or(0), at: self.net.now.ms() + delay, reply };
        state.greetings.push(greeting);
        async move { heard.await.unwrap_or_else(|_| Err(io::ErrorKind::ConnectionReset.into())) }
            .boxed()
    }
}

/// The listener of a node.
pub(crate) struct SimAcceptor {
    net: Net,
    node: u64,
}

impl Acceptor for SimAcceptor {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(Stream, String)>> {
        std::future::poll_fn(|context| {
            let mut state = lock(&self.net.state);
            let door = state.doors.entry(self.node).or_default();
            let Some(accepted) = door.backlog.pop_front() else {
                door.acceptor = Some(context.waker().clone());
                return Poll::Pending;
            };
            Poll::Ready(Ok(accepted))
        })
        .boxed()
    }
}

struct PipeEnd {
    net: Net,
    id: u64,
}

struct Reader(PipeEnd);

impl AsyncRead for Reader {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut state = lock(&self.0.net.state);
        let Some(pipe) = state.pipes.get_mut(&self.0.id) else { return Poll::Ready(Ok(())) };
        if pipe.broken {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let taken = buffer.remaining().min(pipe.arrived.len());
        if taken == 0 && !pipe.ended {
            pipe.reader = Some(context.waker().clone());
            return Poll::Pending;
        }
        let bytes: Vec<u8> = pipe.arrived.drain(..taken).collect();
        buffer.put_slice(&bytes);
        Poll::Ready(Ok(()))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if let Some(pipe) = lock(&self.0.net.state).pipes.get_mut(&self.0.id) {
            pipe.reader_gone = true;
            pipe.arrived.clear();
        }
    }
}

struct Writer(PipeEnd);

impl AsyncWrite for Writer {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let (net, id) = (&self.0.net, self.0.id);
        let mut state = lock(&net.state);
        let Some(pipe) = state.pipes.get_mut(&id).filter(|pipe| !pipe.broken) else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        if pipe.flying_bytes + pipe.arrived.len() >= WINDOW_BYTES {
            pipe.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        let (from, to) = (pipe.from, pipe.to);
        net.trace.note("send", &[id, from, to], hash(bytes));
        state.send(id, net.now.ms(), bytes.to_vec());
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let now = self.0.net.now.ms();
        lock(&self.0.net.state).send(self.0.id, now, Vec::new());
    }
}
