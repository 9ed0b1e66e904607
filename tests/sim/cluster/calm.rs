//! The time in which nothing excuses a late end (P4): somebody serves, has served for a while, and
//! reaches a majority that lacks nothing.

use super::{Cluster, Node};
use crate::faults::CALM_SYNC_MS;
use crate::node::Process;
use crate::trace::lock;

/// After anything else. P4 allows a change of the leader as much; after other faults pieces that
/// were lost are sent again, and connections are made anew.
const SETTLE_MS: u64 = 2_000;

/// Who serves and lacks nothing, and since when.
#[derive(Default)]
pub(super) struct Calm(Option<(u64, u64)>);

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
        self.0 = None;
    }
}

impl Cluster {
    /// Counts a calm millisecond.
    pub(super) fn count_calm(&mut self, now: u64) {
        let mut ids = self.common.members.iter().copied();
        let leader = ids.find(|id| self.leads_well(*id) && self.common.net.is_fine());
        let since = self.calm.0.filter(|(id, _)| leader == Some(*id)).map_or(now, |(_, at)| at);
        self.calm.0 = leader.map(|id| (id, since));
        if leader.is_some() && now >= since + SETTLE_MS {
            lock(&self.common.witness).passes_calmly();
        }
    }

    /// Whether it serves and reaches a majority, both ways, in which each works as it should.
    fn leads_well(&self, id: u64) -> bool {
        let leader = self.nodes.get(&id).filter(|node| node.is_well());
        let serves = leader.and_then(|node| node.process.as_ref()).is_some_and(Process::serves);
        let reached = self.nodes.iter().filter(|(other, node)| {
            node.is_well() && (**other == id || self.common.net.linked(id, **other))
        });
        serves && reached.count() > self.common.members.len() / 2
    }
}
