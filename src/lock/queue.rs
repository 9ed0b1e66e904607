//! The waiters of one lock, first come first served (P8).
//!
//! A ticket is one more than that of the last waiter, so it orders the queue and needs no counter
//! of its own. Waiters stand in blocks of consecutive tickets: a position is then found by adding
//! up block lengths, which keeps ten thousand repeats after a fail-over from costing ten thousand
//! walks along the queue.

use alloc::collections::BTreeMap;

use crate::ids::LeaseId;
use crate::limits::count;
use crate::planted::{Bug, planted};

/// Tickets of one block share all bits but these.
const BLOCK_BITS: u32 = 8;

/// Waiters in ticket order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Queue {
    /// None is empty.
    blocks: BTreeMap<u64, BTreeMap<u64, LeaseId>>,
}

impl Queue {
    pub(crate) fn len(&self) -> usize {
        self.blocks.values().map(BTreeMap::len).sum()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// Whether no block is empty: [`Self::next_ticket`] looks at the last one alone.
    pub(crate) fn is_sound(&self) -> bool {
        self.blocks.values().all(|block| !block.is_empty())
    }

    /// The waiter that is next in line.
    pub(crate) fn front(&self) -> Option<LeaseId> {
        if planted(Bug::LastIsServedFirst) {
            return self.iter().last().map(|(_, lease_id)| lease_id);
        }
        self.iter().next().map(|(_, lease_id)| lease_id)
    }

    /// The ticket of whoever joins now.
    pub(crate) fn next_ticket(&self) -> u64 {
        let last = self.blocks.last_key_value().and_then(|(_, block)| block.last_key_value());
        last.map_or(0, |(ticket, _)| ticket.saturating_add(1))
    }

    /// Enters a waiter; `false` if the ticket is taken, and then nothing changed.
    pub(crate) fn insert(&mut self, ticket: u64, lease_id: LeaseId) -> bool {
        let block = self.blocks.entry(ticket >> BLOCK_BITS).or_default();
        if block.contains_key(&ticket) {
            return false;
        }
        block.insert(ticket, lease_id);
        true
    }

    pub(crate) fn remove(&mut self, ticket: u64) {
        let number = ticket >> BLOCK_BITS;
        let Some(block) = self.blocks.get_mut(&number) else { return };
        block.remove(&ticket);
        if block.is_empty() {
            self.blocks.remove(&number);
        }
    }

    pub(crate) fn get(&self, ticket: u64) -> Option<LeaseId> {
        self.blocks.get(&(ticket >> BLOCK_BITS))?.get(&ticket).copied()
    }

    /// 1 for the next in line.
    pub(crate) fn position(&self, ticket: u64) -> u64 {
        let number = ticket >> BLOCK_BITS;
        let before: usize = self.blocks.range(..number).map(|(_, block)| block.len()).sum();
        let within = self.blocks.get(&number).map_or(0, |block| block.range(..ticket).count());
        count(before).saturating_add(count(within)).saturating_add(1)
    }

    /// Tickets and waiters, the next in line first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, LeaseId)> {
        self.blocks.values().flatten().map(|(ticket, lease_id)| (*ticket, *lease_id))
    }
}
