//! One run: faults while clients work, then healing, then rest. Everything about it is drawn from
//! the seed.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use oarlock_core::planted;

use crate::clients::{Client, Outside, Watcher, probe};
use crate::cluster::Cluster;
use crate::evidence::{Evidence, Tally};
use crate::faults;
use crate::net::Net;
use crate::node::{Common, runtime};
use crate::panics;
use crate::random::Random;
use crate::trace::{Now, Trace, lock};
use crate::witness::{Counts, Witness};

/// After healing, the calls under way end, all locks are free, and all nodes agree within this.
const REST_MS_MAX: u64 = 60_000;

/// Who watches all that happens.
const WATCHERS: u64 = 2;

/// What a run did.
pub(crate) struct Report {
    pub(crate) seed: u64,
    pub(crate) complaint: Option<String>,
    pub(crate) trace_hash: u64,
    pub(crate) trace_count: u64,
    pub(crate) lines: Vec<String>,
    pub(crate) simulated_ms: u64,
    pub(crate) tally: Tally,
    pub(crate) counts: Counts,
    pub(crate) snapshots: u64,
    pub(crate) crashes: u64,
    pub(crate) leaders: u64,
    pub(crate) held_up: u64,
    pub(crate) slowest_recovery_ms: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "seed {}: {} ms, trace {:016x} of {} lines, {} answers ({} unknown, {} \
             repeats), {} grants, {} expiries, {} entries, {} snapshots, {} leaders, {} crashes, {} pieces held up, faults {:?}",
            self.seed,
            self.simulated_ms,
            self.trace_hash,
            self.trace_count,
            self.counts.answers,
            self.counts.unknown,
            self.counts.repeats,
            self.counts.grants,
            self.counts.expiries,
            self.counts.entries,
            self.snapshots,
            self.leaders,
            self.crashes,
            self.held_up,
            self.tally.kinds
        )
    }
}

/// How to run a seed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Length {
    /// Faults come and go for so long at least; a quiet time at the end is more.
    pub(crate) busy_ms: u64,
    /// … and for less than this.
    pub(crate) busy_ms_max: u64,
    pub(crate) keeps_lines: bool,
}

/// The clients, in a runtime of their own.
struct Crowd {
    runtime: tokio::runtime::Runtime,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    watchers: Vec<Watcher>,
}

impl Crowd {
    fn gather(outside: &Outside, locks: u64, random: &mut Random) -> Self {
        let runtime = runtime(random);
        let stop: Arc<AtomicBool> = Arc::default();
        let clients = (1..=random.within(6, 20)).map(|id| Client {
            id,
            outside: outside.clone(),
            random: random.fork(),
            locks,
            stop: Arc::clone(&stop),
            claims: 0,
            session: None,
        });
        let tasks = clients.map(|client| runtime.spawn(client.run())).collect();
        let watchers = (1..=WATCHERS).map(|id| Watcher::new(id, outside.clone(), random.fork()));
        let watchers = watchers.collect();
        Self { runtime, tasks, stop, watchers }
    }

    fn tick(&mut self) {
        self.watchers.iter_mut().for_each(Watcher::tick);
        self.runtime.block_on(async { tokio::time::sleep(Duration::from_millis(1)).await });
    }

    fn is_done(&self) -> bool {
        self.tasks.iter().all(tokio::task::JoinHandle::is_finished)
    }
}

fn complain_of_panics(witness: &Mutex<Witness>) {
    if let Some(why) = panics::first() {
        lock(witness).complain(format!("panicked: {why}"));
    }
}

/// Runs one seed to its end, or to the first complaint.
pub(crate) fn run(seed: u64, length: Length) -> Report {
    planted::choose(std::env::var(planted::VARIABLE).ok()).expect("a planted bug");
    panics::watch();
    let mut random = Random::new(seed);
    let now = Now::default();
    let trace = Trace::new(now.clone(), length.keeps_lines);
    let evidence = Evidence::default();
    let witness = Witness::new(now.clone(), trace.clone(), &evidence);
    let count = if random.per_mille(250) { 5 } else { 3 };
    let members: Vec<u64> = (1..=count).collect();
    // Often so few that whoever was away needs a snapshot.
    let snapshot_log_entries =
        if random.per_mille(500) { random.within(10, 60) } else { random.within(60, 400) };
    let common = Common {
        members: members.clone(),
        net: Net::new(now.clone(), trace.clone(), random.fork(), evidence.clone()),
        trace: trace.clone(),
        witness: Arc::clone(&witness),
        evidence: evidence.clone(),
        forwarded: Arc::default(),
        snapshot_log_entries,
        segment_bytes: random.within(4, 32) * 1024,
        builds: Arc::default(),
    };
    // Machines that may join.
    let spares: Vec<u64> = (count + 1..=count + 2).collect();
    let mut cluster = Cluster::new(common, &spares, now.clone(), random.fork());
    let busy_ms = random.within(length.busy_ms, length.busy_ms_max);
    let plan = faults::plan(&mut random.fork(), &members, busy_ms, &evidence);
    let outside = Outside {
        now: now.clone(),
        doors: cluster.doors.clone(),
        witness: Arc::clone(&witness),
        evidence: evidence.clone(),
        nodes: if faults::joins(&plan) { [members, spares].concat() } else { members },
    };
    let locks = random.within(2, 8);
    let mut crowd = Crowd::gather(&outside, locks, &mut random);

    while now.ms() < plan.upto_ms && lock(&witness).complaint().is_none() {
        if plan.quiet_from.contains(&now.ms()) {
            cluster.heal();
        }
        for (fault, step) in plan.steps.get(&now.ms()).into_iter().flatten() {
            cluster.step(*fault, step);
        }
        cluster.tick();
        crowd.tick();
        complain_of_panics(&witness);
    }
    cluster.heal();
    crowd.stop.store(true, Ordering::Relaxed);
    come_to_rest(&mut cluster, &mut crowd, &outside, locks, &mut random);
    complain_of_panics(&witness);

    let complaint = lock(&witness).complaint();
    let counts = lock(&witness).counts;
    Report {
        seed,
        complaint,
        trace_hash: trace.hash(),
        trace_count: trace.count(),
        lines: trace.take_lines(),
        simulated_ms: now.ms(),
        tally: evidence.tally(),
        counts,
        snapshots: cluster.snapshots(),
        crashes: cluster.crashes,
        leaders: cluster.leaders,
        held_up: cluster.common.net.held_up(),
        slowest_recovery_ms: cluster.slowest_recovery_ms,
    }
}

/// Nothing goes wrong any more: all clients are answered, every lock can be taken, all nodes agree,
/// and whoever watches has seen all.
fn come_to_rest(
    cluster: &mut Cluster,
    crowd: &mut Crowd,
    outside: &Outside,
    locks: u64,
    random: &mut Random,
) {
    let healed_at = outside.now.ms();
    let mut probed = false;
    while lock(&outside.witness).complaint().is_none() {
        cluster.tick();
        crowd.tick();
        complain_of_panics(&outside.witness);
        let rests = crowd.is_done() && cluster.agrees();
        if rests && !probed {
            probed = true;
            for number in 0..locks {
                let there = Outside { nodes: cluster.there(), ..outside.clone() };
                let probe = probe(there, number, random.fork());
                crowd.tasks.push(crowd.runtime.spawn(probe));
            }
        } else if rests {
            let newest = cluster.newest_revision();
            if crowd.watchers.iter().all(|watcher| watcher.has_seen(newest)) {
                break;
            }
        }
        if outside.now.ms() > healed_at + REST_MS_MAX {
            let why = format!("progress: no rest within {REST_MS_MAX} ms of healing");
            lock(&outside.witness).complain(why);
            let newest = cluster.newest_revision();
            crowd.watchers.iter().for_each(|watcher| watcher.rest(newest));
        }
    }
    cluster.compare();
    cluster.judge_members();
    lock(&outside.witness).rest();
}
