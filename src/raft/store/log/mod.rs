//! The Raft log and vote: our own segment log, the durable truth of a node.
//!
//! One stream of records for entries, votes, truncations and purges, in segments that are
//! preallocated and zeroed so that a sync has no blocks to allocate. A record is acknowledged only
//! after it is synced. What it does not do: decide anything about Raft.

pub mod by_hand;
#[cfg(test)]
pub(in crate::raft::store) mod driven;
mod record;
mod recovery;
mod shared;
mod summary;
mod table;
#[cfg(test)]
mod tests;
mod writer;

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;
use std::thread::JoinHandle;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};
use tokio::sync::oneshot;

use crate::raft::store::files::{FileHandle, Files};
use crate::raft::store::log::record::Record;
use crate::raft::store::log::recovery::{Location, Segment, segment_name};
use crate::raft::store::log::shared::{Done, Shared, State};
use crate::raft::store::log::table::Found;
pub use crate::raft::store::log::writer::{Fatal, SyncObserver};
use crate::raft::store::log::writer::{Prepare, Writer, prepare_in_thread};
use crate::raft::types::{LogEntry, LogId, TypeConfig, Vote};

/// Below this a segment would hold little but its header.
const SEGMENT_BYTES_MIN: u64 = 512;

/// Sizes of a log, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct LogOptions {
    /// Of one segment. Larger ones roll less often and hold purged entries longer.
    pub segment_bytes: u64,
    /// Of the recent entries kept decoded, by the memory they take; lagging followers are served
    /// from it.
    pub cache_bytes: usize,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self { segment_bytes: 16 * 1024 * 1024, cache_bytes: 64 * 1024 * 1024 }
    }
}

/// How much one read hands to replication at a time, in encoded bytes: some hundred entries, so
/// that a follower far behind does not pull the whole log into memory.
const READ_BYTES_MAX: usize = 1024 * 1024;

/// See [`LogStore::synced`].
pub type Synced = Arc<dyn Fn() -> BoxFuture<'static, io::Result<Option<LogId>>> + Send + Sync>;

/// The log as openraft wants it. Clones share it; when the last one is dropped, what is queued is
/// written and the writer thread ends.
#[derive(Clone)]
pub struct LogStore {
    shared: Arc<Shared>,
    _closer: Arc<Closer>,
}

/// Ends the writer thread once the last handle is gone, and waits for it.
struct Closer {
    shared: Arc<Shared>,
    writer: Option<JoinHandle<()>>,
}

impl Drop for Closer {
    fn drop(&mut self) {
        self.shared.state().closed = true;
        self.shared.work.notify_one();
        let own_thread = std::thread::current().id();
        if let Some(writer) = self.writer.take().filter(|it| it.thread().id() != own_thread) {
            let _panics_were_reported_by_the_thread = writer.join();
        }
    }
}

/// Sizes for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogSizes {
    /// Segment files in use, without the one prepared ahead.
    pub segments: usize,
    /// Entries that can be read.
    pub entries: u64,
    /// Index of the oldest entry that can be read.
    pub first_index: Option<u64>,
    /// Index of the newest entry, or of the last purged one.
    pub last_index: Option<u64>,
    /// About how much the entries kept in memory take.
    pub cached_bytes: usize,
}

impl LogStore {
    /// Reads the log back and starts its writer. Fails if anything durable is damaged, and then
    /// leaves everything as it was. The caller holds the lock of the data directory.
    pub fn open(
        files: Arc<dyn Files>,
        options: LogOptions,
        observe: SyncObserver,
        fatal: Fatal,
    ) -> io::Result<Self> {
        let (shared, writer) = parts(files, options, observe, fatal, prepare_in_thread)?;
        let thread = std::thread::Builder::new().name("log-writer".into());
        let writer = Some(thread.spawn(move || writer.run())?);
        let closer = Closer { shared: Arc::clone(&shared), writer };
        Ok(Self { shared, _closer: Arc::new(closer) })
    }

    /// Whether the entry with this id is in the log or was purged as part of it.
    pub fn has(&self, id: LogId) -> io::Result<bool> {
        let purged = self.shared.state().summary.purged;
        if purged.is_some_and(|purged| purged.index >= id.index) {
            return Ok(purged == Some(id));
        }
        let found = self.entries(id.index..=id.index, usize::MAX)?;
        Ok(found.first().is_some_and(|entry| entry.log_id == id))
    }

    /// The last id in the log and the last purged one.
    pub fn bounds(&self) -> (Option<LogId>, Option<LogId>) {
        let summary = self.shared.state().summary;
        (summary.last, summary.purged)
    }

    /// Tells the last vote and the last id in the log whenever it is called; keeps no log open.
    pub fn newest(&self) -> impl Fn() -> (Option<Vote>, Option<LogId>) + Send + Sync + 'static {
        let shared = Arc::clone(&self.shared);
        move || {
            let summary = shared.state().summary;
            (summary.vote, summary.last)
        }
    }

    /// Waits, whenever it is called, until all that was handed in before is synced, and tells the last
    /// id in the log then; keeps no log open.
    pub fn synced(&self) -> Synced {
        let shared = Arc::clone(&self.shared);
        Arc::new(move || {
            let shared = Arc::clone(&shared);
            async move {
                let (reply, durable) = oneshot::channel();
                shared.submit_entries(Vec::new(), Done::Caller(reply))?;
                durable.await.unwrap_or_else(|_| Err(io::Error::other("the log is closed")))?;
                Ok(shared.state().summary.last)
            }
            .boxed()
        })
    }

    /// Whether anything was ever written.
    pub fn is_empty(&self) -> bool {
        let summary = self.shared.state().summary;
        summary.last.is_none() && summary.vote.is_none()
    }

    /// Sizes for metrics.
    pub fn sizes(&self) -> LogSizes {
        let state = self.shared.state();
        let (first_index, last_index) =
            (state.summary.first, state.summary.last.map(|id| id.index));
        let entries = match (first_index, last_index) {
            (Some(first), Some(last)) => last + 1 - first,
            (Some(_) | None, _) => 0,
        };
        let segments = state.segments.len();
        let cached_bytes = state.table.memory_bytes();
        LogSizes { segments, entries, first_index, last_index, cached_bytes }
    }

    /// The entries of a range, from memory where they are kept and from their segment elsewhere;
    /// fewer than asked for once they exceed `bytes_max`.
    fn entries(&self, range: impl RangeBounds<u64>, bytes_max: usize) -> io::Result<Vec<LogEntry>> {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(start) => start.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(end) => end.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        let sources: Vec<Source> = {
            let state = self.shared.state();
            // The open file goes along, so that a purge meanwhile cannot take it away.
            let source = |found| match found {
                Found::Memory(entry) => Source::Memory(entry),
                Found::Disk(place) => {
                    Source::Disk(state.segments.get(&place.sequence).cloned(), place)
                }
            };
            state.table.find(start, end, bytes_max).into_iter().map(source).collect()
        };
        sources.into_iter().map(Source::read).collect()
    }
}

/// The log of a directory as it is read back: what callers share, and its writer, not yet running.
fn parts(
    files: Arc<dyn Files>,
    options: LogOptions,
    observe: SyncObserver,
    fatal: Fatal,
    prepare: Prepare,
) -> io::Result<(Arc<Shared>, Writer)> {
    let recovered = recovery::recover(&*files, options.cache_bytes)?;
    let handle = |segment: &Segment| (segment.sequence, Arc::clone(&segment.file));
    let state = State {
        summary: recovered.summary,
        table: recovered.table,
        segments: recovered.segments.iter().map(handle).collect(),
        ..State::default()
    };
    let shared = Arc::new(Shared::new(state));
    let writer = Writer {
        shared: Arc::clone(&shared),
        files,
        segment_bytes: options.segment_bytes.max(SEGMENT_BYTES_MIN),
        segments: recovered.segments,
        offset: recovered.offset,
        sealed: recovered.sealed,
        prepare,
        prepared: recovered.prepared,
        summary: recovered.summary,
        pending: Vec::new(),
        placed: Vec::new(),
        observe,
        fatal,
    };
    Ok((shared, writer))
}

/// An entry to be read once the state is no longer locked.
enum Source {
    Memory(Arc<LogEntry>),
    Disk(Option<Arc<dyn FileHandle>>, Location),
}

impl Source {
    fn read(self) -> io::Result<LogEntry> {
        match self {
            Self::Memory(entry) => Ok(Arc::unwrap_or_clone(entry)),
            Self::Disk(None, place) => Err(io::Error::other(format!(
                "read the log: {} is not open",
                segment_name(place.sequence)
            ))),
            Self::Disk(Some(file), place) => {
                let mut bytes = vec![0; place.bytes];
                file.read_at(&mut bytes, place.offset)?;
                record::read_entry(&bytes, place.sequence, place.offset).map_err(|error| {
                    let name = segment_name(place.sequence);
                    let why = format!("read the log: {name} at byte {}: {error}", place.offset);
                    io::Error::new(io::ErrorKind::InvalidData, why)
                })
            }
        }
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> io::Result<Vec<LogEntry>>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        self.entries(range, usize::MAX)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<LogEntry>> {
        self.entries(start..end, READ_BYTES_MAX)
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.shared.state().summary.vote)
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
        self.shared.submit(Record::vote(*vote), Done::Caller(reply))?;
        durable.await.unwrap_or_else(|_| Err(io::Error::other("the log is closed")))
    }

    /// Only notes it: it is written with the next group, or when the store is closed.
    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        let mut state = self.shared.state();
        state.summary.committed = committed;
        state.committed_unwritten = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        // A crash may lose entries that were committed and not yet synced here.
        let summary = self.shared.state().summary;
        Ok(summary.committed.min(summary.last))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = LogEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        self.shared.submit_entries(entries.into_iter().collect(), Done::Raft(callback))
    }

    /// Waits for the disk: a snapshot that takes the place of this end of the log lies in other
    /// files, and must not be durable before the end is gone. A node that lost power in between would
    /// have a log that contradicts its snapshot.
    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> io::Result<()> {
        let (reply, durable) = oneshot::channel();
        self.shared.submit(Record::truncate_after(last_log_id), Done::Caller(reply))?;
        durable.await.unwrap_or_else(|_| Err(io::Error::other("the log is closed")))
    }

    async fn purge(&mut self, log_id: LogId) -> io::Result<()> {
        self.shared.submit(Record::purge(log_id), Done::Nobody)
    }
}
