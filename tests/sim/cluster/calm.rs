//! The time in which nothing excuses a late end (P4): somebody serves, has served for a while, and
//! reaches a majority that lacks nothing.

use std::collections::BTreeMap;

use super::{Cluster, Node};
use crate::faults::CALM_SYNC_MS;
use crate::node::Process;
use crate::trace::lock;

/// After anything else. P4 allows a change of the leader as much; after other faults pieces that
/// were lost are sent again, and connections are made anew.
const SETTLE_MS: u64 = 2_000;

/// Who serves, and since when it reaches which nodes that lack nothing, itself among them.
#[derive(Default)]
pub(super) struct Calm {
    leader: Option<u64>,
    reached_since: BTreeMap<u64, u64>,
}

impl Node {
    /// Whether it runs, and its disk is quick and has room.
    pub(super) fn is_well(&self) -> bool {
        self.process.is_some()
            && self.paused_at.is_none()
            && self.sync_ms == CALM_SYNC_MS
            && self.hardware.has_room()
    }
}

impl Calm {
    /// Who gives its leadership away decides nothing until that is done or given up.
    pub(super) fn ends(&mut self) {
        *self = Self::default();
    }
}

impl Cluster {
    /// Counts a calm millisecond: a majority has been there for a while. Who comes back has to be
    /// connected with first, and is no help at once.
    pub(super) fn count_calm(&mut self, now: u64) {
        let leader = self.leads_well();
        if leader.is_none() || leader != self.calm.leader {
            self.calm = Calm { leader, ..Calm::default() };
        }
        let Some(leader) = leader else { return };
        for (id, node) in self.nodes.iter().filter(|(id, _)| !self.roster.is_out(**id)) {
            if node.is_well() && (*id == leader || self.common.net.linked(leader, *id)) {
                self.calm.reached_since.entry(*id).or_insert(now);
            } else {
                self.calm.reached_since.remove(id);
            }
        }
        let settled = self.calm.reached_since.values().filter(|at| **at + SETTLE_MS <= now);
        if settled.count() > self.common.members.len() / 2 {
            lock(&self.common.witness).passes_calmly();
        }
    }

    /// Who serves, with nothing wrong with its own machine or with all links.
    fn leads_well(&self) -> Option<u64> {
        let serves = |node: &Node| node.process.as_ref().is_some_and(Process::serves);
        let reaches_most = |id: u64| {
            let linked = |other: &&u64| **other == id || self.common.net.linked(id, **other);
            let members = self.nodes.keys().filter(|id| !self.roster.is_out(**id));
            members.filter(linked).count() > self.common.members.len() / 2
        };
        let mut leaders = self.nodes.iter().filter(|(_, node)| serves(node) && node.is_well());
        let leader = leaders.find(|(id, _)| reaches_most(**id)).map(|(id, _)| *id);
        // Who is needed for a majority is known for the first members only.
        leader.filter(|_| self.common.net.is_fine() && self.roster.is_original())
    }
}
