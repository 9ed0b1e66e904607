//! The state in sled: a view of the log that is written behind `apply` and can be rebuilt.
//!
//! sled's flush is not a sync on Linux, so nothing depends on it: an acknowledged command is in
//! the synced log. The view saves replaying that log from the snapshot at each start. It is used
//! only if it opens, every row verifies, the rows add up to the stored sum, and the position it
//! stands for is known to the log or the snapshot. Else it is set aside and rebuilt.
//!
//! One thread writes, one atomic batch for all changes of at most [`WRITE_INTERVAL`]. A snapshot is
//! taken while that thread pauses; apply never waits for either.

use std::collections::HashMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use oarlock_core::image::{Row, RowKey};
use oarlock_core::machine::Machine;
use serde::{Deserialize, Serialize};

use crate::raft::store::codec;
use crate::raft::store::files::replace_file;
use crate::raft::store::machine::{MachineHandle, State};
use crate::raft::store::snapshot::{SnapshotFile, Snapshots};
use crate::raft::types::{LogId, SnapshotMeta, StoredMembership};

/// Changes gather for this long before they are written; later ones of a row replace earlier ones.
const WRITE_INTERVAL: Duration = Duration::from_millis(50);

/// Damaged views kept for inspection.
const SET_ASIDE_MAX: u32 = 3;

const KIND_ROW: u8 = 0x61;
const KIND_META: u8 = 0x62;
const META_KEY: &[u8] = b"m";
const ROW_PREFIX: u8 = b'r';

/// Position and sum of the rows. Persisted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Meta {
    applied: Option<LogId>,
    membership: StoredMembership,
    rows: u64,
    sum: u64,
}

/// What a node starts from.
#[derive(Debug, Default)]
pub struct Loaded {
    pub machine: Machine,
    pub applied: Option<LogId>,
    pub membership: StoredMembership,
}

struct Inner {
    db: sled::Db,
    path: PathBuf,
    /// Hash of each stored row by the hash of its key, to keep the sum without reading back.
    hashes: HashMap<u64, u64>,
    meta: Meta,
}

/// The view of one node.
pub struct View {
    dir: PathBuf,
    cache_bytes: u64,
    inner: Mutex<Inner>,
    dirty: AtomicBool,
    closed: AtomicBool,
    signal: (Mutex<()>, Condvar),
    following: Mutex<Option<MachineHandle>>,
    writer: Mutex<Option<std::thread::JoinHandle<()>>>,
}

fn failed(error: impl std::fmt::Display) -> io::Error {
    io::Error::other(format!("state view: {error}"))
}

/// FNV-1a with 64 bits; guards against mistakes of disk and code, not against an adversary.
fn hash(parts: &[&[u8]]) -> u64 {
    let step = |sum: u64, byte: &u8| (sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    parts.iter().flat_map(|part| part.iter()).fold(0xcbf2_9ce4_8422_2325, step)
}

fn row_key(key: &RowKey) -> Vec<u8> {
    let mut bytes = vec![ROW_PREFIX];
    codec::encode_into(key, &mut bytes);
    bytes
}

fn framed<T: Serialize>(kind: u8, key: &[u8], value: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    codec::frame(kind, crc32c::crc32c(key), &mut bytes, |out| codec::encode_into(value, out));
    bytes
}

fn unframed<T: serde::de::DeserializeOwned>(kind: u8, key: &[u8], bytes: &[u8]) -> io::Result<T> {
    let frame = codec::parse(bytes, crc32c::crc32c(key))?;
    if frame.kind != kind {
        return Err(failed("a row of another kind"));
    }
    Ok(codec::decode(frame.payload)?)
}

impl Inner {
    fn open(path: &Path, cache_bytes: u64) -> io::Result<Self> {
        let config =
            sled::Config::new().path(path).cache_capacity(cache_bytes).flush_every_ms(Some(500));
        // Opening a damaged directory may panic as well as fail.
        let opened = catch_unwind(AssertUnwindSafe(|| config.open()));
        let db = opened.map_err(|_| failed("opening it panicked"))?.map_err(failed)?;
        Ok(Self { db, path: path.to_owned(), hashes: HashMap::new(), meta: Meta::default() })
    }

    /// Reads and verifies everything.
    fn load(&mut self) -> io::Result<Loaded> {
        let Some(stored) = self.db.get(META_KEY).map_err(failed)? else {
            return if self.db.is_empty() { Ok(Loaded::default()) } else { Err(failed("no meta")) };
        };
        let meta: Meta = unframed(KIND_META, META_KEY, &stored)?;
        let (mut rows, mut sum) = (Vec::new(), 0_u64);
        for item in self.db.scan_prefix([ROW_PREFIX]) {
            let (key, value) = item.map_err(failed)?;
            let row: Row = unframed(KIND_ROW, &key, &value)?;
            let row_hash = hash(&[&key, &value]);
            self.hashes.insert(hash(&[&key]), row_hash);
            sum = sum.wrapping_add(row_hash);
            rows.push((codec::decode::<RowKey>(&key[1..])?, row));
        }
        if sum != meta.sum || rows.len() as u64 != meta.rows {
            return Err(failed("its rows do not add up to the stored sum"));
        }
        let machine = Machine::from_rows(rows).map_err(|bad| failed(bad.0))?;
        let (applied, membership) = (meta.applied, meta.membership.clone());
        self.meta = meta;
        Ok(Loaded { machine, applied, membership })
    }

    /// Writes rows and position in one atomic batch.
    fn write(
        &mut self,
        rows: impl IntoIterator<Item = (RowKey, Option<Row>)>,
        applied: Option<LogId>,
        membership: StoredMembership,
    ) -> io::Result<()> {
        let mut batch = sled::Batch::default();
        for (key, row) in rows {
            let key = row_key(&key);
            let key_hash = hash(&[&key]);
            let old = match row {
                Some(row) => {
                    let value = framed(KIND_ROW, &key, &row);
                    let row_hash = hash(&[&key, &value]);
                    self.meta.sum = self.meta.sum.wrapping_add(row_hash);
                    self.meta.rows += 1;
                    batch.insert(key, value);
                    self.hashes.insert(key_hash, row_hash)
                }
                None => {
                    let old = self.hashes.remove(&key_hash);
                    if old.is_some() {
                        batch.remove(key);
                    }
                    old
                }
            };
            if let Some(old) = old {
                self.meta.sum = self.meta.sum.wrapping_sub(old);
                self.meta.rows -= 1;
            }
        }
        self.meta.applied = applied;
        self.meta.membership = membership;
        batch.insert(META_KEY, framed(KIND_META, META_KEY, &self.meta));
        self.db.apply_batch(batch).map_err(failed)
    }

    fn rows(&self) -> impl Iterator<Item = io::Result<(RowKey, Row)>> + use<> {
        self.db.scan_prefix([ROW_PREFIX]).map(|item| {
            let (key, value) = item.map_err(failed)?;
            Ok((codec::decode(&key[1..])?, unframed(KIND_ROW, &key, &value)?))
        })
    }
}

impl View {
    /// Opens the view, or rebuilds it from the newest snapshot. `known` tells whether a position
    /// is in the log; what is neither there nor the snapshot's cannot be trusted.
    pub fn open(
        dir: &Path,
        cache_bytes: u64,
        snapshots: &Snapshots,
        known: impl Fn(LogId) -> io::Result<bool>,
    ) -> io::Result<(Arc<Self>, Loaded)> {
        std::fs::create_dir_all(dir)?;
        let current = std::fs::read_to_string(dir.join("CURRENT")).unwrap_or_default();
        let path = dir.join(if current.is_empty() { "view-1" } else { current.trim() });
        let snapshot = snapshots.newest();
        let snapshot_id = snapshot.as_ref().and_then(|file| file.meta().last_log_id);
        let usable = Inner::open(&path, cache_bytes).and_then(|mut inner| {
            let loaded = inner.load()?;
            let trusted = match loaded.applied {
                None => snapshot_id.is_none(),
                applied if applied == snapshot_id => true,
                applied if applied < snapshot_id => false,
                Some(applied) => known(applied)?,
            };
            if trusted {
                Ok((inner, loaded))
            } else {
                Err(failed("its position is not in the log"))
            }
        });
        let (inner, loaded) = match usable {
            Ok(usable) => usable,
            Err(error) => {
                tracing::warn!(%error, "the state view is rebuilt from snapshot and log");
                set_aside(dir, &path)?;
                rebuild(&path, cache_bytes, snapshot.as_ref())?
            }
        };
        if current.is_empty() {
            replace_file(&dir.join("CURRENT"), b"view-1")?;
        }
        let view = Self {
            dir: dir.to_owned(),
            cache_bytes,
            inner: Mutex::new(inner),
            dirty: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            signal: Default::default(),
            following: Mutex::new(None),
            writer: Mutex::new(None),
        };
        Ok((Arc::new(view), loaded))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the writer thread behind this replica.
    pub(crate) fn follow(self: &Arc<Self>, handle: MachineHandle) -> io::Result<()> {
        *self.following.lock().unwrap_or_else(PoisonError::into_inner) = Some(handle.clone());
        let view = Arc::clone(self);
        let writer = std::thread::Builder::new()
            .name("view-writer".into())
            .spawn(move || view.write_behind(&handle))?;
        *self.writer.lock().unwrap_or_else(PoisonError::into_inner) = Some(writer);
        Ok(())
    }

    /// Something was applied.
    pub(crate) fn wake(&self) {
        if !self.dirty.swap(true, Ordering::AcqRel) {
            drop(self.signal.0.lock());
            self.signal.1.notify_one();
        }
    }

    fn write_behind(&self, handle: &MachineHandle) {
        while !self.closed.load(Ordering::Acquire) {
            {
                let asleep = self.signal.0.lock().unwrap_or_else(PoisonError::into_inner);
                let wanted = |_: &mut ()| {
                    !self.dirty.load(Ordering::Acquire) && !self.closed.load(Ordering::Acquire)
                };
                drop(self.signal.1.wait_while(asleep, wanted));
            }
            std::thread::sleep(WRITE_INTERVAL);
            self.dirty.store(false, Ordering::Release);
            if let Err(error) = catch_up(&mut self.inner(), handle) {
                // The view is not the truth: the node goes on, and rebuilds it at its next start.
                tracing::error!(%error, "writing the state view failed");
            }
        }
    }

    /// Writes a snapshot of the state as it is now. The writer pauses, apply does not.
    pub(crate) fn snapshot(&self, snapshots: &Snapshots) -> io::Result<SnapshotFile> {
        let mut inner = self.inner();
        let handle = self.following.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(handle) = handle {
            catch_up(&mut inner, &handle)?;
        }
        let id = inner.meta.applied;
        let meta = SnapshotMeta { last_log_id: id, last_membership: inner.meta.membership.clone() };
        snapshots.write(meta, inner.rows())
    }

    /// Replaces view and replica by an installed snapshot: a new directory, then one switch.
    pub(crate) fn replace(&self, file: &SnapshotFile, handle: &MachineHandle) -> io::Result<()> {
        let mut inner = self.inner();
        let number =
            inner.path.file_name().and_then(|name| name.to_str()?.rsplit('-').next()?.parse().ok());
        let name = format!("view-{}", number.unwrap_or(0_u64) + 1);
        let path = self.dir.join(&name);
        if path.exists() {
            std::fs::remove_dir_all(&path)?;
        }
        let (new, loaded) = rebuild(&path, self.cache_bytes, Some(file))?;
        new.db.flush().map_err(failed)?;
        replace_file(&self.dir.join("CURRENT"), name.as_bytes())?;
        let old = std::mem::replace(&mut *inner, new);
        let Loaded { machine, applied, membership } = loaded;
        *handle.state() = State { machine, applied, membership, moved: false };
        let gone = old.path.clone();
        drop(old);
        std::fs::remove_dir_all(gone)
    }

    /// Writes what is left and stops the writer.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.wake();
        drop(self.signal.0.lock());
        self.signal.1.notify_one();
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer {
            let _panicked_and_logged = writer.join();
        }
        if let Err(error) = self.inner().db.flush() {
            tracing::warn!(%error, "flushing the state view failed; it will be rebuilt if need be");
        }
    }
}

/// Brings sled to the state of the replica.
fn catch_up(inner: &mut Inner, handle: &MachineHandle) -> io::Result<()> {
    let (changes, applied, membership) = {
        let mut state = handle.state();
        if !std::mem::take(&mut state.moved) {
            return Ok(());
        }
        (state.machine.take_changes(), state.applied, state.membership.clone())
    };
    inner.write(changes, applied, membership)
}

fn rebuild(
    path: &Path,
    cache: u64,
    snapshot: Option<&SnapshotFile>,
) -> io::Result<(Inner, Loaded)> {
    let mut inner = Inner::open(path, cache)?;
    let Some(file) = snapshot else { return Ok((inner, Loaded::default())) };
    let mut rows = Vec::new();
    file.rows(|key, row| {
        rows.push((key, row));
        Ok(())
    })?;
    let (applied, membership) = (file.meta().last_log_id, file.meta().last_membership.clone());
    let stored = rows.iter().map(|(key, row)| (key.clone(), Some(row.clone())));
    inner.write(stored, applied, membership.clone())?;
    let machine = Machine::from_rows(rows).map_err(|bad| failed(bad.0))?;
    Ok((inner, Loaded { machine, applied, membership }))
}

/// Moves a view away that cannot be used. The oldest of several is removed, and that is logged.
fn set_aside(dir: &Path, path: &Path) -> io::Result<()> {
    if !path.exists() {
        return Ok(());
    }
    let name = |number: u32| dir.join(format!("view.bad-{number}"));
    let oldest = name(SET_ASIDE_MAX);
    if oldest.exists() {
        tracing::warn!(path = %oldest.display(), "removing the oldest view that was set aside");
        std::fs::remove_dir_all(&oldest)?;
    }
    for number in (1..SET_ASIDE_MAX).rev() {
        if name(number).exists() {
            std::fs::rename(name(number), name(number + 1))?;
        }
    }
    std::fs::rename(path, name(1))
}
