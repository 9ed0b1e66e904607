//! Machines that join a running cluster, and members that are removed from it. What is asked for is
//! asked again, at any node, until the members are so: whoever was asked may be lost meanwhile. What
//! happened is read from the cluster itself.

use std::collections::{BTreeMap, BTreeSet};

use oarlock::service::members::{MemberChange, MembersCall, REMOVED, removed_id};
use oarlock::service::replicator::{Call, MemberStatus, Replicator};
use oarlock::service::{REQUEST_DEADLINE, Service};

use super::Cluster;
use crate::disk::Survival;
use crate::evidence::{FaultId, HEALING};
use crate::faults::Step;
use crate::node::{Process, known_member};
use crate::trace::lock;

/// Pause between two times that the same is asked for.
const AGAIN_MS: u64 = 400;

/// With fewer voters the loss of one stops the cluster.
const VOTERS_MIN: usize = 3;

/// Who comes and goes.
#[derive(Default)]
pub(super) struct Roster {
    /// Machines that may still join.
    spares: Vec<u64>,
    joining: BTreeMap<u64, FaultId>,
    leaving: BTreeMap<u64, FaultId>,
    /// Who was removed, and who joined when it was: faults of the one go on at the other.
    gone: BTreeMap<u64, Option<u64>>,
    joined: Vec<u64>,
    /// Removed, told so, and ended by itself.
    ended: BTreeSet<u64>,
    again_at: u64,
    healed: bool,
    began: bool,
}

impl Roster {
    pub(super) fn new(spares: Vec<u64>) -> Self {
        Self { spares, ..Self::default() }
    }

    /// Whether the members are, and stay, those of the beginning.
    pub(super) fn is_quiet(&self) -> bool {
        self.joining.is_empty() && self.leaving.is_empty()
    }

    /// Whether nobody ever came or went.
    pub(super) fn is_original(&self) -> bool {
        !self.began
    }

    /// Whether this one is no member, so that nobody counts on it.
    pub(super) fn is_out(&self, node: u64) -> bool {
        self.spares.contains(&node) || self.gone.contains_key(&node)
    }

    pub(super) fn may_start(&self, node: u64) -> bool {
        !self.spares.contains(&node) && !self.ended.contains(&node)
    }

    /// Everything has come about, and whoever was removed has stopped.
    pub(super) fn rests(&self) -> bool {
        self.is_quiet() && self.gone.keys().all(|node| self.ended.contains(node))
    }

    /// The step for those who stand in for removed members, if it is about any.
    pub(super) fn echo(&self, step: &Step) -> Option<Step> {
        let other = |node: u64| self.gone.get(&node).copied().flatten();
        let links = |links: &[(u64, u64)]| -> Option<Vec<(u64, u64)>> {
            let moved: Vec<_> = links
                .iter()
                .map(|(a, b)| (other(*a).unwrap_or(*a), other(*b).unwrap_or(*b)))
                .collect();
            (moved != links).then_some(moved)
        };
        let mut step = step.clone();
        match &mut step {
            Step::Cut(cut) | Step::Mend(cut) => *cut = links(cut)?,
            Step::Crash { node, .. }
            | Step::Start { node }
            | Step::Pause { node }
            | Step::Resume { node }
            | Step::DiskPace { node, .. }
            | Step::DiskRoom { node, .. }
            | Step::ClockRate { node, .. } => *node = other(*node)?,
            Step::Transfer { to } | Step::SayAgain { to } => *to = other(*to)?,
            Step::Weather(_)
            | Step::WhenSnapshot(_)
            | Step::CrashLeader { .. }
            | Step::Ambush { .. }
            | Step::Join
            | Step::Leave { .. } => return None,
        }
        Some(step)
    }
}

impl Cluster {
    /// The next spare machine starts, with nothing on its disk, and asks to be a member.
    pub(super) fn join(&mut self, fault: FaultId, now: u64) {
        if self.roster.spares.is_empty() {
            return;
        }
        self.roster.began = true;
        let spare = self.roster.spares.remove(0);
        self.roster.joining.insert(spare, fault);
        self.start_at(spare, now);
    }

    /// A member is to go: this one, or whoever leads.
    pub(super) fn leave(&mut self, fault: FaultId, node: Option<u64>) {
        self.roster.began = true;
        let Some(node) = node.or_else(|| self.serving()) else { return };
        if !self.roster.is_out(node) && !self.roster.joining.contains_key(&node) {
            self.roster.leaving.entry(node).or_insert(fault);
        }
    }

    /// Nobody is asked to go any more when nobody comes who would take its place.
    pub(super) fn settle_members(&mut self) {
        self.roster.healed = true;
    }

    pub(super) fn move_members(&mut self, now: u64) {
        self.complain_of_refusals();
        self.end_removed();
        if !self.roster.began {
            return;
        }
        if !self.roster.is_quiet() {
            self.calm_since = now;
        }
        let Some(leader) = self.serving() else { return };
        let Some(process) = self.nodes.get(&leader).and_then(|node| node.process.as_ref()) else {
            return;
        };
        let members = process.replicator.status().members;
        let removed: BTreeSet<u64> = process.machine.with(|machine| {
            machine.cluster_records(REMOVED).filter_map(|(key, _)| removed_id(key)).collect()
        });
        self.note_members(&members, &removed);
        if self.roster.is_quiet() || now < self.roster.again_at {
            return;
        }
        self.roster.again_at = now + AGAIN_MS;
        let voters = members.iter().filter(|member| member.voter).count();
        if self.roster.healed && self.roster.joining.is_empty() && voters <= VOTERS_MIN {
            self.roster.leaving.clear();
        }
        let joining: Vec<u64> = self.roster.joining.keys().copied().collect();
        for node in joining {
            if members.iter().any(|member| member.id == node) {
                self.ask(MembersCall::Promote(node));
            } else {
                self.add(leader, node);
            }
        }
        let leaving: Vec<u64> = self.roster.leaving.keys().copied().collect();
        for node_id in leaving {
            self.ask(MembersCall::Remove { node_id, force: false });
        }
    }

    /// What came about since somebody looked.
    fn note_members(&mut self, members: &[MemberStatus], removed: &BTreeSet<u64>) {
        let came = |node: &u64| members.iter().any(|member| member.id == *node && member.voter);
        let ready: Vec<u64> = self.roster.joining.keys().copied().filter(came).collect();
        for node in ready {
            if let Some(fault) = self.roster.joining.remove(&node) {
                self.common.evidence.bite(fault);
                self.common.trace.note("joined", &[node], 0);
                self.roster.joined.push(node);
            }
        }
        for node in removed {
            // What was given up may have been under way.
            let fault = self.roster.leaving.remove(node);
            if !self.roster.gone.contains_key(node) {
                self.common.evidence.bite(fault.unwrap_or(HEALING));
                self.common.evidence.reach("a member removed");
                self.common.trace.note("removed", &[*node], 0);
                let taken: Vec<u64> = self.roster.gone.values().copied().flatten().collect();
                let free = self.roster.joined.iter().find(|it| !taken.contains(it)).copied();
                self.roster.gone.insert(*node, free);
            }
        }
    }

    fn add(&self, leader: u64, node: u64) {
        let process = self.nodes.get(&leader).and_then(|node| node.process.as_ref());
        let Some(process) = process else { return };
        let replicator = process.replicator.clone();
        let change = MemberChange::Add(known_member(node));
        process.handle().spawn(async move { replicator.change_members(change).await.is_ok() });
    }

    /// At any node that runs.
    fn ask(&mut self, call: MembersCall) {
        let running: Vec<u64> = self
            .nodes
            .iter()
            .filter(|(id, node)| node.process.is_some() && !self.roster.is_out(**id))
            .map(|(id, _)| *id)
            .collect();
        if running.is_empty() {
            return;
        }
        let node = *self.random.pick(&running);
        if let Some((handle, service)) = self.doors.service(node) {
            let call = Call::Members(call);
            handle.spawn(
                async move { Service::call(&service, call, REQUEST_DEADLINE).await.is_ok() },
            );
        }
    }

    /// No disk goes back here, so no peer may say that one did.
    fn complain_of_refusals(&self) {
        let processes = self.nodes.values().filter_map(|node| node.process.as_ref());
        for process in processes.filter(|process| !process.was_removed()) {
            if let Some(why) = process.refusal() {
                lock(&self.common.witness).complain(format!("marks: a node was refused: {why}"));
            }
        }
    }

    /// Ends the processes of those who heard that they were removed, for good.
    fn end_removed(&mut self) {
        let told = |process: &Process| process.was_removed();
        let told: Vec<u64> = self
            .nodes
            .iter()
            .filter(|(_, node)| node.paused_at.is_none() && node.process.as_ref().is_some_and(told))
            .map(|(id, _)| *id)
            .collect();
        for node in told {
            if !self.roster.gone.contains_key(&node) && !self.roster.leaving.contains_key(&node) {
                let why = format!("members: node {node} was told to stop and is a member");
                lock(&self.common.witness).complain(why);
            }
            self.roster.ended.insert(node);
            self.crash(node, Survival::Everything, HEALING);
        }
    }

    /// The sets of voters of which a majority may decide, as any node that counts knows them.
    pub(super) fn voters_known(&self) -> BTreeSet<BTreeSet<u64>> {
        let counts = self.nodes.iter().filter(|(id, _)| !self.roster.is_out(**id));
        let processes = counts.filter_map(|(_, node)| node.process.as_ref());
        let mut sets: BTreeSet<BTreeSet<u64>> =
            processes.flat_map(Process::voters).filter(|voters| !voters.is_empty()).collect();
        if sets.is_empty() {
            sets.insert(self.common.members.iter().copied().collect());
        }
        sets
    }

    /// Who is a member, or joins.
    pub(crate) fn there(&self) -> Vec<u64> {
        self.nodes.keys().copied().filter(|node| !self.roster.is_out(*node)).collect()
    }

    /// At rest a cluster that survives the loss of one node is left.
    pub(crate) fn judge_members(&self) {
        for voters in self.voters_known() {
            if voters.len() < VOTERS_MIN {
                let why = format!("members: {voters:?} alone are left at the end");
                lock(&self.common.witness).complain(why);
            }
        }
    }
}
