//! Whoever leads at that moment ends: killed, or without power. With all else healthy the rest has
//! to have a new leader soon.

use super::{Step, Timed};
use crate::disk::Survival;
use crate::random::Random;

pub(super) fn plan(random: &mut Random, _: &[u64], at: u64) -> Vec<Timed> {
    let survival =
        if random.per_mille(500) { Survival::Everything } else { Survival::Torn(random.next()) };
    let crash = Step::CrashLeader { survival, away_ms: random.within(50, 8_000) };
    let waits = random.per_mille(250);
    vec![(at, if waits { Step::WhenSnapshot(Box::new(crash)) } else { crash })]
}
