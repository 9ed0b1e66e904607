//! The records of the log's stream, and reading one segment back.
//!
//! ```text
//!  segment: [header][record][record]…[seal or witness][zeros to the end]
//!  record:  frame(kind, seed = place, payload = [durable_upto u64 LE][body])
//! ```
//!
//! `durable_upto` is the offset up to which the segment was known to be synced when the record was
//! written. That tells the two kinds of damage apart: an unreadable spot beyond every such offset
//! was never acknowledged and is a torn tail; one before it was durable once and is damage that
//! must not be cut away. What no later record vouches for cannot be told apart from a torn tail.
//! So an idle writer leaves a witness behind the last group: a record without effect, synced by
//! nobody, which the next group overwrites. Only what was written in the moment of a power cut, or
//! is lost together with its witness, is left without one.
//!
//! A header is synced alone, and a seal before the header of the next segment is written: so only
//! the last segment can have a torn tail, and a sealed one must have a successor.

use oarlock_core::planted::{Bug, planted};
use serde::{Deserialize, Serialize};

use crate::raft::store::codec::{self, CodecError};
use crate::raft::store::log::summary::{Effect, Summary};
use crate::raft::types::{LogEntry, LogId, Vote};

const KIND_HEADER: u8 = 1;
const KIND_ENTRY: u8 = 2;
const KIND_VOTE: u8 = 3;
const KIND_TRUNCATE: u8 = 4;
const KIND_PURGE: u8 = 5;
const KIND_COMMITTED: u8 = 6;
const KIND_SEAL: u8 = 7;
const KIND_WITNESS: u8 = 8;

/// Bytes of a record around its body.
pub(super) const RECORD_BYTES: usize = codec::FRAME_BYTES + 8;

/// Bytes of a seal, and of a witness: kept free at the end of every segment.
pub(super) const SEAL_BYTES: u64 = RECORD_BYTES as u64;

/// First record of a segment: all that must outlive the segments before it. Persisted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Header {
    pub(super) sequence: u64,
    pub(super) summary: Summary,
}

/// A record to be written: its kind, encoded body and effect.
#[derive(Debug, Clone)]
pub(super) struct Record {
    kind: u8,
    body: Vec<u8>,
    pub(super) effect: Effect,
}

impl Record {
    fn of<T: Serialize>(kind: u8, value: &T, effect: Effect) -> Self {
        Self { kind, body: codec::encode(value), effect }
    }

    pub(super) fn header(header: &Header) -> Self {
        Self::of(KIND_HEADER, header, Effect::Nothing)
    }

    pub(super) fn entry(entry: &LogEntry) -> Self {
        Self::of(KIND_ENTRY, entry, Effect::Entry(entry.log_id))
    }

    pub(super) fn vote(vote: Vote) -> Self {
        Self::of(KIND_VOTE, &vote, Effect::Vote(vote))
    }

    pub(super) fn truncate_after(last: Option<LogId>) -> Self {
        Self::of(KIND_TRUNCATE, &last, Effect::TruncateAfter(last))
    }

    pub(super) fn purge(upto: LogId) -> Self {
        Self::of(KIND_PURGE, &upto, Effect::Purge(upto))
    }

    pub(super) fn committed(committed: LogId) -> Self {
        Self::of(KIND_COMMITTED, &committed, Effect::Committed(committed))
    }

    pub(super) fn seal() -> Self {
        Self { kind: KIND_SEAL, body: Vec::new(), effect: Effect::Nothing }
    }

    pub(super) fn witness() -> Self {
        Self { kind: KIND_WITNESS, body: Vec::new(), effect: Effect::Nothing }
    }

    /// Bytes of the record in a segment.
    pub(super) fn bytes(&self) -> usize {
        self.body.len() + RECORD_BYTES
    }

    /// Appends the record to a segment's pending bytes, for its place there.
    pub(super) fn write(&self, sequence: u64, offset: u64, durable_upto: u64, out: &mut Vec<u8>) {
        codec::frame(self.kind, seed(sequence, offset), out, |payload| {
            payload.extend_from_slice(&durable_upto.to_le_bytes());
            payload.extend_from_slice(&self.body);
        });
    }
}

/// Ties a record to its place, so that bytes of another place or segment never read as a record.
fn seed(sequence: u64, offset: u64) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&sequence.to_le_bytes()), &offset.to_le_bytes())
}

/// A record as read back.
#[derive(Debug)]
pub(super) enum Content {
    Header(Header),
    Entry(LogEntry),
    Vote(Vote),
    TruncateAfter(Option<LogId>),
    Purge(LogId),
    Committed(LogId),
    Seal,
    Witness,
}

impl Content {
    pub(super) fn effect(&self) -> Effect {
        match self {
            Self::Header(_) | Self::Seal | Self::Witness => Effect::Nothing,
            Self::Entry(entry) => Effect::Entry(entry.log_id),
            Self::Vote(vote) => Effect::Vote(*vote),
            Self::TruncateAfter(last) => Effect::TruncateAfter(*last),
            Self::Purge(upto) => Effect::Purge(*upto),
            Self::Committed(committed) => Effect::Committed(*committed),
        }
    }
}

/// A record and the place it came from.
#[derive(Debug)]
pub(super) struct Placed {
    pub(super) content: Content,
    pub(super) offset: u64,
    pub(super) bytes: usize,
    pub(super) durable_upto: u64,
}

/// Reads the record at `offset` of a segment.
pub(super) fn read(segment: &[u8], sequence: u64, offset: usize) -> Result<Placed, CodecError> {
    let bytes = segment.get(offset..).ok_or(CodecError::Short)?;
    let frame = codec::parse(bytes, seed(sequence, offset as u64))?;
    let (durable, body) = frame.payload.split_first_chunk::<8>().ok_or(CodecError::Short)?;
    let content = match frame.kind {
        KIND_HEADER => Content::Header(codec::decode(body)?),
        KIND_ENTRY => Content::Entry(codec::decode(body)?),
        KIND_VOTE => Content::Vote(codec::decode(body)?),
        KIND_TRUNCATE => Content::TruncateAfter(codec::decode(body)?),
        KIND_PURGE => Content::Purge(codec::decode(body)?),
        KIND_COMMITTED => Content::Committed(codec::decode(body)?),
        KIND_SEAL => Content::Seal,
        KIND_WITNESS => Content::Witness,
        kind => return Err(CodecError::Payload(format!("record kind {kind} is not known"))),
    };
    let durable_upto = u64::from_le_bytes(*durable);
    Ok(Placed { content, offset: offset as u64, bytes: frame.bytes, durable_upto })
}

/// Reads one entry from the bytes of its record.
pub(super) fn read_entry(
    record: &[u8],
    sequence: u64,
    offset: u64,
) -> Result<LogEntry, CodecError> {
    let frame = codec::parse(record, seed(sequence, offset))?;
    let body = frame.payload.get(8..).ok_or(CodecError::Short)?;
    codec::decode(body)
}

/// How the readable part of a segment ends.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Zeros, or the end of the file.
    Clean,
    /// Something unreadable that nobody was told was durable.
    Torn,
    /// Something unreadable that was durable once.
    Damaged(CodecError),
}

/// Reads the records of a segment up to the first unreadable spot, and says what that spot is. The
/// place it answers is that of the damage, or else where the next record goes: in place of a
/// witness.
pub(super) fn scan(segment: &[u8], sequence: u64) -> (Vec<Placed>, usize, End) {
    let mut records = Vec::new();
    let (mut offset, mut end_at) = (0, 0);
    let error = loop {
        if segment[offset..].iter().all(|byte| *byte == 0) {
            return (records, end_at, End::Clean);
        }
        match read(segment, sequence, offset) {
            Ok(Placed { content: Content::Witness, bytes, .. }) => offset += bytes,
            Ok(record) => {
                offset += record.bytes;
                end_at = offset;
                records.push(record);
            }
            Err(error) => break error,
        }
    };
    let damaged = match error {
        CodecError::Version(_) | CodecError::Payload(_) => true,
        CodecError::Short | CodecError::Checksum => (offset + 1..segment.len()).any(|later| {
            segment[later] == codec::VERSION
                && read(segment, sequence, later)
                    .is_ok_and(|record| record.durable_upto > offset as u64)
        }),
    };
    let damaged = damaged && !planted(Bug::DamageIsCutAway);
    if damaged { (records, offset, End::Damaged(error)) } else { (records, end_at, End::Torn) }
}
