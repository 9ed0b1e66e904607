//! The log without its threads, for tests that must repeat exactly: the writer of the real store,
//! moved on one group at a time by the caller. Test code only.

use std::io;
use std::sync::Arc;

use futures_util::FutureExt;
use openraft::storage::RaftLogStorage;
use tokio::sync::oneshot;

use crate::raft::store::files::{Files, preallocate};
use crate::raft::store::log::by_hand::{open_with, prepare_at_once};
use crate::raft::store::log::record::Record;
use crate::raft::store::log::shared::Done;
use crate::raft::store::log::writer::{Prepare, Writer};
use crate::raft::store::log::{LogOptions, LogStore};
use crate::raft::types::{LogEntry, LogId, Vote};

/// When the next segment is created beside the writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::raft::store) enum Preparation {
    /// Before the writer does anything else.
    Early,
    /// When the writer waits for it.
    Late,
}

impl Preparation {
    fn as_prepare(self) -> Prepare {
        match self {
            Self::Early => prepare_at_once,
            Self::Late => {
                |files, name, size| Ok(Box::new(move || preallocate(&*files, &name, size)))
            }
        }
    }
}

/// One call of Raft to its log.
#[derive(Debug, Clone)]
pub(in crate::raft::store) enum Step {
    Vote(Vote),
    Append(Vec<LogEntry>),
    TruncateAfter(Option<LogId>),
    Purge(LogId),
    /// Told, never acknowledged.
    Committed(LogId),
}

/// What a log says of itself.
#[derive(Debug, Clone, PartialEq, Default)]
pub(in crate::raft::store) struct Contents {
    pub(in crate::raft::store) vote: Option<Vote>,
    pub(in crate::raft::store) purged: Option<LogId>,
    pub(in crate::raft::store) last: Option<LogId>,
    pub(in crate::raft::store) committed: Option<LogId>,
    pub(in crate::raft::store) entries: Vec<LogEntry>,
}

type Waiting = (usize, oneshot::Receiver<io::Result<()>>);

/// See the module.
pub(in crate::raft::store) struct DrivenLog {
    store: LogStore,
    writer: Writer,
    waiting: Vec<Waiting>,
}

impl DrivenLog {
    pub(in crate::raft::store) fn open(
        files: Arc<dyn Files>,
        options: LogOptions,
        preparation: Preparation,
    ) -> io::Result<Self> {
        let fatal = Arc::new(|_: &str| {});
        let (store, writer) = open_with(files, options, fatal, preparation.as_prepare())?;
        Ok(Self { store, writer, waiting: Vec::new() })
    }

    /// Cuts off the end as Raft does it, which goes on when it is answered: without the disk if the
    /// answer does not wait for it.
    pub(in crate::raft::store) fn truncate_as_raft(
        &mut self,
        last: Option<LogId>,
    ) -> io::Result<()> {
        let mut store = self.store.clone();
        let mut cut = Box::pin(store.truncate_after(last));
        if let Some(answer) = cut.as_mut().now_or_never() {
            return answer;
        }
        self.write_group(false, |_| {})?;
        cut.now_or_never().unwrap_or_else(|| Err(io::Error::other("it is written, not answered")))
    }

    /// Queues a step under a number of the caller's.
    pub(in crate::raft::store) fn submit(&mut self, number: usize, step: &Step) -> io::Result<()> {
        let (sender, receiver) = oneshot::channel();
        let done = Done::Caller(sender);
        let shared = &self.store.shared;
        match step {
            Step::Vote(vote) => shared.submit(Record::vote(*vote), done)?,
            Step::Append(entries) => shared.submit_entries(entries.clone(), done)?,
            Step::TruncateAfter(last) => shared.submit(Record::truncate_after(*last), done)?,
            Step::Purge(upto) => shared.submit(Record::purge(*upto), done)?,
            Step::Committed(id) => {
                let mut state = shared.state();
                state.summary.committed = Some(*id);
                state.committed_unwritten = Some(*id);
                return Ok(());
            }
        }
        self.waiting.push((number, receiver));
        Ok(())
    }

    /// Writes what is queued as one group and says which steps were told that they are durable,
    /// before it goes on to remove what is purged. A busy writer leaves no witness.
    pub(in crate::raft::store) fn write_group(
        &mut self,
        busy: bool,
        mut told: impl FnMut(usize),
    ) -> io::Result<()> {
        if self.store.shared.state().queue.is_empty() {
            return Ok(());
        }
        let Some(group) = self.writer.next_group() else { return Ok(()) };
        // Who is told before the write is told too early, and the cuts must know.
        self.hear(&mut told)?;
        self.writer.commit(group).map_err(|(why, _)| io::Error::other(why))?;
        self.hear(&mut told)?;
        self.writer.forget_purged()?;
        if busy { Ok(()) } else { self.writer.witness() }
    }

    /// Which steps were told by now that they are durable.
    fn hear(&mut self, told: &mut impl FnMut(usize)) -> io::Result<()> {
        for (number, mut receiver) in std::mem::take(&mut self.waiting) {
            match receiver.try_recv() {
                Ok(result) => {
                    result?;
                    told(number);
                }
                Err(_) => self.waiting.push((number, receiver)),
            }
        }
        Ok(())
    }

    /// Closes it as the last handle of a real one does: what is left is written.
    pub(in crate::raft::store) fn close(mut self) -> io::Result<()> {
        self.store.shared.state().closed = true;
        if let Some(group) = self.writer.next_group() {
            self.writer.commit(group).map_err(|(why, _)| io::Error::other(why))?;
            self.writer.forget_purged()?;
        }
        self.writer.witness()?;
        self.writer.end();
        Ok(())
    }

    /// All it says, every entry read.
    pub(in crate::raft::store) fn contents(&self) -> io::Result<Contents> {
        let summary = self.store.shared.state().summary;
        Ok(Contents {
            vote: summary.vote,
            purged: summary.purged,
            last: summary.last,
            committed: summary.committed,
            entries: self.store.entries(.., usize::MAX)?,
        })
    }
}
