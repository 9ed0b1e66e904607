//! What clients saw, stamped by the one monotonic clock of this machine, and its form for others.

use std::fmt::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Who may hold a lock together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Exclusive,
    Shared,
}

/// One claim on one lock, from its call to the end of the belief in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) name: String,
    pub(crate) mode: Mode,
    /// Of the request id: the same for a repeat.
    pub(crate) request: u64,
    pub(crate) called_at: Duration,
    pub(crate) returned_at: Duration,
    /// `None` if the outcome is not known.
    pub(crate) token: Option<u64>,
    /// When the client stopped believing: it called release, or its trust in the lease ran out.
    pub(crate) believed_until: Duration,
    /// When it called release, if it did.
    pub(crate) released_at: Option<Duration>,
    /// Before this the cluster may not have ended the lease by itself (P3).
    pub(crate) expires_from: Duration,
}

impl Claim {
    /// Notes at `now` that the client may believe for what is `left` of its trust. A trust that
    /// was over when it arrived adds nothing: it ended at some earlier time, not now.
    pub(crate) fn believes(&mut self, now: Duration, left: Option<Duration>) {
        if let Some(left) = left.filter(|left| !left.is_zero()) {
            self.believed_until = now + left;
        }
    }

    /// Notes at `now` that the client is about to release.
    pub(crate) fn releases(&mut self, now: Duration) {
        self.released_at = Some(now);
        self.believed_until = self.believed_until.min(now);
    }
}

/// One linearizable look at a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Look {
    pub(crate) called_at: Duration,
    pub(crate) returned_at: Duration,
    /// No token above it was ever granted, the answer said.
    pub(crate) token_ceiling: u64,
}

/// One write to the guarded resource that was refused although its writer still believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stranded {
    pub(crate) name: String,
    pub(crate) token: u64,
    pub(crate) highest: u64,
    pub(crate) at: Duration,
}

/// One fault and when it began and ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) what: String,
    pub(crate) began_at: Duration,
    pub(crate) ended_at: Duration,
}

/// All of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Records {
    pub(crate) claims: Vec<Claim>,
    pub(crate) looks: Vec<Look>,
    pub(crate) stranded: Vec<Stranded>,
    pub(crate) faults: Vec<Fault>,
}

#[derive(Default)]
pub(crate) struct History {
    records: Mutex<Records>,
    granted: AtomicUsize,
}

impl History {
    /// Never held across an await.
    fn records(&self) -> MutexGuard<'_, Records> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn claim(&self, claim: Claim) {
        self.granted.fetch_add(usize::from(claim.token.is_some()), Ordering::Relaxed);
        self.records().claims.push(claim);
    }

    pub(crate) fn look(&self, look: Look) {
        self.records().looks.push(look);
    }

    pub(crate) fn stranded(&self, stranded: Stranded) {
        self.records().stranded.push(stranded);
    }

    pub(crate) fn fault(&self, fault: Fault) {
        self.records().faults.push(fault);
    }

    pub(crate) fn granted(&self) -> usize {
        self.granted.load(Ordering::Relaxed)
    }

    pub(crate) fn take(&self) -> Records {
        std::mem::take(&mut *self.records())
    }
}

impl Records {
    pub(crate) fn grants(&self) -> usize {
        self.claims.iter().filter(|claim| claim.token.is_some()).count()
    }

    pub(crate) fn unknown(&self) -> usize {
        self.claims.len() - self.grants()
    }

    /// Grants that were never released: the cluster ended them.
    pub(crate) fn expiries(&self) -> usize {
        let left = |claim: &&Claim| claim.token.is_some() && claim.released_at.is_none();
        self.claims.iter().filter(left).count()
    }

    /// The claims in Jepsen's form: one map for each invocation and completion, in time order.
    pub(crate) fn edn(&self) -> String {
        let mut lines: Vec<(Duration, String)> = Vec::new();
        for claim in &self.claims {
            let process = claim.request >> 32;
            let mut line = |at: Duration, kind: &str, f: &str, token: Option<u64>| {
                let token = token.map_or("nil".to_owned(), |token| token.to_string());
                let text = format!(
                    "{{:process {process}, :type :{kind}, :f :{f}, :value [{:?} {token}], :time {}}}",
                    claim.name,
                    at.as_nanos()
                );
                lines.push((at, text));
            };
            line(claim.called_at, "invoke", "acquire", None);
            let kind = if claim.token.is_some() { "ok" } else { "info" };
            line(claim.returned_at, kind, "acquire", claim.token);
            if let Some(released_at) = claim.released_at {
                line(released_at, "invoke", "release", claim.token);
                // Its end is not awaited: from the call on the lock may be anybody's.
                line(released_at, "info", "release", claim.token);
            }
        }
        lines.sort_by_key(|(at, _)| *at);
        lines.into_iter().fold(String::new(), |mut text, (_, line)| {
            let _infallible = writeln!(text, "{line}");
            text
        })
    }
}
