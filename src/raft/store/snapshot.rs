//! Snapshot files: our own format, checksummed from the first byte to the last.
//!
//! ```text
//!  [frame header: meta, row count, blocks][frame block: rows]…[frame trailer: bytes, chained sum]
//! ```
//!
//! A file is written beside its name, synced, renamed, and its directory synced; only then does it
//! exist. It is verified whole before anything of it is used. The newest two are kept: should the
//! newest turn out damaged, the log still reaches back to the one before.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use oarlock_core::image::{Row, RowKey};
use serde::{Deserialize, Serialize};

use crate::raft::store::codec;
use crate::raft::types::{LogId, SnapshotMeta};

const KIND_HEADER: u8 = 0x51;
const KIND_BLOCK: u8 = 0x52;
const KIND_TRAILER: u8 = 0x53;

/// Rows are gathered to blocks of about this size, so that reading needs little memory at once.
const BLOCK_BYTES: usize = 256 * 1024;

/// Snapshots kept on disk.
const KEPT: usize = 2;

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Header {
    meta: SnapshotMeta,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Trailer {
    rows: u64,
    blocks: u64,
}

/// A verified snapshot file, open for reading. Clones share it.
#[derive(Debug, Clone)]
pub struct SnapshotFile {
    meta: SnapshotMeta,
    file: Arc<File>,
    path: PathBuf,
    bytes: u64,
}

fn bad(path: &Path, why: &str) -> io::Error {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    io::Error::new(io::ErrorKind::InvalidData, format!("snapshot {name} is damaged: {why}"))
}

impl SnapshotFile {
    /// What the snapshot stands for.
    pub fn meta(&self) -> &SnapshotMeta {
        &self.meta
    }

    /// Bytes of the file.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Reads a part of the file, for sending it.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    /// Opens and verifies a file, from the first byte to the last.
    pub fn open(path: &Path) -> io::Result<Self> {
        let meta = read(path, |_, _| Ok(()))?;
        let file = File::open(path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { meta, file: Arc::new(file), path: path.to_owned(), bytes })
    }

    /// All rows, verified again as they are read.
    pub fn rows(&self, mut each: impl FnMut(RowKey, Row) -> io::Result<()>) -> io::Result<()> {
        read(&self.path, &mut each).map(|_| ())
    }
}

/// Reads one frame of a stream; the seed chains each frame to the ones before it.
fn next_frame(reader: &mut impl Read, path: &Path, seed: u32) -> io::Result<(u8, Vec<u8>, u32)> {
    let mut bytes = vec![0; 6];
    reader.read_exact(&mut bytes).map_err(|_| bad(path, "it is cut short"))?;
    let length = u32::from_le_bytes([bytes[2], bytes[3], bytes[4], bytes[5]]) as u64 + 4;
    if length > 64 * 1024 * 1024 {
        return Err(bad(path, "a block has an impossible length"));
    }
    reader.take(length).read_to_end(&mut bytes)?;
    let frame = codec::parse(&bytes, seed).map_err(|error| bad(path, &error.to_string()))?;
    Ok((frame.kind, frame.payload.to_vec(), frame.checksum))
}

fn read(
    path: &Path,
    mut each: impl FnMut(RowKey, Row) -> io::Result<()>,
) -> io::Result<SnapshotMeta> {
    let mut reader = io::BufReader::new(File::open(path)?);
    let decode_error = |error: codec::CodecError| bad(path, &error.to_string());
    let (kind, payload, mut seed) = next_frame(&mut reader, path, 0)?;
    if kind != KIND_HEADER {
        return Err(bad(path, "it does not start with a header"));
    }
    let header: Header = codec::decode(&payload).map_err(decode_error)?;
    let mut found = Trailer { rows: 0, blocks: 0 };
    loop {
        let (kind, payload, checksum) = next_frame(&mut reader, path, seed)?;
        seed = checksum;
        match kind {
            KIND_BLOCK => {
                let rows: Vec<(RowKey, Row)> = codec::decode(&payload).map_err(decode_error)?;
                found.blocks += 1;
                found.rows += rows.len() as u64;
                for (key, row) in rows {
                    each(key, row)?;
                }
            }
            KIND_TRAILER => {
                let trailer: Trailer = codec::decode(&payload).map_err(decode_error)?;
                let mut rest = [0; 1];
                if trailer != found || reader.read(&mut rest)? != 0 {
                    return Err(bad(path, "its trailer does not match its content"));
                }
                return Ok(header.meta);
            }
            _ => return Err(bad(path, "it holds an unknown block")),
        }
    }
}

/// The snapshots of a node.
pub struct Snapshots {
    dir: PathBuf,
    newest: Mutex<Option<SnapshotFile>>,
}

impl Snapshots {
    /// Opens the directory and finds the newest snapshot that verifies. Damaged ones are set aside
    /// under another name, never deleted.
    pub fn open(dir: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let snapshots = Self { dir: dir.to_owned(), newest: Mutex::new(None) };
        let mut best: Option<SnapshotFile> = None;
        for path in snapshots.paths()? {
            match SnapshotFile::open(&path) {
                Ok(file)
                    if best.as_ref().is_none_or(|b| b.meta.last_log_id < file.meta.last_log_id) =>
                {
                    best = Some(file);
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::error!(%error, "a snapshot is damaged; it is set aside");
                    std::fs::rename(&path, path.with_extension("bad"))?;
                }
            }
        }
        *snapshots.newest_slot() = best;
        Ok(snapshots)
    }

    fn newest_slot(&self) -> std::sync::MutexGuard<'_, Option<SnapshotFile>> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn paths(&self) -> io::Result<Vec<PathBuf>> {
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "osnap") {
                paths.push(path);
            }
        }
        paths.sort();
        Ok(paths)
    }

    /// The newest snapshot.
    pub fn newest(&self) -> Option<SnapshotFile> {
        self.newest_slot().clone()
    }

    fn path_of(&self, id: Option<LogId>) -> PathBuf {
        let (term, node, index) =
            id.map_or((0, 0, 0), |id| (id.leader_id.term, id.leader_id.node_id, id.index));
        self.dir.join(format!("snapshot-{index:016x}-{term:08x}-{node:04x}.osnap"))
    }

    /// A file to receive a snapshot from a peer into.
    pub fn receive(&self) -> io::Result<Incoming> {
        let path = self.dir.join("incoming.part");
        let file = File::create(&path)?;
        Ok(Incoming { file, path, bytes: 0 })
    }

    /// Writes a snapshot of these rows and makes it the newest.
    pub fn write(
        &self,
        meta: SnapshotMeta,
        rows: impl Iterator<Item = io::Result<(RowKey, Row)>>,
    ) -> io::Result<SnapshotFile> {
        let temporary = self.dir.join("building.part");
        let file = File::create(&temporary)?;
        let mut writer = Writer { out: io::BufWriter::new(file), seed: 0 };
        writer.frame(KIND_HEADER, &Header { meta: meta.clone() })?;
        let mut trailer = Trailer { rows: 0, blocks: 0 };
        let (mut block, mut size) = (Vec::new(), 0);
        for row in rows {
            let row = row?;
            size += codec::encode(&row).len();
            block.push(row);
            trailer.rows += 1;
            if size >= BLOCK_BYTES {
                writer.frame(KIND_BLOCK, &block)?;
                trailer.blocks += 1;
                block.clear();
                size = 0;
            }
        }
        if !block.is_empty() {
            writer.frame(KIND_BLOCK, &block)?;
            trailer.blocks += 1;
        }
        writer.frame(KIND_TRAILER, &trailer)?;
        let file = writer.out.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        self.publish(&temporary, &meta)
    }

    /// Makes a received, complete snapshot the newest.
    pub fn adopt(&self, received: SnapshotFile, meta: &SnapshotMeta) -> io::Result<SnapshotFile> {
        if received.meta.last_log_id != meta.last_log_id {
            return Err(bad(&received.path, "it is another snapshot than was announced"));
        }
        received.file.sync_all()?;
        self.publish(&received.path, meta)
    }

    fn publish(&self, temporary: &Path, meta: &SnapshotMeta) -> io::Result<SnapshotFile> {
        let path = self.path_of(meta.last_log_id);
        std::fs::rename(temporary, &path)?;
        File::open(&self.dir)?.sync_all()?;
        let file = SnapshotFile::open(&path)?;
        *self.newest_slot() = Some(file.clone());
        let paths = self.paths()?;
        for old in paths.iter().take(paths.len().saturating_sub(KEPT)) {
            if *old != path {
                std::fs::remove_file(old)?;
            }
        }
        Ok(file)
    }
}

struct Writer {
    out: io::BufWriter<File>,
    seed: u32,
}

impl Writer {
    fn frame<T: Serialize>(&mut self, kind: u8, value: &T) -> io::Result<()> {
        let mut bytes = Vec::new();
        codec::frame(kind, self.seed, &mut bytes, |out| codec::encode_into(value, out));
        let mut sum = [0; 4];
        sum.copy_from_slice(&bytes[bytes.len() - 4..]);
        self.seed = u32::from_le_bytes(sum);
        self.out.write_all(&bytes)
    }
}

/// A snapshot that a peer is sending.
pub struct Incoming {
    file: File,
    path: PathBuf,
    bytes: u64,
}

impl Incoming {
    /// Appends the next bytes.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, self.bytes)?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Bytes received so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Verifies the whole; what does not verify is never used.
    pub fn finish(self) -> io::Result<SnapshotFile> {
        self.file.sync_all()?;
        SnapshotFile::open(&self.path)
    }
}
