//! What a log must say after a power cut, from the steps alone; it knows nothing of segments.
//!
//! - What was acknowledged is there exactly; of what was submitted after it, a beginning.
//! - Nothing is there that was never submitted, and nothing that was truncated or purged.
//! - The vote is the acknowledged one or a later one.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::recorder::Progress;
use crate::raft::store::log::driven::{Contents, Step};
use crate::raft::types::{LogEntry, LogId, Vote};

/// What a log says after some of the steps.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct State {
    pub(super) vote: Option<Vote>,
    purged: Option<LogId>,
    entries: BTreeMap<u64, Arc<LogEntry>>,
}

impl State {
    fn take(&mut self, step: &Step) {
        match step {
            Step::Vote(vote) => self.vote = Some(*vote),
            Step::Append(entries) => {
                let entry = |entry: &LogEntry| (entry.log_id.index, Arc::new(entry.clone()));
                self.entries.extend(entries.iter().map(entry));
            }
            Step::TruncateAfter(None) => self.entries.clear(),
            Step::TruncateAfter(Some(last)) => self.entries.retain(|at, _| *at <= last.index),
            Step::Purge(upto) => {
                self.entries.retain(|at, _| *at > upto.index);
                self.purged = self.purged.max(Some(*upto));
            }
            Step::Committed(_) => {}
        }
    }

    /// Newest entry, or else the last purged one.
    pub(super) fn last(&self) -> Option<LogId> {
        self.entries.values().next_back().map(|entry| entry.log_id).or(self.purged)
    }

    pub(super) fn of(found: &Contents) -> Self {
        let entry = |entry: &LogEntry| (entry.log_id.index, Arc::new(entry.clone()));
        let entries = found.entries.iter().map(entry).collect();
        Self { vote: found.vote, purged: found.purged, entries }
    }

    fn summary(&self) -> String {
        let ids: Vec<String> = self.entries.values().map(|it| it.log_id.to_string()).collect();
        format!("vote {:?}, purged {:?}, entries {}", self.vote, self.purged, ids.join(" "))
    }
}

/// Every state that the steps lead through. A crash may keep the first few of several entries.
pub(super) struct Oracle {
    states: Vec<State>,
    /// Which state each number of whole steps ends at.
    ends: Vec<usize>,
    /// What was ever told to be committed, and at which step.
    committed: Vec<(usize, LogId)>,
}

impl Oracle {
    pub(super) fn new(start: State, committed: Option<LogId>, steps: &[Step]) -> Self {
        let mut oracle = Self {
            states: vec![start],
            ends: vec![0],
            committed: committed.into_iter().map(|id| (0, id)).collect(),
        };
        for (at, step) in steps.iter().enumerate() {
            match step {
                Step::Append(entries) => {
                    for entry in entries {
                        oracle.push(&Step::Append(vec![entry.clone()]));
                    }
                }
                Step::Committed(id) => oracle.committed.push((at + 1, *id)),
                Step::Vote(_) | Step::TruncateAfter(_) | Step::Purge(_) => oracle.push(step),
            }
            oracle.ends.push(oracle.states.len() - 1);
        }
        oracle
    }

    fn push(&mut self, step: &Step) {
        let mut next = self.states[self.states.len() - 1].clone();
        next.take(step);
        self.states.push(next);
    }

    /// The state after all steps.
    pub(super) fn end(&self) -> &State {
        &self.states[self.states.len() - 1]
    }

    /// Says what is wrong with what was found, if anything.
    pub(super) fn judge(&self, progress: Progress, found: &Contents) -> Result<(), String> {
        let state = State::of(found);
        let first = self.ends[progress.acknowledged.unwrap_or(0)];
        let allowed = &self.states[first..=self.ends[progress.submitted]];
        if state.entries.len() != found.entries.len() {
            return Err(format!("an entry is there twice: {:?}", found.entries));
        }
        if state.vote < allowed[0].vote {
            let (was, is) = (allowed[0].vote, state.vote);
            return Err(format!("the vote went back: {was:?} was acknowledged, found {is:?}"));
        }
        if !allowed.contains(&state) {
            let allowed: Vec<String> = allowed.iter().map(State::summary).collect();
            return Err(format!(
                "found:   {}\nallowed: {}",
                state.summary(),
                allowed.join("\n     or: ")
            ));
        }
        if found.last != state.last() {
            return Err(format!("the last id is {:?}, it must be {:?}", found.last, state.last()));
        }
        let told = |id| self.committed.iter().any(|it| it.0 <= progress.submitted && it.1 == id);
        match found.committed {
            Some(id) if !told(id) => Err(format!("{id} was never told to be committed")),
            Some(_) | None => Ok(()),
        }
    }
}
