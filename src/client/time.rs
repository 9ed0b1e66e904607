//! For how long a client may believe that it holds a lock.
//!
//! From the moment it *sent* the request: the time it waited, plus what then remained of the lease,
//! less one per cent for the rate of two clocks and 50 ms for everything else; on a clock that
//! counts suspension. What remained is told by the leader at a moment after that, so the lease lives
//! at least so long, be it under a TTL of its own or a session's.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::wire::Lease;

/// Taken off besides the one per cent.
const MARGIN: Duration = Duration::from_millis(50);

/// Time since boot, suspension included.
pub(crate) fn since_boot() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// A bound on belief in one lease.
#[derive(Debug, Clone, Copy)]
pub struct Trust {
    until: Option<Duration>,
}

impl Trust {
    /// From an answer to a request that was first sent at `sent_at`.
    pub(crate) fn of_grant(sent_at: Duration, lease: &Lease) -> Self {
        Self::new(sent_at, lease.waited_ms, lease.remaining_ms)
    }

    /// From an answer to a request that may have been sent before, nobody knows when: the wait was
    /// that of the first one and must not be counted.
    pub(crate) fn of_repeat(sent_at: Duration, lease: &Lease) -> Self {
        Self::new(sent_at, 0, lease.remaining_ms)
    }

    fn new(sent_at: Duration, waited_ms: u64, remaining_ms: Option<u64>) -> Self {
        let until = remaining_ms.map(|remaining_ms| {
            let span_ms = waited_ms.saturating_add(remaining_ms);
            let sure = Duration::from_millis(span_ms - span_ms.div_ceil(100));
            sent_at + sure.saturating_sub(MARGIN)
        });
        Self { until }
    }

    /// Of two, the one that ends first.
    pub(crate) fn or_sooner(self, other: Self) -> Self {
        let sooner = match (self.until, other.until) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        Self { until: sooner }
    }

    /// What is left of it; `None` for a lease without expiry, zero once it is over.
    pub fn left(&self) -> Option<Duration> {
        self.until.map(|until| until.saturating_sub(since_boot()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(waited_ms: u64, remaining_ms: Option<u64>) -> Lease {
        let text = format!(
            r#"{{"lease_id":"0","lock":"a","mode":"exclusive","owner":"me","token":7,
                "ttl_ms":60000,"remaining_ms":{},"waited_ms":{waited_ms}}}"#,
            remaining_ms.map_or_else(|| "null".to_owned(), |ms| ms.to_string())
        );
        serde_json::from_str(&text).expect("a lease")
    }

    const SENT: Duration = Duration::from_secs(1_000);

    fn after_ms(ms: u64) -> Duration {
        SENT + Duration::from_millis(ms)
    }

    #[test]
    fn belief_ends_before_the_lease_counted_from_sending() {
        assert_eq!(Trust::of_grant(SENT, &lease(0, Some(10_000))).until, Some(after_ms(9_850)));
        assert_eq!(Trust::of_grant(SENT, &lease(0, Some(100))).until, Some(after_ms(49)));
        assert_eq!(Trust::of_grant(SENT, &lease(0, Some(20))).until, Some(after_ms(0)));
        assert!(Trust::of_grant(SENT, &lease(0, None)).left().is_none());
        let now = Trust::of_grant(since_boot(), &lease(0, Some(10_000))).left();
        assert!(now.is_some_and(|left| left > Duration::from_secs(8)));
    }

    #[test]
    fn the_wait_counts_with_the_rate_error_of_both_clocks() {
        assert_eq!(
            Trust::of_grant(SENT, &lease(5_000, Some(10_000))).until,
            Some(after_ms(14_800))
        );
    }

    #[test]
    fn a_session_that_is_nearly_over_is_believed_no_longer_than_it_lives() {
        // Its TTL is a minute, and a second of that is left.
        assert_eq!(Trust::of_grant(SENT, &lease(0, Some(1_000))).until, Some(after_ms(940)));
    }

    #[test]
    fn a_repeat_does_not_count_the_wait_of_the_first_request() {
        assert_eq!(
            Trust::of_repeat(SENT, &lease(5_000, Some(10_000))).until,
            Some(after_ms(9_850))
        );
    }

    #[test]
    fn several_leases_are_believed_as_long_as_the_first_to_end() {
        let [long, short] = [10_000, 1_000].map(|ms| Trust::of_grant(SENT, &lease(0, Some(ms))));
        let forever = Trust::of_grant(SENT, &lease(0, None));
        assert_eq!(long.or_sooner(short).until, short.until);
        assert_eq!(forever.or_sooner(short).until, short.until);
    }
}
