//! What happened in a run, as one hash: every piece sent and delivered, every call to a disk, every
//! applied entry, every answer to a client, each with its moment. Two runs with equal hashes were
//! the same run.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The simulated time in milliseconds since the start, the same for everybody.
#[derive(Debug, Clone, Default)]
pub(crate) struct Now(Arc<AtomicU64>);

impl Now {
    pub(crate) fn ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn tick(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// Locks a mutex that no panic can leave in a bad state.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// FNV-1a over eight bytes at a time; only has to tell runs apart.
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    let mut state = 0xcbf2_9ce4_8422_2325_u64 ^ bytes.len() as u64;
    for chunk in bytes.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        state = (state ^ u64::from_le_bytes(word)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        state ^= state >> 29;
    }
    state
}

#[derive(Default)]
struct Lines {
    hash: u64,
    count: u64,
    kept: Vec<String>,
}

/// The hash so far, and the lines themselves where somebody looks at them.
#[derive(Clone)]
pub(crate) struct Trace {
    now: Now,
    keeps: bool,
    lines: Arc<Mutex<Lines>>,
}

impl Trace {
    pub(crate) fn new(now: Now, keeps: bool) -> Self {
        Self { now, keeps, lines: Arc::default() }
    }

    /// Adds a line: what it is, the numbers that say which one, and what it carried.
    pub(crate) fn note(&self, what: &str, numbers: &[u64], carried: u64) {
        self.add(what, numbers, carried, || format!("{numbers:?} {carried:x}"));
    }

    /// The same, with words for a reader in the place of the numbers.
    pub(crate) fn note_as(
        &self,
        what: &str,
        numbers: &[u64],
        carried: u64,
        shown: impl FnOnce() -> String,
    ) {
        self.add(what, numbers, carried, shown);
    }

    /// Adds a line that a reader will want to see as it is.
    pub(crate) fn note_text(&self, what: &str, text: &str) {
        self.add(what, &[], hash(text.as_bytes()), || text.to_owned());
    }

    fn add(&self, what: &str, numbers: &[u64], carried: u64, shown: impl FnOnce() -> String) {
        let mut lines = lock(&self.lines);
        let mut state = lines.hash ^ hash(what.as_bytes());
        for number in [self.now.ms(), carried].iter().chain(numbers) {
            state = (state ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            state ^= state >> 31;
        }
        lines.hash = state;
        lines.count += 1;
        if self.keeps {
            lines.kept.push(format!("{:>6} {what} {}", self.now.ms(), shown()));
        }
    }

    pub(crate) fn hash(&self) -> u64 {
        lock(&self.lines).hash
    }

    pub(crate) fn count(&self) -> u64 {
        lock(&self.lines).count
    }

    pub(crate) fn take_lines(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.lines).kept)
    }
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Trace({:016x})", self.hash())
    }
}
