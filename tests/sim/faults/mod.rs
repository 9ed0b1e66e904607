//! What goes wrong, one file for each kind. A seed switches off a random half of the kinds, so that
//! now and then only two meet, for long. Every fault begins and ends at moments drawn in advance; a
//! fault counts as bitten when there is evidence of it.

mod clocks;
mod crashes;
mod disks;
mod full_disks;
mod leaders;
mod links;
mod members;
mod partitions;
mod pauses;
mod replays;
mod transfers;
mod votes;
mod weather;

use std::collections::{BTreeMap, BTreeSet};

use crate::disk::Survival;
use crate::evidence::{Evidence, FaultId};
use crate::net::Weather;
use crate::random::Random;

/// A step of the simulation's hand.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// Cut these links, each one way.
    Cut(Vec<(u64, u64)>),
    Mend(Vec<(u64, u64)>),
    Weather(Weather),
    /// The process ends, with what is left of its disk, in the middle of a write if there is one.
    Crash {
        node: u64,
        survival: Survival,
        away_ms: u64,
    },
    /// Not before a snapshot is made or on its way.
    WhenSnapshot(Box<Step>),
    Start {
        node: u64,
    },
    /// The process of whoever leads ends, for so long.
    CrashLeader {
        survival: Survival,
        away_ms: u64,
    },
    /// The next node that grants a vote loses its power at once, for so long.
    Ambush {
        away_ms: u64,
    },
    /// What was said to this node over an old connection is said again.
    SayAgain {
        to: u64,
    },
    Pause {
        node: u64,
    },
    Resume {
        node: u64,
    },
    /// An fsync takes so long.
    DiskPace {
        node: u64,
        sync_ms: (u64, u64),
    },
    /// Room for the reserve only; or none at all.
    DiskRoom {
        node: u64,
        low: bool,
        full: bool,
    },
    /// Whoever leads gives leadership to this one.
    Transfer {
        to: u64,
    },
    /// A spare machine joins and is promoted.
    Join,
    /// A member is removed: this one, or whoever leads.
    Leave {
        node: Option<u64>,
    },
    /// The node's clock runs so many millionths fast.
    ClockRate {
        node: u64,
        ppm: i64,
    },
}

/// An fsync of a healthy disk, in milliseconds.
pub(crate) const CALM_SYNC_MS: (u64, u64) = (0, 3);

/// A step and its moment.
pub(crate) type Timed = (u64, Step);

/// A fault of one kind that begins at a moment and ends after a while.
type Kind = fn(&mut Random, &[u64], u64) -> Vec<Timed>;

const KINDS: &[(&str, Kind)] = &[
    ("weather", weather::plan),
    ("partition", partitions::minority),
    ("one-way", partitions::one_way),
    ("ring", partitions::ring),
    ("link", links::plan),
    ("kill", crashes::kill),
    ("power", crashes::power),
    ("power of all", crashes::power_of_all),
    ("pause", pauses::plan),
    ("slow disk", disks::plan),
    ("full disk", full_disks::plan),
    ("clock", clocks::plan),
    ("transfer", transfers::plan),
    ("leader", leaders::plan),
    ("vote", votes::plan),
    ("replay", replays::plan),
    ("members", members::plan),
];

/// The names of all kinds.
pub(crate) fn kinds() -> impl Iterator<Item = &'static str> {
    KINDS.iter().map(|(name, _)| *name)
}

/// All that will go wrong in a run.
#[derive(Default)]
pub(crate) struct Plan {
    /// Each step with its fault.
    pub(crate) steps: BTreeMap<u64, Vec<(FaultId, Step)>>,
    /// When every fault ends and none begins for a while, though the clients work on.
    pub(crate) quiet_from: BTreeSet<u64>,
    /// When it is over.
    pub(crate) upto_ms: u64,
}

impl Plan {
    /// Nothing goes wrong for a while, and nothing of what began before goes on: only then a lease
    /// that ends late has no excuse.
    fn add_quiet(&mut self, from: u64, until: u64) {
        self.steps.split_off(&from);
        self.quiet_from.insert(from);
        self.upto_ms = self.upto_ms.max(until);
    }
}

/// Of a thousand moments at which a fault could begin, so many begin a quiet time of so long.
const QUIET_PER_MILLE: u64 = 60;
const QUIET_MS: (u64, u64) = (9_000, 12_000);

/// Draws the faults of a run that lasts so long, or until a quiet time is over.
pub(crate) fn plan(random: &mut Random, nodes: &[u64], upto_ms: u64, evidence: &Evidence) -> Plan {
    let all: Vec<usize> = (0..KINDS.len()).collect();
    let switched_on = random.some_of(&all);
    let mut plan = Plan { upto_ms, ..Plan::default() };
    // Long enough for a first leader.
    let mut at = random.within(1_500, 4_000);
    while at + 1_000 < upto_ms {
        if random.per_mille(QUIET_PER_MILLE) {
            let until = at + random.within(QUIET_MS.0, QUIET_MS.1);
            plan.add_quiet(at, until);
            at = until;
            continue;
        }
        let (name, kind) = KINDS[*random.pick(&switched_on)];
        let fault = evidence.plan(name);
        for (at, step) in kind(random, nodes, at) {
            plan.steps.entry(at).or_default().push((fault, step));
        }
        at += random.within(100, 4_000);
    }
    plan
}

/// Whether anybody will join.
pub(crate) fn joins(plan: &Plan) -> bool {
    plan.steps.values().flatten().any(|(_, step)| matches!(step, Step::Join))
}

fn pick_minority(random: &mut Random, nodes: &[u64]) -> Vec<u64> {
    let mut rest = nodes.to_vec();
    let count = random.within(1, nodes.len() as u64 / 2 + 1) as usize;
    let mut some = Vec::new();
    for _ in 0..count {
        let taken = random.within(0, rest.len() as u64) as usize;
        some.push(rest.remove(taken));
    }
    some
}
