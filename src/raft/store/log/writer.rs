//! The thread that writes the log: group commit.
//!
//! It takes all that is queued, writes it in one piece, syncs once and then tells everybody. While
//! it syncs, the next group gathers; idle, it sleeps. Votes and entries go through the same queue,
//! so none overtakes another. The first error is final: the process must end, because after a
//! failed sync the page cache can no longer be trusted.

use std::io;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use crate::raft::store::files::{FileHandle, Files};
use crate::raft::store::log::record::{Effect, Header, Record};
use crate::raft::store::log::recovery::{Location, Segment, segment_name};
use crate::raft::store::log::shared::{Done, Operation, Shared};
use crate::raft::types::LogId;

/// Hears how long each sync took and how many bytes it made durable.
pub type SyncObserver = Box<dyn Fn(Duration, usize) + Send + Sync>;

/// Ends the process; a test only notes the call.
pub type Fatal = Arc<dyn Fn(&str) + Send + Sync>;

pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) files: Arc<dyn Files>,
    pub(super) segment_bytes: u64,
    pub(super) segments: Vec<Segment>,
    /// Where the next record goes in the last segment.
    pub(super) offset: u64,
    /// The next segment, being created by a thread of its own.
    pub(super) prepared: Option<std::thread::JoinHandle<io::Result<Arc<dyn FileHandle>>>>,
    /// What the stream says so far; goes into the header of the next segment.
    pub(super) header: Header,
    pub(super) observe: SyncObserver,
    pub(super) fatal: Fatal,
}

impl Writer {
    /// Runs until the store is closed or an error ends it.
    pub(super) fn run(mut self) {
        while let Some(operations) = self.next() {
            let result = self.write(&operations);
            let failed = result.as_ref().err().map(ToString::to_string);
            if let Some(why) = &failed {
                self.shared.state().failed = Some(why.clone());
            }
            for operation in operations {
                operation.done.tell(failed.as_deref());
            }
            if let Some(why) = failed {
                (self.fatal)(&format!("write the log: {why}"));
                return;
            }
        }
    }

    fn next(&self) -> Option<Vec<Operation>> {
        let mut state = self.shared.state();
        loop {
            if !state.queue.is_empty() {
                let mut operations = std::mem::take(&mut state.queue);
                // What is committed need not be durable; it travels with the next group.
                if let Some(committed) = state.committed_unwritten.take() {
                    let records = vec![Record::committed(committed)];
                    operations.push(Operation { records, done: Done::Nobody });
                }
                return Some(operations);
            }
            if state.closed {
                return None;
            }
            state = self.shared.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn write(&mut self, operations: &[Operation]) -> io::Result<()> {
        let mut pending = Vec::new();
        let mut placed = Vec::new();
        let mut durable_upto = self.offset;
        for record in operations.iter().flat_map(|operation| &operation.records) {
            let end = self.offset + pending.len() as u64 + record.bytes() as u64;
            if self.segments.is_empty() || (end > self.segment_bytes && self.offset > 0) {
                self.flush(&mut pending, &mut placed)?;
                self.roll(record.bytes() as u64)?;
                durable_upto = self.offset;
            }
            let Some(segment) = self.segments.last_mut() else { continue };
            let offset = self.offset + pending.len() as u64;
            record.write(segment.sequence, offset, durable_upto, &mut pending);
            match record.effect {
                Effect::Nothing => {}
                Effect::Vote(vote) => self.header.vote = Some(vote),
                Effect::Purge(upto) => self.header.purged = Some(upto),
                Effect::Committed(committed) => self.header.committed = Some(committed),
                Effect::Entry(id) => {
                    segment.index_max = segment.index_max.max(Some(id.index));
                    let (sequence, bytes) = (segment.sequence, record.bytes());
                    placed.push((id, Location { sequence, offset, bytes }));
                }
            }
        }
        self.flush(&mut pending, &mut placed)?;
        self.forget_purged()
    }

    /// Writes and syncs the pending bytes of the last segment, and tells where its entries are.
    fn flush(
        &mut self,
        pending: &mut Vec<u8>,
        placed: &mut Vec<(LogId, Location)>,
    ) -> io::Result<()> {
        let Some(segment) = self.segments.last() else { return Ok(()) };
        if pending.is_empty() {
            return Ok(());
        }
        let began = Instant::now();
        segment.file.write_at(pending, self.offset)?;
        segment.file.sync()?;
        (self.observe)(began.elapsed(), pending.len());
        self.offset += pending.len() as u64;
        pending.clear();
        let mut state = self.shared.state();
        for (id, location) in placed.drain(..) {
            state.place(id, location);
        }
        Ok(())
    }

    /// Begins a segment with a header that carries what must outlive the older ones.
    fn roll(&mut self, record_bytes: u64) -> io::Result<()> {
        let sequence = self.segments.last().map_or(1, |segment| segment.sequence + 1);
        let size = self.segment_bytes.max(record_bytes + 4096);
        let file = match self.prepared.take().map(std::thread::JoinHandle::join) {
            Some(Ok(Ok(file))) if file.size()? >= size => file,
            Some(Ok(Ok(_))) => {
                self.files.remove(&segment_name(sequence))?;
                self.files.create(&segment_name(sequence), size)?
            }
            Some(Ok(Err(error))) => return Err(error),
            Some(Err(_)) => return Err(io::Error::other("preparing a segment panicked")),
            None => self.files.create(&segment_name(sequence), size)?,
        };
        self.header.sequence = sequence;
        let mut bytes = Vec::new();
        Record::header(&self.header).write(sequence, 0, 0, &mut bytes);
        file.write_at(&bytes, 0)?;
        file.sync()?;
        self.offset = bytes.len() as u64;
        self.segments.push(Segment { sequence, file, index_max: None });
        let (files, next, size) = (Arc::clone(&self.files), sequence + 1, self.segment_bytes);
        let prepare = move || files.create(&segment_name(next), size);
        self.prepared =
            Some(std::thread::Builder::new().name("log-prepare".into()).spawn(prepare)?);
        Ok(())
    }

    /// Deletes whole segments from the front that hold nothing but purged entries.
    fn forget_purged(&mut self) -> io::Result<()> {
        let purged = self.header.purged.map(|id| id.index);
        let mut removed = false;
        while self.segments.len() > 1 && self.segments[0].index_max <= purged {
            let segment = self.segments.remove(0);
            self.files.remove(&segment_name(segment.sequence))?;
            removed = true;
        }
        if removed {
            self.files.sync_dir()?;
        }
        self.shared.state().segment_count = self.segments.len();
        Ok(())
    }
}
