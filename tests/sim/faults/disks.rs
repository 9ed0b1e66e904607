//! Disks that take their time.

use super::{CALM_SYNC_MS, Step, Timed, pick_minority};
use crate::random::Random;

pub(super) fn plan(random: &mut Random, nodes: &[u64], at: u64) -> Vec<Timed> {
    let some = if random.per_mille(200) { nodes.to_vec() } else { pick_minority(random, nodes) };
    let slowest = *random.pick(&[20, 100, 600, 2_500]);
    let until = at + random.within(500, 6_000);
    let pace = |node, sync_ms| Step::DiskPace { node, sync_ms };
    let slow = some.iter().map(|node| (at, pace(*node, (slowest / 2, slowest))));
    let calm = some.iter().map(|node| (until, pace(*node, CALM_SYNC_MS)));
    slow.chain(calm).collect()
}
