//! One link that comes and goes.

use super::{Step, Timed};
use crate::random::Random;

pub(super) fn plan(random: &mut Random, nodes: &[u64], at: u64) -> Vec<Timed> {
    let (a, b) = (*random.pick(nodes), *random.pick(nodes));
    let links = vec![(a, b), (b, a)];
    let mut steps = Vec::new();
    let mut moment = at;
    for _ in 0..random.within(2, 6) {
        steps.push((moment, Step::Cut(links.clone())));
        moment += random.within(20, 900);
        steps.push((moment, Step::Mend(links.clone())));
        moment += random.within(20, 900);
    }
    steps
}
