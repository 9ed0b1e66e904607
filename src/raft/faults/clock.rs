//! A monotonic clock that runs fast or slow or stands still, and a wall clock that jumps.
//!
//! Timers of the runtime stay real: a machine whose clock is off has no other hardware either, but
//! what the node decides by is read here.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::raft::faults::CONTROL;

/// Where the two clocks last met.
struct Met {
    real: Instant,
    shown: Instant,
    /// Of the clock that is shown, in millionths, since then.
    ppm: i64,
}

static MET: Mutex<Option<Met>> = Mutex::new(None);

/// What the clock of this node shows at a moment.
pub(in crate::raft) fn shown(real: Instant) -> Instant {
    let Some(control) = CONTROL.get() else { return real };
    let ppm = control.orders().clock_ppm;
    let mut met = MET.lock().unwrap_or_else(PoisonError::into_inner);
    let met = met.get_or_insert(Met { real, shown: real, ppm });
    let since = real.saturating_duration_since(met.real);
    let shown = met.shown + at_rate(since, met.ppm);
    if met.ppm != ppm {
        *met = Met { real: met.real.max(real), shown, ppm };
    }
    control.note(|evidence| {
        let gained = |from: Instant, to: Instant| {
            i64::try_from(to.saturating_duration_since(from).as_micros()).unwrap_or(i64::MAX)
        };
        evidence.clock_gained_us = gained(real, shown) - gained(shown, real);
    });
    shown
}

/// What an age measured by the real clock is by the clock of this node.
pub(in crate::raft) fn shown_age(real: Duration) -> Duration {
    CONTROL.get().map_or(real, |control| at_rate(real, control.orders().clock_ppm))
}

/// What the wall clock shows instead.
pub(in crate::raft) fn shown_wall_ms(real: u64) -> u64 {
    let Some(control) = CONTROL.get() else { return real };
    let wall_ms = control.orders().wall_ms;
    control.note(|evidence| evidence.wall_ms = wall_ms);
    real.saturating_add_signed(wall_ms)
}

fn at_rate(real: Duration, ppm: i64) -> Duration {
    let rate = u64::try_from(1_000_000 + ppm).unwrap_or(0);
    let real_ns = u64::try_from(real.as_nanos()).unwrap_or(u64::MAX);
    let ns = u128::from(real_ns) * u128::from(rate) / 1_000_000;
    Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_in_millionths_and_minus_a_million_stands_still() {
        let second = Duration::from_secs(1);
        assert_eq!(at_rate(second, 0), second);
        assert_eq!(at_rate(second, 9_000), Duration::from_millis(1009));
        assert_eq!(at_rate(second, -9_000), Duration::from_millis(991));
        assert_eq!(at_rate(second, -1_000_000), Duration::ZERO);
        assert_eq!(at_rate(second, -2_000_000), Duration::ZERO);
    }
}
