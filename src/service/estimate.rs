//! How long a wait may take: what the present holder has left of a usual hold, plus a usual hold
//! for each waiter in between.
//!
//! A usual hold is the median of the lock's last few, so that one stuck job does not spoil the
//! estimate. It is a guess for people and dashboards: nothing decides by it. Shared holders are
//! counted one after the other, so for readers it says too much rather than too little.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use oarlock_core::ids::LockName;
use oarlock_core::outcome::Holder;
use oarlock_core::time::LeaseTime;

use crate::service::handle::Service;
use crate::service::replicator::Replicator;

/// Holds remembered per lock.
const HOLDS_MAX: usize = 16;
/// Locks remembered; the one that was first heard of goes first.
const LOCKS_MAX: usize = 10_000;

#[derive(Debug, Default)]
struct Heard {
    holds: HashMap<LockName, VecDeque<u64>>,
    order: VecDeque<LockName>,
}

/// Recent hold times. The mutex is the standard one: it is never held across an await.
#[derive(Debug, Default)]
pub(super) struct Holds(Mutex<Heard>);

impl Holds {
    /// A grant ended after this time.
    pub(super) fn ended(&self, name: &LockName, held_ms: u64) {
        let mut heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(holds) = heard.holds.get_mut(name.as_str()) {
            if holds.len() == HOLDS_MAX {
                holds.pop_front();
            }
            holds.push_back(held_ms);
            return;
        }
        if heard.order.len() == LOCKS_MAX
            && let Some(oldest) = heard.order.pop_front()
        {
            heard.holds.remove(oldest.as_str());
        }
        heard.order.push_back(name.clone());
        heard.holds.insert(name.clone(), VecDeque::from([held_ms]));
    }

    /// The median of the recent hold times.
    fn usual_ms(&self, name: &LockName) -> Option<u64> {
        let mut holds: Vec<u64> = {
            let heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            heard.holds.get(name.as_str())?.iter().copied().collect()
        };
        holds.sort_unstable();
        holds.get(holds.len() / 2).copied()
    }
}

impl<R: Replicator> Service<R> {
    /// The wait of whoever stands at `position` (1 is next); `None` while nothing is known of the
    /// lock's usual hold time.
    pub fn estimate_ms(
        &self,
        name: &LockName,
        holder: Option<&Holder>,
        position: u64,
        now: LeaseTime,
    ) -> Option<u64> {
        let usual = self.holds.usual_ms(name)?;
        let left = holder.map_or(0, |it| usual.saturating_sub(now.ms_since(it.granted_at)));
        Some(left.saturating_add(position.saturating_sub(1).saturating_mul(usual)))
    }

    /// The same from this node's own state.
    pub(super) fn estimate_here_ms(&self, name: &LockName, position: u64) -> Option<u64> {
        self.holds.usual_ms(name)?;
        let view = self.replicator.with_machine(|machine| machine.lock(name, 1, 0));
        self.estimate_ms(name, view.holders.first(), position, self.replicator.lease_now())
    }
}
