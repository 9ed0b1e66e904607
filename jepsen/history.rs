//! What clients asked and what they were told, stamped by the one monotonic clock of this machine.
//!
//! An operation is a call and its answer. Its outcome is one of three: it happened, it did not
//! happen, or nobody knows. Nothing is concluded here; that is for the checker.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Who may hold a lock together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Exclusive,
    Shared,
    /// Some of a number of permits.
    Permits {
        count: u32,
        limit: u32,
    },
}

/// One lock of an acquire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    pub lock: String,
    pub mode: Mode,
}

/// What a client asked for.
///
/// A `request` stands for a request id: a repeat has the same. A lease is told by its request and
/// its lock, so no history carries a lease id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// All of these locks or none.
    Acquire {
        request: u64,
        asks: Vec<Ask>,
        wait_ms: u64,
        /// `None` in a session.
        ttl_ms: Option<u64>,
        session: Option<u64>,
    },
    Renew {
        request: u64,
        lock: String,
        ttl_ms: u64,
    },
    Release {
        request: u64,
        lock: String,
    },
    OpenSession {
        session: u64,
        ttl_ms: u64,
    },
    RenewSession {
        session: u64,
        ttl_ms: u64,
    },
    CloseSession {
        session: u64,
    },
    /// A linearizable read.
    Look {
        lock: String,
    },
    /// Whether a token is held at this instant.
    Fence {
        lock: String,
        token: u64,
    },
    SetValue {
        request: u64,
        lock: String,
        value: u64,
    },
    GetValue {
        lock: String,
    },
}

/// What the cluster said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// A token for each lock of the request, in its order.
    Granted {
        tokens: Vec<u64>,
        waited_ms: u64,
        believed_until: Duration,
    },
    Renewed {
        believed_until: Duration,
    },
    Done,
    Seen(Seen),
    /// The value of a lock and the token under which it was written; `None` if it carries none.
    Value(Option<(u64, u64)>),
}

/// What a look shows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Token and request of each holder; a request of somebody else is 0.
    pub holders: Vec<(u64, u64)>,
    /// Whether these are all holders.
    pub complete: bool,
    /// Requests of the waiters, the next in line first.
    pub waiters: Vec<u64>,
    /// No token above it was ever granted, the answer said.
    pub token_ceiling: u64,
}

/// How the reason of an unknown outcome begins where an answer came and was not understood.
pub const MISUNDERSTOOD: &str = "not an answer of oarlock";

/// What [`Operation::kind`] tells apart.
pub const KINDS: [&str; 11] = [
    "acquire",
    "acquire-many",
    "renew",
    "release",
    "open-session",
    "renew-session",
    "close-session",
    "look",
    "fence",
    "set-value",
    "get-value",
];

/// A definite refusal: nothing changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Refusal {
    /// The stable code of the problem, such as `lock-held`.
    pub kind: String,
    /// Tokens of those that it named as holders.
    pub holders: Vec<u64>,
}

impl Refusal {
    /// Whether it says that the lease, the session or the token is not held any more.
    pub fn is_gone(&self) -> bool {
        let gone =
            ["lease-gone", "lease-unknown", "session-gone", "session-unknown", "token-stale"];
        gone.contains(&self.kind.as_str())
    }
}

/// How a call ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Ok(Answer),
    Failed(Refusal),
    Unknown(String),
}

/// One call of one client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// Makes one call after the other.
    pub client: u64,
    pub call: Call,
    pub called_at: Duration,
    pub returned_at: Duration,
    pub outcome: Outcome,
}

/// One write to the guarded resource that was refused although its writer still believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stranded {
    pub lock: String,
    pub token: u64,
    pub highest: u64,
    pub at: Duration,
}

/// One fault and when it began and ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub what: String,
    pub began_at: Duration,
    pub ended_at: Duration,
}

/// All of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Records {
    pub operations: Vec<Operation>,
    pub stranded: Vec<Stranded>,
    /// Writes to the guarded resource: taken, and refused to a former holder.
    pub writes: (usize, usize),
    /// When the clients were told to end, if they were: from then on they do less and less.
    pub stopped_at: Option<Duration>,
    pub faults: Vec<Fault>,
}

/// Counts that are known while the clients still work.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub operations: usize,
    pub grants: usize,
    pub unknown: usize,
    /// Grants that were left to their TTL.
    pub left: usize,
}

#[derive(Default)]
pub struct History {
    records: Mutex<Records>,
    grants: AtomicUsize,
    unknown: AtomicUsize,
    left: AtomicUsize,
}

impl History {
    /// Never held across an await.
    fn records(&self) -> MutexGuard<'_, Records> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn operation(&self, operation: Operation) {
        match &operation.outcome {
            Outcome::Ok(Answer::Granted { .. }) => self.grants.fetch_add(1, Ordering::Relaxed),
            Outcome::Unknown(_) => self.unknown.fetch_add(1, Ordering::Relaxed),
            Outcome::Ok(_) | Outcome::Failed(_) => 0,
        };
        self.records().operations.push(operation);
    }

    /// Somebody leaves a grant to its TTL.
    pub fn left(&self) {
        self.left.fetch_add(1, Ordering::Relaxed);
    }

    pub fn stranded(&self, stranded: Stranded) {
        self.records().stranded.push(stranded);
    }

    pub fn wrote(&self, taken: bool) {
        let writes = &mut self.records().writes;
        if taken {
            writes.0 += 1;
        } else {
            writes.1 += 1;
        }
    }

    pub fn fault(&self, fault: Fault) {
        self.records().faults.push(fault);
    }

    pub fn stops(&self, at: Duration) {
        self.records().stopped_at = Some(at);
    }

    pub fn granted(&self) -> usize {
        self.grants.load(Ordering::Relaxed)
    }

    pub fn counts(&self) -> Counts {
        Counts {
            operations: self.records().operations.len(),
            grants: self.granted(),
            unknown: self.unknown.load(Ordering::Relaxed),
            left: self.left.load(Ordering::Relaxed),
        }
    }

    /// When the last grant so far was heard of.
    pub fn last_grant_at(&self) -> Option<Duration> {
        let records = self.records();
        let mut newest_first = records.operations.iter().rev();
        newest_first.find(|operation| operation.is_grant()).map(|operation| operation.returned_at)
    }

    pub fn take(&self) -> Records {
        std::mem::take(&mut *self.records())
    }
}

impl Operation {
    pub fn is_grant(&self) -> bool {
        matches!(self.outcome, Outcome::Ok(Answer::Granted { .. }))
    }

    /// The calls of one kind have one name.
    pub fn kind(&self) -> &'static str {
        match &self.call {
            Call::Acquire { asks, .. } if asks.len() > 1 => "acquire-many",
            Call::Acquire { .. } => "acquire",
            Call::Renew { .. } => "renew",
            Call::Release { .. } => "release",
            Call::OpenSession { .. } => "open-session",
            Call::RenewSession { .. } => "renew-session",
            Call::CloseSession { .. } => "close-session",
            Call::Look { .. } => "look",
            Call::Fence { .. } => "fence",
            Call::SetValue { .. } => "set-value",
            Call::GetValue { .. } => "get-value",
        }
    }
}

impl Records {
    pub fn grants(&self) -> usize {
        self.operations.iter().filter(|operation| operation.is_grant()).count()
    }

    pub fn unknown(&self) -> usize {
        let unknown = |operation: &&Operation| matches!(operation.outcome, Outcome::Unknown(_));
        self.operations.iter().filter(unknown).count()
    }

    pub fn looks(&self) -> usize {
        self.operations.iter().filter(|operation| operation.kind() == "look").count()
    }

    /// The longest time in which nobody heard of a grant while the clients worked, from the first
    /// one on.
    pub fn longest_gap(&self) -> Duration {
        let grants = self.operations.iter().filter(|operation| operation.is_grant());
        let end = self.stopped_at.unwrap_or(Duration::MAX);
        let mut heard: Vec<Duration> = grants.map(|it| it.returned_at.min(end)).collect();
        // Without any since, the last stretch goes up to the end.
        heard.extend(self.stopped_at);
        heard.sort_unstable();
        let gaps = heard.iter().zip(heard.iter().skip(1));
        gaps.map(|(before, after)| after.saturating_sub(*before)).max().unwrap_or_default()
    }
}
