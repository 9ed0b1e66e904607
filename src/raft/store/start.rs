//! Which state a node starts from: the view if it can be trusted, else the snapshot, else nothing;
//! openraft then applies the rest of the log.
//!
//! A view is trusted if it opens, adds up, belongs to this cluster, and stands at an entry that the
//! fsynced log has, or at the snapshot. A follower may apply an entry before its own log is synced,
//! so after a power loss the view can be ahead of the log; such a view is rebuilt.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use oarlock_core::machine::Machine;

use crate::raft::store::home::Home;
use crate::raft::store::log::Fatal;
use crate::raft::store::machine::{MachineHandle, Shared, StateMachine};
use crate::raft::store::snapshot::SnapshotFile;
use crate::raft::store::snapshots::Snapshots;
use crate::raft::store::view::{Position, View, ViewError, ViewOptions};
use crate::raft::store::writer::{self, Writer};
use crate::raft::types::LogId;

/// Page cache of sled: enough for a million locks to be written without reading.
pub const CACHE_BYTES_DEFAULT: u64 = 64 * 1024 * 1024;
/// Changes of this long cost one batch, of longer ones when the machine is busy; a restart replays as
/// much of the log. Shorter would write more often what soon changes again, longer would hold up
/// apply while rows are made.
pub const BATCH_INTERVAL_DEFAULT: Duration = Duration::from_millis(200);

/// Where the state lies and how it is kept.
#[derive(Debug, Clone)]
pub struct Options {
    /// The node's data directory.
    pub dir: PathBuf,
    /// Of the node's identity; files of another cluster are refused.
    pub cluster_id: u128,
    /// See [`CACHE_BYTES_DEFAULT`].
    pub cache_bytes: u64,
    /// See [`BATCH_INTERVAL_DEFAULT`].
    pub batch_interval: Duration,
}

impl Options {
    /// The usual settings.
    pub fn new(dir: PathBuf, cluster_id: u128) -> Self {
        let (cache_bytes, batch_interval) = (CACHE_BYTES_DEFAULT, BATCH_INTERVAL_DEFAULT);
        Self { dir, cluster_id, cache_bytes, batch_interval }
    }
}

/// What the recovered log says, asked before Raft starts.
pub struct LogFacts<'a> {
    /// Whether exactly this entry is in the fsynced log.
    pub has: &'a dyn Fn(LogId) -> io::Result<bool>,
    /// The newest entry that was purged.
    pub last_purged: Option<LogId>,
}

/// Opens and verifies the snapshots of a node; blocks.
pub fn open_snapshots(options: &Options, last_purged: Option<LogId>) -> io::Result<Arc<Snapshots>> {
    let dir = options.dir.join("snapshots");
    Snapshots::open(&dir, options.cluster_id, last_purged).map(Arc::new)
}

/// Opens the state; blocks, for as long as reading all of it takes.
pub fn open(
    options: &Options,
    snapshots: Arc<Snapshots>,
    log: &LogFacts<'_>,
    fatal: Fatal,
) -> io::Result<(StateMachine, MachineHandle)> {
    let home = Home::open(&options.dir.join("state"))?;
    let view_options =
        ViewOptions { cluster_id: options.cluster_id, cache_bytes: options.cache_bytes };
    let snapshot = snapshots.current();
    let mut unfinished = None;
    let trusted = match home.current()? {
        Some(path) => match trust(&path, view_options, snapshot.as_ref(), log) {
            Ok(loaded) => Some(loaded),
            Err(why) if why.is_unfinished => {
                tracing::info!(%why, "the view is built anew");
                unfinished = Some(path);
                None
            }
            Err(why) => {
                home.set_aside(&path, &why.to_string())?;
                None
            }
        },
        None => None,
    };
    let rebuilt = trusted.is_none() && (snapshot.is_some() || home.has_bad()?);
    let (view, machine, position) = match trusted {
        Some(loaded) => loaded,
        None => rebuild(&home, view_options, snapshot.as_ref(), log)?,
    };
    if rebuilt && unfinished.is_none() {
        tracing::warn!(from = ?position.last_applied, "the view was lost or refused; rebuilt");
    }
    if let Some(path) = unfinished {
        writer::remove_unused(&path);
    }
    let shared = Shared::new((machine, position), snapshots, fatal, rebuilt);
    let writer = Writer {
        shared: shared.clone(),
        view: Some(view),
        home,
        options: view_options,
        interval: options.batch_interval,
    };
    let thread = std::thread::Builder::new().name("view".to_owned()).spawn(|| writer.run())?;
    shared.set_writer(thread);
    Ok((StateMachine::new(shared.clone()), MachineHandle::new(shared)))
}

fn trust(
    path: &Path,
    options: ViewOptions,
    snapshot: Option<&SnapshotFile>,
    log: &LogFacts<'_>,
) -> Result<(View, Machine, Position), ViewError> {
    let (view, machine, position) = View::load(path, options)?;
    let at = position.last_applied;
    let known = match at {
        // Entries up to the purged one were committed, and the log goes on from it.
        Some(id) => {
            (log.has)(id)?
                || at == log.last_purged
                || snapshot.is_some_and(|file| file.meta().last_log_id == at)
        }
        None => log.last_purged.is_none() && snapshot.is_none(),
    };
    if known {
        return Ok((view, machine, position));
    }
    view.close();
    Err(format!("it stands at {at:?}, which neither the log nor a snapshot has").into())
}

fn rebuild(
    home: &Home,
    options: ViewOptions,
    snapshot: Option<&SnapshotFile>,
    log: &LogFacts<'_>,
) -> io::Result<(View, Machine, Position)> {
    let path = home.fresh()?;
    let loaded = match (snapshot, log.last_purged) {
        (Some(file), _) => {
            let (machine, position) = writer::load(file)?;
            (writer::build_from(&path, options, file)?, machine, position)
        }
        (None, None) => {
            let position = Position::default();
            let view = View::build(&path, options, std::iter::empty(), &position)?;
            (view, Machine::new(), position)
        }
        (None, Some(purged)) => {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!(
                    "this node has neither a usable view nor a snapshot from which its log goes \
                     on (the log begins after {purged}): remove the node from the cluster and \
                     rejoin it, with an empty directory, under a new id; its peers send it the state"
                ),
            ));
        }
    };
    home.switch(&path)?;
    Ok(loaded)
}
