//! The whole state as rows, and back: what the storage keeps and what a snapshot carries.
//!
//! Everything has a row. `apply` marks the rows it changes; the storage asks for them when it
//! writes, so that many changes of a row between two writes cost one.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::answers::Record;
use crate::ids::{LeaseId, LockName, SessionId};
use crate::machine::{Limits, Machine, Meta};
use crate::table::{Lease, Lock, LockRow, SessionRow};

/// The name of a row. The order is the order of an image. Persisted: append only.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RowKey {
    /// Clock and counters.
    Meta,
    /// One session.
    Session(SessionId),
    /// One lock.
    Lock(LockName),
    /// One lease, held or waiting.
    Lease(LeaseId),
    /// One chunk of remembered answers.
    Answers(u64),
    /// One chunk of recent ends.
    Recent(u64),
}

/// The content of a row. Persisted: a changed form is a new variant at the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Row {
    /// Of [`RowKey::Meta`].
    Meta(Meta),
    /// Of [`RowKey::Session`].
    Session(Box<SessionRow>),
    /// Of [`RowKey::Lock`].
    Lock(LockRow),
    /// Of [`RowKey::Lease`].
    Lease(Box<Lease>),
    /// Of [`RowKey::Answers`] and [`RowKey::Recent`].
    Ends(Vec<Record>),
}

/// The rows do not add up to a state; the text says which.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadImage(pub String);

impl Machine {
    /// The rows changed since the last call, in key order; `None` deletes a row.
    pub fn take_changes(&mut self) -> Vec<(RowKey, Option<Row>)> {
        let keys = core::mem::take(&mut self.changes);
        keys.into_iter()
            .map(|key| {
                let row = self.row(&key);
                (key, row)
            })
            .collect()
    }

    /// Whether rows wait to be taken.
    pub fn has_changes(&self) -> bool {
        !self.changes.is_empty()
    }

    /// One row, or `None` if there is no such thing now.
    pub fn row(&self, key: &RowKey) -> Option<Row> {
        Some(match key {
            RowKey::Meta => Row::Meta(self.meta.clone()),
            RowKey::Session(id) => Row::Session(Box::new(self.table.sessions.get(id)?.row.clone())),
            RowKey::Lock(name) => Row::Lock(self.table.locks.get(name)?.row.clone()),
            RowKey::Lease(id) => Row::Lease(Box::new(self.table.leases.get(id)?.clone())),
            RowKey::Answers(number) => Row::Ends(self.answers.chunk(*number)?.clone()),
            RowKey::Recent(number) => Row::Ends(self.recent.chunk(*number)?.clone()),
        })
    }

    /// The image: every row, in key order.
    pub fn rows(&self) -> impl Iterator<Item = (RowKey, Row)> + '_ {
        let keys = core::iter::once(RowKey::Meta)
            .chain(self.table.sessions.keys().map(|id| RowKey::Session(*id)))
            .chain(self.table.locks.keys().map(|name| RowKey::Lock(name.clone())))
            .chain(self.table.leases.keys().map(|id| RowKey::Lease(*id)))
            .chain(self.answers.chunks().map(|(number, _)| RowKey::Answers(number)))
            .chain(self.recent.chunks().map(|(number, _)| RowKey::Recent(number)));
        keys.filter_map(|key| self.row(&key).map(|row| (key, row)))
    }

    /// Rebuilds a machine from an image, in any order of rows.
    pub fn from_rows(rows: impl IntoIterator<Item = (RowKey, Row)>) -> Result<Self, BadImage> {
        Self::from_rows_with_limits(rows, Limits::default())
    }

    /// [`Self::from_rows`] with other bounds, for tests.
    pub fn from_rows_with_limits(
        rows: impl IntoIterator<Item = (RowKey, Row)>,
        limits: Limits,
    ) -> Result<Self, BadImage> {
        let mut machine = Self::with_limits(limits);
        let mut sorted: Vec<_> = rows.into_iter().collect();
        sorted.sort_by(|(a, _), (b, _)| a.cmp(b));
        for (key, row) in sorted {
            machine.load(key, row)?;
        }
        machine.answers.next_chunk = machine.meta.next_answers_chunk;
        machine.recent.next_chunk = machine.meta.next_recent_chunk;
        machine.changes.clear();
        machine.check().map_err(BadImage)?;
        Ok(machine)
    }

    fn load(&mut self, key: RowKey, row: Row) -> Result<(), BadImage> {
        match (key, row) {
            (RowKey::Meta, Row::Meta(meta)) => self.meta = meta,
            (RowKey::Session(id), Row::Session(session)) => {
                self.table.insert_session(id, *session);
            }
            (RowKey::Lock(name), Row::Lock(row)) => {
                self.table.locks.insert(name, Lock { row, ..Lock::default() });
            }
            (RowKey::Lease(id), Row::Lease(lease)) => {
                // Share the text of the name with the lock's key.
                let Some((name, _)) = self.table.locks.get_key_value(&lease.name) else {
                    return Err(BadImage(format!("lease {id:?} has no lock row")));
                };
                let lease = Lease { name: name.clone(), ..*lease };
                self.table.insert_lease(id, lease);
            }
            (RowKey::Answers(number), Row::Ends(records)) => self.answers.load(number, records),
            (RowKey::Recent(number), Row::Ends(records)) => self.recent.load(number, records),
            (key, _) => return Err(BadImage(format!("row {key:?} holds something else"))),
        }
        Ok(())
    }
}
