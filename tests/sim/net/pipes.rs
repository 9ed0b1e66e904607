//! The directions of the streams: what is on its way in them, and what becomes of it.

use std::collections::VecDeque;
use std::task::Waker;

use oarlock::raft::transport::wire::Purpose;

use super::tap::Tap;
use super::{CALM, RETRY_MS, Said, State};
use crate::evidence::{FaultId, HEALING};
use crate::trace::{Trace, hash};

/// Old connections that may be said again.
const SAID_MAX: usize = 48;

#[expect(clippy::struct_excessive_bools, reason = "each is one thing that an end may have done")]
pub(super) struct Pipe {
    pub(super) from: u64,
    pub(super) to: u64,
    /// The other direction.
    pub(super) other: u64,
    /// Pieces in their order, each with the moment it arrives; an empty one is the end.
    pub(super) flying: VecDeque<(u64, Vec<u8>)>,
    pub(super) flying_bytes: usize,
    pub(super) arrived: VecDeque<u8>,
    pub(super) ended: bool,
    pub(super) broken: bool,
    pub(super) reader_gone: bool,
    /// The writer said its last.
    pub(super) left: bool,
    /// An end lost its power: nothing is said any more.
    pub(super) silent: bool,
    pub(super) reader: Option<Waker>,
    pub(super) writer: Option<Waker>,
    /// Says an old connection again, for this fault.
    haunts: Option<FaultId>,
    /// Would carry the answers to that.
    unheard: bool,
    pub(super) tap: Tap,
}

impl Pipe {
    pub(super) fn new(from: u64, to: u64, other: u64) -> Self {
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
            haunts: None,
            unheard: false,
            tap: Tap::default(),
        }
    }

    pub(super) fn says_again(&self) -> bool {
        self.haunts.is_some() && !self.flying.is_empty()
    }

    pub(super) fn carries_snapshot(&self) -> bool {
        self.tap.purpose == Some(Purpose::Snapshot) && !self.flying.is_empty()
    }
}

impl State {
    pub(super) fn pipes_of(&self, node: u64) -> Vec<u64> {
        let of = self.pipes.iter().filter(|(_, pipe)| pipe.from == node || pipe.to == node);
        of.map(|(id, _)| *id).collect()
    }

    /// Breaks one direction: both ends learn it.
    pub(super) fn break_pipe(&mut self, id: u64) {
        if let Some(pipe) = self.pipes.get_mut(&id) {
            pipe.broken = true;
            pipe.flying.clear();
            pipe.reader.take().into_iter().chain(pipe.writer.take()).for_each(Waker::wake);
        }
    }

    pub(super) fn leave_pipe(&mut self, id: u64, node: u64, power: bool, now: u64) {
        let Some(pipe) = self.pipes.get_mut(&id) else { return };
        pipe.silent |= power;
        if pipe.from == node {
            self.send(id, now, Vec::new());
        } else {
            pipe.reader_gone = true;
            pipe.arrived.clear();
        }
    }

    pub(super) fn send(&mut self, id: u64, now: u64, bytes: Vec<u8>) {
        let Some(pipe) = self.pipes.get_mut(&id) else { return };
        if pipe.silent || pipe.broken || pipe.left {
            return;
        }
        pipe.left = bytes.is_empty();
        let delay = self.random.within(self.weather.delay_ms.0, self.weather.delay_ms.1 + 1);
        if delay > CALM.delay_ms.1 {
            self.evidence.bite(self.weather_of);
        }
        let after = pipe.flying.back().map_or(0, |(at, _)| *at);
        pipe.flying_bytes += bytes.len();
        self.listen_in(id, &bytes);
        if let Some(pipe) = self.pipes.get_mut(&id) {
            pipe.flying.push_back(((now + delay).max(after), bytes));
        }
    }

    /// Notes what the frames say that are complete now.
    fn listen_in(&mut self, id: u64, bytes: &[u8]) {
        let Some(pipe) = self.pipes.get_mut(&id) else { return };
        let (node, other) = (pipe.from, pipe.other);
        for answer in pipe.tap.hear(bytes) {
            let Some(asked) = self.pipes.get_mut(&other) else { return };
            let is_vote = asked.tap.asks.remove(&answer.number);
            if let Some(fault) = asked.haunts {
                self.evidence.reach("an old request answered again");
                self.evidence.bite(fault);
            }
            if let Some(vote) = answer.vote.filter(|_| is_vote) {
                self.evidence.reach("a vote granted");
                self.granted.push((node, vote));
            }
        }
    }

    /// Both directions of a new stream.
    pub(super) fn open(&mut self, from: u64, to: u64) -> (u64, u64) {
        let (there, back) = (self.next_pipe, self.next_pipe + 1);
        self.next_pipe += 2;
        self.pipes.insert(there, Pipe::new(from, to, back));
        self.pipes.insert(back, Pipe::new(to, from, there));
        (there, back)
    }

    /// Makes these two directions those of an old connection: nobody reads the answers.
    pub(super) fn haunt(&mut self, (there, back): (u64, u64), fault: FaultId) {
        if let Some(pipe) = self.pipes.get_mut(&there) {
            pipe.haunts = Some(fault);
        }
        if let Some(pipe) = self.pipes.get_mut(&back) {
            pipe.unheard = true;
        }
    }

    /// Forgets the streams that are over, but for what was said in some of them.
    pub(super) fn forget_ended(&mut self) {
        let over = |pipe: &Pipe| (pipe.reader_gone || pipe.unheard) && (pipe.ended || pipe.broken);
        let ids: Vec<u64> =
            self.pipes.iter().filter(|(_, pipe)| over(pipe)).map(|(id, _)| *id).collect();
        for id in ids {
            let Some(mut pipe) = self.pipes.remove(&id) else { continue };
            if pipe.haunts.is_none()
                && let Some(frames) = pipe.tap.take_kept()
            {
                self.said.push_back(Said { from: pipe.from, to: pipe.to, frames });
                if self.said.len() > SAID_MAX {
                    self.said.pop_front();
                }
            }
        }
    }

    /// A piece of an old connection that arrives after the first of a newer one is late.
    fn note_lateness(&mut self, id: u64) {
        let Some(pipe) = self.pipes.get(&id) else { return };
        let Some(purpose) = pipe.tap.purpose.filter(|_| pipe.haunts.is_none()) else { return };
        let newest = self.newest.entry((pipe.from, pipe.to, purpose as u8)).or_insert(id);
        if *newest > id && !pipe.reader_gone {
            self.evidence.reach("a late piece of an old connection");
        }
        *newest = id.max(*newest);
    }

    pub(super) fn deliver(&mut self, id: u64, now: u64, trace: &Trace, woken: &mut Vec<Waker>) {
        let weather = self.weather;
        while let Some(pipe) = self.pipes.get_mut(&id)
            && pipe.flying.front().is_some_and(|(at, _)| *at <= now)
        {
            let (from, to, other) = (pipe.from, pipe.to, pipe.other);
            let cut = self.blocked.get(&(from, to)).copied();
            let held = cut.is_some() || pipe.silent;
            if held || self.random.per_mille(weather.lost_per_mille) {
                self.held_up += 1;
                self.evidence.bite(if held { cut.unwrap_or(HEALING) } else { self.weather_of });
                let again = now + self.random.within(RETRY_MS.0, RETRY_MS.1);
                if let Some(front) = pipe.flying.front_mut() {
                    front.0 = again;
                }
                return;
            }
            if self.random.per_mille(weather.broken_per_mille) {
                trace.note("break", &[id, from, to], 0);
                self.evidence.bite(self.weather_of);
                self.break_pipe(id);
                self.break_pipe(other);
                return;
            }
            let Some((_, bytes)) = pipe.flying.pop_front() else { return };
            trace.note("arrive", &[id, from, to], hash(&bytes));
            pipe.flying_bytes -= bytes.len();
            pipe.ended |= bytes.is_empty();
            if pipe.unheard {
                continue;
            }
            if pipe.reader_gone && !bytes.is_empty() {
                self.break_pipe(id);
                self.break_pipe(other);
                return;
            }
            let last = bytes.is_empty();
            pipe.arrived.extend(bytes);
            woken.extend(pipe.reader.take());
            woken.extend(pipe.writer.take());
            if !last {
                self.note_lateness(id);
            }
        }
    }
}
