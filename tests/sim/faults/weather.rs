//! Delays, losses and breaking streams on all links, for a while.

use super::{Step, Timed};
use crate::net::{CALM, Weather};
use crate::random::Random;

pub(super) fn plan(random: &mut Random, _: &[u64], at: u64) -> Vec<Timed> {
    let slowest = *random.pick(&[5, 30, 150, 700]);
    let weather = Weather {
        delay_ms: (1, slowest),
        lost_per_mille: *random.pick(&[0, 20, 150]),
        broken_per_mille: *random.pick(&[0, 0, 5, 30]),
    };
    let until = at + random.within(500, 6_000);
    vec![(at, Step::Weather(weather)), (until, Step::Weather(CALM))]
}
