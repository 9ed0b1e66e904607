//! Reading the log back at start: exact recovery of all that was durable, or a refusal that says
//! so. Nothing durable is ever cut away.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use crate::raft::store::files::{FileHandle, Files};
use crate::raft::store::log::record::{self, Content, End, Header, Placed};
use crate::raft::types::{LogEntry, LogId, Vote};

/// Where an entry's record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Location {
    pub(super) sequence: u64,
    pub(super) offset: u64,
    pub(super) bytes: usize,
}

/// A segment file.
pub(super) struct Segment {
    pub(super) sequence: u64,
    pub(super) file: Arc<dyn FileHandle>,
    /// Highest entry index ever written to it; entries are only forgotten with their segment.
    pub(super) index_max: Option<u64>,
}

/// All that a log directory says.
#[derive(Default)]
pub(super) struct Recovered {
    pub(super) segments: Vec<Segment>,
    /// Where the next record goes in the last segment; zero for one without a header.
    pub(super) offset: u64,
    pub(super) vote: Option<Vote>,
    pub(super) purged: Option<LogId>,
    pub(super) committed: Option<LogId>,
    pub(super) locations: BTreeMap<u64, Location>,
    pub(super) entries: BTreeMap<u64, LogEntry>,
    pub(super) entry_bytes: usize,
    pub(super) last: Option<LogId>,
}

/// Name of a segment's file.
pub(super) fn segment_name(sequence: u64) -> String {
    format!("log-{sequence:016x}.seg")
}

fn sequence_of(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("log-")?.strip_suffix(".seg")?;
    u64::from_str_radix(digits, 16).ok()
}

fn refuse(name: &str, offset: usize, why: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!(
            "the log is damaged: {name} at byte {offset}: {why}. It held acknowledged data, so it is \
             left untouched; rebuild this node from its peers: move its data directory away and \
             let it join under a new id"
        ),
    )
}

/// Reads every segment. `cache_bytes_max` bounds the decoded entries that are kept.
pub(super) fn recover(files: &dyn Files, cache_bytes_max: usize) -> io::Result<Recovered> {
    let sequences: Vec<u64> = files.list()?.iter().filter_map(|name| sequence_of(name)).collect();
    let mut recovered = Recovered::default();
    for (place, &sequence) in sequences.iter().enumerate() {
        let name = segment_name(sequence);
        if place > 0 && sequences[place - 1] + 1 != sequence {
            return Err(refuse(&name, 0, "the segment before it is missing"));
        }
        let file = files.open(&name)?;
        let size = usize::try_from(file.size()?).map_err(io::Error::other)?;
        let mut bytes = vec![0; size];
        file.read_at(&mut bytes, 0)?;
        let unused = bytes.iter().all(|byte| *byte == 0);
        let rest_unused = || -> io::Result<bool> {
            sequences[place + 1..].iter().try_fold(true, |all, &s| Ok(all && is_zero(files, s)?))
        };
        if unused {
            // Prepared ahead and not written yet; anything after it would be a gap.
            if !rest_unused()? {
                return Err(refuse(&name, 0, "it is empty and a later segment is not"));
            }
        }
        let (records, end_at, end) = record::scan(&bytes, sequence);
        match &end {
            End::Clean => {}
            End::Torn if rest_unused()? => wipe(&*file, end_at, size)?,
            End::Torn => return Err(refuse(&name, end_at, "it is unreadable before its end")),
            End::Damaged(error) => return Err(refuse(&name, end_at, &error.to_string())),
        }
        if place == 0 && !unused && !matches!(records.first(), Some(first) if is_header(first)) {
            if !records.is_empty() {
                return Err(refuse(&name, 0, "it does not start with a header"));
            }
        }
        let mut segment = Segment { sequence, file, index_max: None };
        let started = !records.is_empty();
        for placed in records {
            recovered.take(&mut segment, placed, cache_bytes_max);
        }
        if started || recovered.segments.is_empty() {
            recovered.offset = end_at as u64;
            recovered.segments.push(segment);
        }
        // A prepared segment is created again when it is needed.
        if !started && recovered.segments.last().is_some_and(|last| last.sequence != sequence) {
            files.remove(&name)?;
        }
    }
    recovered.finish()
}

fn is_header(placed: &Placed) -> bool {
    matches!(placed.content, Content::Header(_))
}

fn is_zero(files: &dyn Files, sequence: u64) -> io::Result<bool> {
    let file = files.open(&segment_name(sequence))?;
    let size = usize::try_from(file.size()?).map_err(io::Error::other)?;
    let mut bytes = vec![0; size];
    file.read_at(&mut bytes, 0)?;
    // A header that was torn while the segment began holds nothing.
    Ok(record::scan(&bytes, sequence).0.is_empty())
}

/// Zeros a torn tail: a whole record left in it must not follow the next one that is written.
fn wipe(file: &dyn FileHandle, from: usize, to: usize) -> io::Result<()> {
    file.write_at(&vec![0; to - from], from as u64)?;
    file.sync()
}

impl Recovered {
    fn take(&mut self, segment: &mut Segment, placed: Placed, cache_bytes_max: usize) {
        let Placed { content, offset, bytes, .. } = placed;
        match content {
            Content::Header(Header { vote, purged, committed, sequence: _ }) => {
                self.vote = vote;
                self.committed = committed.max(self.committed);
                self.purge(purged);
            }
            Content::Vote(vote) => self.vote = Some(vote),
            Content::Committed(committed) => self.committed = Some(committed),
            Content::Purge(upto) => self.purge(Some(upto)),
            Content::TruncateAfter(last) => {
                let from = last.map_or(0, |id| id.index + 1);
                self.locations.split_off(&from);
                self.entries.split_off(&from);
                self.last = self.last.min(last);
            }
            Content::Entry(entry) => {
                let index = entry.log_id.index;
                segment.index_max = segment.index_max.max(Some(index));
                self.last = Some(entry.log_id);
                let location = Location { sequence: segment.sequence, offset, bytes };
                self.locations.insert(index, location);
                self.entries.insert(index, entry);
                self.entry_bytes += bytes;
                while self.entry_bytes > cache_bytes_max && self.entries.len() > 1 {
                    let Some((oldest, _)) = self.entries.pop_first() else { break };
                    self.entry_bytes -= self.locations.get(&oldest).map_or(0, |l| l.bytes);
                }
            }
        }
    }

    fn purge(&mut self, upto: Option<LogId>) {
        if let Some(upto) = upto {
            self.locations = self.locations.split_off(&(upto.index + 1));
            self.entries = self.entries.split_off(&(upto.index + 1));
            self.purged = Some(upto);
            self.last = self.last.max(Some(upto));
        }
    }

    fn finish(mut self) -> io::Result<Self> {
        if self.vote.is_none() && !self.locations.is_empty() {
            return Err(refuse("the log", 0, "it holds entries and no vote"));
        }
        let first = self.locations.first_key_value().map(|(index, _)| *index);
        let gap = first.is_some_and(|first| first > self.purged.map_or(0, |id| id.index + 1));
        let contiguous = first.is_none_or(|first| {
            self.locations.keys().zip(first..).all(|(index, expected)| *index == expected)
        });
        if gap || !contiguous {
            return Err(refuse("the log", 0, "entries are missing"));
        }
        self.entry_bytes =
            self.entries.keys().filter_map(|i| self.locations.get(i)).map(|l| l.bytes).sum();
        Ok(self)
    }
}
