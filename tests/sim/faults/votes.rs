//! The power of a node fails at the moment at which it has granted a vote, and it is back before
//! the election is over: a vote that was not durable before it was given could be given again.

use super::{Step, Timed};
use crate::random::Random;

pub(super) fn plan(random: &mut Random, nodes: &[u64], at: u64) -> Vec<Timed> {
    // An election, if none is due.
    let transfer = Step::Transfer { to: *random.pick(nodes) };
    let ambush = Step::Ambush { away_ms: random.within(1, 300) };
    vec![(at, ambush), (at + random.within(1, 50), transfer)]
}
