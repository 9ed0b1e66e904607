//! The thread that writes the log: group commit.
//!
//! It takes all that is queued, writes it in one piece, syncs once and then tells everybody. While
//! it syncs, the next group gathers; idle, it sleeps. Votes and entries go through the same queue,
//! so none overtakes another. The first error is final: the process must end, because after a
//! failed sync the page cache can no longer be trusted.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use oarlock_core::planted::{Bug, planted};

use crate::raft::store::files::{FileHandle, Files, preallocate};
use crate::raft::store::log::record::{Header, Record, SEAL_BYTES};
use crate::raft::store::log::recovery::{Location, Segment, segment_name};
use crate::raft::store::log::shared::{Done, Operation, Shared};
use crate::raft::store::log::summary::{Effect, Summary};

/// Hears how long each sync took and how many bytes it made durable.
pub type SyncObserver = Box<dyn Fn(Duration, usize) + Send + Sync>;

/// Ends the process; a test only notes the call.
pub type Fatal = Arc<dyn Fn(&str) + Send + Sync>;

/// Room for header and seal beside the one large record of a segment made for it, in bytes. Both
/// together take less than 200.
const SEGMENT_EXTRA_BYTES: u64 = 512;

/// Buffers above this many bytes are given back after a large group.
const BUFFER_BYTES_KEPT: usize = 1024 * 1024;

/// The next segment: at hand since the start, or being created beside the writer.
pub(super) enum Prepared {
    Nothing,
    Ready(Arc<dyn FileHandle>),
    Underway(Preparing),
}

/// Waits for a file that is being created.
pub(super) type Preparing = Box<dyn FnOnce() -> io::Result<Arc<dyn FileHandle>> + Send>;

/// Begins to create a file of that name and size. A parameter, so that a test decides when it is
/// done.
pub(super) type Prepare = fn(Arc<dyn Files>, String, u64) -> io::Result<Preparing>;

/// Creates the file in a thread of its own.
pub(super) fn prepare_in_thread(
    files: Arc<dyn Files>,
    name: String,
    size: u64,
) -> io::Result<Preparing> {
    let thread = std::thread::Builder::new().name("log-prepare".into());
    let thread = thread.spawn(move || preallocate(&*files, &name, size))?;
    let panicked = |_| Err(io::Error::other("preparing a segment panicked"));
    Ok(Box::new(move || thread.join().unwrap_or_else(panicked)))
}

pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) files: Arc<dyn Files>,
    pub(super) segment_bytes: u64,
    /// Oldest first; the last one is written to.
    pub(super) segments: VecDeque<Segment>,
    /// Where the pending bytes go in the last segment. All before it is synced.
    pub(super) offset: u64,
    /// The last segment has its seal: nothing may be added to it.
    pub(super) sealed: bool,
    pub(super) prepare: Prepare,
    pub(super) prepared: Prepared,
    /// What the stream says so far; goes into the header of the next segment.
    pub(super) summary: Summary,
    /// Bytes and entries of the group being written.
    pub(super) pending: Vec<u8>,
    pub(super) placed: Vec<(u64, u64, Location)>,
    pub(super) observe: SyncObserver,
    pub(super) fatal: Fatal,
}

impl Writer {
    /// Runs until the store is closed or an error ends it.
    pub(super) fn run(mut self) {
        let (shared, fatal) = (Arc::clone(&self.shared), Arc::clone(&self.fatal));
        // A panic must end the node like an error: otherwise everybody waits for ever.
        let outcome = catch_unwind(AssertUnwindSafe(|| self.write_groups()));
        let (why, in_flight) = match outcome {
            Ok(None) => return,
            Ok(Some((why, in_flight))) => (why, in_flight),
            Err(_) => ("the log writer panicked".to_owned(), Vec::new()),
        };
        give_up(&shared, &fatal, &why, in_flight);
    }

    /// Returns the first error with the operations it hit, or nothing when the store was closed.
    fn write_groups(&mut self) -> Option<(String, Vec<Operation>)> {
        if let Err(error) = self.witness() {
            return Some((error.to_string(), Vec::new()));
        }
        while let Some(operations) = self.next_group() {
            if let Err(failure) = self.commit(operations) {
                return Some(failure);
            }
            if let Err(error) = self.forget_purged().and_then(|()| self.witness()) {
                return Some((error.to_string(), Vec::new()));
            }
        }
        self.end();
        None
    }

    /// Makes a group durable and tells everybody.
    pub(super) fn commit(
        &mut self,
        operations: Vec<Operation>,
    ) -> Result<(), (String, Vec<Operation>)> {
        if let Err(error) = self.write(&operations) {
            return Err((error.to_string(), operations));
        }
        for operation in operations {
            operation.done.tell(None);
        }
        Ok(())
    }

    /// Leaves a witness behind the last group if no other one follows at once. It costs no sync:
    /// the page it lies on is the first of the next group.
    pub(super) fn witness(&self) -> io::Result<()> {
        if self.sealed || !self.shared.state().queue.is_empty() {
            return Ok(());
        }
        let Some(segment) = self.segments.back() else { return Ok(()) };
        let mut bytes = Vec::new();
        Record::witness().write(segment.sequence, self.offset, self.offset, &mut bytes);
        segment.file.write_at(&bytes, self.offset)
    }

    /// Makes the witness durable. And whoever opens the directory next must not meet a file that is
    /// still being made.
    pub(super) fn end(&mut self) {
        if let Some(segment) = self.segments.back() {
            let _nothing_acknowledged_depends_on_it = segment.file.sync();
        }
        if let Prepared::Underway(wait) = std::mem::replace(&mut self.prepared, Prepared::Nothing) {
            let _unused_and_checked_at_the_next_start = wait();
        }
    }

    /// What is queued; waits for it, and answers nothing once the store is closed.
    pub(super) fn next_group(&self) -> Option<Vec<Operation>> {
        let mut state = self.shared.state();
        while state.queue.is_empty() && !state.closed {
            state = self.shared.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let mut operations = std::mem::take(&mut state.queue);
        // What is committed need not be durable; it travels with the next group, or at the end.
        if let Some(committed) = state.committed_unwritten.take() {
            let records = vec![Record::committed(committed)];
            operations.push(Operation { records, tickets: Vec::new(), done: Done::Nobody });
        }
        (!operations.is_empty()).then_some(operations)
    }

    fn write(&mut self, operations: &[Operation]) -> io::Result<()> {
        for operation in operations {
            let mut tickets = operation.tickets.iter();
            for record in &operation.records {
                self.add(record, &mut tickets)?;
            }
        }
        self.flush()?;
        self.pending.shrink_to(BUFFER_BYTES_KEPT);
        Ok(())
    }

    /// Adds a record to the group, in a new segment if this one is full.
    fn add(&mut self, record: &Record, tickets: &mut std::slice::Iter<'_, u64>) -> io::Result<()> {
        let bytes = record.bytes();
        while !self.has_room(bytes as u64) {
            self.roll(bytes as u64)?;
        }
        let Some(segment) = self.segments.back_mut() else {
            return Err(io::Error::other("the log has no segment to write to"));
        };
        let offset = self.offset + self.pending.len() as u64;
        record.write(segment.sequence, offset, self.offset, &mut self.pending);
        self.summary.apply(record.effect).map_err(io::Error::other)?;
        if let (Effect::Entry(id), Some(ticket)) = (record.effect, tickets.next()) {
            segment.index_max = segment.index_max.max(Some(id.index));
            let location = Location { sequence: segment.sequence, offset, bytes };
            self.placed.push((id.index, *ticket, location));
        }
        Ok(())
    }

    fn has_room(&self, bytes: u64) -> bool {
        let end = self.offset + self.pending.len() as u64 + bytes + SEAL_BYTES;
        !self.sealed && self.segments.back().is_some_and(|segment| end <= segment.size)
    }

    /// Writes and syncs the pending bytes of the last segment, and tells where its entries are.
    fn flush(&mut self) -> io::Result<()> {
        let Some(segment) = self.segments.back() else { return Ok(()) };
        if self.pending.is_empty() {
            return Ok(());
        }
        let began = Instant::now();
        segment.file.write_at(&self.pending, self.offset)?;
        if !planted(Bug::AcknowledgedBeforeSync) {
            segment.file.sync()?;
        }
        (self.observe)(began.elapsed(), self.pending.len());
        self.offset += self.pending.len() as u64;
        self.pending.clear();
        let mut state = self.shared.state();
        for (index, ticket, location) in self.placed.drain(..) {
            state.table.place(index, ticket, location);
        }
        Ok(())
    }

    /// Begins a segment. The order is what recovery relies on: the next file is there, then this
    /// segment is sealed, then the next one gets its header; each step is durable before the next.
    fn roll(&mut self, record_bytes: u64) -> io::Result<()> {
        let sequence = self.segments.back().map_or(1, |segment| segment.sequence + 1);
        let file = self.next_file(sequence, record_bytes)?;
        if !self.sealed && !self.segments.is_empty() {
            let (current, offset) = (sequence - 1, self.offset + self.pending.len() as u64);
            Record::seal().write(current, offset, self.offset, &mut self.pending);
            self.flush()?;
            self.sealed = true;
        }
        let size = file.size()?;
        let header = Record::header(&Header { sequence, summary: self.summary });
        self.shared.state().segments.insert(sequence, Arc::clone(&file));
        self.segments.push_back(Segment { sequence, file, size, index_max: None });
        self.offset = 0;
        header.write(sequence, 0, 0, &mut self.pending);
        self.flush()?;
        self.sealed = false;
        let (files, next) = (Arc::clone(&self.files), segment_name(sequence + 1));
        self.prepared = Prepared::Underway((self.prepare)(files, next, self.segment_bytes)?);
        Ok(())
    }

    /// The file of the next segment, large enough for the record. After a seal it must be the one
    /// that is there, because a sealed segment without a successor is refused at start.
    fn next_file(&mut self, sequence: u64, record_bytes: u64) -> io::Result<Arc<dyn FileHandle>> {
        let size = self.segment_bytes.max(record_bytes + SEGMENT_EXTRA_BYTES);
        let file = match std::mem::replace(&mut self.prepared, Prepared::Nothing) {
            Prepared::Nothing => return preallocate(&*self.files, &segment_name(sequence), size),
            Prepared::Ready(file) => file,
            Prepared::Underway(wait) => match wait() {
                Ok(file) => file,
                // The disk was full when the file was prepared, perhaps long ago: by now there may be room.
                Err(error) if error.kind() == io::ErrorKind::StorageFull && !self.sealed => {
                    tracing::warn!(%error, "the next segment could not be prepared; trying again");
                    self.remove_unfinished(&segment_name(sequence))?;
                    return preallocate(&*self.files, &segment_name(sequence), size);
                }
                Err(error) => return Err(error),
            },
        };
        if self.sealed || file.size()? >= size {
            return Ok(file);
        }
        self.files.remove(&segment_name(sequence))?;
        preallocate(&*self.files, &segment_name(sequence), size)
    }

    /// What a preparation that failed may have left.
    fn remove_unfinished(&self, name: &str) -> io::Result<()> {
        match self.files.remove(name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Deletes whole segments from the front that hold nothing but purged entries. One by one: a
    /// crash must not leave a gap.
    pub(super) fn forget_purged(&mut self) -> io::Result<()> {
        let purged = self.summary.purged.map(|id| id.index);
        while self.segments.len() > 1 && self.segments[0].index_max <= purged {
            let Some(segment) = self.segments.pop_front() else { break };
            self.shared.state().segments.remove(&segment.sequence);
            self.files.remove(&segment_name(segment.sequence))?;
            if !planted(Bug::PurgesAreNotOrdered) {
                self.files.sync_dir()?;
            }
        }
        Ok(())
    }
}

/// The first error is final: ends the process, and tells everybody who waits where that returns.
pub(super) fn give_up(shared: &Shared, fatal: &Fatal, why: &str, in_flight: Vec<Operation>) {
    let queued = {
        let mut state = shared.state();
        state.failed = Some(why.to_owned());
        std::mem::take(&mut state.queue)
    };
    fatal(&format!("write the log: {why}"));
    for operation in in_flight.into_iter().chain(queued) {
        operation.done.tell(Some(why));
    }
}
