//! What the callers of the log and its writer thread share.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use openraft::storage::IOFlushed;
use tokio::sync::oneshot;

use crate::raft::store::log::record::Record;
use crate::raft::store::log::recovery::Location;
use crate::raft::types::{LogEntry, LogId, TypeConfig, Vote};

/// Records that become durable together, and who hears of it.
pub(super) struct Operation {
    pub(super) records: Vec<Record>,
    pub(super) done: Done,
}

/// Who hears that an operation is durable.
pub(super) enum Done {
    Nobody,
    Raft(IOFlushed<TypeConfig>),
    Caller(oneshot::Sender<io::Result<()>>),
}

impl Done {
    pub(super) fn tell(self, failed: Option<&str>) {
        let result = match failed {
            None => Ok(()),
            Some(why) => Err(io::Error::other(why.to_owned())),
        };
        match self {
            Self::Nobody => {}
            Self::Raft(callback) => callback.io_completed(result),
            Self::Caller(reply) => {
                let _caller_may_be_gone = reply.send(result);
            }
        }
    }
}

/// An entry kept decoded, with the size of its record.
pub(super) struct Cached {
    pub(super) entry: LogEntry,
    pub(super) bytes: usize,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) queue: Vec<Operation>,
    pub(super) closed: bool,
    /// The error that ended the writer.
    pub(super) failed: Option<String>,
    /// Recent entries, among them all that are not written yet.
    pub(super) cache: BTreeMap<u64, Cached>,
    pub(super) cache_bytes: usize,
    pub(super) cache_bytes_max: usize,
    /// Entries that are written, by index.
    pub(super) locations: BTreeMap<u64, Location>,
    pub(super) vote: Option<Vote>,
    pub(super) last: Option<LogId>,
    pub(super) purged: Option<LogId>,
    pub(super) committed: Option<LogId>,
    pub(super) committed_unwritten: Option<LogId>,
    pub(super) segment_count: usize,
}

impl State {
    /// An entry is written: it may be evicted, and is found by its place from now on.
    pub(super) fn place(&mut self, id: LogId, location: Location) {
        // Truncated, purged or replaced meanwhile: nobody may find this record any more.
        if self.cache.get(&id.index).is_some_and(|cached| cached.entry.log_id == id) {
            self.locations.insert(id.index, location);
        }
        while self.cache_bytes > self.cache_bytes_max {
            let Some((oldest, _)) = self.cache.first_key_value() else { break };
            let oldest = *oldest;
            if !self.locations.contains_key(&oldest) {
                break;
            }
            if let Some(cached) = self.cache.remove(&oldest) {
                self.cache_bytes -= cached.bytes;
            }
        }
    }

    pub(super) fn cache(&mut self, entry: LogEntry, bytes: usize) {
        self.last = Some(entry.log_id);
        self.locations.remove(&entry.log_id.index);
        if let Some(old) = self.cache.insert(entry.log_id.index, Cached { entry, bytes }) {
            self.cache_bytes -= old.bytes;
        }
        self.cache_bytes += bytes;
    }

    pub(super) fn truncate_after(&mut self, last: Option<LogId>) {
        let from = last.map_or(0, |id| id.index + 1);
        self.locations.split_off(&from);
        let gone = self.cache.split_off(&from);
        self.cache_bytes -= gone.values().map(|cached| cached.bytes).sum::<usize>();
        // Nothing to cut behind the end: the end stays where it is.
        self.last = self.last.min(last);
    }

    pub(super) fn purge(&mut self, upto: LogId) {
        self.locations = self.locations.split_off(&(upto.index + 1));
        let kept = self.cache.split_off(&(upto.index + 1));
        self.cache_bytes = kept.values().map(|cached| cached.bytes).sum();
        self.cache = kept;
        self.purged = Some(upto);
        self.last = self.last.max(Some(upto));
    }
}

/// Queue, cache and index, with the writer's wake-up.
#[derive(Default)]
pub(super) struct Shared {
    state: Mutex<State>,
    pub(super) work: Condvar,
}

impl Shared {
    pub(super) fn new(state: State) -> Self {
        Self { state: Mutex::new(state), work: Condvar::new() }
    }

    // The standard mutex: held for short copies and never across an await.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues an operation, together with a change of the state that must keep its order.
    pub(super) fn submit(
        &self,
        operation: Operation,
        change: impl FnOnce(&mut State),
    ) -> io::Result<()> {
        let mut state = self.state();
        if let Some(why) = &state.failed {
            return Err(io::Error::other(why.clone()));
        }
        change(&mut state);
        state.queue.push(operation);
        drop(state);
        self.work.notify_one();
        Ok(())
    }
}
