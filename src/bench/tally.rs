//! What the clients of one run saw: latencies by kind, errors, and the longest time without success.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::bench::histogram::Histogram;

/// What was timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Timed {
    Acquire,
    Release,
    Renew,
    RenewSession,
    Read,
    /// From the call of a release to the grant of the next in line.
    HandOver,
}

impl Timed {
    pub(super) const ALL: [Self; 6] =
        [Self::Acquire, Self::Release, Self::Renew, Self::RenewSession, Self::Read, Self::HandOver];

    /// As in the JSON.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Acquire => "acquire",
            Self::Release => "release",
            Self::Renew => "renew",
            Self::RenewSession => "renew_session",
            Self::Read => "read",
            Self::HandOver => "hand_over",
        }
    }
}

pub(super) struct Tally {
    /// When measuring begins; what began before it is not counted.
    pub(super) start: Instant,
    latencies: [Histogram; Timed::ALL.len()],
    /// Operations in all, the uncounted too, for the progress.
    pub(super) done: AtomicU64,
    pub(super) errors: AtomicU64,
    first_error: Mutex<Option<String>>,
    last_success_us: AtomicU64,
    /// Its length above, the microsecond at which it began below: both fit 32 bits for an hour.
    longest_gap: AtomicU64,
}

/// The longest time in which no operation of any client succeeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Gap {
    pub(super) us: u64,
    /// Since the start.
    pub(super) began_us: u64,
}

impl Tally {
    pub(super) fn new(start: Instant) -> Self {
        Self {
            start,
            latencies: Default::default(),
            done: AtomicU64::default(),
            errors: AtomicU64::default(),
            first_error: Mutex::default(),
            last_success_us: AtomicU64::default(),
            longest_gap: AtomicU64::default(),
        }
    }

    pub(super) fn latency(&self, what: Timed) -> &Histogram {
        &self.latencies[what as usize]
    }

    pub(super) fn time(&self, what: Timed, took: Duration) {
        self.latency(what).add(micros(took));
    }

    pub(super) fn error(&self, why: &str) {
        self.errors.fetch_add(1, Relaxed);
        let mut first = self.first_error.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert_with(|| why.to_owned());
    }

    pub(super) fn first_error(&self) -> Option<String> {
        self.first_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Something succeeded at this moment.
    pub(super) fn success(&self, at: Instant) {
        let Some(since) = at.checked_duration_since(self.start) else { return };
        let at_us = micros(since);
        let before_us = self.last_success_us.fetch_max(at_us, Relaxed);
        let gap_us = at_us.saturating_sub(before_us);
        self.longest_gap.fetch_max(gap_us << 32 | before_us, Relaxed);
    }

    /// The longest time without success up to this moment.
    pub(super) fn longest_gap(&self, end: Instant) -> Gap {
        self.success(end);
        let packed = self.longest_gap.load(Relaxed);
        Gap { us: packed >> 32, began_us: packed & u64::from(u32::MAX) }
    }
}

/// Up to 71 minutes; a run is not that long.
pub(super) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX).min(u32::MAX.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_gap_may_lie_before_the_first_success_between_two_or_at_the_end() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let gap = |successes: &[u64], end| {
            let tally = Tally::new(start);
            for ms in successes {
                tally.success(at(*ms));
            }
            let Gap { us, began_us } = tally.longest_gap(at(end));
            (began_us / 1_000, us / 1_000)
        };
        assert_eq!(gap(&[700, 900], 1_000), (0, 700));
        assert_eq!(gap(&[100, 600, 700], 1_000), (100, 500));
        assert_eq!(gap(&[100, 50, 200], 1_000), (200, 800));
        assert_eq!(gap(&[], 1_000), (0, 1_000));
    }

    #[test]
    fn only_the_first_error_is_kept_and_all_are_counted() {
        let tally = Tally::new(Instant::now());
        tally.error("one");
        tally.error("two");
        assert_eq!(tally.errors.load(Relaxed), 2);
        assert_eq!(tally.first_error().as_deref(), Some("one"));
    }

    #[test]
    fn each_kind_has_a_histogram_of_its_own() {
        let tally = Tally::new(Instant::now());
        for (place, what) in Timed::ALL.into_iter().enumerate() {
            assert_eq!(what as usize, place);
            tally.time(what, Duration::from_micros(place as u64));
            assert_eq!(tally.latency(what).max_us(), place as u64);
        }
    }
}
