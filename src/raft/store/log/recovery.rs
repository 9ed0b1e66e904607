//! Reading the log back at start: exact recovery of all that was durable, or a refusal that says
//! so. Nothing durable is ever cut away, and a refused log is left as it was found.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use crate::raft::store::files::{FileHandle, Files};
use crate::raft::store::log::record::{self, Content, End, Header, Placed};
use crate::raft::store::log::summary::Summary;
use crate::raft::store::log::table::Table;
use crate::raft::store::log::writer::Prepared;

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
    /// Bytes of the file: where the segment is full.
    pub(super) size: u64,
    /// Highest entry index ever written to it; entries are only forgotten with their segment.
    pub(super) index_max: Option<u64>,
}

/// All that a log directory says.
pub(super) struct Recovered {
    pub(super) segments: VecDeque<Segment>,
    /// Where the next record goes in the last segment.
    pub(super) offset: u64,
    pub(super) sealed: bool,
    pub(super) prepared: Prepared,
    pub(super) summary: Summary,
    pub(super) table: Table,
    /// Up to where the last segment is known to have been synced.
    durable_upto: u64,
}

/// A segment as it was read.
struct Read {
    name: String,
    sequence: u64,
    file: Arc<dyn FileHandle>,
    size: u64,
    records: Vec<Placed>,
    end_at: usize,
    end: End,
}

/// Name of a segment's file.
pub(super) fn segment_name(sequence: u64) -> String {
    format!("log-{sequence:016x}.seg")
}

fn sequence_of(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("log-")?.strip_suffix(".seg")?;
    u64::from_str_radix(digits, 16).ok()
}

fn refuse(name: &str, offset: u64, why: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!(
            "the log is damaged: {name} at byte {offset}: {why}. It held acknowledged data, so it is \
             left untouched; rebuild this node from its peers: move its data directory away and \
             let it join under a new id"
        ),
    )
}

fn read(files: &dyn Files, sequence: u64) -> io::Result<Read> {
    let name = segment_name(sequence);
    let file = files.open(&name)?;
    let size = file.size()?;
    let mut bytes = vec![0; usize::try_from(size).map_err(io::Error::other)?];
    file.read_at(&mut bytes, 0)?;
    let (records, end_at, end) = record::scan(&bytes, sequence);
    Ok(Read { name, sequence, file, size, records, end_at, end })
}

/// Reads every segment, checks everything, and only then repairs what a crash left behind.
pub(super) fn recover(files: &dyn Files, cache_bytes_max: usize) -> io::Result<Recovered> {
    let sequences: Vec<u64> = files.list()?.iter().filter_map(|name| sequence_of(name)).collect();
    if let Some(gap) = sequences.windows(2).find(|pair| pair[0] + 1 != pair[1]) {
        return Err(refuse(&segment_name(gap[0] + 1), 0, "this segment is missing"));
    }
    let mut recovered = Recovered {
        segments: VecDeque::new(),
        offset: 0,
        sealed: false,
        prepared: Prepared::Nothing,
        summary: Summary::default(),
        table: Table::new(cache_bytes_max),
        durable_upto: 0,
    };
    let Some((&last, before)) = sequences.split_last() else { return Ok(recovered) };
    let tail = read(files, last)?;
    // The last file may be one that was prepared and whose header never became durable.
    let spare = tail.records.is_empty() && !matches!(tail.end, End::Damaged(_));
    let mut torn = false;
    for &sequence in before {
        let final_used = spare && sequence + 1 == last;
        torn = recovered.take_segment(read(files, sequence)?, final_used)?;
    }
    if spare {
        recovered.check()?;
        // A process that was killed may have removed segments and not synced that. Should the next
        // removal be on the disk before them, there would be a gap.
        files.sync_dir()?;
        recovered.repair_spare(files, &tail, torn)?;
        return Ok(recovered);
    }
    let name = tail.name.clone();
    torn = recovered.take_segment(tail, true)?;
    if recovered.sealed {
        let missing = segment_name(last + 1);
        return Err(refuse(&missing, 0, &format!("this segment is missing: {name} is sealed")));
    }
    recovered.check()?;
    files.sync_dir()?;
    recovered.settle_tail(torn)?;
    Ok(recovered)
}

impl Recovered {
    /// Takes the next segment in order. The final one may end torn and need not be sealed; answers
    /// whether it is torn.
    fn take_segment(&mut self, read: Read, is_final: bool) -> io::Result<bool> {
        let Read { name, sequence, file, size, records, end_at, end } = read;
        let end_at = end_at as u64;
        let mut segment = Segment { sequence, file, size, index_max: None };
        let mut records = records.into_iter();
        if let End::Damaged(error) = &end {
            return Err(refuse(&name, end_at, &error.to_string()));
        }
        match records.next().map(|first| first.content) {
            Some(Content::Header(header)) => self.take_header(&name, sequence, &header)?,
            Some(_) | None => return Err(refuse(&name, 0, "it does not start with a header")),
        }
        self.sealed = false;
        self.durable_upto = 0;
        for placed in records {
            let offset = placed.offset;
            self.durable_upto = placed.durable_upto;
            if self.sealed {
                return Err(refuse(&name, offset, "a record follows the seal"));
            }
            self.take_record(&mut segment, placed).map_err(|why| refuse(&name, offset, &why))?;
        }
        let torn = end == End::Torn;
        if !self.sealed && !is_final {
            return Err(refuse(
                &name,
                end_at,
                "its end is missing, and a later segment was written",
            ));
        }
        if self.sealed && torn {
            return Err(refuse(&name, end_at, "something follows the seal"));
        }
        self.offset = end_at;
        self.segments.push_back(segment);
        Ok(torn)
    }

    fn take_header(&mut self, name: &str, sequence: u64, header: &Header) -> io::Result<()> {
        if header.sequence != sequence {
            return Err(refuse(name, 0, "it is another segment under this name"));
        }
        if self.segments.is_empty() {
            self.summary = header.summary;
            if let (Some(first), Some(last)) = (header.summary.first, header.summary.last) {
                // Older segments held these; they are gone rightly only if a purge follows.
                (first..=last.index).for_each(|index| self.table.push_missing(index));
            }
        } else if header.summary != self.summary {
            return Err(refuse(name, 0, "it does not continue the segment before it"));
        }
        Ok(())
    }

    fn take_record(&mut self, segment: &mut Segment, placed: Placed) -> Result<(), String> {
        let Placed { content, offset, bytes, .. } = placed;
        self.summary.apply(content.effect())?;
        match content {
            Content::Header(_) => return Err("a second header".to_owned()),
            Content::Seal => self.sealed = true,
            Content::Vote(_) | Content::Committed(_) | Content::Witness => {}
            Content::Purge(_) | Content::TruncateAfter(_) => match self.summary.first {
                Some(first) => {
                    self.table.purge_before(first);
                    self.table.truncate_from(self.summary.last.map_or(0, |last| last.index + 1));
                }
                None => self.table.truncate_from(0),
            },
            Content::Entry(entry) => {
                let index = entry.log_id.index;
                segment.index_max = segment.index_max.max(Some(index));
                let ticket = self.table.push(Arc::new(entry), bytes);
                let location = Location { sequence: segment.sequence, offset, bytes };
                self.table.place(index, ticket, location);
            }
        }
        Ok(())
    }

    /// What must hold of a whole log.
    fn check(&self) -> io::Result<()> {
        if let Some(index) = self.table.missing() {
            let oldest = self.segments.front().map_or(1, |segment| segment.sequence);
            let name = segment_name(oldest.saturating_sub(1));
            return Err(refuse(
                &name,
                0,
                &format!("this segment is missing; it held entry {index}"),
            ));
        }
        // The first entry of a cluster is written before the first vote; any other after one.
        let later = self.summary.last.filter(|last| last.index > 0);
        if let (None, Some(last)) = (self.summary.vote, later) {
            let name = self.segments.back().map_or(1, |segment| segment.sequence);
            let why = format!("it ends with entry {} and there is no vote", last.index);
            return Err(refuse(&segment_name(name), self.offset, &why));
        }
        Ok(())
    }

    /// The last file was prepared for use: keep it where a seal says that it must be there.
    fn repair_spare(&mut self, files: &dyn Files, tail: &Read, torn: bool) -> io::Result<()> {
        if self.sealed {
            self.settle_tail(false)?;
            if tail.end == End::Torn {
                rewrite(&*tail.file, 0, 0, true)?;
            }
            self.prepared = Prepared::Ready(Arc::clone(&tail.file));
            return Ok(());
        }
        if self.segments.is_empty() && tail.sequence != 1 {
            return Err(refuse(&tail.name, 0, "its header is gone, and the segments before it"));
        }
        self.settle_tail(torn)?;
        // It may be shorter than it should be; a new one is made when it is needed.
        files.remove(&tail.name)?;
        files.sync_dir()
    }

    /// Makes durable what was read but may not be: the process before this one may have ended
    /// between a write and its sync, or because of a failed sync.
    fn settle_tail(&self, torn: bool) -> io::Result<()> {
        match self.segments.back() {
            Some(segment) => rewrite(&*segment.file, self.durable_upto, self.offset, torn),
            None => Ok(()),
        }
    }
}

/// Writes the bytes of `from..to` once more, because after a failed sync the page cache calls them
/// clean though the disk lacks them, zeros all behind them if that is torn, because a whole record
/// left there must not follow the next one written, and syncs.
fn rewrite(file: &dyn FileHandle, from: u64, to: u64, torn: bool) -> io::Result<()> {
    let end = if torn { file.size()? } else { to };
    let length = |until: u64| usize::try_from(until - from).map_err(io::Error::other);
    let mut bytes = vec![0; length(end)?];
    file.read_at(&mut bytes[..length(to)?], from)?;
    file.write_at(&bytes, from)?;
    file.sync()
}
