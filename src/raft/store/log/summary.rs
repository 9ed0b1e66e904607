//! What the stream of records adds up to: vote, bounds of the log, last committed.
//!
//! The same small machine is run three times: where operations are submitted, where they are
//! written (its value goes into the header of the next segment), and where they are read back. An
//! entry that does not follow the one before it is refused, so no hole can come about.

use serde::{Deserialize, Serialize};

use crate::raft::types::{LogId, Vote};

/// What one record does.
#[derive(Debug, Clone, Copy)]
pub(super) enum Effect {
    Nothing,
    Entry(LogId),
    Vote(Vote),
    TruncateAfter(Option<LogId>),
    Purge(LogId),
    Committed(LogId),
}

/// The state of a log without its entries. Persisted in segment headers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Summary {
    pub(super) vote: Option<Vote>,
    pub(super) purged: Option<LogId>,
    pub(super) committed: Option<LogId>,
    /// Index of the oldest entry that can be read; none when there is no entry.
    pub(super) first: Option<u64>,
    /// The newest entry, or else the last purged one.
    pub(super) last: Option<LogId>,
}

impl Summary {
    /// Index the next entry must have; none when any will do.
    fn next_index(&self) -> Option<u64> {
        self.last.map(|last| last.index + 1)
    }

    /// Applies one record, or says why it cannot follow what came before.
    pub(super) fn apply(&mut self, effect: Effect) -> Result<(), String> {
        match effect {
            Effect::Nothing => {}
            Effect::Vote(vote) => self.vote = Some(vote),
            Effect::Committed(committed) => self.committed = Some(committed),
            Effect::Entry(id) => {
                if self.next_index().is_some_and(|next| next != id.index) {
                    let last = self.last.map_or(0, |last| last.index);
                    return Err(format!("entry {} does not follow entry {last}", id.index));
                }
                self.first = self.first.or(Some(id.index));
                self.last = Some(id);
            }
            Effect::TruncateAfter(upto) => self.truncate_after(upto),
            Effect::Purge(upto) => self.purge(upto),
        }
        Ok(())
    }

    fn truncate_after(&mut self, upto: Option<LogId>) {
        let Some(first) = self.first else { return };
        match upto {
            Some(upto) if self.last.is_some_and(|last| last.index <= upto.index) => {}
            Some(upto) if upto.index >= first => self.last = Some(upto),
            Some(_) | None => {
                self.first = None;
                self.last = self.purged;
            }
        }
    }

    fn purge(&mut self, upto: LogId) {
        if self.purged.is_some_and(|purged| purged.index >= upto.index) {
            return;
        }
        self.purged = Some(upto);
        if self.last.is_none_or(|last| last.index <= upto.index) {
            self.first = None;
            self.last = Some(upto);
        } else {
            self.first = self.first.map(|first| first.max(upto.index + 1));
        }
    }
}
