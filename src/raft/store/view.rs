//! The state machine in sled: a view of what was applied, which may be lost at any time.
//!
//! One tree: rows, the position they belong to, and a running checksum over all rows, in one atomic
//! batch per write. A write of very many rows is split: sled frees nothing that a batch replaces
//! before the batch ends, so that one of 10,000 rows holds a gigabyte. Then a mark says that it is
//! unfinished until its last part is there.
//!
//! sled's `flush` is no fsync on Linux, so nothing is ever acknowledged because of a write here;
//! after a power loss the view may be old, torn or gone, and [`View::load`] says so. Every call into
//! sled is guarded: it may panic on damaged files.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::fs::File;
use std::hash::{BuildHasherDefault, Hasher};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use oarlock_core::image::{Row, RowKey};
use oarlock_core::machine::Machine;
use oarlock_core::planted::{Bug, planted};
use sled::IVec;

use crate::raft::store::codec;
use crate::raft::types::{LogId, StoredMembership};

/// Pause between two tries to open a sled that is still closing.
const LOCKED_PAUSE: Duration = Duration::from_millis(20);

/// Such tries: ten seconds in all, far more than sled's jobs take.
const LOCKED_TRIES_MAX: u32 = 500;

/// Format of the view. Another one is rebuilt, never converted.
const FORMAT: u8 = 1;
/// First byte of a row's key; the keys of everything else begin with `meta/`.
const ROW: u8 = b'r';
const META_FORMAT: &[u8] = b"meta/format";
const META_CLUSTER: &[u8] = b"meta/cluster";
const META_APPLIED: &[u8] = b"meta/last_applied";
const META_MEMBERSHIP: &[u8] = b"meta/membership";
const META_CHECKSUM: &[u8] = b"meta/checksum";
/// There while a write in several parts is under way.
const META_UNFINISHED: &[u8] = b"meta/unfinished";
/// Rows of one batch at most. 200,000 locks in batches of so many rows took 103 MiB of memory, in
/// batches of 20,000 rows 1.3 GiB, and hardly less time.
const BATCH_ROWS_MAX: usize = 512;

/// How far the state is: what was applied last, and the membership at that point.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Position {
    /// Of the newest applied entry.
    pub last_applied: Option<LogId>,
    /// The newest membership applied.
    pub membership: StoredMembership,
}

/// Changed rows, each once, and the position they lead to.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub(crate) rows: BTreeMap<RowKey, Option<Row>>,
    pub(crate) position: Position,
}

/// Settings of sled and the cluster the view belongs to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ViewOptions {
    pub(crate) cluster_id: u128,
    /// sled's page cache; its real memory is about 1.2 times that plus 100 bytes a row.
    pub(crate) cache_bytes: u64,
}

/// Why the view cannot be used.
#[derive(Debug)]
pub(crate) struct ViewError {
    why: String,
    /// The disk is full: the same write may succeed later.
    pub(crate) is_full: bool,
    /// The process ended in the middle of a write: nothing is wrong but that.
    pub(crate) is_unfinished: bool,
}

impl ViewError {
    fn new(why: String) -> Self {
        Self { why, is_full: false, is_unfinished: false }
    }
}

impl fmt::Display for ViewError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

impl From<String> for ViewError {
    fn from(why: String) -> Self {
        Self::new(why)
    }
}

impl From<codec::CodecError> for ViewError {
    fn from(error: codec::CodecError) -> Self {
        error.to_string().into()
    }
}

impl From<io::Error> for ViewError {
    fn from(error: io::Error) -> Self {
        let is_full = error.kind() == io::ErrorKind::StorageFull;
        Self { is_full, ..Self::new(error.to_string()) }
    }
}

impl From<sled::Error> for ViewError {
    fn from(error: sled::Error) -> Self {
        let is_full =
            matches!(&error, sled::Error::Io(io) if io.kind() == io::ErrorKind::StorageFull);
        Self { is_full, ..Self::new(format!("sled: {error}")) }
    }
}

impl From<ViewError> for io::Error {
    fn from(error: ViewError) -> Self {
        let kind =
            if error.is_full { io::ErrorKind::StorageFull } else { io::ErrorKind::InvalidData };
        Self::new(kind, error.why)
    }
}

/// Runs a call into sled; a panic becomes an error.
fn guard<T>(call: impl FnOnce() -> Result<T, ViewError>) -> Result<T, ViewError> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
        Err(format!("sled panicked: {text}").into())
    })
}

/// Keys are hashes already.
#[derive(Default)]
struct Unhashed(u64);

impl Hasher for Unhashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = hash(&[bytes]);
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

/// A wrapping sum of one hash per row, and what is needed to take a replaced row out of it.
/// Persisted: another hash is another [`FORMAT`].
#[derive(Default)]
pub(crate) struct RowSum {
    rows: HashMap<u64, u64, BuildHasherDefault<Unhashed>>,
    sum: u64,
}

impl RowSum {
    fn set(&mut self, key: &[u8], value: Option<&[u8]>) {
        let id = hash(&[key]);
        let old = match value {
            Some(value) => {
                let new = row_hash(key, value);
                self.sum = self.sum.wrapping_add(new);
                self.rows.insert(id, new)
            }
            None => self.rows.remove(&id),
        };
        self.sum = self.sum.wrapping_sub(old.unwrap_or(0));
    }

    fn count(&self) -> u64 {
        self.rows.len() as u64
    }
}

/// The hash of one row, as it enters the sums of views and snapshots.
pub(crate) fn row_hash(key: &[u8], value: &[u8]) -> u64 {
    hash(&[key, value])
}

/// A 64-bit hash, eight bytes a step, with the finish of Murmur3; no protection against malice.
fn hash(parts: &[&[u8]]) -> u64 {
    let mut state = 0xcbf2_9ce4_8422_2325_u64;
    for part in parts {
        state = (state ^ part.len() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        for chunk in part.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            state = (state ^ u64::from_le_bytes(word)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            state ^= state >> 29;
        }
    }
    state = (state ^ (state >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    state = (state ^ (state >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    state ^ (state >> 33)
}

/// An open view.
pub(crate) struct View {
    path: PathBuf,
    db: sled::Db,
    options: ViewOptions,
    sum: RowSum,
    position: Position,
}

impl View {
    /// Opens an existing view and everything in it; any doubt is an error.
    pub(crate) fn load(
        path: &Path,
        options: ViewOptions,
    ) -> Result<(Self, Machine, Position), ViewError> {
        guard(|| {
            let mut view = Self::open(path, options)?;
            if view.db.contains_key(META_UNFINISHED)? {
                let why = "the process ended while very many changes were written to it";
                return Err(ViewError { is_unfinished: true, ..ViewError::new(why.to_owned()) });
            }
            let mut rows = Vec::new();
            for item in view.db.iter() {
                let (key, value) = item?;
                if let Some((&ROW, name)) = key.split_first() {
                    view.sum.set(name, Some(&value));
                    rows.push((codec::decode(name)?, codec::decode(&value)?));
                }
            }
            view.position = view.check_meta()?;
            let machine = Machine::from_rows(rows)
                .map_err(|bad| format!("the rows are no state: {}", bad.0))?;
            let position = view.position.clone();
            Ok((view, machine, position))
        })
    }

    /// Writes a new view from a whole image, durably. The directory must not exist.
    pub(crate) fn build(
        path: &Path,
        options: ViewOptions,
        rows: impl Iterator<Item = io::Result<(RowKey, Row)>>,
        position: &Position,
    ) -> Result<Self, ViewError> {
        guard(|| {
            if path.exists() {
                return Err(format!("{} exists already", path.display()).into());
            }
            let mut view = Self::open(path, options)?;
            let mut batch = sled::Batch::default();
            let mut batched = 0;
            for item in rows {
                let (key, row) = item?;
                view.put(&mut batch, &key, Some(&row));
                batched += 1;
                if batched == BATCH_ROWS_MAX {
                    view.db.apply_batch(std::mem::take(&mut batch))?;
                    batched = 0;
                }
            }
            view.put_meta(&mut batch, position);
            view.db.apply_batch(batch)?;
            view.position = position.clone();
            view.sync()?;
            Ok(view)
        })
    }

    /// Writes changes: all of them, or the next [`Self::load`] refuses the view. After an error it
    /// must be replaced. Very many are written in parts, with a call of `between` after each but the
    /// last.
    pub(crate) fn write(
        &mut self,
        changes: &Changes,
        mut between: impl FnMut(),
    ) -> Result<(), ViewError> {
        guard(|| {
            let mut rows = changes.rows.iter().take(written(changes));
            let mut is_split = false;
            while rows.len() > BATCH_ROWS_MAX {
                self.write_part(rows.by_ref().take(BATCH_ROWS_MAX))?;
                is_split = true;
                between();
            }
            let mut batch = sled::Batch::default();
            self.put_all(&mut batch, rows);
            if is_split {
                batch.remove(META_UNFINISHED);
            }
            self.put_meta(&mut batch, &changes.position);
            self.db.apply_batch(batch)?;
            self.position = changes.position.clone();
            Ok(())
        })
    }

    /// Writes a part of more rows: until the last one follows the view is unfinished.
    pub(super) fn write_part<'a>(
        &mut self,
        part: impl Iterator<Item = (&'a RowKey, &'a Option<Row>)>,
    ) -> Result<(), ViewError> {
        let mut batch = sled::Batch::default();
        batch.insert(META_UNFINISHED, &[]);
        self.put_all(&mut batch, part);
        Ok(self.db.apply_batch(batch)?)
    }

    /// Where it lies.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Where its rows stand.
    pub(crate) fn position(&self) -> &Position {
        &self.position
    }

    /// Number of rows.
    pub(crate) fn row_count(&self) -> u64 {
        self.sum.count()
    }

    /// Sum of the row hashes.
    pub(crate) fn row_sum(&self) -> u64 {
        self.sum.sum
    }

    /// Hands every row to `each`, encoded, until it fails.
    pub(crate) fn for_each_row(
        &self,
        mut each: impl FnMut(&[u8], &IVec) -> io::Result<()>,
    ) -> io::Result<()> {
        let walk = || {
            for item in self.db.scan_prefix([ROW]) {
                let (key, value) = item?;
                each(&key[1..], &value)?;
            }
            Ok(())
        };
        guard(walk).map_err(io::Error::from)
    }

    /// Makes everything durable: sled's own flush, then an fsync of each file and directory.
    pub(crate) fn sync(&self) -> Result<(), ViewError> {
        guard(|| {
            self.db.flush()?;
            sync_tree(&self.path)?;
            Ok(())
        })
    }

    /// Closes; sled may panic when its files are damaged.
    pub(crate) fn close(self) {
        if let Err(error) = guard(move || {
            drop(self);
            Ok(())
        }) {
            tracing::warn!(%error, "closing the view failed; it will be rebuilt if need be");
        }
    }

    /// Loses a row behind everybody's back.
    #[cfg(test)]
    pub(crate) fn damage(&self) {
        let (key, _) = self.db.scan_prefix([ROW]).nth(3).expect("a row").expect("readable");
        self.db.remove(key).expect("remove");
    }

    fn open(path: &Path, options: ViewOptions) -> Result<Self, ViewError> {
        // The flusher is also what collects sled's garbage and does its only real fsync.
        let config = sled::Config::new()
            .path(path)
            .cache_capacity(options.cache_bytes)
            .flush_every_ms(Some(500));
        let (db, sum, position) = (open_unlocked(&config)?, RowSum::default(), Position::default());
        Ok(Self { path: path.to_owned(), db, options, sum, position })
    }

    fn put_all<'a>(
        &mut self,
        batch: &mut sled::Batch,
        rows: impl Iterator<Item = (&'a RowKey, &'a Option<Row>)>,
    ) {
        for (key, row) in rows {
            self.put(batch, key, row.as_ref());
        }
    }

    fn put(&mut self, batch: &mut sled::Batch, key: &RowKey, row: Option<&Row>) {
        let mut name = vec![ROW];
        codec::encode_into(key, &mut name);
        if let Some(row) = row {
            let value = codec::encode(row);
            self.sum.set(&name[1..], Some(&value));
            batch.insert(name, value);
        } else {
            self.sum.set(&name[1..], None);
            batch.remove(name);
        }
    }

    fn put_meta(&self, batch: &mut sled::Batch, position: &Position) {
        let applied = codec::encode(&position.last_applied);
        let membership = codec::encode(&position.membership);
        let check = codec::encode(&self.check_of(&applied, &membership));
        batch.insert(META_APPLIED, applied);
        batch.insert(META_MEMBERSHIP, membership);
        batch.insert(META_CHECKSUM, check);
        batch.insert(META_FORMAT, &[FORMAT]);
        batch.insert(META_CLUSTER, &self.options.cluster_id.to_le_bytes());
    }

    /// Row count, row sum, and a hash of the position.
    fn check_of(&self, applied: &[u8], membership: &[u8]) -> (u64, u64, u64) {
        (self.sum.count(), self.sum.sum, hash(&[applied, membership]))
    }

    fn check_meta(&self) -> Result<Position, ViewError> {
        let get = |key: &[u8]| -> Result<IVec, ViewError> {
            let name = String::from_utf8_lossy(key);
            self.db.get(key)?.ok_or_else(|| format!("{name} is missing").into())
        };
        if get(META_FORMAT)?.as_ref() != [FORMAT] {
            return Err("its format is another one".to_owned().into());
        }
        if get(META_CLUSTER)?.as_ref() != self.options.cluster_id.to_le_bytes() {
            return Err("it belongs to another cluster".to_owned().into());
        }
        let (applied, membership) = (get(META_APPLIED)?, get(META_MEMBERSHIP)?);
        let written: (u64, u64, u64) = codec::decode(&get(META_CHECKSUM)?)?;
        let found = self.check_of(&applied, &membership);
        if written != found {
            return Err(format!("its rows do not add up: {found:?}, written {written:?}").into());
        }
        Ok(Position {
            last_applied: codec::decode(&applied)?,
            membership: codec::decode(&membership)?,
        })
    }
}

/// How many of the changed rows are written: all but for planted bugs.
fn written(changes: &Changes) -> usize {
    let all = changes.rows.len();
    let every_fourth = || changes.position.last_applied.is_some_and(|id| id.index % 4 == 0);
    if planted(Bug::RowIsNotWritten) {
        all.saturating_sub(1)
    } else if planted(Bug::PositionWithoutRows) && every_fourth() {
        0
    } else {
        all
    }
}

/// fsyncs the files of a directory, the directories below it, itself and its parent.
fn sync_tree(path: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(path)? {
        let entry = entry?.path();
        if entry.is_dir() {
            // sled keeps one level: `blobs`.
            for blob in std::fs::read_dir(&entry)? {
                File::open(blob?.path())?.sync_all()?;
            }
        }
        File::open(&entry)?.sync_all()?;
    }
    File::open(path)?.sync_all()?;
    path.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}

/// Opens sled, and waits while its file is still locked: a closed sled of this process lets go only
/// when its last background job ends. Another process cannot hold it, the directory is ours.
pub(super) fn open_unlocked(config: &sled::Config) -> sled::Result<sled::Db> {
    let mut left = LOCKED_TRIES_MAX;
    loop {
        match config.open() {
            Err(sled::Error::Io(error))
                if left > 0 && error.to_string().contains("could not acquire lock") =>
            {
                left -= 1;
                std::thread::park_timeout(LOCKED_PAUSE);
            }
            opened => return opened,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_row_hash_is_fixed_because_it_is_persisted() {
        assert_eq!(hash(&[b"oarlock", b"lock"]), 1_751_022_419_613_795_047);
        assert_ne!(hash(&[b"oar", b"lock"]), hash(&[b"oarl", b"ock"]));
        assert_ne!(hash(&[b"a"]), hash(&[b"a\0"]));
    }

    #[test]
    fn the_sum_forgets_replaced_and_removed_rows() {
        let mut sum = RowSum::default();
        sum.set(b"a", Some(b"1"));
        let one = sum.sum;
        sum.set(b"b", Some(b"2"));
        sum.set(b"a", Some(b"3"));
        sum.set(b"a", Some(b"1"));
        sum.set(b"b", None);
        assert_eq!((sum.sum, sum.count()), (one, 1));
    }
}
