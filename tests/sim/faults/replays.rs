//! Old connections said again: votes, appends, heartbeats, transfers and snapshots of former times.
//! TCP never does that; terms and indexes have to make it harmless all the same.

use super::{Step, Timed};
use crate::random::Random;

pub(super) fn plan(random: &mut Random, nodes: &[u64], at: u64) -> Vec<Timed> {
    let mut moment = at;
    let mut steps = Vec::new();
    for _ in 0..random.within(1, 6) {
        steps.push((moment, Step::SayAgain { to: *random.pick(nodes) }));
        moment += random.within(1, 700);
    }
    steps
}
