//! One run: faults while clients work, then healing, then rest. Everything about it is drawn from
//! the seed.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::clients::{Client, Outside, probe};
use crate::cluster::Cluster;
use crate::faults;
use crate::net::Net;
use crate::node::{Common, runtime};
use crate::random::Random;
use crate::trace::{Now, Trace, lock};
use crate::witness::{Counts, Witness};

/// After healing, the calls under way end, all locks are free, and all nodes agree within this.
const REST_MS_MAX: u64 = 60_000;

/// What a run did.
pub(crate) struct Report {
    pub(crate) seed: u64,
    pub(crate) complaint: Option<String>,
    pub(crate) trace_hash: u64,
    pub(crate) trace_count: u64,
    pub(crate) lines: Vec<String>,
    simulated_ms: u64,
    faults: BTreeMap<&'static str, u64>,
    counts: Counts,
    snapshots: u64,
    crashes: u64,
    leaders: u64,
    held_up: u64,
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
            self.faults
        )
    }
}

/// What several runs did together.
#[derive(Default)]
pub(crate) struct Sum {
    runs: u64,
    simulated_ms: u64,
    answers: u64,
    grants: u64,
    expiries: u64,
    faults: u64,
}

impl Sum {
    pub(crate) fn add(&mut self, report: &Report) {
        self.runs += 1;
        self.simulated_ms += report.simulated_ms;
        self.answers += report.counts.answers;
        self.grants += report.counts.grants;
        self.expiries += report.counts.expiries;
        self.faults += report.faults.values().sum::<u64>();
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} seeds: {} simulated seconds, {} answers, {} grants, {} expiries, {} faults",
            self.runs,
            self.simulated_ms / 1_000,
            self.answers,
            self.grants,
            self.expiries,
            self.faults
        )
    }
}

/// The clients, in a runtime of their own.
struct Crowd {
    runtime: tokio::runtime::Runtime,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    stop: Arc<AtomicBool>,
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
        Self { runtime, tasks, stop }
    }

    fn tick(&self) {
        self.runtime.block_on(async { tokio::time::sleep(Duration::from_millis(1)).await });
    }

    fn is_done(&self) -> bool {
        self.tasks.iter().all(tokio::task::JoinHandle::is_finished)
    }
}

/// Runs one seed to its end, or to the first complaint.
pub(crate) fn run(seed: u64, keeps_lines: bool) -> Report {
    let mut random = Random::new(seed);
    let now = Now::default();
    let trace = Trace::new(now.clone(), keeps_lines);
    let witness = Witness::new(now.clone(), trace.clone());
    let count = if random.per_mille(250) { 5 } else { 3 };
    let members: Vec<u64> = (1..=count).collect();
    let common = Common {
        members: members.clone(),
        net: Net::new(now.clone(), trace.clone(), random.fork()),
        trace: trace.clone(),
        witness: Arc::clone(&witness),
        snapshot_log_entries: random.within(40, 400),
        segment_bytes: random.within(4, 32) * 1024,
    };
    let mut cluster = Cluster::new(common, now.clone(), random.fork());
    let busy_ms = random.within(15_000, 40_000);
    let plan = faults::plan(&mut random.fork(), &members, busy_ms);
    let doors = cluster.doors.clone();
    let outside =
        Outside { now: now.clone(), doors, witness: Arc::clone(&witness), nodes: members };
    let locks = random.within(2, 8);
    let mut crowd = Crowd::gather(&outside, locks, &mut random);

    while now.ms() < busy_ms && lock(&witness).complaint().is_none() {
        for step in plan.steps.get(&now.ms()).into_iter().flatten() {
            cluster.step(step);
        }
        cluster.tick();
        crowd.tick();
    }
    cluster.heal();
    crowd.stop.store(true, Ordering::Relaxed);
    come_to_rest(&mut cluster, &mut crowd, &outside, locks, &mut random);

    let complaint = lock(&witness).complaint();
    let counts = lock(&witness).counts;
    Report {
        seed,
        complaint,
        trace_hash: trace.hash(),
        trace_count: trace.count(),
        lines: trace.take_lines(),
        simulated_ms: now.ms(),
        faults: plan.counts,
        counts,
        snapshots: cluster.snapshots(),
        crashes: cluster.crashes,
        leaders: cluster.leaders,
        held_up: cluster.common.net.held_up(),
    }
}

/// Nothing goes wrong any more: all clients are answered, every lock can be taken, all nodes agree.
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
        if crowd.is_done() && cluster.agrees() && !probed {
            probed = true;
            for number in 0..locks {
                let probe = probe(outside.clone(), number, random.fork());
                crowd.tasks.push(crowd.runtime.spawn(probe));
            }
        } else if crowd.is_done() && cluster.agrees() {
            break;
        }
        if outside.now.ms() > healed_at + REST_MS_MAX {
            let why = format!("progress: no rest within {REST_MS_MAX} ms of healing");
            lock(&outside.witness).complain(why);
        }
    }
    cluster.compare();
    lock(&outside.witness).rest();
}
