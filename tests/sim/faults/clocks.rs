//! Clocks that run apart, within the one percent that the product allows between any two.

use super::{Step, Timed};
use crate::random::Random;

/// Of the true rate, either way, in millionths.
const APART_PPM_MAX: u64 = 4_500;

pub(super) fn plan(random: &mut Random, nodes: &[u64], at: u64) -> Vec<Timed> {
    let mut steps = Vec::new();
    for node in nodes {
        let apart = random.within(0, 2 * APART_PPM_MAX);
        let ppm = i64::try_from(apart).unwrap_or(0) - APART_PPM_MAX as i64;
        steps.push((at, Step::ClockRate { node: *node, ppm }));
    }
    steps
}
