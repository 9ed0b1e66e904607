//! What the callers of the log and its writer thread share.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use oarlock_core::planted::{Bug, planted};
use openraft::storage::IOFlushed;
use tokio::sync::oneshot;

use crate::raft::store::files::FileHandle;
use crate::raft::store::log::record::Record;
use crate::raft::store::log::summary::{Effect, Summary};
use crate::raft::store::log::table::Table;
use crate::raft::types::{LogEntry, LogId, TypeConfig};

/// Records that become durable together, and who hears of it.
pub(super) struct Operation {
    pub(super) records: Vec<Record>,
    /// Tickets of the records that are entries, in their order.
    pub(super) tickets: Vec<u64>,
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

#[derive(Default)]
pub(super) struct State {
    /// Bounded by what openraft and the batcher have in flight.
    pub(super) queue: Vec<Operation>,
    pub(super) closed: bool,
    /// The error that ended the writer.
    pub(super) failed: Option<String>,
    /// Of all that was submitted, written or not.
    pub(super) summary: Summary,
    pub(super) table: Table,
    pub(super) committed_unwritten: Option<LogId>,
    /// Open files by sequence, kept so that a read can outlive the file's name.
    pub(super) segments: BTreeMap<u64, Arc<dyn FileHandle>>,
}

impl State {
    fn apply(&mut self, effect: Effect) -> io::Result<()> {
        self.summary
            .apply(effect)
            .map_err(|why| io::Error::new(io::ErrorKind::InvalidInput, why))?;
        match (self.summary.first, self.summary.last) {
            (Some(first), Some(last)) => {
                self.table.purge_before(first);
                self.table.truncate_from(last.index + 1);
            }
            (Some(_) | None, _) => self.table.truncate_from(0),
        }
        Ok(())
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

    /// Queues one record that is not an entry, and lets it take effect for readers.
    pub(super) fn submit(&self, record: Record, mut done: Done) -> io::Result<()> {
        let mut state = self.open_state()?;
        state.apply(record.effect)?;
        if planted(Bug::VoteBeforeSync) && matches!(record.effect, Effect::Vote(_)) {
            std::mem::replace(&mut done, Done::Nobody).tell(None);
        }
        state.queue.push(Operation { records: vec![record], tickets: Vec::new(), done });
        drop(state);
        self.work.notify_one();
        Ok(())
    }

    /// Queues entries, which can be read from now on.
    pub(super) fn submit_entries(&self, entries: Vec<LogEntry>, done: Done) -> io::Result<()> {
        let records: Vec<Record> = entries.iter().map(Record::entry).collect();
        let entries: Vec<Arc<LogEntry>> = entries.into_iter().map(Arc::new).collect();
        let mut state = self.open_state()?;
        // On a copy: a refused batch must leave no trace.
        let mut summary = state.summary;
        for record in &records {
            summary
                .apply(record.effect)
                .map_err(|why| io::Error::new(io::ErrorKind::InvalidInput, why))?;
        }
        state.summary = summary;
        let slots = entries.into_iter().zip(&records);
        let tickets = slots.map(|(entry, it)| state.table.push(entry, it.bytes())).collect();
        state.queue.push(Operation { records, tickets, done });
        drop(state);
        self.work.notify_one();
        Ok(())
    }

    fn open_state(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.state();
        match &state.failed {
            Some(why) => Err(io::Error::other(why.clone())),
            None => Ok(state),
        }
    }
}
