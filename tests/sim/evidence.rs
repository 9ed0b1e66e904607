//! What shows that a fault did something. A fault that was planned bites when there is evidence: a
//! piece held up or lost, a process gone, a sync that took long, an unsynced write lost. What the
//! cluster was busy with at that moment is noted with it, so that a range of seeds can tell which
//! fault has met what.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use crate::trace::lock;

/// Which of the planned faults of a run; [`HEALING`] is none of them.
pub(crate) type FaultId = usize;

/// Whatever ends all faults.
pub(crate) const HEALING: FaultId = 0;

/// What a fault may meet.
pub(crate) const BUSY: [&str; 4] =
    ["a waiter queued", "an expiry pending", "a renewal in flight", "a snapshot in flight"];

/// What must have happened somewhere in a range of seeds, besides the faults.
pub(crate) const REACHED: [&str; 20] = [
    "a late piece of an old connection",
    "an old request answered again",
    "a request over two nodes at once",
    "a forward that arrived twice",
    "a request repeated by its client",
    "an unsynced write lost",
    "a vote granted",
    "a snapshot installed",
    "a snapshot compared with the log",
    "a restart compared with the log",
    "a lock closed after its holder was lost",
    "a lock forced",
    "a lock handed over",
    "a value written",
    "a value read",
    "a session closed",
    "a watcher told of a gap",
    "a leader replaced with all else healthy",
    "a member removed",
    "a lease or session that ran out in calm time",
];

/// Of these, what hardly happens in short seeds: a node has to be away until the others purged what it
/// lacks, and somebody has to watch there.
const RARE: &str = "a watcher told of a gap";

#[derive(Default)]
struct State {
    /// The kind of each planned fault, from 1.
    kinds: Vec<&'static str>,
    bitten: BTreeSet<FaultId>,
    met: BTreeSet<(FaultId, usize)>,
    busy: [bool; BUSY.len()],
    renewals: u64,
    reached: BTreeMap<&'static str, u64>,
}

/// Of one run. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Evidence(Arc<Mutex<State>>);

/// Planned and bitten faults of each kind, and what they met.
#[derive(Default, Clone)]
pub(crate) struct Tally {
    pub(crate) kinds: BTreeMap<&'static str, (u64, u64)>,
    pub(crate) met: BTreeMap<(&'static str, usize), u64>,
    pub(crate) reached: BTreeMap<&'static str, u64>,
}

/// A renewal is in flight while it exists.
pub(crate) struct Renewing(Evidence);

impl Drop for Renewing {
    fn drop(&mut self) {
        lock(&self.0.0).renewals -= 1;
    }
}

impl Evidence {
    pub(crate) fn plan(&self, kind: &'static str) -> FaultId {
        let mut state = lock(&self.0);
        state.kinds.push(kind);
        state.kinds.len()
    }

    /// The fault did something just now.
    pub(crate) fn bite(&self, fault: FaultId) {
        if fault == HEALING {
            return;
        }
        let mut state = lock(&self.0);
        state.bitten.insert(fault);
        let busy = [state.busy[0], state.busy[1], state.renewals > 0, state.busy[3]];
        let meets = (0..BUSY.len()).filter(|at| busy[*at]).map(|at| (fault, at));
        state.met.extend(meets);
    }

    /// One of [`REACHED`] happened.
    pub(crate) fn reach(&self, what: &'static str) {
        debug_assert!(REACHED.contains(&what), "{what} is in no list");
        *lock(&self.0).reached.entry(what).or_default() += 1;
    }

    pub(crate) fn renewing(&self) -> Renewing {
        lock(&self.0).renewals += 1;
        Renewing(self.clone())
    }

    /// What the cluster is busy with; renewals are counted apart.
    pub(crate) fn set_busy(&self, waiter: bool, expiry: bool, snapshot: bool) {
        lock(&self.0).busy = [waiter, expiry, false, snapshot];
    }

    pub(crate) fn tally(&self) -> Tally {
        let state = lock(&self.0);
        let mut tally = Tally { reached: state.reached.clone(), ..Tally::default() };
        for (at, kind) in state.kinds.iter().enumerate() {
            let (planned, bitten) = tally.kinds.entry(*kind).or_default();
            *planned += 1;
            *bitten += u64::from(state.bitten.contains(&(at + 1)));
        }
        for (fault, busy) in &state.met {
            *tally.met.entry((state.kinds[fault - 1], *busy)).or_default() += 1;
        }
        tally
    }
}

impl Tally {
    pub(crate) fn add(&mut self, other: &Self) {
        for (kind, (planned, bitten)) in &other.kinds {
            let sum = self.kinds.entry(*kind).or_default();
            *sum = (sum.0 + planned, sum.1 + bitten);
        }
        for (pair, count) in &other.met {
            *self.met.entry(*pair).or_default() += count;
        }
        for (what, count) in &other.reached {
            *self.reached.entry(*what).or_default() += count;
        }
    }

    /// A table: a row for each kind of fault, with what it met, and what else was reached.
    pub(crate) fn table(&self) -> String {
        let head = BUSY.map(|busy| format!("{busy:>22}")).concat();
        let mut lines = vec![format!("{:<14}{:>9}{:>9}{head}", "fault", "planned", "bit")];
        for (kind, (planned, bitten)) in &self.kinds {
            let met = |at| self.met.get(&(*kind, at)).copied().unwrap_or(0);
            let met = [0, 1, 2, 3].map(|at| format!("{:>22}", met(at))).concat();
            lines.push(format!("{kind:<14}{planned:>9}{bitten:>9}{met}"));
        }
        for what in REACHED {
            let count = self.reached.get(what).copied().unwrap_or(0);
            lines.push(format!("{count:>10} times {what}"));
        }
        lines.join("\n")
    }

    /// Kinds of fault that never bit, and what was never reached.
    pub(crate) fn never(
        &self,
        kinds: impl Iterator<Item = &'static str>,
        are_long: bool,
    ) -> Vec<String> {
        let bit = |kind: &str| self.kinds.get(kind).is_some_and(|(_, bitten)| *bitten > 0);
        let idle = kinds.filter(|kind| !bit(kind)).map(|kind| format!("{kind} never bit"));
        let reached = |what: &&&str| !self.reached.contains_key(**what);
        let expected = REACHED.iter().filter(|what| are_long || **what != RARE);
        let missed = expected.filter(reached).map(|what| format!("never: {what}"));
        idle.chain(missed).collect()
    }

    /// Pairs of a fault and what it should have met.
    pub(crate) fn never_met(&self, kinds: impl Iterator<Item = &'static str>) -> Vec<String> {
        let pairs = kinds.flat_map(|kind| (0..BUSY.len()).map(move |at| (kind, at)));
        let missed = pairs.filter(|pair| !self.met.contains_key(pair));
        missed.map(|(kind, at)| format!("{kind} never met {}", BUSY[at])).collect()
    }
}
