//! What goes wrong, one file for each kind. A seed switches off a random half of the kinds, so that
//! now and then only two meet, for long. Every fault begins and ends at moments drawn in advance; the
//! report of a run counts the faults of each kind, the crashes and the pieces held up.

mod clocks;
mod crashes;
mod disks;
mod full_disks;
mod links;
mod partitions;
mod pauses;
mod transfers;
mod weather;

use std::collections::BTreeMap;

use crate::disk::Survival;
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
    },
    Start {
        node: u64,
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
];

/// All that will go wrong in a run.
pub(crate) struct Plan {
    pub(crate) steps: BTreeMap<u64, Vec<Step>>,
    pub(crate) counts: BTreeMap<&'static str, u64>,
}

/// Draws the faults of a run that lasts so long.
pub(crate) fn plan(random: &mut Random, nodes: &[u64], upto_ms: u64) -> Plan {
    let all: Vec<usize> = (0..KINDS.len()).collect();
    let switched_on = random.some_of(&all);
    let mut plan = Plan { steps: BTreeMap::new(), counts: BTreeMap::new() };
    // Long enough for a first leader.
    let mut at = random.within(1_500, 4_000);
    while at + 1_000 < upto_ms {
        let (name, kind) = KINDS[*random.pick(&switched_on)];
        *plan.counts.entry(name).or_default() += 1;
        for (at, step) in kind(random, nodes, at) {
            plan.steps.entry(at).or_default().push(step);
        }
        at += random.within(100, 4_000);
    }
    plan
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
