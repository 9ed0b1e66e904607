//! Processes that end and start again: killed with the machine alive, or with its power, when the
//! unsynced part of the disk is lost or torn, in the middle of a write if there is one.

use super::{Step, Timed, pick_minority};
use crate::disk::Survival;
use crate::random::Random;

fn crash(random: &mut Random, nodes: &[u64], at: u64, power: bool) -> Vec<Timed> {
    let mut steps = Vec::new();
    // Now and then when a snapshot is made or on its way, which is seldom by chance.
    let waits = random.per_mille(250);
    for node in nodes {
        let survival = match random.within(0, 3) {
            _ if !power => Survival::Everything,
            0 => Survival::Synced,
            _ => Survival::Torn(random.next()),
        };
        // Now and then so long that the others forget what it would need.
        let away_ms_max = if random.per_mille(150) { 15_000 } else { 6_000 };
        let away_ms = random.within(50, away_ms_max);
        let crash = Step::Crash { node: *node, survival, away_ms };
        steps.push((at, if waits { Step::WhenSnapshot(Box::new(crash)) } else { crash }));
    }
    steps
}

pub(super) fn kill(random: &mut Random, nodes: &[u64], at: u64) -> Vec<Timed> {
    let some = pick_minority(random, nodes);
    crash(random, &some, at, false)
}

pub(super) fn power(random: &mut Random, nodes: &[u64], at: u64) -> Vec<Timed> {
    let some = pick_minority(random, nodes);
    crash(random, &some, at, true)
}

pub(super) fn power_of_all(random: &mut Random, nodes: &[u64], at: u64) -> Vec<Timed> {
    crash(random, nodes, at, true)
}
