//! The directory of snapshots: the two newest good ones, and which of them counts.
//!
//! ```text
//!  snapshots/snapshot-<term>-<index>.osnap    complete, verified, durable
//!            snapshot-….osnap.bad             found damaged; kept for whoever investigates
//!            *.tmp                            being written or received; removed at start
//! ```

use std::cmp::Reverse;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::raft::store::files::{self, Files};
use crate::raft::store::snapshot::{Header, Incoming, SnapshotFile, SnapshotWriter};
use crate::raft::types::{LogId, SnapshotMeta};

/// Good snapshots kept: the newest, and the one before should the newest turn out damaged.
const KEPT: usize = 2;
/// Damaged ones kept.
const BAD_KEPT: usize = 2;

/// The snapshots of one node.
pub struct Snapshots {
    files: Arc<dyn Files>,
    cluster_id: u128,
    current: Mutex<Option<SnapshotFile>>,
    temporaries: AtomicU64,
}

impl Snapshots {
    /// Opens a real directory, creating it if need be; see [`Snapshots::open_in`].
    pub fn open(dir: &Path, cluster_id: u128, last_purged: Option<LogId>) -> io::Result<Self> {
        Self::open_in(files::on_disk(dir)?, cluster_id, last_purged)
    }

    /// Verifies what is there. The newest good snapshot counts, if the log goes on from it.
    ///
    /// `last_purged` is the newest entry that the log no longer has: an older snapshot leaves a
    /// gap. Damaged files are renamed, with an error in the log; one that cannot be read, or was
    /// written by a newer build, ends the start instead.
    pub fn open_in(
        files: Arc<dyn Files>,
        cluster_id: u128,
        last_purged: Option<LogId>,
    ) -> io::Result<Self> {
        let temporaries = AtomicU64::new(0);
        let snapshots = Self { files, cluster_id, current: Mutex::new(None), temporaries };
        for name in snapshots.names(".tmp")? {
            snapshots.files.remove(&name)?;
        }
        for name in snapshots.names(".osnap")? {
            let file = match SnapshotFile::open(&*snapshots.files, &name, cluster_id) {
                Ok(file) => file,
                Err(error) if !is_damage(&error) => {
                    return Err(io::Error::new(error.kind(), format!("{name}: {error}")));
                }
                Err(error) => {
                    tracing::error!(%error, name, "a snapshot is damaged and set aside; trying the one before");
                    snapshots.files.rename(&name, &format!("{name}.bad"))?;
                    continue;
                }
            };
            if file.meta().last_log_id < last_purged {
                tracing::error!(name, ?last_purged, "the log does not go on from this snapshot");
            } else {
                snapshots.set_current(file);
            }
            break;
        }
        for name in snapshots.names(".bad")?.iter().skip(BAD_KEPT) {
            tracing::warn!(name, "removing an old damaged snapshot");
            snapshots.files.remove(name)?;
        }
        snapshots.sync()?;
        Ok(snapshots)
    }

    /// The newest snapshot from which the log goes on.
    pub fn current(&self) -> Option<SnapshotFile> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Begins to receive one.
    pub fn receive(&self) -> io::Result<Incoming> {
        Incoming::create(&self.files, self.temporary("receiving"), self.cluster_id)
    }

    /// Begins to write one.
    pub(crate) fn begin(&self, meta: SnapshotMeta, row_count: u64) -> io::Result<SnapshotWriter> {
        let header = Header::new(self.cluster_id, meta, row_count);
        SnapshotWriter::create(&self.files, self.temporary("building"), header)
    }

    /// Gives a finished file its name, durably; from now on it is the current one, and what is
    /// older than the one before it goes.
    pub(crate) fn put(&self, file: &SnapshotFile) -> io::Result<()> {
        let (term, index) =
            file.meta().last_log_id.map_or((0, 0), |id| (id.leader_id.term, id.index));
        if file.persist(&format!("snapshot-{term}-{index}.osnap"))? {
            self.sync()?;
        }
        self.set_current(file.clone());
        for name in self.names(".osnap")?.into_iter().skip(KEPT) {
            self.files.remove(&name)?;
        }
        self.sync()
    }

    fn set_current(&self, file: SnapshotFile) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Some(file);
    }

    fn temporary(&self, what: &str) -> String {
        let number = self.temporaries.fetch_add(1, Ordering::Relaxed);
        format!("{what}-{number}.tmp")
    }

    /// Names with that ending, the newest position first.
    fn names(&self, ending: &str) -> io::Result<Vec<String>> {
        let mut names = self.files.list()?;
        names.retain(|name| name.ends_with(ending));
        names.sort_by_key(|name| Reverse(position(name)));
        Ok(names)
    }

    fn sync(&self) -> io::Result<()> {
        self.files.sync_dir()
    }
}

/// Whether the file was read and is not what was written. Anything else (a disk that does not read,
/// too many open files, a newer format) says nothing against the file.
fn is_damage(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
}

/// Term and index in the name of a snapshot; zeros for any other name.
fn position(name: &str) -> (u64, u64) {
    let parse = || {
        let (term, rest) = name.strip_prefix("snapshot-")?.split_once('-')?;
        let (index, _) = rest.split_once('.')?;
        Some((term.parse().ok()?, index.parse().ok()?))
    };
    parse().unwrap_or_default()
}
