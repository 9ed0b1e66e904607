//! Which behaviour levels the builds of the members know, and which one the log has.
//!
//! Every hello and its answer say what the sender's build knows at most. A leader writes an entry at
//! a level only when every member, learners too, is there and has announced that it knows it; one that
//! is away, or was not heard since this process started, holds the level where it is: it may come
//! back with an older build. It never falls: what is in the
//! log at a level must be applied by whoever comes later. A build that does not know the level of
//! the log is refused with the reason; should it apply such an entry nevertheless, it halts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Mutex, PoisonError};

use oarlock_core::command::LEVEL;

use crate::service::replicator::NodeId;

/// The lowest level that there is.
const FIRST: u16 = 1;

/// What this node knows of levels, its own and those of its peers.
pub struct Levels {
    own: AtomicU16,
    /// The highest of any entry that is applied here.
    in_use: AtomicU16,
    announced: Mutex<BTreeMap<NodeId, u16>>,
}

impl Default for Levels {
    fn default() -> Self {
        let (own, in_use) = (AtomicU16::new(LEVEL), AtomicU16::new(FIRST));
        Self { own, in_use, announced: Mutex::default() }
    }
}

impl Levels {
    /// What this build knows at most.
    pub fn own(&self) -> u16 {
        self.own.load(Ordering::Acquire)
    }

    /// As if this were another build. For tests of upgrades.
    pub fn pretend(&self, level: u16) {
        self.own.store(level, Ordering::Release);
    }

    /// An entry of that level was applied.
    pub fn applied(&self, level: u16) {
        self.in_use.fetch_max(level, Ordering::AcqRel);
    }

    /// A peer says what its build knows; it may be another build than before.
    pub(super) fn announced(&self, by: NodeId, level: u16) {
        self.announced.lock().unwrap_or_else(PoisonError::into_inner).insert(by, level);
    }

    pub(super) fn forget(&self, removed: &BTreeSet<NodeId>) {
        let mut announced = self.announced.lock().unwrap_or_else(PoisonError::into_inner);
        announced.retain(|id, _| !removed.contains(id));
    }

    /// Why a build that knows no more than this cannot take part, if so.
    pub(super) fn check(&self, who: &str, level: u16) -> Result<(), String> {
        let in_use = self.in_use.load(Ordering::Acquire);
        if level >= in_use {
            return Ok(());
        }
        Err(format!(
            "{who} knows behaviour levels up to {level}, and the log of this cluster has level \
             {in_use}: upgrade that node"
        ))
    }

    /// What a leader may write for these other members; `None` is one that it does not hear now.
    /// They are asked for only where this build knows more than the log has.
    pub fn to_write<M: Iterator<Item = Option<NodeId>>>(&self, others: impl FnOnce() -> M) -> u16 {
        let (own, in_use) = (self.own(), self.in_use.load(Ordering::Acquire));
        if own <= in_use {
            return in_use;
        }
        let announced = self.announced.lock().unwrap_or_else(PoisonError::into_inner);
        let lowest = others().try_fold(own, |lowest, id| Some(lowest.min(*announced.get(&id?)?)));
        lowest.map_or(in_use, |lowest| lowest.max(in_use))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_three(second: u16, third: Option<u16>) -> Levels {
        let levels = Levels::default();
        levels.pretend(3);
        levels.announced(2, second);
        if let Some(third) = third {
            levels.announced(3, third);
        }
        levels
    }

    #[test]
    fn the_level_rises_only_when_every_member_has_announced_it() {
        let written = |levels: &Levels| levels.to_write(|| [Some(2), Some(3)].into_iter());
        assert_eq!(written(&of_three(3, Some(3))), 3);
        let without_3 = of_three(3, Some(3)).to_write(|| [Some(2), None].into_iter());
        assert_eq!(without_3, 1, "who is away may come back with an older build");
        assert_eq!(written(&of_three(3, Some(2))), 2, "no further than the oldest");
        assert_eq!(written(&of_three(3, None)), 1, "one was not heard yet");
        assert_eq!(written(&of_three(9, Some(9))), 3, "no further than this build");
        let alone = Levels::default();
        alone.pretend(2);
        assert_eq!(alone.to_write(std::iter::empty), 2);
        // Of who is no member nothing is asked.
        assert_eq!(of_three(3, Some(1)).to_write(|| [Some(2)].into_iter()), 3);
        let again = of_three(3, Some(3));
        again.announced(3, 1);
        assert_eq!(written(&again), 1, "it came back with an older build in time");
    }

    #[test]
    fn the_level_never_falls_and_who_does_not_know_it_is_refused() {
        let levels = of_three(3, Some(3));
        levels.applied(3);
        levels.applied(2);
        levels.announced(3, 1);
        assert_eq!(levels.to_write(|| [Some(2), None].into_iter()), 3);
        assert_eq!(levels.check("node 2", 3), Ok(()));
        let why = levels.check("node 3", 1).expect_err("it is too old");
        assert!(why.contains("up to 1") && why.contains("has level 3"), "{why}");
        levels.forget(&[2].into());
        assert_eq!(levels.to_write(|| [Some(2)].into_iter()), 3, "what is in the log stays");
    }
}
