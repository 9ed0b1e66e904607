//! Processes that stand still while their clocks go on, longer than an election now and then.

use super::{Step, Timed, pick_minority};
use crate::random::Random;

pub(super) fn plan(random: &mut Random, nodes: &[u64], at: u64) -> Vec<Timed> {
    let some = if random.per_mille(150) { nodes.to_vec() } else { pick_minority(random, nodes) };
    let mut steps = Vec::new();
    for node in some {
        steps.push((at, Step::Pause { node }));
        steps.push((at + random.within(100, 7_000), Step::Resume { node }));
    }
    steps
}
