//! Who waits here for which lease, and how each is woken: once, by the event that decides it.
//!
//! A seat is taken before its acquire is proposed, so that no event can slip by. Several calls may
//! wait for one lease: a client that repeats a request while its first connection still lives.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use oarlock_core::command::Command;
use oarlock_core::ids::LeaseId;
use oarlock_core::outcome::{Ended, Grant};
use tokio::sync::oneshot;

use crate::service::replicator::Replicator;

/// What ends a wait.
#[derive(Debug, Clone)]
pub(super) enum Wake {
    Granted(Box<Grant>),
    /// Granted, but its connection was thought gone, or it is one of several: the answer is that of
    /// an attach.
    AttachFirst,
    Ended(Ended),
}

type Seats = Vec<(u64, oneshot::Sender<Wake>)>;

#[derive(Debug, Default)]
struct Entries {
    by_lease: HashMap<LeaseId, Seats>,
    seat_count: usize,
    next_key: u64,
}

/// All seats of this node. The mutex is the standard one: it is never held across an await.
#[derive(Debug, Default)]
pub(super) struct WaitingTable(Mutex<Entries>);

impl WaitingTable {
    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls that wait here now.
    pub(super) fn len(&self) -> usize {
        self.entries().seat_count
    }

    /// Takes a seat; `None` when all are taken.
    pub(super) fn take<'a, R: Replicator>(
        &'a self,
        replicator: &'a R,
        lease_id: LeaseId,
        seats_max: usize,
    ) -> Option<Seat<'a, R>> {
        let (key, woken) = self.register(lease_id, seats_max)?;
        Some(Seat { table: self, replicator, lease_id, key, woken, detaches: true })
    }

    fn register(
        &self,
        lease_id: LeaseId,
        seats_max: usize,
    ) -> Option<(u64, oneshot::Receiver<Wake>)> {
        let mut entries = self.entries();
        if entries.seat_count >= seats_max {
            return None;
        }
        let key = entries.next_key;
        entries.next_key += 1;
        entries.seat_count += 1;
        let (wake, woken) = oneshot::channel();
        entries.by_lease.entry(lease_id).or_default().push((key, wake));
        Some((key, woken))
    }

    /// Wakes everybody who waits for the lease; they leave the table.
    pub(super) fn wake(&self, lease_id: LeaseId, wake: &Wake) {
        let seats = {
            let mut entries = self.entries();
            let Some(seats) = entries.by_lease.remove(&lease_id) else { return };
            entries.seat_count -= seats.len();
            seats
        };
        for (_, seat) in seats {
            // The call may have ended meanwhile; its drop guard does what is needed.
            let _gone = seat.send(wake.clone());
        }
    }

    /// Leaves the table. Whether nobody else waits for the lease.
    fn leave(&self, lease_id: LeaseId, key: u64) -> bool {
        let mut entries = self.entries();
        let Some(seats) = entries.by_lease.get_mut(&lease_id) else { return true };
        let before = seats.len();
        seats.retain(|(seat, _)| *seat != key);
        let (left, removed) = (seats.len(), before - seats.len());
        if left == 0 {
            entries.by_lease.remove(&lease_id);
        }
        entries.seat_count -= removed;
        left == 0
    }
}

/// One call's wait for one lease. Dropped before its end, it lets the log know that the connection
/// is gone, unless another call still waits for the same lease.
pub(super) struct Seat<'a, R: Replicator> {
    table: &'a WaitingTable,
    replicator: &'a R,
    lease_id: LeaseId,
    key: u64,
    woken: oneshot::Receiver<Wake>,
    detaches: bool,
}

impl<R: Replicator> Seat<'_, R> {
    pub(super) fn lease_id(&self) -> LeaseId {
        self.lease_id
    }

    /// Waits to be woken; `None` cannot happen while the seat is in the table.
    pub(super) async fn woken(&mut self) -> Option<Wake> {
        (&mut self.woken).await.ok()
    }

    /// Sits down again after a wake that did not end the wait.
    pub(super) fn sit_again(&mut self) {
        // This call had a seat a moment ago, so the bound holds but for that moment.
        if let Some((key, woken)) = self.table.register(self.lease_id, usize::MAX) {
            self.key = key;
            self.woken = woken;
        }
    }

    /// The wait is over, or goes on elsewhere: nobody is to be detached.
    pub(super) fn settle(mut self) {
        self.detaches = false;
    }
}

impl<R: Replicator> Drop for Seat<'_, R> {
    fn drop(&mut self) {
        let last = self.table.leave(self.lease_id, self.key);
        if last && self.detaches {
            let lease_id = self.lease_id;
            self.replicator.propose_detached(Command::Detach { lease_id });
            // Somebody may have sat down and attached between the two: the last word is theirs.
            if self.table.entries().by_lease.contains_key(&lease_id) {
                self.replicator.propose_detached(Command::Attach { lease_id });
            }
        }
    }
}
