//! Processes that end and start again: killed with the machine alive, or with its power, when the
//! unsynced part of the disk is lost or torn, in the middle of a write if there is one.

use super::{Step, Timed, pick_minority};
use crate::disk::Survival;
use crate::random::Random;

fn crash(random: &mut Random, nodes: &[u64], at: u64, power: bool) -> Vec<Timed> {
    let mut steps = Vec::new();
    for node in nodes {
        let survival = match random.within(0, 3) {
            _ if !power => Survival::Everything,
            0 => Survival::Synced,
            _ => Survival::Torn(random.next()),
        };
        steps.push((at, Step::Crash { node: *node, survival }));
        steps.push((at + random.within(50, 6_000), Step::Start { node: *node }));
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
