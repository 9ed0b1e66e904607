//! All nodes of a cluster, moved a millisecond at a time by one thread: what arrives, then each
//! node in its order, its disk, and what it ends of itself.

mod calm;
mod members;
mod progress;
mod steps;

use std::collections::BTreeMap;

use crate::clients::Doors;
use crate::disk::Survival;
use crate::evidence::{FaultId, HEALING};
use crate::faults::{CALM_SYNC_MS, Step};
use crate::node::{Common, Machine, Process};
use crate::random::Random;
use crate::trace::{Now, lock};

/// A supervisor starts a process that ended itself again after this long.
const SUPERVISOR_MS: (u64, u64) = (200, 2_000);

/// A pause that is shorter is hardly one.
const PAUSE_MS_MIN: u64 = 100;

struct Node {
    hardware: Machine,
    process: Option<Process>,
    starts_at: Option<u64>,
    paused_at: Option<u64>,
    pause_of: FaultId,
    ppm: i64,
    clock_of: FaultId,
    /// Millionths of a millisecond that its clock is behind.
    debt: i64,
    sync_ms: (u64, u64),
    pace_of: FaultId,
    /// When the write that is under way is durable.
    written_at: Option<u64>,
    kept_at: Option<u64>,
    /// The newest snapshot that was compared with the log.
    snapshot_at: u64,
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
    calm: calm::Calm,
    progress: progress::Progress,
    roster: members::Roster,
    /// A transfer of leadership that is asked for: by which fault, to whom, when.
    transfer: Option<(FaultId, u64, u64)>,
    /// Whoever grants a vote next loses its power: by which fault, for how long.
    ambush: Option<(FaultId, u64)>,
    /// Steps that wait for a snapshot.
    later: Vec<(FaultId, Step)>,
    pub(crate) crashes: u64,
    pub(crate) leaders: u64,
    pub(crate) slowest_recovery_ms: u64,
    leader: Option<u64>,
}

impl Cluster {
    pub(crate) fn new(common: Common, spares: &[u64], now: Now, mut random: Random) -> Self {
        let node = |id: &u64| {
            let node = Node {
                hardware: Machine::new(*id, &common),
                process: None,
                starts_at: common.members.contains(id).then_some(1 + *id),
                paused_at: None,
                pause_of: HEALING,
                ppm: 0,
                clock_of: HEALING,
                debt: 0,
                sync_ms: CALM_SYNC_MS,
                pace_of: HEALING,
                written_at: None,
                kept_at: None,
                snapshot_at: 0,
            };
            (*id, node)
        };
        let nodes = common.members.iter().chain(spares).map(node).collect();
        Self {
            common,
            now,
            doors: Doors::default(),
            random: random.fork(),
            nodes,
            outage_since: None,
            calm_since: 0,
            calm: calm::Calm::default(),
            progress: progress::Progress::default(),
            roster: members::Roster::new(spares.to_vec()),
            transfer: None,
            ambush: None,
            later: Vec::new(),
            crashes: 0,
            leaders: 0,
            slowest_recovery_ms: 0,
            leader: None,
        }
    }

    /// One millisecond.
    pub(crate) fn tick(&mut self) {
        let now = self.now.tick();
        self.common.net.advance();
        for id in self.nodes.keys().copied().collect::<Vec<_>>() {
            self.start_if_due(id, now);
            self.move_node(id, now);
            self.heed_votes(now);
        }
        self.move_members(now);
        self.note_outage(now);
        self.look(now);
        self.count_calm(now);
        self.note_business(now);
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
                self.common.trace.note("start", &[id], 0);
                let index = process.applied_index();
                let mut witness = lock(&self.common.witness);
                witness.restarted(id, process.vote_at_start);
                witness.look_at_all(id, index, &process.machine);
                if index > 0 {
                    self.common.evidence.reach("a restart compared with the log");
                }
                node.process = Some(process);
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
        let evidence = self.common.evidence.clone();
        if let Some(at) = node.paused_at {
            if now - at >= PAUSE_MS_MIN {
                evidence.bite(node.pause_of);
            }
            return;
        }
        node.debt += 1_000_000 + node.ppm;
        let ms = u64::try_from(node.debt / 1_000_000).unwrap_or(0);
        node.debt %= 1_000_000;
        if ms != 1 {
            evidence.bite(node.clock_of);
        }
        if ms > 0 {
            process.tick(ms);
        }
        self.move_disk(id, now);
        self.end_if_fatal(id, now);
    }

    fn move_disk(&mut self, id: u64, now: u64) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let Some(process) = &mut node.process else { return };
        let handle = process.handle();
        let _inside = handle.enter();
        if node.written_at.is_some_and(|at| at <= now) {
            process.writer.finish();
            node.written_at = None;
        }
        if node.written_at.is_none() && process.writer.begin() {
            let took = self.random.within(node.sync_ms.0, node.sync_ms.1 + 1);
            if took > CALM_SYNC_MS.1 {
                self.common.evidence.bite(node.pace_of);
            }
            node.written_at = Some(now + took);
        }
        if node.kept_at.is_some_and(|at| at <= now) {
            let before = process.applied_index();
            process.keeper.work();
            node.kept_at = None;
            if process.applied_index() > before {
                self.common.evidence.reach("a snapshot installed");
            }
            node.snapshot_at = process.compare_snapshot(id, node.snapshot_at, &self.common);
        } else if node.kept_at.is_none() && process.keeper.has_work() {
            node.kept_at = Some(now + self.random.within(1, 30));
        }
    }

    fn end_if_fatal(&mut self, id: u64, now: u64) {
        let process = self.nodes.get(&id).and_then(|node| node.process.as_ref());
        let Some(why) = process.and_then(|process| lock(&process.fatal).clone()) else { return };
        self.common.trace.note("fatal", &[id], crate::trace::hash(why.as_bytes()));
        let full = why.contains("no storage space") || why.contains("the power is gone");
        if !full {
            let why = format!("fatal: node {id} ended itself: {why}");
            lock(&self.common.witness).complain(why);
        }
        self.crash(id, Survival::Everything, HEALING);
        let again = now + self.random.within(SUPERVISOR_MS.0, SUPERVISOR_MS.1);
        self.nodes.entry(id).and_modify(|node| node.starts_at = Some(again));
    }

    /// Ends a process, by a fault or by itself.
    fn crash(&mut self, id: u64, survival: Survival, fault: FaultId) {
        let now = self.now.ms();
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let Some(mut process) = node.process.take() else { return };
        self.crashes += 1;
        self.calm_since = now;
        self.progress.ended(id, now, process.serves());
        self.common.trace.note("crash", &[id], 0);
        self.doors.close(id);
        let power = survival != Survival::Everything;
        self.common.net.stop(id, power);
        let mut lost = node.written_at.is_some();
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
        lost |= node.hardware.log.crash(survival);
        lost |= node.hardware.snapshots.crash(survival);
        (node.paused_at, node.kept_at) = (None, None);
        // A cut of the power that found everything durable is no more than a kill.
        if lost || !power {
            self.common.evidence.bite(fault);
        }
    }

    /// Whether all nodes run, one serves, and all have applied the same.
    pub(crate) fn agrees(&self) -> bool {
        let counts = || self.nodes.iter().filter(|(id, _)| !self.roster.is_out(**id));
        let running: Vec<&Process> =
            counts().filter_map(|(_, node)| node.process.as_ref()).collect();
        let applied: Vec<u64> = running.iter().map(|process| process.applied_index()).collect();
        self.roster.rests()
            && running.len() == counts().count()
            && running.iter().any(|process| process.serves())
            && applied.iter().all(|index| *index == applied[0])
    }

    /// Whoever serves writes something.
    pub(crate) fn propose(&self) {
        let serving = self.serving().and_then(|id| self.nodes.get(&id)?.process.as_ref());
        if let Some(process) = serving {
            process.propose();
        }
    }

    /// Of the last entry that any node has applied.
    pub(crate) fn newest_index(&self) -> u64 {
        let running = self.nodes.values().filter_map(|node| node.process.as_ref());
        running.map(Process::applied_index).max().unwrap_or(0)
    }

    /// Of the last event that any node knows.
    pub(crate) fn newest_revision(&self) -> u64 {
        let running = self.nodes.values().filter_map(|node| node.process.as_ref());
        let revisions = running.map(|process| process.machine.with(|it| it.revision().0));
        revisions.max().unwrap_or(0)
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
