//! Which rows changed since somebody last asked.
//!
//! Rules only mark keys here; rows are made when they are drained. A row that was never handed out
//! and is gone again leaves no trace, so a lock taken and released between two drains costs no
//! write at all.

use alloc::collections::BTreeMap;
use alloc::collections::btree_map::Entry;
use alloc::vec::Vec;

use crate::image::{Meta, RowKey};

/// Whether the row of a marked key may have been handed out before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    HandedOut,
    Fresh,
}

/// The marks, and the last `Meta` that was handed out.
#[derive(Debug, Clone, Default)]
pub(crate) struct Changes {
    marks: BTreeMap<RowKey, Origin>,
    pub(crate) meta: Option<Meta>,
}

impl Changes {
    /// The row did not exist a moment ago.
    pub(crate) fn created(&mut self, key: RowKey) {
        self.marks.entry(key).or_insert(Origin::Fresh);
    }

    pub(crate) fn changed(&mut self, key: RowKey) {
        self.marks.entry(key).or_insert(Origin::HandedOut);
    }

    pub(crate) fn deleted(&mut self, key: RowKey) {
        match self.marks.entry(key) {
            Entry::Occupied(mark) => match mark.get() {
                Origin::Fresh => {
                    mark.remove();
                }
                Origin::HandedOut => {}
            },
            Entry::Vacant(place) => {
                place.insert(Origin::HandedOut);
            }
        }
    }

    /// Keys that are marked.
    pub(crate) fn len(&self) -> usize {
        self.marks.len()
    }

    /// The first of the marked keys in key order, which are not marked afterwards.
    pub(crate) fn take(&mut self, at_most: usize) -> Vec<RowKey> {
        if at_most >= self.marks.len() {
            return core::mem::take(&mut self.marks).into_keys().collect();
        }
        core::iter::from_fn(|| self.marks.pop_first()).take(at_most).map(|(key, _)| key).collect()
    }
}
