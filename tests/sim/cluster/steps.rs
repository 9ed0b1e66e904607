//! The hand of the simulation: does to nodes and network what the plan of the faults says.

use std::sync::atomic::Ordering;

use super::{Cluster, Node};
use crate::disk::Survival;
use crate::evidence::{FaultId, HEALING};
use crate::faults::{CALM_SYNC_MS, Step};
use crate::net::CALM;
use crate::node::Process;
use crate::trace::lock;

impl Cluster {
    /// Does what the plan says.
    pub(crate) fn step(&mut self, fault: FaultId, step: &Step) {
        if let Some(echo) = self.roster.echo(step) {
            self.step_one(fault, &echo);
        }
        self.step_one(fault, step);
    }

    fn step_one(&mut self, fault: FaultId, step: &Step) {
        let now = self.now.ms();
        self.calm_since = now;
        self.common.trace.note_text("fault", &format!("{step:?}"));
        match step {
            Step::Cut(links) => self.common.net.block(links, fault),
            Step::Mend(links) => self.common.net.unblock(links),
            Step::Weather(weather) => self.common.net.set_weather(*weather, fault),
            Step::Crash { node, survival, away_ms } => {
                self.crash(*node, *survival, fault);
                self.start_at(*node, now + away_ms);
            }
            Step::WhenSnapshot(step) => self.later.push((fault, step.as_ref().clone())),
            Step::Start { node } => self.start_at(*node, now),
            Step::CrashLeader { survival, away_ms } => {
                if let Some(leader) = self.serving() {
                    self.crash(leader, *survival, fault);
                    self.start_at(leader, now + away_ms);
                }
            }
            Step::Ambush { away_ms } => self.ambush = Some((fault, *away_ms)),
            Step::SayAgain { to } => self.common.net.say_again(*to, fault),
            Step::Pause { node } => {
                let pause = |node: &mut Node| {
                    if node.process.is_some() && node.paused_at.is_none() {
                        (node.paused_at, node.pause_of) = (Some(now), fault);
                    }
                };
                self.nodes.entry(*node).and_modify(pause);
            }
            Step::Resume { node } => {
                if let Some(node) = self.nodes.get_mut(node)
                    && let (Some(process), Some(at)) = (&node.process, node.paused_at.take())
                {
                    process.skip(now - at);
                }
            }
            Step::DiskPace { node, sync_ms } => {
                let set = |node: &mut Node| (node.sync_ms, node.pace_of) = (*sync_ms, fault);
                self.nodes.entry(*node).and_modify(set);
            }
            Step::DiskRoom { node, low, full } => {
                if let Some(node) = self.nodes.get(node) {
                    let low_of = if *low { fault } else { HEALING };
                    node.hardware.low_of.store(low_of, Ordering::Relaxed);
                    node.hardware.log.set_full(*full, fault);
                    node.hardware.snapshots.set_full(*full, fault);
                }
            }
            Step::Transfer { to } => {
                let leader = self.serving().filter(|leader| leader != to);
                let process = leader.and_then(|id| self.nodes.get(&id)?.process.as_ref());
                if let Some(process) = process {
                    process.hand_over(*to);
                    self.calm.ends();
                    self.transfer = Some((fault, *to, now));
                }
            }
            Step::Join => self.join(fault, now),
            Step::Leave { node } => self.leave(fault, *node),
            Step::ClockRate { node, ppm } => {
                let set = |node: &mut Node| (node.ppm, node.clock_of) = (*ppm, fault);
                self.nodes.entry(*node).and_modify(set);
            }
        }
    }

    /// Ends every fault.
    pub(crate) fn heal(&mut self) {
        let members: Vec<u64> = self.nodes.keys().copied().collect();
        let all = members.iter().flat_map(|a| members.iter().map(move |b| (*a, *b)));
        let mut steps = vec![Step::Mend(all.collect()), Step::Weather(CALM)];
        for node in members {
            steps.push(Step::DiskPace { node, sync_ms: CALM_SYNC_MS });
            steps.push(Step::DiskRoom { node, low: false, full: false });
            steps.push(Step::Resume { node });
            steps.push(Step::Start { node });
        }
        for step in &steps {
            self.step(HEALING, step);
        }
        self.ambush = None;
        self.later.clear();
        self.settle_members();
    }

    /// At the earliest moment that anybody asks for.
    pub(super) fn start_at(&mut self, node: u64, at: u64) {
        let may = self.roster.may_start(node);
        let start = |node: &mut Node| {
            if may && node.process.is_none() {
                node.starts_at = Some(node.starts_at.map_or(at, |other| other.min(at)));
            }
        };
        self.nodes.entry(node).and_modify(start);
    }

    /// Whoever serves, if its process does not stand still.
    pub(crate) fn serving(&self) -> Option<u64> {
        let serves = |node: &Node| {
            node.paused_at.is_none() && node.process.as_ref().is_some_and(Process::serves)
        };
        self.nodes.iter().find(|(_, node)| serves(node)).map(|(id, _)| *id)
    }

    /// Remembers the votes that were granted, and cuts the power where that was waited for.
    pub(super) fn heed_votes(&mut self, now: u64) {
        for (node, vote) in self.common.net.take_granted() {
            lock(&self.common.witness).granted(node, vote);
            if let Some((fault, away_ms)) = self.ambush.take() {
                let survival = Survival::Synced;
                self.crash(node, survival, fault);
                self.common.evidence.bite(fault);
                self.start_at(node, now + away_ms);
            }
        }
    }
}
