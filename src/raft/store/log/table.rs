//! Where each entry of the log is: in memory, in a segment, or both.
//!
//! Recent entries stay in memory up to a bound, and all that are not written yet beyond it. What
//! was evicted is found by its place. The table knows indexes, not files.

use std::collections::VecDeque;
use std::sync::Arc;

use oarlock_core::command::Command;
use oarlock_core::time::LeaseTime;
use openraft::EntryPayload;

use crate::raft::store::log::recovery::Location;
use crate::raft::types::LogEntry;

/// One entry. At least one of `entry` and `location` is there.
struct Slot {
    /// Tells apart two entries that had the same index one after the other.
    ticket: u64,
    entry: Option<Arc<LogEntry>>,
    location: Option<Location>,
    /// Encoded, by which reads are bounded.
    bytes: usize,
    /// Decoded, by which the memory is.
    memory_bytes: usize,
}

/// About what a decoded entry takes: its texts are as long as encoded, the rest of a command is as
/// large as the largest, which for most of them is ten times their encoding.
fn memory_of(entry: &LogEntry, bytes: usize) -> usize {
    let commands = match &entry.payload {
        EntryPayload::Normal(proposal) => proposal.0.commands.len(),
        EntryPayload::Blank | EntryPayload::Membership(_) => 0,
    };
    bytes + size_of::<LogEntry>() + commands * size_of::<(LeaseTime, Command)>()
}

/// An entry, wherever it is.
pub(super) enum Found {
    Memory(Arc<LogEntry>),
    Disk(Location),
}

#[derive(Default)]
pub(super) struct Table {
    /// Index of the first slot; without meaning while there is none.
    first: u64,
    slots: VecDeque<Slot>,
    /// Slots below this index are evicted, those from it on are in memory.
    memory_from: u64,
    memory_bytes: usize,
    memory_bytes_max: usize,
    next_ticket: u64,
}

impl Table {
    pub(super) fn new(memory_bytes_max: usize) -> Self {
        Self { memory_bytes_max, ..Self::default() }
    }

    /// About how much the entries held in memory take.
    pub(super) fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }

    fn end(&self) -> u64 {
        self.first + self.slots.len() as u64
    }

    fn position(&self, index: u64) -> Option<usize> {
        let position = usize::try_from(index.checked_sub(self.first)?).ok()?;
        (position < self.slots.len()).then_some(position)
    }

    /// Adds the entry after the last one and returns the ticket to place it with.
    pub(super) fn push(&mut self, entry: Arc<LogEntry>, bytes: usize) -> u64 {
        self.push_slot(entry.log_id.index, Some(entry), bytes)
    }

    /// Adds an entry that older segments should hold; it is missing until a purge covers it.
    pub(super) fn push_missing(&mut self, index: u64) {
        self.push_slot(index, None, 0);
        self.memory_from = index + 1;
    }

    fn push_slot(&mut self, index: u64, entry: Option<Arc<LogEntry>>, bytes: usize) -> u64 {
        if self.slots.is_empty() {
            self.first = index;
            self.memory_from = index;
        }
        debug_assert_eq!(index, self.end(), "the caller checked that entries follow each other");
        self.next_ticket += 1;
        let ticket = self.next_ticket;
        let memory_bytes = entry.as_ref().map_or(0, |entry| memory_of(entry, bytes));
        self.slots.push_back(Slot { ticket, entry, location: None, bytes, memory_bytes });
        self.memory_bytes += memory_bytes;
        ticket
    }

    /// An entry is written: from now on it may be evicted. One that was truncated, purged or
    /// replaced meanwhile is left alone.
    pub(super) fn place(&mut self, index: u64, ticket: u64, location: Location) {
        if let Some(slot) = self.position(index).and_then(|position| self.slots.get_mut(position))
            && slot.ticket == ticket
        {
            slot.location = Some(location);
        }
        self.evict();
    }

    fn evict(&mut self) {
        while self.memory_bytes > self.memory_bytes_max {
            let Some(position) = self.position(self.memory_from) else { return };
            let slot = &mut self.slots[position];
            if slot.location.is_none() {
                return;
            }
            slot.entry = None;
            self.memory_bytes -= slot.memory_bytes;
            self.memory_from += 1;
        }
    }

    /// Forgets the entries from `index` on.
    pub(super) fn truncate_from(&mut self, index: u64) {
        while self.end() > index {
            let Some(slot) = self.slots.pop_back() else { return };
            if slot.entry.is_some() {
                self.memory_bytes -= slot.memory_bytes;
            }
        }
        self.memory_from = self.memory_from.min(self.end());
    }

    /// Forgets the entries before `index`.
    pub(super) fn purge_before(&mut self, index: u64) {
        while self.first < index {
            let Some(slot) = self.slots.pop_front() else { return };
            self.first += 1;
            if slot.entry.is_some() {
                self.memory_bytes -= slot.memory_bytes;
            }
        }
        self.memory_from = self.memory_from.max(self.first);
    }

    /// The entries from `start` to before `end` that the log has, cut off once they exceed
    /// `bytes_max`, but never to none.
    pub(super) fn find(&self, start: u64, end: u64, bytes_max: usize) -> Vec<Found> {
        let start = start.max(self.first);
        let end = end.min(self.end());
        let mut found = Vec::new();
        let mut bytes = 0;
        for index in start..end {
            let Some(slot) = self.position(index).map(|position| &self.slots[position]) else {
                break;
            };
            bytes += slot.bytes;
            if bytes > bytes_max && !found.is_empty() {
                break;
            }
            match (&slot.entry, slot.location) {
                (Some(entry), _) => found.push(Found::Memory(Arc::clone(entry))),
                (None, Some(location)) => found.push(Found::Disk(location)),
                (None, None) => break,
            }
        }
        found
    }

    /// The first entry that is neither in memory nor in a segment.
    pub(super) fn missing(&self) -> Option<u64> {
        let lost = |slot: &Slot| slot.entry.is_none() && slot.location.is_none();
        self.slots.iter().zip(self.first..).find(|(slot, _)| lost(slot)).map(|(_, index)| index)
    }
}
