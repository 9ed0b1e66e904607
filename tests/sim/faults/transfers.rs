//! Leadership that is handed over, once or in quick succession, to a node that may be in no state to
//! take it.

use super::{Step, Timed};
use crate::random::Random;

pub(super) fn plan(random: &mut Random, nodes: &[u64], at: u64) -> Vec<Timed> {
    let mut moment = at;
    let mut steps = Vec::new();
    for _ in 0..random.within(1, 4) {
        steps.push((moment, Step::Transfer { to: *random.pick(nodes) }));
        moment += random.within(5, 1_500);
    }
    steps
}
