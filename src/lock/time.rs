//! Lease time, and the durations that clients may ask for.
//!
//! Lease time is the replicated clock: it moves only by stamps in the log and never backwards. It
//! is counted in microseconds, so that a stamp is never more than a microsecond early. Durations
//! come from clients in milliseconds and are checked when made, also when decoded.

use alloc::format;

use serde::{Deserialize, Serialize};

use crate::ids::Invalid;
use crate::limits;

/// A moment on the lease clock: microseconds since the cluster was born, outages not counted.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct LeaseTime(pub u64);

impl LeaseTime {
    /// The moment `ms` milliseconds later; stops at the end of time instead of wrapping.
    #[must_use]
    pub fn plus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms.saturating_mul(1000)))
    }

    /// Whole milliseconds from `earlier` to this moment, rounded down; zero if it is not earlier.
    pub fn ms_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0) / 1000
    }
}

macro_rules! bounded_ms {
    ($name:ident, $what:literal, $min:expr, $max:expr, $doc:literal) => {
        #[doc = $doc]
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(try_from = "u64", into = "u64")]
        pub struct $name(u64);

        impl $name {
            /// Checks the bounds; `ms` is in milliseconds.
            pub fn new(ms: u64) -> Result<Self, Invalid> {
                if ($min..=$max).contains(&ms) {
                    Ok(Self(ms))
                } else {
                    Err(Invalid(format!(
                        concat!($what, " is {} to {} milliseconds, not {}"),
                        $min, $max, ms
                    )))
                }
            }

            /// The duration in milliseconds.
            pub fn ms(self) -> u64 {
                self.0
            }
        }

        impl TryFrom<u64> for $name {
            type Error = Invalid;

            fn try_from(ms: u64) -> Result<Self, Invalid> {
                Self::new(ms)
            }
        }

        impl From<$name> for u64 {
            fn from(duration: $name) -> u64 {
                duration.0
            }
        }
    };
}

bounded_ms!(
    Ttl,
    "ttl_ms",
    limits::TTL_MS_MIN,
    limits::TTL_MS_MAX,
    "How long a lease or session lives without a renewal."
);
bounded_ms!(
    Wait,
    "wait_ms",
    0,
    limits::WAIT_MS_MAX,
    "How long an acquire may stand in the queue; zero asks for an answer at once."
);
impl Wait {
    /// An answer at once.
    pub const NONE: Self = Self(0);
}

impl LockDelay {
    /// The lock is free at once, however its holder ends.
    pub const NONE: Self = Self(0);
}

bounded_ms!(
    LockDelay,
    "lock_delay_ms",
    0,
    limits::LOCK_DELAY_MS_MAX,
    "How long a lock stays closed after its holder was lost or forced rather than released."
);
bounded_ms!(
    Grace,
    "grace_ms",
    0,
    limits::GRACE_MS_MAX,
    "How long a waiter without a connection keeps its place."
);
