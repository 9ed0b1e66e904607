//! Lock-delay: a lock stays closed for a while after its holder was lost or forced, because that
//! holder may still be at work and not know (P10).
//!
//! While a lock is closed nobody is granted; waiters keep their places, who does not wait is
//! refused. A release, a closed session and a grant that nobody ever claimed close nothing: there
//! nobody is at work.

use crate::deadlines::Due;
use crate::event::EventKind;
use crate::ids::{LeaseId, LockName};
use crate::image::RowKey;
use crate::limits::count;
use crate::machine::{Machine, Step};
use crate::outcome::{EndReason, Rejection};
use crate::time::LeaseTime;

impl EndReason {
    /// Whether the holder may not know that it holds no longer.
    pub(crate) fn loses_the_holder(self) -> bool {
        match self {
            Self::Expired | Self::SessionExpired => true,
            // A force release closes the lock by its own rule.
            Self::Forced
            | Self::Released
            | Self::SessionClosed
            | Self::WaitTimeout
            | Self::Abandoned
            | Self::HandedOver => false,
        }
    }
}

impl Machine {
    /// Closes the lock until then, if it is not closed for longer already. The caller then settles
    /// it.
    pub(crate) fn close(&mut self, name: &LockName, until: LeaseTime) {
        if until <= self.clock {
            return;
        }
        let Some(lock) = self.table.locks.get_mut(name) else { return };
        let before = lock.closed_until;
        lock.closed_until = before.max(Some(until));
        if before.is_none() {
            self.closed_count = self.closed_count.saturating_add(1);
        }
        self.deadlines.shift(before, lock.closed_until, Due::Lock(name.clone()));
        self.changes.changed(RowKey::Lock(name.clone()));
    }

    /// The lock-delay is over.
    pub(crate) fn reopen(&mut self, name: &LockName, step: &mut Step) {
        let Some(lock) = self.table.locks.get_mut(name) else { return };
        if lock.closed_until.take().is_some() {
            self.closed_count = self.closed_count.saturating_sub(1);
        }
        let revision = self.emit(EventKind::Reopened { name: name.clone() }, step);
        self.touch_lock(name, revision);
        self.settle(name, step);
    }

    /// When a held lease would end unless renewed, to the microsecond, because its holder counts on
    /// no less; if it has no end, when its own lock-delay from now is over.
    pub(crate) fn would_end_at(&self, lease_id: LeaseId) -> LeaseTime {
        let Some(lease) = self.table.leases.get(&lease_id) else { return self.clock };
        let deadline = self.grant(lease_id).and_then(|grant| grant.deadline);
        deadline.unwrap_or_else(|| self.clock.plus_ms(lease.lock_delay.ms()))
    }

    /// Whether so many more leases may begin. A closed lock keeps the place of the lease that was
    /// lost: else locks taken and lost under ever new names would have no bound.
    pub(crate) fn leases_have_room(&self, more: usize) -> Result<(), Rejection> {
        let taken = self.table.leases.len().saturating_add(self.closed_count);
        if taken.saturating_add(more) > self.limits.leases_max {
            return Err(Rejection::LeasesFull { limit: count(self.limits.leases_max) });
        }
        Ok(())
    }
}
