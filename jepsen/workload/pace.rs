//! A bound on calls in a second, over all clients together.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Slots of equal distance; a slot that passes unused is gone, so there are no bursts.
pub(super) struct Pace {
    between: Duration,
    /// A standard mutex: held for an addition, never across an await.
    next: Mutex<Instant>,
}

impl Pace {
    /// So many calls a second at most.
    pub(super) fn new(rate: u32) -> Self {
        Self { between: Duration::from_secs(1) / rate.max(1), next: Mutex::new(Instant::now()) }
    }

    /// Takes the next slot.
    pub(super) fn slot(&self) -> Instant {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = (*next).max(Instant::now());
        *next = slot + self.between;
        slot
    }
}
