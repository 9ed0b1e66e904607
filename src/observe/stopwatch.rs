//! Measures how long something took, for metrics; nothing is decided by it.

use std::time::Duration;

use tokio::time::Instant;

/// A moment from which time is measured.
#[derive(Debug, Clone, Copy)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// Begins now.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// The time since the start.
    pub fn time(self) -> Duration {
        self.0.elapsed()
    }
}
