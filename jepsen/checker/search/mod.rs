//! The general search for a linearization, as a cross-check of the fast checks.
//!
//! Each lock is searched alone. Wing and Gong's method with Lowe's memory: of the calls that began
//! before the first answer that is still open, each is tried as the next to take effect; a set of
//! calls that led to a state once is not tried again. What a call does to a lock is in `lock.rs`,
//! what a history holds for one lock in `steps.rs`. An answer that proves wrong says so; a budget
//! that runs out is a failure too.

mod lock;
mod steps;

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use self::lock::State;
use self::steps::{History, Timed};
use crate::claims::Claims;
use crate::history::Records;

/// Tries for each call; legal histories take one to three.
const TRIES_PER_CALL: usize = 200;
/// Tries that a short history has at the least.
const TRIES_MIN: usize = 500_000;

/// How many locks and calls were searched.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Searched {
    pub(super) locks: usize,
    pub(super) calls: usize,
}

/// Why no order was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unexplained {
    /// There is none.
    Never(String),
    /// The budget ran out.
    Unknown(String),
}

/// Searches the histories of all locks.
pub(super) fn explains(records: &Records, claims: &Claims<'_>) -> Result<Searched, Unexplained> {
    let histories: BTreeMap<&str, History<'_>> = steps::by_lock(records, claims);
    let mut searched = Searched::default();
    for (lock, history) in &histories {
        let tries = TRIES_MIN.max(history.timed.len().saturating_mul(TRIES_PER_CALL));
        Search::new(history).run(tries).map_err(|why| match why {
            Unexplained::Never(why) => Unexplained::Never(format!("{lock}: {why}")),
            Unexplained::Unknown(why) => Unexplained::Unknown(format!("{lock}: {why}")),
        })?;
        searched.locks += 1;
        searched.calls += history.timed.len();
    }
    Ok(searched)
}

/// An end of a call in the list of those that are open or to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Call(usize),
    Return(usize),
}

/// One call that took effect, and what it would take to take it back.
struct Taken {
    call: usize,
    before: State,
    /// It changed nothing, so nothing can be gained by doing it later.
    for_good: bool,
}

struct Search<'a> {
    history: &'a History<'a>,
    ends: Vec<End>,
    /// Neighbours in the list; the head is at 0, `ends[at - 1]` at `at`.
    next: Vec<usize>,
    previous: Vec<usize>,
    call_at: Vec<usize>,
    return_at: Vec<usize>,
    taken: Vec<Taken>,
    done: Done,
    seen: HashSet<(Box<[u64]>, State)>,
}

impl<'a> Search<'a> {
    fn new(history: &'a History<'a>) -> Self {
        let mut ends: Vec<(Duration, End)> = Vec::new();
        for (call, Timed { called_at, returned_at, .. }) in history.timed.iter().enumerate() {
            ends.push((*called_at, End::Call(call)));
            // What nobody heard of may have taken effect at any time since, or never.
            ends.extend(returned_at.map(|at| (at, End::Return(call))));
        }
        // At one moment calls come first: then they overlap, and either order is right.
        ends.sort_by_key(|(at, end)| (*at, matches!(end, End::Return(_))));
        let ends: Vec<End> = ends.into_iter().map(|(_, end)| end).collect();
        let calls = history.timed.len();
        let (mut call_at, mut return_at) = (vec![0; calls], vec![0; calls]);
        for (at, end) in ends.iter().enumerate() {
            match end {
                End::Call(call) => call_at[*call] = at + 1,
                End::Return(call) => return_at[*call] = at + 1,
            }
        }
        let count = ends.len();
        Self {
            history,
            next: (1..=count).chain([0]).collect(),
            previous: [count].into_iter().chain(0..count).collect(),
            ends,
            call_at,
            return_at,
            taken: Vec::new(),
            done: Done::new(calls),
            seen: HashSet::new(),
        }
    }

    fn run(mut self, most: usize) -> Result<(), Unexplained> {
        let mut open = self.return_at.iter().filter(|at| **at > 0).count();
        let mut state = State::default();
        let mut at = self.next[0];
        let mut count = 0;
        // The call that was never explained when most of the others were.
        let mut stuck: (usize, Option<usize>) = (0, None);
        while open > 0 {
            let end = at.checked_sub(1).map(|at| self.ends[at]);
            match end {
                Some(End::Call(call)) => {
                    count += 1;
                    if count > most {
                        let why = format!("no verdict after {most} tries");
                        return Err(Unexplained::Unknown(why));
                    }
                    let Some(after) = self.step(&state, call) else {
                        at = self.next[at];
                        continue;
                    };
                    let for_good = state.is_as(&after);
                    self.taken.push(Taken { call, before: state, for_good });
                    self.lift(call);
                    open -= usize::from(self.return_at[call] > 0);
                    state = after;
                    at = self.next[0];
                }
                Some(End::Return(_)) | None => {
                    if let Some(End::Return(call)) = end
                        && self.taken.len() >= stuck.0
                    {
                        stuck = (self.taken.len(), Some(call));
                    }
                    let Some(taken) = self.take_back(&mut open) else {
                        return Err(Unexplained::Never(self.unexplained(stuck.1)));
                    };
                    at = self.next[self.call_at[taken.call]];
                    state = taken.before;
                }
            }
        }
        Ok(())
    }

    /// The state after the call, if it can take effect now and has not led there before.
    fn step(&mut self, state: &State, call: usize) -> Option<State> {
        let after = state.after(&self.history.timed[call], self.history)?;
        self.done.set(call);
        let is_new = self.seen.insert((self.done.key(), after.clone()));
        if !is_new {
            self.done.clear(call);
        }
        is_new.then_some(after)
    }

    /// Takes back the last call that could have been done later instead.
    fn take_back(&mut self, open: &mut usize) -> Option<Taken> {
        while let Some(taken) = self.taken.pop() {
            self.unlift(taken.call);
            self.done.clear(taken.call);
            *open += usize::from(self.return_at[taken.call] > 0);
            if !taken.for_good {
                return Some(taken);
            }
        }
        None
    }

    fn lift(&mut self, call: usize) {
        for at in [self.call_at[call], self.return_at[call]] {
            if at > 0 {
                self.next[self.previous[at]] = self.next[at];
                let next = self.next[at];
                self.previous[next] = self.previous[at];
            }
        }
    }

    /// In the opposite order of [`Search::lift`], which left the neighbours of each noted.
    fn unlift(&mut self, call: usize) {
        for at in [self.return_at[call], self.call_at[call]] {
            if at > 0 {
                self.next[self.previous[at]] = at;
                let next = self.next[at];
                self.previous[next] = at;
            }
        }
    }

    fn unexplained(&self, call: Option<usize>) -> String {
        let Some(timed) = call.map(|call| &self.history.timed[call]) else {
            return "no order of calls explains it".to_owned();
        };
        let about = timed.step.claim().map(|claim| &self.history.claims[claim]);
        format!("no order explains {timed:?}; it is about {about:?}")
    }
}

/// Which calls took effect, told shortly: nearly all of those before some point, few after it.
struct Done {
    words: Vec<u64>,
    /// Words before this one are full.
    full: usize,
    /// Words from this one on were never touched.
    top: usize,
}

impl Done {
    fn new(calls: usize) -> Self {
        Self { words: vec![0; calls / 64 + 1], full: 0, top: 0 }
    }

    fn set(&mut self, call: usize) {
        self.words[call / 64] |= 1 << (call % 64);
        self.top = self.top.max(call / 64 + 1);
        while self.words.get(self.full) == Some(&u64::MAX) {
            self.full += 1;
        }
    }

    fn clear(&mut self, call: usize) {
        self.words[call / 64] &= !(1 << (call % 64));
        self.full = self.full.min(call / 64);
    }

    /// The same for the same set only: how many words are full, and those after them that are not
    /// empty.
    fn key(&self) -> Box<[u64]> {
        let rest = &self.words[self.full..self.top.max(self.full)];
        let length = rest.iter().rposition(|word| *word != 0).map_or(0, |last| last + 1);
        [self.full as u64].into_iter().chain(rest[..length].iter().copied()).collect()
    }
}
