//! For how long a client may believe that it holds a lock.
//!
//! From the moment it *sent* the request: the time it waited, plus the TTL, less one per cent for
//! the rate of two clocks and 50 ms for everything else; on a clock that counts suspension.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Taken off a TTL besides its one per cent.
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
    pub(crate) fn new(sent_at: Duration, waited_ms: u64, ttl_ms: Option<u64>) -> Self {
        let until = ttl_ms.map(|ttl_ms| {
            let ttl = Duration::from_millis(ttl_ms - ttl_ms / 100).saturating_sub(MARGIN);
            sent_at + Duration::from_millis(waited_ms) + ttl
        });
        Self { until }
    }

    /// What is left of it; `None` for a lease without expiry, zero once it is over.
    pub fn left(&self) -> Option<Duration> {
        self.until.map(|until| until.saturating_sub(since_boot()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn belief_ends_before_the_ttl_counted_from_sending() {
        let sent = since_boot();
        let trust = Trust::new(sent, 0, Some(10_000));
        let left = trust.left().expect("it expires");
        assert!(left <= Duration::from_millis(9_850) && left > Duration::from_secs(8));
        assert_eq!(Trust::new(sent, 0, Some(100)).until, Some(sent + Duration::from_millis(49)));
        assert!(Trust::new(sent, 0, None).left().is_none());
    }

    #[test]
    fn time_in_the_queue_does_not_count() {
        let sent = since_boot().saturating_sub(Duration::from_secs(5));
        let left = Trust::new(sent, 5_000, Some(10_000)).left().expect("it expires");
        assert!(left > Duration::from_secs(8));
    }
}
