//! Whether the cluster goes on: what falls due in calm times, a new leader after the old one was
//! lost, and the times in which no majority could work together.

use oarlock_core::machine::Machine as LockMachine;

use super::{Cluster, Node};
use crate::node::ELECTION_MAX_MS;
use crate::trace::lock;

/// When all is calm, what falls due ends within this time (P4).
const LATE_MS_MAX: u64 = 250;

/// Calm begins this long after the last fault: an election, and queues that drain. Less than a
/// quiet window of the plan, in which clients work on.
const CALM_AFTER_MS: u64 = 4_000;

/// With all else healthy, somebody serves again so long after the leader was lost.
const RECOVERY_MS_MAX: u64 = 3 * ELECTION_MAX_MS;

/// All else was healthy for so long before: followers know the leader and have what it has.
const HEALTHY_MS_MIN: u64 = 1_000;

/// A transfer that was not done by then was not what changed the leader.
const TRANSFER_MS_MAX: u64 = 3_000;

/// What falls due so soon is pending.
const PENDING_MS: u64 = 200;

/// See [`Cluster::judge_recovery`].
#[derive(Default)]
pub(super) struct Progress {
    healthy_since: Option<u64>,
    /// Which leader was lost, and when, with all else healthy.
    lost: Option<(u64, u64)>,
}

impl Progress {
    pub(super) fn ended(&mut self, node: u64, now: u64, served: bool) {
        let healthy = self.healthy_since.is_some_and(|since| since + HEALTHY_MS_MIN <= now);
        if healthy && served {
            self.lost = Some((node, now));
        }
    }
}

impl Cluster {
    /// Whether so many nodes that reach each other run that they could make progress.
    fn has_majority(&self) -> bool {
        let runs = |node: &Node| node.process.is_some() && node.paused_at.is_none();
        let up = || self.nodes.iter().filter(|(_, node)| runs(node)).map(|(id, _)| *id);
        // While the members change, nodes may know different ones, and who is cut off knows old
        // ones for long; whoever leads must speak both ways with a majority of some.
        let voters = self.voters_known();
        up().any(|one| {
            let reached = |other: u64| other == one || self.common.net.linked(one, other);
            voters.iter().any(|voters| {
                let count = up().filter(|other| voters.contains(other) && reached(*other)).count();
                count > voters.len() / 2
            })
        })
    }

    pub(super) fn note_outage(&mut self, now: u64) {
        match (self.has_majority(), self.outage_since) {
            (false, None) => self.outage_since = Some(now),
            (false, Some(since)) => {
                if now - since > ELECTION_MAX_MS {
                    lock(&self.common.witness).outage(since, now);
                }
            }
            (true, _) => self.outage_since = None,
        }
    }

    /// P4: when all is calm, nothing that is due stays.
    pub(super) fn look(&mut self, now: u64) {
        self.judge_recovery(now);
        let counted = || self.nodes.iter().filter(|(id, _)| !self.roster.is_out(**id));
        if !self.common.net.is_calm() || !counted().all(|(_, node)| node.is_well()) {
            self.calm_since = now;
        }
        let mut running =
            self.nodes.iter().filter_map(|(id, node)| Some((id, node.process.as_ref()?)));
        let Some((id, leader)) = running.find(|(_, process)| process.serves()) else {
            return;
        };
        if self.leader != Some(*id) {
            self.leader = Some(*id);
            self.leaders += 1;
            self.calm_since = self.calm_since.max(now);
            if let Some((fault, to, at)) = self.transfer.take()
                && to == *id
                && now < at + TRANSFER_MS_MAX
            {
                self.common.evidence.bite(fault);
            }
        }
        if now < self.calm_since + CALM_AFTER_MS {
            return;
        }
        let Some(due) = leader.machine.with(LockMachine::next_due) else { return };
        let late_ms = leader.lease_now_us().saturating_sub(due.0) / 1_000;
        if late_ms > LATE_MS_MAX {
            let why = format!("progress: something is due for {late_ms} ms on node {id}");
            lock(&self.common.witness).complain(why);
        }
    }

    /// After the loss of the leader with all else healthy, another serves in time.
    fn judge_recovery(&mut self, now: u64) {
        let lost = self.progress.lost;
        let well =
            |id: u64, node: &Node| lost.is_some_and(|(lost, _)| lost == id) || node.is_well();
        let counted = || self.nodes.iter().filter(|(id, _)| !self.roster.is_out(**id));
        let healthy = self.common.net.is_calm()
            && self.roster.is_quiet()
            && counted().all(|(id, node)| well(*id, node));
        let Some((_, since)) = lost else {
            let healthy_since = self.progress.healthy_since.unwrap_or(now);
            self.progress.healthy_since = healthy.then_some(healthy_since);
            return;
        };
        if healthy && now <= since + RECOVERY_MS_MAX && self.serving().is_none() {
            return;
        }
        if healthy && self.serving().is_some() {
            self.common.evidence.reach("a leader replaced with all else healthy");
            self.slowest_recovery_ms = self.slowest_recovery_ms.max(now - since);
        } else if healthy {
            let why = format!("recovery: nobody serves {} ms after the leader", now - since);
            lock(&self.common.witness).complain(why);
        }
        (self.progress.lost, self.progress.healthy_since) = (None, None);
    }

    /// What a fault would meet now; and does what waited for that.
    pub(super) fn note_business(&mut self, now: u64) {
        let keeps = |node: &Node| {
            node.kept_at.is_some()
                || node.process.as_ref().is_some_and(|process| process.keeper.has_work())
        };
        let snapshot = self.common.net.carries_snapshot() || self.nodes.values().any(keeps);
        let (waiter, expiry) = {
            let witness = lock(&self.common.witness);
            (witness.waiters > 0, witness.due_at_ms.is_some_and(|due| due <= now + PENDING_MS))
        };
        self.common.evidence.set_busy(waiter, expiry, snapshot);
        if snapshot {
            for (fault, step) in std::mem::take(&mut self.later) {
                self.step(fault, &step);
            }
        }
    }
}
