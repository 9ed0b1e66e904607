//! What clients saw, stamped by the one monotonic clock of this machine.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// One claim, from its call to the end of the belief in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) name: String,
    pub(crate) request: u64,
    pub(crate) called_at: Duration,
    pub(crate) returned_at: Duration,
    /// `None` if the outcome is not known.
    pub(crate) token: Option<u64>,
    /// When the client stopped believing: it called release, or its trust in the lease ran out.
    pub(crate) believed_until: Duration,
}

#[derive(Default)]
pub(crate) struct History {
    claims: Mutex<Vec<Claim>>,
    granted: AtomicUsize,
}

impl History {
    pub(crate) fn record(&self, claim: Claim) {
        self.granted.fetch_add(usize::from(claim.token.is_some()), Ordering::Relaxed);
        if let Ok(mut claims) = self.claims.lock() {
            claims.push(claim);
        }
    }

    pub(crate) fn granted(&self) -> usize {
        self.granted.load(Ordering::Relaxed)
    }

    pub(crate) fn take(&self) -> Vec<Claim> {
        self.claims.lock().map(|mut claims| std::mem::take(&mut *claims)).unwrap_or_default()
    }
}
