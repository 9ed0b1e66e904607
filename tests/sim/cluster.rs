//! All nodes of a cluster, moved a millisecond at a time by one thread: what arrives, then each
//! node in its order, its disk, and what it ends of itself.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use oarlock_core::machine::Machine as LockMachine;

use crate::clients::Doors;
use crate::disk::Survival;
use crate::faults::{CALM_SYNC_MS, Step};
use crate::net::CALM;
use crate::node::{Common, ELECTION_MAX_MS, Machine, Process};
use crate::random::Random;
use crate::trace::{Now, lock};

/// A supervisor starts a process that ended itself again after this long.
const SUPERVISOR_MS: (u64, u64) = (200, 2_000);

/// When all is calm, what falls due ends within this time (P4).
const LATE_MS_MAX: u64 = 250;

/// Calm begins this long after the last fault: an election, and queues that drain.
const CALM_AFTER_MS: u64 = 6_000;

struct Node {
    hardware: Machine,
    process: Option<Process>,
    starts_at: Option<u64>,
    paused_at: Option<u64>,
    ppm: i64,
    /// Millionths of a millisecond that its clock is behind.
    debt: i64,
    sync_ms: (u64, u64),
    /// When the write that is under way is durable.
    written_at: Option<u64>,
    kept_at: Option<u64>,
}

/// See the module.
pub(crate) struct Cluster {
    pub(crate) common: Common,
    pub(crate) now: Now,
    pub(crate) doors: Doors,
    random: Random,
    nodes: BTreeMap<u64, Node>,
    outage_since: Option<u64>,
    calm_since: u64,
    pub(crate) crashes: u64,
    pub(crate) leaders: u64,
    leader: Option<u64>,
}

impl Cluster {
    pub(crate) fn new(common: Common, now: Now, mut random: Random) -> Self {
        let node = |id: &u64| {
            let node = Node {
                hardware: Machine::new(*id, &common.trace),
                process: None,
                starts_at: Some(1 + *id),
                paused_at: None,
                ppm: 0,
                debt: 0,
                sync_ms: CALM_SYNC_MS,
                written_at: None,
                kept_at: None,
            };
            (*id, node)
        };
        let nodes = common.members.iter().map(node).collect();
        Self {
            common,
            now,
            doors: Doors::default(),
            random: random.fork(),
            nodes,
            outage_since: None,
            calm_since: 0,
            crashes: 0,
            leaders: 0,
            leader: None,
        }
    }

    /// One millisecond.
    pub(crate) fn tick(&mut self) {
        let now = self.now.tick();
        self.common.net.advance();
        for id in self.common.members.clone() {
            self.start_if_due(id, now);
            self.move_node(id, now);
        }
        self.note_outage(now);
        self.look(now);
    }

    fn start_if_due(&mut self, id: u64, now: u64) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        if node.process.is_some() || node.starts_at.is_none_or(|at| at > now) {
            return;
        }
        node.starts_at = None;
        match Process::start(id, &self.common, &node.hardware, self.random.fork()) {
            Ok(process) => {
                self.doors.open(id, process.handle(), process.service.clone());
                node.process = Some(process);
                self.common.trace.note("start", &[id], 0);
            }
            // A full disk; anything else is a defect.
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => {
                node.starts_at = Some(now + self.random.within(SUPERVISOR_MS.0, SUPERVISOR_MS.1));
            }
            Err(error) => {
                let why = format!("start: node {id} refuses its own disk: {error}");
                lock(&self.common.witness).complain(why);
            }
        }
    }

    fn move_node(&mut self, id: u64, now: u64) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let Some(process) = &mut node.process else { return };
        if node.paused_at.is_some() {
            return;
        }
        node.debt += 1_000_000 + node.ppm;
        let ms = u64::try_from(node.debt / 1_000_000).unwrap_or(0);
        node.debt %= 1_000_000;
        if ms > 0 {
            process.tick(ms);
        }
        let handle = process.handle();
        let _inside = handle.enter();
        if node.written_at.is_some_and(|at| at <= now) {
            process.writer.finish();
            node.written_at = None;
        }
        if node.written_at.is_none() && process.writer.begin() {
            let took = self.random.within(node.sync_ms.0, node.sync_ms.1 + 1);
            node.written_at = Some(now + took);
        }
        if node.kept_at.is_some_and(|at| at <= now) {
            process.keeper.work();
            node.kept_at = None;
        } else if node.kept_at.is_none() && process.keeper.has_work() {
            node.kept_at = Some(now + self.random.within(1, 30));
        }
        let why = lock(&process.fatal).clone();
        if let Some(why) = why {
            self.common.trace.note("fatal", &[id], crate::trace::hash(why.as_bytes()));
            let full = why.contains("no storage space") || why.contains("the power is gone");
            if !full {
                let why = format!("fatal: node {id} ended itself: {why}");
                lock(&self.common.witness).complain(why);
            }
            self.crash(id, Survival::Everything);
            let again = now + self.random.within(SUPERVISOR_MS.0, SUPERVISOR_MS.1);
            self.nodes.entry(id).and_modify(|node| node.starts_at = Some(again));
        }
    }

    fn crash(&mut self, id: u64, survival: Survival) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let Some(mut process) = node.process.take() else { return };
        self.crashes += 1;
        self.calm_since = self.now.ms();
        self.common.trace.note("crash", &[id], 0);
        self.doors.close(id);
        let power = survival != Survival::Everything;
        self.common.net.stop(id, power);
        if node.written_at.take().is_some() {
            // In the middle of the write that is under way, or before or after it.
            node.hardware.log.fail_after(self.random.within(0, 3));
            let handle = process.handle();
            let _inside = handle.enter();
            process.writer.finish();
        }
        node.hardware.log.fail_after(0);
        node.hardware.snapshots.fail_after(0);
        drop(process);
        node.hardware.log.crash(survival);
        node.hardware.snapshots.crash(survival);
        (node.paused_at, node.kept_at) = (None, None);
    }

    /// Does what the plan says.
    pub(crate) fn step(&mut self, step: &Step) {
        let now = self.now.ms();
        self.calm_since = now;
        self.common.trace.note("fault", &[], crate::trace::hash(format!("{step:?}").as_bytes()));
        match step {
            Step::Cut(links) => self.common.net.block(links),
            Step::Mend(links) => self.common.net.unblock(links),
            Step::Weather(weather) => self.common.net.set_weather(*weather),
            Step::Crash { node, survival } => self.crash(*node, *survival),
            Step::Start { node } => {
                let start = |node: &mut Node| {
                    if node.process.is_none() {
                        node.starts_at.get_or_insert(now);
                    }
                };
                self.nodes.entry(*node).and_modify(start);
            }
            Step::Pause { node } => {
                let pause = |node: &mut Node| {
                    if node.process.is_some() {
                        node.paused_at.get_or_insert(now);
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
                self.nodes.entry(*node).and_modify(|node| node.sync_ms = *sync_ms);
            }
            Step::DiskRoom { node, low, full } => {
                if let Some(node) = self.nodes.get(node) {
                    node.hardware.disk_is_low.store(*low, Ordering::Relaxed);
                    node.hardware.log.set_full(*full);
                    node.hardware.snapshots.set_full(*full);
                }
            }
            Step::Transfer { to } => {
                let mut running = self.nodes.values().filter_map(|node| node.process.as_ref());
                if let Some(leader) = running.find(|process| process.serves()) {
                    leader.hand_over(*to);
                }
            }
            Step::ClockRate { node, ppm } => {
                self.nodes.entry(*node).and_modify(|node| node.ppm = *ppm);
            }
        }
    }

    /// Ends every fault.
    pub(crate) fn heal(&mut self) {
        let members = self.common.members.clone();
        let all = members.iter().flat_map(|a| members.iter().map(move |b| (*a, *b)));
        let mut steps = vec![Step::Mend(all.collect()), Step::Weather(CALM)];
        for node in members {
            steps.push(Step::DiskPace { node, sync_ms: CALM_SYNC_MS });
            steps.push(Step::DiskRoom { node, low: false, full: false });
            steps.push(Step::Resume { node });
            steps.push(Step::Start { node });
        }
        for step in &steps {
            self.step(step);
        }
    }

    /// Whether so many nodes that reach each other run that they could make progress.
    fn has_majority(&self) -> bool {
        let runs = |node: &Node| node.process.is_some() && node.paused_at.is_none();
        let up = || self.nodes.iter().filter(|(_, node)| runs(node)).map(|(id, _)| *id);
        let majority = self.common.members.len() / 2 + 1;
        // Whoever leads must speak both ways with a majority.
        up().any(|one| {
            let reached = up().filter(|other| *other == one || self.common.net.linked(one, *other));
            reached.count() >= majority
        })
    }

    fn note_outage(&mut self, now: u64) {
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
    fn look(&mut self, now: u64) {
        let up = |node: &Node| node.process.is_some() && node.paused_at.is_none();
        if !self.common.net.is_whole() || !self.nodes.values().all(up) {
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

    /// Whether all nodes run, one serves, and all have applied the same.
    pub(crate) fn agrees(&self) -> bool {
        let running: Vec<&Process> =
            self.nodes.values().filter_map(|node| node.process.as_ref()).collect();
        let applied: Vec<u64> = running.iter().map(|process| process.applied_index()).collect();
        running.len() == self.nodes.len()
            && running.iter().any(|process| process.serves())
            && applied.iter().all(|index| *index == applied[0])
    }

    /// Snapshots that were made or received.
    pub(crate) fn snapshots(&self) -> u64 {
        self.nodes.values().map(|node| node.hardware.snapshots.renamed()).sum()
    }

    /// Compares the states of all nodes as they are.
    pub(crate) fn compare(&self) {
        for (id, node) in &self.nodes {
            if let Some(process) = &node.process {
                let index = process.applied_index();
                lock(&self.common.witness).look_at_all(*id, index, &process.machine);
            }
        }
    }
}
