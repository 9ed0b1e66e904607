//! Members that come and go while all else happens: a spare machine joins and is promoted, and one of
//! those that were there, or whoever leads, is removed.

use super::{Step, Timed};
use crate::random::Random;

pub(super) fn plan(random: &mut Random, nodes: &[u64], at: u64) -> Vec<Timed> {
    let leaves = (!random.per_mille(400)).then(|| *random.pick(nodes));
    let later = at + random.within(0, 4_000);
    vec![(at, Step::Join), (later, Step::Leave { node: leaves })]
}
