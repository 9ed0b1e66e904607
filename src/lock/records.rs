//! Records of the cluster itself: small texts under keys, apart from all locks. What is in them is
//! for the shell to say (invitations, who was removed); here they are kept, bounded, and changed by
//! compare and set, so that of two who decided by the same state one learns that it changed.
//!
//! They are in no list, watch or history, and end by no clock. Their revisions are a sequence of
//! their own: one is never given twice, also not to a record that was deleted and came again.

use alloc::collections::BTreeMap;
use core::ops::Bound;

use serde::{Deserialize, Serialize};

use crate::command::Expected;
use crate::ids::{RecordKey, RecordValue, Revision};
use crate::image::RowKey;
use crate::limits::count;
use crate::machine::Machine;
use crate::outcome::{Outcome, Rejection};

/// One record. Persisted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// What it says.
    pub value: RecordValue,
    /// Of its last change.
    pub revision: Revision,
}

/// All of them, and the last revision that was given.
#[derive(Debug, Clone, Default)]
pub(crate) struct Records {
    pub(crate) kept: BTreeMap<RecordKey, Record>,
    pub(crate) revision: Revision,
}

impl Machine {
    /// The record under that key.
    pub fn cluster_record(&self, key: &RecordKey) -> Option<&Record> {
        self.records.kept.get(key)
    }

    /// Every record whose key begins so, in key order.
    pub fn cluster_records<'a>(
        &'a self,
        prefix: &'a str,
    ) -> impl Iterator<Item = (&'a RecordKey, &'a Record)> {
        let range = (Bound::Included(prefix), Bound::Unbounded);
        let from = self.records.kept.range::<str, _>(range);
        from.take_while(move |(key, _)| key.as_str().starts_with(prefix))
    }

    /// Of the newest change of any record; the same one means the same records.
    pub fn record_revision(&self) -> Revision {
        self.records.revision
    }

    /// For a state that was restored from a backup: what it says of a cluster is about another one.
    /// Revisions are not given again.
    pub(crate) fn forget_records(&mut self) {
        while let Some((key, _)) = self.records.kept.pop_first() {
            self.changes.deleted(RowKey::Record(key));
        }
    }

    pub(crate) fn put_record(
        &mut self,
        key: &RecordKey,
        value: Option<&RecordValue>,
        expected: Expected,
    ) -> Outcome {
        let known = self.cluster_record(key).map(|record| record.revision);
        let fits = match expected {
            Expected::Anything => true,
            Expected::Absent => known.is_none(),
            Expected::At(revision) => known == Some(revision),
        };
        if !fits {
            return Outcome::Rejected(Rejection::RecordChanged { revision: known });
        }
        let Some(value) = value else {
            if self.records.kept.remove(key).is_some() {
                self.changes.deleted(RowKey::Record(key.clone()));
            }
            return Outcome::RecordPut(None);
        };
        let limit = self.limits.records_max;
        if known.is_none() && self.records.kept.len() >= limit {
            return Outcome::Rejected(Rejection::RecordsFull { limit: count(limit) });
        }
        let revision = Revision(self.records.revision.0.saturating_add(1));
        self.records.revision = revision;
        self.changes.changed(RowKey::RecordRevision);
        let row = RowKey::Record(key.clone());
        match known {
            Some(_) => self.changes.changed(row),
            None => self.changes.created(row),
        }
        self.records.kept.insert(key.clone(), Record { value: value.clone(), revision });
        Outcome::RecordPut(Some(revision))
    }
}
