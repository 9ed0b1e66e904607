//! The value that a lock may carry: written by whoever holds the lock, read by everybody.
//!
//! It outlives the grant, so that a successor finds the checkpoint of its predecessor, and carries
//! the token under which it was written, so that readers know whose it is. The next holder
//! overwrites or deletes it; while nobody holds the lock an operator may delete it.

use alloc::boxed::Box;

use crate::event::EventKind;
use crate::ids::{LeaseId, LockName, Value};
use crate::image::RowKey;
use crate::limits::count;
use crate::machine::{Machine, Step};
use crate::outcome::{Outcome, Rejection, ValueInfo};
use crate::table::LeaseState;

impl Machine {
    pub(crate) fn set_value(
        &mut self,
        name: &LockName,
        lease_id: LeaseId,
        value: Option<&Value>,
        step: &mut Step,
    ) -> Outcome {
        let Some(lease) = self.table.leases.get(&lease_id) else { return self.gone(lease_id) };
        let token = match &lease.state {
            LeaseState::Waiting(_) => return Outcome::Rejected(Rejection::LeaseWaiting),
            LeaseState::Held(held) => held.token,
        };
        if lease.name != *name {
            return Outcome::Rejected(Rejection::LeaseOfOtherLock);
        }
        let Some(value) = value else {
            self.clear_value(name, step);
            return Outcome::ValueSet(None);
        };
        let carried = self.table.locks.get(name).is_some_and(|lock| lock.value.is_some());
        if !carried && self.value_count >= self.limits.values_max {
            return Outcome::Rejected(Rejection::ValuesFull {
                limit: count(self.limits.values_max),
            });
        }
        let owner = lease.owner.clone();
        let kind = EventKind::ValueChanged { name: name.clone(), token: Some(token) };
        let revision = self.emit(kind, step);
        let info = Box::new(ValueInfo {
            value: value.clone(),
            token,
            owner,
            written_wall_ms: step.wall_ms,
            revision,
        });
        if let Some(lock) = self.table.locks.get_mut(name) {
            lock.value = Some(info.clone());
        }
        if carried {
            self.changes.changed(RowKey::Value(name.clone()));
        } else {
            self.value_count = self.value_count.saturating_add(1);
            self.changes.created(RowKey::Value(name.clone()));
        }
        self.touch_lock(name, revision);
        Outcome::ValueSet(Some(info))
    }

    /// For operators: only while nobody holds the lock, whose holder would be surprised.
    pub(crate) fn delete_value(&mut self, name: &LockName, step: &mut Step) -> Outcome {
        let Some(lock) = self.table.locks.get(name) else {
            return Outcome::ValueDeleted { existed: false };
        };
        if !lock.holders.is_empty() {
            let contention = Box::new(self.contention(name, lock));
            return Outcome::Rejected(Rejection::LockHeld(contention));
        }
        let existed = self.clear_value(name, step);
        self.forget_if_idle(name);
        Outcome::ValueDeleted { existed }
    }

    fn clear_value(&mut self, name: &LockName, step: &mut Step) -> bool {
        let taken = self.table.locks.get_mut(name).and_then(|lock| lock.value.take());
        if taken.is_none() {
            return false;
        }
        self.value_count = self.value_count.saturating_sub(1);
        self.changes.deleted(RowKey::Value(name.clone()));
        let kind = EventKind::ValueChanged { name: name.clone(), token: None };
        let revision = self.emit(kind, step);
        self.touch_lock(name, revision);
        true
    }
}
