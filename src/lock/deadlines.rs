//! What ends by itself, ordered by the moment it is due.
//!
//! An index only: every entry follows from a lease, a session or a closed lock, nothing here is
//! persisted. Each of them has at most one entry, so an advance of the clock never meets a stale one.

use alloc::collections::BTreeSet;

use crate::ids::{LeaseId, LockName, SessionId};
use crate::time::LeaseTime;

/// Who is due. At the same moment leases come before sessions and those before closed locks, then
/// ids and names decide.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Due {
    Lease(LeaseId),
    Session(SessionId),
    /// The lock-delay of the lock is over.
    Lock(LockName),
}

/// Every deadline of the machine in (deadline, id) order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Deadlines {
    entries: BTreeSet<(LeaseTime, Due)>,
}

impl Deadlines {
    /// Enters `due`; what never ends by itself has no deadline and no entry.
    pub(crate) fn add(&mut self, deadline: Option<LeaseTime>, due: Due) {
        if let Some(deadline) = deadline {
            self.entries.insert((deadline, due));
        }
    }

    pub(crate) fn remove(&mut self, deadline: Option<LeaseTime>, due: Due) {
        if let Some(deadline) = deadline {
            self.entries.remove(&(deadline, due));
        }
    }

    /// Replaces an entry; costs nothing if the deadline stays the same.
    pub(crate) fn shift(&mut self, old: Option<LeaseTime>, new: Option<LeaseTime>, due: Due) {
        if old != new {
            self.remove(old, due.clone());
            self.add(new, due);
        }
    }

    pub(crate) fn first(&self) -> Option<(LeaseTime, Due)> {
        self.entries.first().cloned()
    }

    pub(crate) fn contains(&self, deadline: LeaseTime, due: Due) -> bool {
        self.entries.contains(&(deadline, due))
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
}
