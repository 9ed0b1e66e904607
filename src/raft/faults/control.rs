//! The file with the orders, and the one in which the node tells what became of them.
//!
//! One setting a line, `name = value`; a line that is not understood ends the process, because a
//! fault that does not happen proves nothing.

use std::fmt::Write;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long orders may be out of date. Reading them costs some microseconds.
const FRESH: Duration = Duration::from_millis(20);

/// What becomes of a sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sync {
    Works,
    /// It fails, and what it was to write is lost, as the page cache of Linux forgets it.
    Fails,
    /// It waits until the orders say otherwise.
    Holds,
    Takes(Duration),
}

/// The orders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Orders {
    /// Of 256 sectors written and names changed, so many reach the disk before they are synced.
    pub(super) early: u8,
    pub(super) sync: Sync,
    /// Nothing more can be written.
    pub(super) full: bool,
    /// How many millionths the monotonic clock is fast.
    pub(super) clock_ppm: i64,
    /// How far the wall clock is ahead.
    pub(super) wall_ms: i64,
}

impl Default for Orders {
    fn default() -> Self {
        Self { early: u8::MAX, sync: Sync::Works, full: false, clock_ppm: 0, wall_ms: 0 }
    }
}

impl Orders {
    fn parse(text: &str) -> io::Result<Self> {
        let mut orders = Self::default();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let understood = line
                .split_once('=')
                .and_then(|(name, value)| orders.set(name.trim(), value.trim()));
            understood.ok_or_else(|| {
                io::Error::new(io::ErrorKind::InvalidData, format!("no such order: {line}"))
            })?;
        }
        Ok(orders)
    }

    fn set(&mut self, name: &str, value: &str) -> Option<()> {
        match (name, value) {
            ("unsynced", "memory") => self.early = 0,
            ("unsynced", "sectors") => self.early = 128,
            ("unsynced", "through") => self.early = u8::MAX,
            ("sync", "works") => self.sync = Sync::Works,
            ("sync", "fails") => self.sync = Sync::Fails,
            ("sync", "holds") => self.sync = Sync::Holds,
            ("sync", ms) => self.sync = Sync::Takes(Duration::from_millis(ms.parse().ok()?)),
            ("disk", "full") => self.full = true,
            ("disk", "free") => self.full = false,
            ("clock_ppm", ppm) => self.clock_ppm = ppm.parse().ok()?,
            ("wall_ms", ms) => self.wall_ms = ms.parse().ok()?,
            _ => return None,
        }
        Some(())
    }
}

/// What the orders led to so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Evidence {
    /// Written, and lost if the process is killed now.
    pub(super) unsynced_bytes: u64,
    pub(super) syncs_held: u64,
    pub(super) syncs_slowed: u64,
    pub(super) syncs_failed: u64,
    pub(super) writes_refused: u64,
    pub(super) clock_gained_us: i64,
    pub(super) wall_ms: i64,
}

/// The orders of this process and what came of them.
pub(super) struct Control {
    path: PathBuf,
    inner: Mutex<Inner>,
}

struct Inner {
    orders: Orders,
    read_at: Instant,
    evidence: Evidence,
    told: Evidence,
    chance: u64,
}

impl Control {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let orders = Orders::parse(&std::fs::read_to_string(path)?)?;
        let chance = u64::from(std::process::id()).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let (evidence, told) =
            (Evidence::default(), Evidence { syncs_held: 1, ..Default::default() });
        let inner = Inner { orders, read_at: Instant::now(), evidence, told, chance };
        let control = Self { path: path.to_owned(), inner: Mutex::new(inner) };
        control.tell(&mut control.inner());
        Ok(control)
    }

    // Held for a read of a small file at most; never across an await.
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The orders, read again if they may be out of date.
    pub(super) fn orders(&self) -> Orders {
        let mut inner = self.inner();
        let now = Instant::now();
        if now.saturating_duration_since(inner.read_at) >= FRESH {
            inner.read_at = now;
            match std::fs::read_to_string(&self.path).and_then(|text| Orders::parse(&text)) {
                Ok(orders) => inner.orders = orders,
                Err(error) => stop(&self.path, &error),
            }
            self.tell(&mut inner);
        }
        inner.orders
    }

    /// Notes evidence and tells it: there may be no next reading.
    pub(super) fn note_last(&self, note: impl FnOnce(&mut Evidence)) {
        let mut inner = self.inner();
        note(&mut inner.evidence);
        self.tell(&mut inner);
    }

    /// Notes evidence; it is told with the next reading of the orders.
    pub(super) fn note(&self, note: impl FnOnce(&mut Evidence)) {
        note(&mut self.inner().evidence);
    }

    /// A number below 256 by chance. Marsaglia's xorshift64.
    pub(super) fn chance(&self) -> u8 {
        let mut inner = self.inner();
        inner.chance ^= inner.chance << 13;
        inner.chance ^= inner.chance >> 7;
        inner.chance ^= inner.chance << 17;
        inner.chance.to_le_bytes()[3]
    }

    fn tell(&self, inner: &mut Inner) {
        if inner.told == inner.evidence {
            return;
        }
        inner.told = inner.evidence;
        let Evidence { unsynced_bytes, syncs_held, syncs_slowed, .. } = inner.evidence;
        let Evidence { syncs_failed, writes_refused, clock_gained_us, wall_ms, .. } =
            inner.evidence;
        let mut text = String::new();
        let _infallible = write!(
            text,
            "unsynced_bytes = {unsynced_bytes}\nsyncs_held = {syncs_held}\n\
             syncs_slowed = {syncs_slowed}\nsyncs_failed = {syncs_failed}\n\
             writes_refused = {writes_refused}\nclock_gained_us = {clock_gained_us}\n\
             wall_ms = {wall_ms}\n"
        );
        let (state, new) = (self.path.with_extension("state"), self.path.with_extension("new"));
        let told = std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, &state));
        if let Err(error) = told {
            stop(&state, &error);
        }
    }
}

fn stop(path: &Path, error: &io::Error) -> ! {
    tracing::error!(%error, path = %path.display(), "the orders to fail cannot be followed");
    #[expect(clippy::disallowed_methods, reason = "a proof without its faults proves nothing")]
    std::process::exit(71);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_read_line_by_line_and_an_unknown_one_is_an_error() {
        let orders = Orders::parse(
            "unsynced = memory\nsync = 250\n\n disk=full\nclock_ppm = -4500\nwall_ms = 3600000\n",
        )
        .expect("orders");
        let expected = Orders {
            early: 0,
            sync: Sync::Takes(Duration::from_millis(250)),
            full: true,
            clock_ppm: -4500,
            wall_ms: 3_600_000,
        };
        assert_eq!(orders, expected);
        assert_eq!(Orders::parse("").expect("none"), Orders::default());
        for wrong in ["sync = soon", "sink = works", "sync"] {
            assert!(Orders::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn orders_are_read_again_and_evidence_is_told() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("node.faults");
        std::fs::write(&path, "sync = holds\n").expect("orders");
        let control = Control::open(&path).expect("open");
        assert_eq!(control.orders().sync, Sync::Holds);
        control.note(|evidence| evidence.unsynced_bytes += 17);
        std::fs::write(&path, "sync = fails\n").expect("orders");
        let until = Instant::now() + Duration::from_secs(10);
        while control.orders().sync != Sync::Fails {
            assert!(Instant::now() < until, "the orders were not read again");
        }
        let told = std::fs::read_to_string(path.with_extension("state")).expect("evidence");
        assert!(told.contains("unsynced_bytes = 17\n"), "{told}");
    }
}
