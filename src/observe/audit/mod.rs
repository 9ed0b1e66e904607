//! The audit file: who took, was refused or lost a lock, who forced one out, and every change of the
//! members and of the cluster's own records. Off unless `audit_file` names a file.
//!
//! ```text
//!  apply -> Audit::tell (never waits) -> a bounded queue -> one blocking task -> file, line by line
//! ```
//! Every node writes what it applies, so that each of them has the whole story in the same order,
//! and the loss of one, or of a leader at any moment, takes nothing away (docs/adr/0017). Each line
//! carries the hash of the one before. The log knows no identities, so the node that a call came to
//! adds who that was (docs/adr/0027), through the same queue, in a part of it that cannot crowd out
//! the entries. What a node could not write (a full queue, a failed write, a
//! snapshot that came instead of the entries, a crash before the write) is a line `gap` that names
//! the entries: nothing is missing in silence. No lock waits for any of this, and no lease id,
//! session id, request id, value or metadata is in it.

pub mod chain;
mod file;
mod record;

#[cfg(test)]
mod tests;

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::observe::audit::chain::Gap;
use crate::observe::audit::file::{AS_BEFORE, AuditFile, Batch};
use crate::observe::audit::record::Record;
use crate::observe::metrics::Metrics;
use crate::service::called::Called;
use crate::service::observer::Told;

/// Entries that may wait for the disk. Beyond that they are left out, and the file says so.
const QUEUE_ENTRIES_MAX: usize = 4_096;

/// Lines of all that wait, some tens of megabytes as a rule. An entry that has more by itself passes when
/// nothing else waits.
const QUEUE_LINES_MAX: usize = 65_536;

/// Calls that may wait for the disk, besides.
const QUEUE_CALLS_MAX: usize = 1_024;

/// Lines a second about callers that nobody knows: whoever reaches the port can be turned away as often
/// as it likes, and must not fill the disk.
const STRANGERS_PER_SECOND: u32 = 10;

/// Entries that are written together at most.
const ENTRIES_PER_WRITE: usize = 256;

/// The audit of one node.
pub struct Audit {
    told: Mutex<Heard>,
    calls: Mutex<Calls>,
    metrics: Arc<Metrics>,
}

/// What was heard of calls. Apart from the entries, because a call must not wait for one that is being
/// taken apart.
#[derive(Default)]
struct Calls {
    queue: Option<mpsc::Sender<Batch>>,
    waiting: Arc<AtomicUsize>,
    /// Calls without a line since the last one that has one.
    untold: u64,
    /// The last second in which there was a stranger, and how many.
    strangers: (u64, u32),
}

/// What was heard of applied entries so far.
struct Heard {
    queue: Option<mpsc::Sender<Batch>>,
    /// Lines that wait in the queue.
    waiting: Arc<AtomicUsize>,
    writer: Option<JoinHandle<()>>,
    /// Up to here the file has its lines from an earlier run.
    written: u64,
    /// The entry that comes next; a later one means that a snapshot took the place of some.
    next: u64,
    missing: Option<Gap>,
}

impl Audit {
    /// Opens the file, or goes on with it, for a node that has applied the log up to `applied`.
    /// Fails if the file cannot be written or does not end as this one writes.
    pub fn start(
        path: &Path,
        cluster_id: u128,
        applied: u64,
        metrics: Arc<Metrics>,
    ) -> io::Result<Arc<Self>> {
        let mut file = AuditFile::open(path, cluster_id)?;
        let written = file.index();
        let missing = file.begin(applied)?;
        metrics.audit_lacks(missing.map_or(0, Gap::entries));
        let (queue, batches) = mpsc::channel(QUEUE_ENTRIES_MAX + QUEUE_CALLS_MAX);
        let waiting: Arc<AtomicUsize> = Arc::default();
        let calls = Calls { queue: Some(queue.clone()), ..Calls::default() };
        let writer = tokio::task::spawn_blocking({
            let (metrics, waiting) = (Arc::clone(&metrics), Arc::clone(&waiting));
            let calls = Arc::clone(&calls.waiting);
            move || write(file, batches, (&waiting, &calls), &metrics)
        });
        let heard = Heard {
            queue: Some(queue),
            waiting,
            writer: Some(writer),
            written,
            next: applied.saturating_add(1),
            missing: None,
        };
        Ok(Arc::new(Self { told: Mutex::new(heard), calls: Mutex::new(calls), metrics }))
    }

    /// For a node without an audit file.
    pub fn off(metrics: Arc<Metrics>) -> Arc<Self> {
        let (queue, writer, waiting) = (None, None, Arc::default());
        let heard = Heard { queue, waiting, writer, written: 0, next: 0, missing: None };
        Arc::new(Self { told: Mutex::new(heard), calls: Mutex::default(), metrics })
    }

    /// Whether there is a file.
    pub fn is_on(&self) -> bool {
        self.calls().queue.is_some()
    }

    /// Takes what an entry was and did. Never waits.
    pub fn tell(&self, index: u64, told: &Told<'_>) {
        let mut heard = self.heard();
        if heard.next < index {
            let skipped = Gap { from: heard.next, to: index - 1 };
            heard.lacks(skipped, &self.metrics);
        }
        heard.next = index.saturating_add(1);
        if index <= heard.written {
            return;
        }
        let (wall_ms, records) = record::of(told);
        if !records.is_empty() {
            heard.pass_on(index, wall_ms, records, &self.metrics);
        }
    }

    /// Somebody came in by the key of this node's configuration, and asked for that. Never waits.
    pub fn break_glass(&self, asked: &str) {
        let mut heard = self.heard();
        let last = heard.next.saturating_sub(1).max(heard.written);
        heard.pass_on(last, None, vec![Record::break_glass(asked)], &self.metrics);
    }

    /// Somebody called this node, at that time by its own clock. Never waits.
    pub fn called(&self, called: &Called<'_>, wall_ms: u64) {
        let mut calls = self.calls();
        if called.is_known || calls.hears_stranger(wall_ms / 1_000) {
            calls.pass_on(Some(Record::called(called)), wall_ms);
        } else {
            calls.untold += 1;
        }
    }

    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes what is left and closes the file.
    pub async fn finish(&self) {
        {
            let mut calls = self.calls();
            calls.pass_on(None, 0);
            calls.queue = None;
        }
        let writer = {
            let mut heard = self.heard();
            let last = heard.next.saturating_sub(1).max(heard.written);
            heard.pass_on(last, None, vec![Record::stopped()], &self.metrics);
            heard.queue = None;
            heard.writer.take()
        };
        if let Some(writer) = writer
            && writer.await.is_err()
        {
            tracing::error!("the writer of the audit file panicked");
        }
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Calls {
    /// Whether there were few enough in this second.
    fn hears_stranger(&mut self, now_s: u64) -> bool {
        let (second, count) = self.strangers;
        let count = if second == now_s { count.saturating_add(1) } else { 1 };
        self.strangers = (now_s, count);
        count <= STRANGERS_PER_SECOND
    }

    fn pass_on(&mut self, record: Option<Record>, wall_ms: u64) {
        let Some(queue) = &self.queue else { return };
        let is_call = record.is_some();
        let untold = (self.untold > 0).then(|| Record::untold(self.untold));
        let records: Vec<Record> = untold.into_iter().chain(record).collect();
        if records.is_empty() {
            return;
        }
        let wall_ms = is_call.then_some(wall_ms);
        let batch = Batch { index: AS_BEFORE, wall_ms, missing: None, records };
        // This is the only one that adds.
        let fits = self.waiting.load(Ordering::Acquire) < QUEUE_CALLS_MAX;
        self.waiting.fetch_add(1, Ordering::AcqRel);
        if fits && queue.try_send(batch).is_ok() {
            self.untold = 0;
        } else {
            self.waiting.fetch_sub(1, Ordering::AcqRel);
            self.untold += u64::from(is_call);
        }
    }
}

impl Heard {
    fn pass_on(
        &mut self,
        index: u64,
        wall_ms: Option<u64>,
        records: Vec<Record>,
        metrics: &Metrics,
    ) {
        let Some(queue) = &self.queue else { return };
        // This is the only one that adds, so what is there may have become less, never more.
        let (lines, waiting) = (records.len(), self.waiting.load(Ordering::Acquire));
        let fits = waiting == 0 || waiting.saturating_add(lines) <= QUEUE_LINES_MAX;
        let batch = Batch { index, wall_ms, missing: self.missing, records };
        self.waiting.fetch_add(lines, Ordering::AcqRel);
        if fits && queue.try_send(batch).is_ok() {
            self.missing = None;
        } else {
            self.waiting.fetch_sub(lines, Ordering::AcqRel);
            self.lacks(Gap { from: index, to: index }, metrics);
        }
    }

    fn lacks(&mut self, gap: Gap, metrics: &Metrics) {
        if self.missing.is_none() {
            tracing::error!(from = gap.from, "the audit file of this node will lack lines");
        }
        metrics.audit_lacks(gap.entries());
        self.missing = Some(gap.with(self.missing));
    }
}

fn write(
    mut file: AuditFile,
    mut queue: mpsc::Receiver<Batch>,
    (waiting, calls): (&AtomicUsize, &AtomicUsize),
    metrics: &Metrics,
) {
    let mut fails = false;
    while let Some(first) = queue.blocking_recv() {
        let mut batches = vec![first];
        while batches.len() < ENTRIES_PER_WRITE
            && let Ok(next) = queue.try_recv()
        {
            batches.push(next);
        }
        let written = file.write(&batches);
        // They take memory until here.
        let (of_calls, of_entries): (Vec<_>, Vec<_>) =
            batches.iter().partition(|batch| batch.index == AS_BEFORE);
        let lines = of_entries.iter().map(|batch| batch.records.len()).sum();
        waiting.fetch_sub(lines, Ordering::AcqRel);
        calls.fetch_sub(of_calls.len(), Ordering::AcqRel);
        match written {
            Ok(lines) => {
                if fails {
                    tracing::warn!("the audit file is written again; it says what it lacks");
                }
                fails = false;
                metrics.audited(lines);
            }
            Err(error) => {
                // Said once: a full disk would fill another one with these.
                if !fails {
                    tracing::error!(%error, "the audit file cannot be written; the node goes on");
                }
                fails = true;
                metrics.audit_failed();
                metrics.audit_lacks(u64::try_from(batches.len()).unwrap_or(u64::MAX));
            }
        }
    }
}
