//! Snapshot files: the whole state at one log position, in one checksummed file.
//!
//! ```text
//!  header: format, cluster, meta, rows | block of rows | … | trailer: rows, sum, length
//! ```
//! Each part is a frame of the codec; its checksum seeds the next one, so parts cannot be swapped
//! or dropped, and the trailer's checksum stands for the whole file. A file is verified from the
//! first byte to the last before anything believes it. It gets its final name only when it is
//! durable; the directory of them is `snapshots`.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use oarlock_core::image::{Row, RowKey};
use oarlock_core::planted::{Bug, planted};
use serde::{Deserialize, Serialize};

use crate::raft::store::codec::{self, CodecError, FRAME_BYTES};
use crate::raft::store::files::{FileHandle, Files};
use crate::raft::store::view::row_hash;
use crate::raft::types::SnapshotMeta;

/// Format of the file, in the header. A newer one is refused.
const FORMAT: u8 = 1;
/// Seed of the first frame.
const SEED: u32 = 0x4f53_4e41;
const KIND_HEADER: u8 = 0x48;
const KIND_BLOCK: u8 = 0x42;
const KIND_TRAILER: u8 = 0x54;
/// Rows are gathered up to this size; a single larger row is a block of its own.
const BLOCK_BYTES: usize = 256 * 1024;
/// Largest frame that is read: bounds what a damaged length can make us allocate.
const FRAME_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Rows between two lines of progress in the log.
const PROGRESS_ROWS: u64 = 1_000_000;

/// Persisted at the start of the file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Header {
    format: u8,
    pub(crate) cluster_id: u128,
    pub(crate) meta: SnapshotMeta,
    pub(crate) row_count: u64,
}

impl Header {
    /// Of a snapshot of so many rows.
    pub fn new(cluster_id: u128, meta: SnapshotMeta, row_count: u64) -> Self {
        Self { format: FORMAT, cluster_id, meta, row_count }
    }
}

/// Persisted at the end of the file.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Trailer {
    row_count: u64,
    /// Wrapping sum of the row hashes, as in the view.
    row_sum: u64,
    /// Bytes before the trailer.
    offset: u64,
}

fn bad(what: impl fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the snapshot cannot be used: {what}"))
}

/// Not damage: a later build can use the file, so it must stay where it is.
fn newer(what: impl fmt::Display) -> io::Error {
    let why = format!("the snapshot was written by a newer oarlock ({what}): upgrade this node");
    io::Error::new(io::ErrorKind::Unsupported, why)
}

/// Writes one snapshot file under a temporary name; dropped unfinished, the file goes.
pub struct SnapshotWriter {
    file: Arc<dyn FileHandle>,
    name: Removable,
    header: Header,
    offset: u64,
    chain: u32,
    block: Vec<u8>,
    rows: u64,
    sum: u64,
    begun: Instant,
}

impl SnapshotWriter {
    /// Begins a file of that name.
    pub fn create(files: &Arc<dyn Files>, name: String, header: Header) -> io::Result<Self> {
        let (file, name) = create_temporary(files, name)?;
        let begun = Instant::now();
        let (offset, chain, rows, sum) = (0, SEED, 0, 0);
        let mut writer =
            Self { file, name, header, offset, chain, block: Vec::new(), rows, sum, begun };
        let header = codec::encode(&writer.header);
        writer.frame(KIND_HEADER, &header)?;
        Ok(writer)
    }

    /// Adds an encoded row. True if a block was written: a moment to look after other things.
    pub fn push(&mut self, key: &[u8], value: &[u8]) -> io::Result<bool> {
        let bytes = 8 + key.len() + value.len();
        let full = !self.block.is_empty() && self.block.len() + bytes > BLOCK_BYTES;
        if full {
            self.end_block()?;
        }
        for part in [key, value] {
            let length = u32::try_from(part.len()).map_err(|_| bad("a row is too long"))?;
            self.block.extend_from_slice(&length.to_le_bytes());
            self.block.extend_from_slice(part);
        }
        self.rows += 1;
        self.sum = self.sum.wrapping_add(row_hash(key, value));
        if self.rows.is_multiple_of(PROGRESS_ROWS) {
            let seconds = self.begun.elapsed().as_secs();
            tracing::info!(rows = self.rows, of = self.header.row_count, seconds, "snapshot grows");
        }
        Ok(full)
    }

    /// Sum of the hashes of the rows so far.
    pub fn row_sum(&self) -> u64 {
        self.sum
    }

    /// Ends the file and makes it durable. Fails if the rows are not those that were announced.
    pub fn finish(mut self, row_sum: u64) -> io::Result<SnapshotFile> {
        if self.rows != self.header.row_count || self.sum != row_sum {
            return Err(bad(format!(
                "the view holds {} rows with sum {:x}, expected {} with {row_sum:x}",
                self.rows, self.sum, self.header.row_count
            )));
        }
        if !self.block.is_empty() {
            self.end_block()?;
        }
        let trailer = Trailer { row_count: self.rows, row_sum: self.sum, offset: self.offset };
        self.frame(KIND_TRAILER, &codec::encode(&trailer))?;
        if !planted(Bug::SnapshotNamedBeforeSync) {
            self.file.sync()?;
        }
        let (header, len, row_sum) = (self.header, self.offset, self.sum);
        let temporary = Mutex::new(Some(self.name));
        let inner = Inner { file: self.file, header, len, row_sum, temporary };
        Ok(SnapshotFile(Arc::new(inner)))
    }

    fn end_block(&mut self) -> io::Result<()> {
        let block = std::mem::take(&mut self.block);
        self.frame(KIND_BLOCK, &block)?;
        self.block = block;
        self.block.clear();
        Ok(())
    }

    fn frame(&mut self, kind: u8, payload: &[u8]) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(payload.len() + FRAME_BYTES);
        codec::frame(kind, self.chain, &mut bytes, |out| out.extend_from_slice(payload));
        self.chain = bytes.last_chunk().map_or(self.chain, |last| u32::from_le_bytes(*last));
        self.file.write_at(&bytes, self.offset)?;
        self.offset += bytes.len() as u64;
        Ok(())
    }
}

/// A name that is removed when dropped.
struct Removable {
    files: Arc<dyn Files>,
    name: String,
}

impl Drop for Removable {
    fn drop(&mut self) {
        // Already renamed, or left for the next start to clean up.
        let _gone = self.files.remove(&self.name);
    }
}

fn create_temporary(
    files: &Arc<dyn Files>,
    name: String,
) -> io::Result<(Arc<dyn FileHandle>, Removable)> {
    let file = files.create(&name)?;
    Ok((file, Removable { files: Arc::clone(files), name }))
}

struct Inner {
    file: Arc<dyn FileHandle>,
    header: Header,
    len: u64,
    row_sum: u64,
    /// The name to be removed with the last handle, while the file has no final one.
    temporary: Mutex<Option<Removable>>,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").field("header", &self.header).finish_non_exhaustive()
    }
}

/// A verified snapshot, open for reading; stays readable after its name is gone.
#[derive(Debug, Clone)]
pub struct SnapshotFile(Arc<Inner>);

impl SnapshotFile {
    /// Opens and verifies a file under its final name.
    pub fn open(files: &dyn Files, name: &str, cluster_id: u128) -> io::Result<Self> {
        Self::verify(files.open(name)?, None, Some(cluster_id))
    }

    /// Verifies a file of any cluster: a backup.
    pub fn of_any_cluster(file: Arc<dyn FileHandle>) -> io::Result<Self> {
        Self::verify(file, None, None)
    }

    fn verify(
        file: Arc<dyn FileHandle>,
        name: Option<Removable>,
        cluster_id: Option<u128>,
    ) -> io::Result<Self> {
        let len = file.size()?;
        let mut reader = Reader::begin(&*file, len)?;
        if cluster_id.is_some_and(|id| reader.header.cluster_id != id) {
            return Err(bad("it belongs to another cluster"));
        }
        while reader.next_row()?.is_some() {}
        let (header, row_sum) = (reader.header, reader.sum);
        let temporary = Mutex::new(name);
        Ok(Self(Arc::new(Inner { file, header, len, row_sum, temporary })))
    }

    /// What openraft knows of it.
    pub fn meta(&self) -> &SnapshotMeta {
        &self.0.header.meta
    }

    /// The cluster whose state it holds.
    pub fn cluster_id(&self) -> u128 {
        self.0.header.cluster_id
    }

    /// Bytes of the file.
    pub fn bytes(&self) -> u64 {
        self.0.len
    }

    /// Number of rows.
    pub fn row_count(&self) -> u64 {
        self.0.header.row_count
    }

    /// Sum of the row hashes.
    pub(crate) fn row_sum(&self) -> u64 {
        self.0.row_sum
    }

    /// Fills the buffer from `offset`, for sending; blocks for a disk read.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.file.read_at(buffer, offset)
    }

    /// The rows, decoded, in the order of the file; checked once more on the way.
    pub fn rows(&self) -> io::Result<impl Iterator<Item = io::Result<(RowKey, Row)>>> {
        let mut reader = Reader::begin(&*self.0.file, self.0.len)?;
        Ok(std::iter::from_fn(move || match reader.next_row() {
            Ok(Some((key, value))) => Some(decode_row(&key, &value)),
            Ok(None) => None,
            Err(error) => Some(Err(error)),
        })
        .fuse())
    }

    /// Gives a file that has only a temporary name its final one. False if it has one already.
    pub(crate) fn persist(&self, name: &str) -> io::Result<bool> {
        let mut held = self.0.temporary.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(temporary) = held.as_ref() else { return Ok(false) };
        temporary.files.rename(&temporary.name, name)?;
        *held = None;
        Ok(true)
    }
}

fn decode_row(key: &[u8], value: &[u8]) -> io::Result<(RowKey, Row)> {
    Ok((codec::decode(key)?, codec::decode(value)?))
}

/// A key and a value as they lie in the file.
type EncodedRow = (Vec<u8>, Vec<u8>);

/// Reads a file once, from front to back, verifying as it goes.
struct Reader<'a> {
    file: &'a dyn FileHandle,
    len: u64,
    header: Header,
    offset: u64,
    chain: u32,
    block: Vec<u8>,
    at: usize,
    rows: u64,
    sum: u64,
    ended: bool,
}

impl<'a> Reader<'a> {
    fn begin(file: &'a dyn FileHandle, len: u64) -> io::Result<Self> {
        let (kind, payload, chain) = read_frame(file, len, 0, SEED)?;
        if kind != KIND_HEADER {
            return Err(bad("it does not begin like one"));
        }
        let header: Header = codec::decode(&payload)?;
        if header.format != FORMAT {
            return Err(newer(format!("format {} is not known", header.format)));
        }
        let offset = (payload.len() + FRAME_BYTES) as u64;
        let (at, rows, sum) = (0, 0, 0);
        let block = Vec::new();
        Ok(Self { file, len, header, offset, chain, block, at, rows, sum, ended: false })
    }

    /// The next row, or `None` after the trailer was read and agreed with all before it.
    fn next_row(&mut self) -> io::Result<Option<EncodedRow>> {
        if self.at == self.block.len() {
            if self.ended {
                return Ok(None);
            }
            let begin = self.offset;
            let (kind, payload, chain) = read_frame(self.file, self.len, begin, self.chain)?;
            self.offset += (payload.len() + FRAME_BYTES) as u64;
            self.chain = chain;
            if kind == KIND_TRAILER {
                self.ended = true;
                return self.check_end(&payload, begin).map(|()| None);
            }
            if kind != KIND_BLOCK || payload.is_empty() {
                return Err(bad("a part of it is something else"));
            }
            (self.block, self.at) = (payload, 0);
        }
        let (key, value) = (self.part()?, self.part()?);
        self.rows += 1;
        self.sum = self.sum.wrapping_add(row_hash(&key, &value));
        Ok(Some((key, value)))
    }

    fn part(&mut self) -> io::Result<Vec<u8>> {
        let rest = &self.block[self.at..];
        let length = rest.first_chunk::<4>().ok_or_else(|| bad("a row is cut short"))?;
        let length = u32::from_le_bytes(*length) as usize;
        let part = rest.get(4..4 + length).ok_or_else(|| bad("a row is cut short"))?;
        self.at += 4 + length;
        Ok(part.to_vec())
    }

    fn check_end(&self, payload: &[u8], begin: u64) -> io::Result<()> {
        let written: Trailer = codec::decode(payload)?;
        let found = Trailer { row_count: self.rows, row_sum: self.sum, offset: begin };
        if written != found || self.rows != self.header.row_count || self.offset != self.len {
            return Err(bad("it does not add up"));
        }
        Ok(())
    }
}

fn read_frame(
    file: &dyn FileHandle,
    len: u64,
    offset: u64,
    seed: u32,
) -> io::Result<(u8, Vec<u8>, u32)> {
    let left = usize::try_from(len.saturating_sub(offset)).unwrap_or(usize::MAX);
    if left < FRAME_BYTES {
        return Err(bad("it is cut short"));
    }
    let mut start = [0; 6];
    file.read_at(&mut start, offset)?;
    let length = u32::from_le_bytes([start[2], start[3], start[4], start[5]]) as usize;
    if length > FRAME_BYTES_MAX || length + FRAME_BYTES > left {
        return Err(bad("it is cut short, or a length is damaged"));
    }
    let mut bytes = vec![0; length + FRAME_BYTES];
    file.read_at(&mut bytes, offset)?;
    let frame = codec::parse(&bytes, seed).map_err(|error| match error {
        CodecError::Version(version) => newer(format!("format {version} is not known")),
        CodecError::Short | CodecError::Checksum | CodecError::Payload(_) => {
            bad(format!("at {offset}: {error}"))
        }
    })?;
    let (kind, checksum) = (frame.kind, frame.checksum);
    bytes.truncate(bytes.len() - 4);
    bytes.drain(..6);
    Ok((kind, bytes, checksum))
}

/// Receives a snapshot from a peer, piece by piece; dropped unfinished, the file goes.
pub struct Incoming {
    file: Arc<dyn FileHandle>,
    name: Removable,
    cluster_id: u128,
    written: u64,
}

impl Incoming {
    pub(crate) fn create(
        files: &Arc<dyn Files>,
        name: String,
        cluster_id: u128,
    ) -> io::Result<Self> {
        let (file, name) = create_temporary(files, name)?;
        Ok(Self { file, name, cluster_id, written: 0 })
    }

    /// Bytes received so far; where the next piece belongs.
    pub fn bytes(&self) -> u64 {
        self.written
    }

    /// Appends the next piece. Blocks for a disk write.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_at(bytes, self.written)?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Makes the file durable and verifies all of it. Blocks for a read of the whole file.
    pub fn finish(self) -> io::Result<SnapshotFile> {
        self.file.sync()?;
        SnapshotFile::verify(self.file, Some(self.name), Some(self.cluster_id))
    }
}
