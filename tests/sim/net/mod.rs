//! The network between the nodes: byte streams with delay under the real transport.
//!
//! It behaves as TCP does: what is written arrives in order or not at all. A lost piece is sent
//! again and holds up what is behind it; a cut link holds everything until it is mended or an end
//! gives up; a dead process closes its streams, a machine without power says nothing and resets
//! them once it is back. Streams are independent, so messages overtake each other between them: what
//! an old connection still has on its way arrives after the first words of a new one.
//!
//! What TCP cannot do is done on top of it: an old connection is said again, word by word, to a
//! listener that takes it for a new one of the same peer. Nobody hears the answers.

mod ends;
mod pipes;
mod tap;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex};
use std::task::Waker;

use oarlock::raft::transport::stream::{Connector, Stream};
use oarlock::raft::types::Vote;
use tokio::sync::oneshot;

use crate::evidence::{Evidence, FaultId, HEALING};
use crate::random::Random;
use crate::trace::{Now, Trace, lock};
pub(crate) use ends::SimAcceptor;
use ends::{PipeEnd, Reader, SimConnector, Writer};
use pipes::Pipe;

/// Between two attempts to get a piece or a greeting through, in milliseconds.
const RETRY_MS: (u64, u64) = (40, 400);

/// How the links are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

/// What was once said over a connection, for a time when it is said again.
struct Said {
    from: u64,
    to: u64,
    frames: Vec<Vec<u8>>,
}

struct State {
    random: Random,
    evidence: Evidence,
    weather: Weather,
    weather_of: FaultId,
    /// Cut one way, by which fault.
    blocked: BTreeMap<(u64, u64), FaultId>,
    doors: BTreeMap<u64, Door>,
    greetings: Vec<Greeting>,
    pipes: BTreeMap<u64, Pipe>,
    next_pipe: u64,
    held_up: u64,
    /// The newest stream of each kind over which something arrived.
    newest: BTreeMap<(u64, u64, u8), u64>,
    said: VecDeque<Said>,
    /// Votes that were granted by a node since somebody asked.
    granted: Vec<(u64, Vote)>,
}

/// All links. Clones share them.
#[derive(Clone)]
pub(crate) struct Net {
    now: Now,
    trace: Trace,
    state: Arc<Mutex<State>>,
}

impl Net {
    pub(crate) fn new(now: Now, trace: Trace, random: Random, evidence: Evidence) -> Self {
        let state = State {
            random,
            evidence,
            weather: CALM,
            weather_of: HEALING,
            blocked: BTreeMap::new(),
            doors: BTreeMap::new(),
            greetings: Vec::new(),
            pipes: BTreeMap::new(),
            next_pipe: 1,
            held_up: 0,
            newest: BTreeMap::new(),
            said: VecDeque::new(),
            granted: Vec::new(),
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

    /// The end of a fault is fine weather, which is nobody's fault.
    pub(crate) fn set_weather(&self, weather: Weather, fault: FaultId) {
        let mut state = lock(&self.state);
        let fault = if weather == CALM { HEALING } else { fault };
        (state.weather, state.weather_of) = (weather, fault);
    }

    /// Cuts the links from one to the other, one way.
    pub(crate) fn block(&self, links: &[(u64, u64)], fault: FaultId) {
        lock(&self.state).blocked.extend(links.iter().map(|link| (*link, fault)));
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
        !state.blocked.contains_key(&(a, b)) && !state.blocked.contains_key(&(b, a))
    }

    /// Whether no link is cut.
    pub(crate) fn is_whole(&self) -> bool {
        lock(&self.state).blocked.is_empty()
    }

    /// Whether the weather is fine and nothing is said again: an old heartbeat passes for a living
    /// leader.
    pub(crate) fn is_fine(&self) -> bool {
        let state = lock(&self.state);
        state.weather_of == HEALING && !state.pipes.values().any(Pipe::says_again)
    }

    /// Whether no link is cut besides.
    pub(crate) fn is_calm(&self) -> bool {
        self.is_whole() && self.is_fine()
    }

    /// Whether a piece of a snapshot is on its way.
    pub(crate) fn carries_snapshot(&self) -> bool {
        lock(&self.state).pipes.values().any(Pipe::carries_snapshot)
    }

    /// Which votes were granted since the last call, by whom.
    pub(crate) fn take_granted(&self) -> Vec<(u64, Vote)> {
        std::mem::take(&mut lock(&self.state).granted)
    }

    /// Says an old connection to this node again, over a new one that it takes for the same peer's.
    pub(crate) fn say_again(&self, to: u64, fault: FaultId) {
        let accepted = {
            let mut state = lock(&self.state);
            let some: Vec<usize> =
                (0..state.said.len()).filter(|at| state.said[*at].to == to).collect();
            if some.is_empty() || !state.doors.get(&to).is_some_and(|door| door.listening) {
                return;
            }
            let at = *state.random.pick(&some);
            let (from, frames) = (state.said[at].from, state.said[at].frames.clone());
            let (there, back) = state.open(from, to);
            state.haunt((there, back), fault);
            let mut moment = self.now.ms();
            for frame in frames {
                moment += state.random.within(0, 20);
                state.send(there, moment, frame);
            }
            state.send(there, moment + 1_000, Vec::new());
            let door = state.doors.entry(to).or_default();
            door.backlog.push_back((self.stream(there, back), format!("node-{from}:0")));
            door.acceptor.take()
        };
        accepted.into_iter().for_each(Waker::wake);
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
            state.forget_ended();
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
            let ways = [(from, to), (to, from)];
            let cut = ways.iter().find_map(|way| state.blocked.get(way)).copied();
            let door = state.doors.get(&to);
            if cut.is_some() || !door.is_some_and(|door| door.powered) {
                state.held_up += 1;
                state.evidence.bite(cut.unwrap_or(HEALING));
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
        let (there, back) = state.open(from, to);
        (self.stream(back, there), self.stream(there, back))
    }

    fn stream(&self, read: u64, write: u64) -> Stream {
        let end = |id| PipeEnd { net: self.clone(), id };
        Stream {
            reader: Box::new(Reader(end(read))),
            writer: Box::new(Writer(end(write))),
            certified: None,
        }
    }
}
