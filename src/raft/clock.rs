//! The lease clock of a leader, and the only place of the server that reads clocks for a decision.
//!
//! The clock runs on the leader alone, from the machine's clock at the start of its leadership,
//! by monotonic time, and only while a majority has acknowledged it recently: the time in which
//! nobody could renew is not counted. A pause of the process counts at most one step. The wall
//! clock is read for display only.

use std::time::Duration;

use oarlock_core::time::LeaseTime;
use tokio::time::Instant;

/// Turns monotonic time into lease time for one leadership at a time.
#[derive(Debug)]
pub(crate) struct LeaseClock {
    running: Option<Running>,
    /// Longest time that one reading may add; the minimum election timeout.
    step_max: Duration,
}

#[derive(Debug)]
struct Running {
    now: LeaseTime,
    seen_at: Instant,
}

impl LeaseClock {
    /// A stopped clock. `step_max` bounds what one reading may add.
    pub(crate) fn new(step_max: Duration) -> Self {
        Self { running: None, step_max }
    }

    /// Starts at `base`, the machine's clock after the first entry of this leadership.
    pub(crate) fn start(&mut self, base: LeaseTime, at: Instant) {
        self.running = Some(Running { now: base, seen_at: at });
    }

    /// Leadership is over: nothing is stamped any more.
    pub(crate) fn stop(&mut self) {
        self.running = None;
    }

    /// Lease time at `at`. Time after `counts_until` (the end of the leader lease) is not counted,
    /// now or later. `None` while stopped.
    pub(crate) fn read(&mut self, at: Instant, counts_until: Instant) -> Option<LeaseTime> {
        let running = self.running.as_mut()?;
        let counted = at.min(counts_until).saturating_duration_since(running.seen_at);
        let step_us = u64::try_from(counted.min(self.step_max).as_micros()).unwrap_or(u64::MAX);
        running.now = LeaseTime(running.now.0.saturating_add(step_us));
        running.seen_at = running.seen_at.max(at);
        Some(running.now)
    }
}

/// Monotonic time; simulated where tokio's clock is.
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// How long ago openraft read its clock; its instants can be asked for nothing else.
pub(crate) fn age_of(at: impl openraft::async_runtime::Instant) -> Duration {
    at.elapsed()
}

/// Wall clock in milliseconds since 1970, for display; zero before 1970.
#[expect(clippy::disallowed_methods, reason = "the one reading of the wall clock, for display")]
pub fn wall_ms() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_millis(500);

    fn ms(clock: &mut LeaseClock, at: Instant, until: Instant) -> u64 {
        clock.read(at, until).expect("the clock runs").0 / 1000
    }

    #[test]
    fn a_stopped_clock_stamps_nothing() {
        let at = now();
        let mut clock = LeaseClock::new(STEP);
        assert_eq!(clock.read(at, at), None);
        clock.start(LeaseTime(7), at);
        clock.stop();
        assert_eq!(clock.read(at, at), None);
    }

    #[test]
    fn time_without_a_quorum_is_never_counted() {
        let t0 = now();
        let at = |ms| t0 + Duration::from_millis(ms);
        let mut clock = LeaseClock::new(STEP);
        clock.start(LeaseTime(1_000_000), t0);
        assert_eq!(ms(&mut clock, at(100), at(1000)), 1100);
        // The lease ends at 150; the reading at 400 counts 50 and the rest is lost for good.
        assert_eq!(ms(&mut clock, at(400), at(150)), 1150);
        assert_eq!(ms(&mut clock, at(450), at(1000)), 1200);
    }

    #[test]
    fn a_pause_counts_one_step_at_most() {
        let t0 = now();
        let mut clock = LeaseClock::new(STEP);
        clock.start(LeaseTime(0), t0);
        let late = t0 + Duration::from_mins(1);
        assert_eq!(ms(&mut clock, late, late + STEP), 500);
        assert_eq!(ms(&mut clock, t0, late), 500, "and it never runs backwards");
    }
}
