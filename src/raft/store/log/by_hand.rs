//! The log with its writer moved by hand instead of by a thread: for a simulation, in which the
//! disk takes as long as it is told to. What is written, and in which order, is the same.

use std::io;
use std::sync::Arc;

use crate::raft::store::files::{Files, preallocate};
use crate::raft::store::log::shared::Operation;
use crate::raft::store::log::writer::{Fatal, Prepare, Preparing, Writer, give_up};
use crate::raft::store::log::{Closer, LogOptions, LogStore, parts};

/// Writes what the [`LogStore`] it was opened with is given.
pub struct HandWriter {
    writer: Writer,
    group: Option<Vec<Operation>>,
}

// It fails only when somebody waits for the file, as a thread would.
#[expect(
    clippy::needless_pass_by_value,
    clippy::unnecessary_wraps,
    reason = "it takes the place of the one with a thread, which needs both"
)]
pub(super) fn prepare_at_once(
    files: Arc<dyn Files>,
    name: String,
    size: u64,
) -> io::Result<Preparing> {
    let outcome = preallocate(&*files, &name, size);
    Ok(Box::new(move || outcome))
}

/// As [`LogStore::open`], without a thread.
pub fn open(
    files: Arc<dyn Files>,
    options: LogOptions,
    fatal: Fatal,
) -> io::Result<(LogStore, HandWriter)> {
    let (store, writer) = open_with(files, options, fatal, prepare_at_once)?;
    Ok((store, HandWriter { writer, group: None }))
}

/// A store and the writer that its caller moves, with the way in which segments are prepared.
pub(super) fn open_with(
    files: Arc<dyn Files>,
    options: LogOptions,
    fatal: Fatal,
    prepare: Prepare,
) -> io::Result<(LogStore, Writer)> {
    let (shared, writer) = parts(files, options, Box::new(|_, _| {}), fatal, prepare)?;
    writer.witness()?;
    let closer = Closer { shared: Arc::clone(&shared), writer: None };
    Ok((LogStore { shared, _closer: Arc::new(closer) }, writer))
}

impl HandWriter {
    /// Takes all that is queued as the next group. False if there is nothing, or if the group
    /// before is not written yet.
    pub fn begin(&mut self) -> bool {
        if self.group.is_some() || self.writer.shared.state().queue.is_empty() {
            return false;
        }
        self.group = self.writer.next_group();
        self.group.is_some()
    }

    /// Writes the group, syncs it, and tells everybody. The first error is final.
    pub fn finish(&mut self) {
        let Some(group) = self.group.take() else { return };
        let written = self.writer.commit(group).and_then(|()| {
            let after = self.writer.forget_purged().and_then(|()| self.writer.witness());
            after.map_err(|error| (error.to_string(), Vec::new()))
        });
        if let Err((why, in_flight)) = written {
            give_up(&self.writer.shared, &self.writer.fatal, &why, in_flight);
        }
    }
}
