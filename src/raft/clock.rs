//! The lease clock of a leader, and the only place of the server that reads clocks for a decision.
//!
//! The clock runs on the leader alone, from the machine's clock at the start of its leadership,
//! by monotonic time, and only while a majority has acknowledged it recently: the time in which
//! nobody could renew is not counted. How recently, goes by what was known when that time began:
//! what a majority said may arrive late, after a pause or a cut, and would count the time in which
//! nobody heard it. A pause of the process counts at most one step. The wall clock is read for
//! display only.

use std::time::Duration;

use oarlock_core::planted::{Bug, planted};
use oarlock_core::time::LeaseTime;
use tokio::time::Instant;

#[cfg(feature = "proof")]
use crate::raft::faults;

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
    /// The end of the leader lease as it was known then.
    counts_until: Instant,
}

impl LeaseClock {
    /// A stopped clock. `step_max` bounds what one reading may add.
    pub(crate) fn new(step_max: Duration) -> Self {
        Self { running: None, step_max }
    }

    /// Starts at `base`, the machine's clock after the first entry of this leadership;
    /// `counts_until` as in [`Self::read`].
    pub(crate) fn start(&mut self, base: LeaseTime, at: Instant, counts_until: Instant) {
        self.running = Some(Running { now: base, seen_at: at, counts_until });
    }

    /// Leadership is over: nothing is stamped any more.
    pub(crate) fn stop(&mut self) {
        self.running = None;
    }

    /// Lease time at `at`. Time after `counts_until`, the end of the leader lease as it is known now,
    /// is not counted by the next reading, nor later; it takes at least one reading in each lease to
    /// go on. `None` while stopped.
    pub(crate) fn read(&mut self, at: Instant, counts_until: Instant) -> Option<LeaseTime> {
        let running = self.running.as_mut()?;
        let known = if planted(Bug::OutagesCount) { at } else { running.counts_until };
        let counted = at.min(known).saturating_duration_since(running.seen_at);
        let step_us = u64::try_from(counted.min(self.step_max).as_micros()).unwrap_or(u64::MAX);
        running.now = LeaseTime(running.now.0.saturating_add(step_us));
        running.seen_at = running.seen_at.max(at);
        running.counts_until = counts_until;
        Some(running.now)
    }
}

/// Monotonic time; simulated where tokio's clock is.
pub(crate) fn now() -> Instant {
    let now = Instant::now();
    #[cfg(feature = "proof")]
    let now = faults::clock::shown(now);
    now
}

/// Monotonic time since this was first asked; for a planted bug only.
pub(crate) fn since_start_us() -> u64 {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    let since = now().saturating_duration_since(*START.get_or_init(now));
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// The moment by which timers go, for deadlines given to them. A build for the proof can make the
/// other one run off, and not this one.
pub(crate) fn timer_now() -> Instant {
    Instant::now()
}

/// How long ago openraft read its clock; its instants can be asked for nothing else.
pub(crate) fn age_of(at: impl openraft::async_runtime::Instant) -> Duration {
    let age = at.elapsed();
    #[cfg(feature = "proof")]
    let age = faults::clock::shown_age(age);
    age
}

/// Wall clock in milliseconds since 1970, for display; zero before 1970.
#[expect(clippy::disallowed_methods, reason = "the one reading of the wall clock, for display")]
pub fn wall_ms() -> u64 {
    let wall_ms = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
    #[cfg(feature = "proof")]
    let wall_ms = faults::clock::shown_wall_ms(wall_ms);
    wall_ms
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
        clock.start(LeaseTime(7), at, at);
        clock.stop();
        assert_eq!(clock.read(at, at), None);
    }

    #[test]
    fn time_without_a_quorum_is_never_counted() {
        let t0 = now();
        let at = |ms| t0 + Duration::from_millis(ms);
        let mut clock = LeaseClock::new(STEP);
        clock.start(LeaseTime(1_000_000), t0, at(150));
        assert_eq!(ms(&mut clock, at(100), at(150)), 1100);
        // The lease ends at 150; the reading at 400 counts 50 and the rest is lost for good.
        assert_eq!(ms(&mut clock, at(400), at(150)), 1150);
        assert_eq!(ms(&mut clock, at(420), at(1000)), 1150);
        assert_eq!(ms(&mut clock, at(470), at(1000)), 1200);
    }

    #[test]
    fn what_a_majority_said_counts_from_when_it_was_heard() {
        let t0 = now();
        let at = |ms| t0 + Duration::from_millis(ms);
        let mut clock = LeaseClock::new(STEP);
        clock.start(LeaseTime(0), t0, at(900));
        assert_eq!(ms(&mut clock, at(450), at(900)), 450, "nobody answers any more");
        assert_eq!(ms(&mut clock, at(850), at(900)), 850, "and then the process is paused");
        assert_eq!(ms(&mut clock, at(5_000), at(1_800)), 900, "answers that were on their way");
        assert_eq!(ms(&mut clock, at(5_100), at(6_000)), 900, "the majority is back");
        assert_eq!(ms(&mut clock, at(5_150), at(6_000)), 950);
    }

    #[test]
    fn a_pause_counts_one_step_at_most() {
        let t0 = now();
        let mut clock = LeaseClock::new(STEP);
        clock.start(LeaseTime(0), t0, t0 + 2 * STEP);
        let late = t0 + Duration::from_mins(1);
        assert_eq!(ms(&mut clock, late, late + STEP), 500);
        assert_eq!(ms(&mut clock, t0, late), 500, "and it never runs backwards");
    }
}
