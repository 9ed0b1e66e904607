//! The Raft log and vote: our own segment log, the durable truth of a node.
//!
//! One stream of records for entries, votes, truncations and purges, in segments that are
//! preallocated and zeroed so that a sync has no blocks to allocate. A record is acknowledged only
//! after it is synced. What it does not do: decide anything about Raft.

mod record;
mod recovery;
mod shared;
#[cfg(test)]
mod tests;
mod writer;

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};
use tokio::sync::oneshot;

use crate::raft::store::files::Files;
use crate::raft::store::log::record::{Header, Record};
use crate::raft::store::log::recovery::{Location, segment_name};
use crate::raft::store::log::shared::{Done, Operation, Shared, State};
use crate::raft::store::log::writer::Writer;
pub use crate::raft::store::log::writer::{Fatal, SyncObserver};
use crate::raft::types::{LogEntry, LogId, TypeConfig, Vote};

/// Sizes of a log, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct LogOptions {
    /// Of one segment. Larger ones roll less often and hold purged entries longer.
    pub segment_bytes: u64,
    /// Of the recent entries kept decoded; lagging followers are served from it.
    pub cache_bytes: usize,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self { segment_bytes: 16 * 1024 * 1024, cache_bytes: 64 * 1024 * 1024 }
    }
}

/// The log as openraft wants it. Clones share it.
#[derive(Clone)]
pub struct LogStore {
    shared: Arc<Shared>,
    files: Arc<dyn Files>,
    _closer: Arc<Closer>,
}

/// Lets the writer thread end once the last handle is gone.
struct Closer(Arc<Shared>);

impl Drop for Closer {
    fn drop(&mut self) {
        self.0.state().closed = true;
        self.0.work.notify_one();
    }
}

/// Sizes for metrics.
#[derive(Debug, Clone, Copy, Default)]
pub struct LogSizes {
    /// Segment files in use.
    pub segments: usize,
    /// Entries that can be read.
    pub entries: u64,
}

impl LogStore {
    /// Reads the log back and starts its writer. Fails if anything durable is damaged.
    pub fn open(
        files: Arc<dyn Files>,
        options: LogOptions,
        observe: SyncObserver,
        fatal: Fatal,
    ) -> io::Result<Self> {
        let recovered = recovery::recover(&*files, options.cache_bytes)?;
        let (vote, purged, committed) = (recovered.vote, recovered.purged, recovered.committed);
        let mut state = State {
            cache_bytes_max: options.cache_bytes,
            vote,
            purged,
            committed,
            segment_count: recovered.segments.len(),
            ..State::default()
        };
        for (index, entry) in recovered.entries {
            let bytes = recovered.locations.get(&index).map_or(0, |location| location.bytes);
            state.cache(entry, bytes);
        }
        state.last = recovered.last;
        state.locations = recovered.locations;
        let shared = Arc::new(Shared::new(state));
        let sequence = recovered.segments.last().map_or(0, |segment| segment.sequence);
        let writer = Writer {
            shared: Arc::clone(&shared),
            files: Arc::clone(&files),
            segment_bytes: options.segment_bytes,
            segments: recovered.segments,
            offset: recovered.offset,
            prepared: None,
            header: Header { sequence, vote, purged, committed },
            observe,
            fatal,
        };
        std::thread::Builder::new().name("log-writer".into()).spawn(move || writer.run())?;
        Ok(Self { _closer: Arc::new(Closer(Arc::clone(&shared))), shared, files })
    }

    /// Whether the entry with this id is in the log or was purged as part of it.
    pub fn has(&self, id: LogId) -> io::Result<bool> {
        if self.shared.state().purged >= Some(id) {
            return Ok(self.shared.state().purged == Some(id));
        }
        Ok(self.entries(id.index..=id.index)?.first().is_some_and(|entry| entry.log_id == id))
    }

    /// The last id in the log and the last purged one.
    pub fn bounds(&self) -> (Option<LogId>, Option<LogId>) {
        let state = self.shared.state();
        (state.last, state.purged)
    }

    /// Whether anything was ever written.
    pub fn is_empty(&self) -> bool {
        let state = self.shared.state();
        state.last.is_none() && state.vote.is_none()
    }

    /// Sizes for metrics.
    pub fn sizes(&self) -> LogSizes {
        let state = self.shared.state();
        let first = state.purged.map_or(0, |id| id.index + 1);
        let entries = state.last.map_or(0, |id| (id.index + 1).saturating_sub(first));
        LogSizes { segments: state.segment_count, entries }
    }

    /// The entries of a range, from memory where they are kept and from their segment elsewhere.
    fn entries(&self, range: impl RangeBounds<u64>) -> io::Result<Vec<LogEntry>> {
        enum Source {
            Memory(LogEntry),
            Disk(Location),
        }
        let mut sources = Vec::new();
        {
            let state = self.shared.state();
            let start = match range.start_bound() {
                Bound::Included(start) => *start,
                Bound::Excluded(start) => start + 1,
                Bound::Unbounded => 0,
            };
            let first = [state.cache.keys().next(), state.locations.keys().next()];
            let start = first.into_iter().flatten().min().map_or(start, |first| start.max(*first));
            let last = state.last.map_or(0, |id| id.index + 1);
            for index in start..last {
                if !range.contains(&index) {
                    break;
                }
                match (state.cache.get(&index), state.locations.get(&index)) {
                    (Some(cached), _) => sources.push(Source::Memory(cached.entry.clone())),
                    (None, Some(location)) => sources.push(Source::Disk(*location)),
                    // Only the front may be missing, in a log that never began at zero.
                    (None, None) if sources.is_empty() => {}
                    (None, None) => break,
                }
            }
        }
        let read = |source| match source {
            Source::Memory(entry) => Ok(entry),
            Source::Disk(location) => self.read(location),
        };
        sources.into_iter().map(read).collect()
    }

    fn read(&self, location: Location) -> io::Result<LogEntry> {
        let file = self.files.open(&segment_name(location.sequence))?;
        let mut bytes = vec![0; location.bytes];
        file.read_at(&mut bytes, location.offset)?;
        Ok(record::read_entry(&bytes, location.sequence, location.offset)?)
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> io::Result<Vec<LogEntry>>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        self.entries(range)
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.shared.state().vote)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let (last_log_id, last_purged_log_id) = self.bounds();
        Ok(LogState { last_purged_log_id, last_log_id })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let (reply, durable) = oneshot::channel();
        let operation = Operation { records: vec![Record::vote(*vote)], done: Done::Caller(reply) };
        self.shared.submit(operation, |state| state.vote = Some(*vote))?;
        durable.await.unwrap_or_else(|_| Err(io::Error::other("the log is closed")))
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        let mut state = self.shared.state();
        state.committed = committed;
        state.committed_unwritten = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        // A crash may lose entries that were committed here and not yet synced here.
        let state = self.shared.state();
        Ok(state.committed.min(state.last))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = LogEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<LogEntry> = entries.into_iter().collect();
        let records: Vec<Record> = entries.iter().map(Record::entry).collect();
        let sizes: Vec<usize> = records.iter().map(Record::bytes).collect();
        let operation = Operation { records, done: Done::Raft(callback) };
        self.shared.submit(operation, |state| {
            for (entry, bytes) in entries.into_iter().zip(sizes) {
                state.cache(entry, bytes);
            }
        })
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> io::Result<()> {
        let records = vec![Record::truncate_after(last_log_id)];
        let operation = Operation { records, done: Done::Nobody };
        self.shared.submit(operation, |state| state.truncate_after(last_log_id))
    }

    async fn purge(&mut self, log_id: LogId) -> io::Result<()> {
        let operation = Operation { records: vec![Record::purge(log_id)], done: Done::Nobody };
        self.shared.submit(operation, |state| state.purge(log_id))
    }
}
