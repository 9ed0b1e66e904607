//! Disks without room: first for grants, then for anything new, which ends the process.

use super::{Step, Timed, pick_minority};
use crate::random::Random;

pub(super) fn plan(random: &mut Random, nodes: &[u64], at: u64) -> Vec<Timed> {
    let some = pick_minority(random, nodes);
    let full_at = at + random.within(500, 3_000);
    let until = full_at + random.within(500, 4_000);
    let really = random.per_mille(500);
    let mut steps = Vec::new();
    for node in some {
        steps.push((at, Step::DiskRoom { node, low: true, full: false }));
        if really {
            steps.push((full_at, Step::DiskRoom { node, low: true, full: true }));
        }
        steps.push((until, Step::DiskRoom { node, low: false, full: false }));
    }
    steps
}
