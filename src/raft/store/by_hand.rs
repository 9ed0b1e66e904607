//! The state machine without sled and without its thread: for a simulation, in which the keeper of
//! the rows is moved by hand. It starts from the newest snapshot and the log alone, as a node does
//! whose view was lost; the snapshots are the real ones.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use oarlock_core::image::{Row, RowKey};
use oarlock_core::machine::Machine;

use crate::raft::store::codec;
use crate::raft::store::files::Files;
use crate::raft::store::log::Fatal;
use crate::raft::store::machine::{Job, MachineHandle, Shared, StateMachine};
use crate::raft::store::snapshot::SnapshotFile;
use crate::raft::store::snapshots::Snapshots;
use crate::raft::store::view::{Changes, Position, row_hash};
use crate::raft::store::writer;
use crate::raft::types::{LogId, SnapshotMeta};

/// Keeps the rows in memory, makes snapshots of them and installs others.
pub struct HandKeeper {
    shared: Arc<Shared>,
    rows: BTreeMap<RowKey, Row>,
    position: Position,
}

/// As [`crate::raft::store::start::open`], with files of any kind and nothing but snapshots.
pub fn open(
    files: Arc<dyn Files>,
    cluster_id: u128,
    last_purged: Option<LogId>,
    fatal: Fatal,
) -> io::Result<(StateMachine, MachineHandle, HandKeeper)> {
    let snapshots = Snapshots::open_in(files, cluster_id, last_purged)?;
    let (machine, position) = match (snapshots.current(), last_purged) {
        (Some(file), _) => writer::load(&file)?,
        (None, None) => (Machine::new(), Position::default()),
        (None, Some(purged)) => {
            let why = format!("the log begins after {purged}, and there is no snapshot");
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
    };
    let rows = machine.rows().collect();
    let shared = Shared::new((machine, position.clone()), Arc::new(snapshots), fatal, false);
    let keeper = HandKeeper { shared: Arc::clone(&shared), rows, position };
    Ok((StateMachine::new(Arc::clone(&shared)), MachineHandle::new(shared), keeper))
}

impl HandKeeper {
    /// Whether a snapshot is to be made or installed.
    pub fn has_work(&self) -> bool {
        !self.shared.lock().jobs.is_empty()
    }

    /// Does what has waited longest.
    pub fn work(&mut self) {
        let job = self.shared.lock().jobs.pop_front();
        match job {
            Some(Job::Snapshot { changes, reply }) => {
                self.keep(changes);
                let _unheard = reply.send(self.snapshot());
            }
            Some(Job::Install { file, reply }) => {
                let _unheard = reply.send(self.install(&file));
            }
            None => {}
        }
    }

    fn keep(&mut self, changes: Changes) {
        for (key, row) in changes.rows {
            match row {
                Some(row) => self.rows.insert(key, row),
                None => self.rows.remove(&key),
            };
        }
        self.position = changes.position;
    }

    fn snapshot(&self) -> io::Result<SnapshotFile> {
        let snapshots = &self.shared.snapshots;
        let current = snapshots.current();
        if let Some(current) = current
            && current.meta().last_log_id == self.position.last_applied
        {
            return Ok(current);
        }
        let meta = SnapshotMeta {
            last_log_id: self.position.last_applied,
            last_membership: self.position.membership.clone(),
        };
        let mut file = snapshots.begin(meta, self.rows.len() as u64)?;
        let mut sum = 0_u64;
        for (key, row) in &self.rows {
            let (key, row) = (codec::encode(key), codec::encode(row));
            sum = sum.wrapping_add(row_hash(&key, &row));
            file.push(&key, &row)?;
        }
        let file = file.finish(sum)?;
        snapshots.put(&file)?;
        Ok(file)
    }

    fn install(&mut self, file: &SnapshotFile) -> io::Result<()> {
        self.shared.snapshots.put(file)?;
        let (machine, position) = writer::load(file)?;
        self.rows = machine.rows().collect();
        self.shared.lock().replace(machine, &position);
        self.shared.tell_applied(position.last_applied);
        self.position = position;
        Ok(())
    }
}
