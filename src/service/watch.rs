//! The recent events of this node, for everybody who watches.
//!
//! ```text
//!  apply -> Recent::push (one Arc per entry, one notification) -> watchers read at their own pace
//! ```
//!
//! The ring is bounded by count. A watcher holds only the revision that it wants next, so a slow one
//! costs nothing and is never waited for: what the ring dropped meanwhile is reported as a gap. The
//! ring begins at the machine's revision, so that neither a restart nor an installed snapshot can
//! hide events. It does not persist anything and does not filter.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use oarlock_core::event::Event;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::service::error::ServiceError;
use crate::service::gate::Caller;
use crate::service::handle::Service;
use crate::service::replicator::Replicator;

/// How often a stream looks whether its node is still in touch with a quorum.
const TOUCH_EVERY: Duration = Duration::from_secs(2);
/// Looks in a row that must fail before a stream ends: an election takes less.
const TOUCH_LOST_LOOKS: u32 = 5;

/// The events of one entry.
pub type Batch = Arc<Vec<Event>>;

/// What a watcher finds.
#[derive(Debug, Clone)]
pub enum Found {
    /// Events, some of which may lie before the wanted revision.
    Events(Batch),
    /// The wanted revision is dropped; this is the oldest that may be asked for.
    Gap { oldest: u64 },
    /// Nothing yet.
    Nothing,
}

#[derive(Debug)]
struct Kept {
    batches: VecDeque<Batch>,
    count: usize,
    /// Every event from this revision on is in `batches`, or is still to come.
    oldest: u64,
    /// The revision that comes next.
    next: u64,
}

/// The ring. The mutex is the standard one: it is never held across an await.
#[derive(Debug)]
pub struct Recent {
    kept: Mutex<Kept>,
    news: watch::Sender<u64>,
    events_max: usize,
}

impl Recent {
    /// An empty ring behind the machine's newest revision.
    pub(super) fn new(revision: u64, events_max: usize) -> Self {
        let next = revision.saturating_add(1);
        let kept = Kept { batches: VecDeque::new(), count: 0, oldest: next, next };
        Self { kept: Mutex::new(kept), news: watch::Sender::new(next), events_max }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the events of one entry; they are shared by all watchers from now on.
    pub(super) fn push(&self, events: Vec<Event>) {
        let (Some(first), Some(last)) = (events.first(), events.last()) else { return };
        let (first, next) = (first.revision.0, last.revision.0.saturating_add(1));
        {
            let mut kept = self.kept();
            if first != kept.next {
                // A snapshot was installed in between: what it covers was never told here.
                kept.batches.clear();
                kept.count = 0;
                kept.oldest = first;
            }
            kept.next = next;
            kept.count += events.len();
            kept.batches.push_back(Arc::new(events));
            while kept.count > self.events_max && kept.batches.len() > 1 {
                let Some(dropped) = kept.batches.pop_front() else { break };
                kept.count -= dropped.len();
                if let Some(last) = dropped.last() {
                    kept.oldest = last.revision.0.saturating_add(1);
                }
            }
        }
        self.news.send_replace(next);
    }

    /// Makes up for a snapshot that no event followed: everything up to `revision` is over.
    fn skip_to(&self, revision: u64) {
        let next = revision.saturating_add(1);
        {
            let mut kept = self.kept();
            if kept.next >= next {
                return;
            }
            kept.batches.clear();
            *kept = Kept { batches: VecDeque::new(), count: 0, oldest: next, next };
        }
        self.news.send_replace(next);
    }

    /// The oldest revision that may be asked for, and the one that comes next.
    pub fn range(&self) -> (u64, u64) {
        let kept = self.kept();
        (kept.oldest, kept.next)
    }

    /// The first events at or after a revision.
    pub fn read(&self, from: u64) -> Found {
        let kept = self.kept();
        if from < kept.oldest {
            return Found::Gap { oldest: kept.oldest };
        }
        let ends_before = |batch: &Batch| batch.last().is_none_or(|last| last.revision.0 < from);
        let at = kept.batches.partition_point(ends_before);
        kept.batches.get(at).map_or(Found::Nothing, |batch| Found::Events(Arc::clone(batch)))
    }

    /// Wakes with each entry that had events.
    pub fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }
}

/// The places for streams on this node.
#[derive(Debug)]
pub(super) struct Places {
    free: Arc<Semaphore>,
    max: usize,
}

impl Places {
    pub(super) fn new(max: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(max)), max }
    }
}

impl<R: Replicator> Service<R> {
    /// The recent events of this node.
    pub fn recent(&self) -> &Recent {
        &self.recent
    }

    /// A place for one more stream; given back when dropped.
    pub fn stream_place(&self) -> Result<OwnedSemaphorePermit, ServiceError> {
        if self.is_draining() {
            return Err(ServiceError::ShuttingDown);
        }
        Arc::clone(&self.places.free).try_acquire_owned().map_err(|_full| {
            ServiceError::Overloaded(format!("{} streams are open already", self.places.max))
        })
    }

    /// Returns when streams of that caller must end, with the reason: this node shuts down, has been
    /// out of touch with a quorum for so long that its silence would mislead, or the credential of
    /// the caller is gone.
    pub async fn streams_end(&self, caller: &Caller) -> &'static str {
        let mut draining = self.draining.subscribe();
        tokio::select! {
            biased;
            _ = draining.wait_for(|draining| *draining) => "this node is shutting down",
            why = self.touch_lost() => why,
            () = self.gone(caller) => "the credential of this stream was revoked or ran out",
        }
    }

    async fn touch_lost(&self) -> &'static str {
        let mut failed = 0;
        let mut revision = 0;
        loop {
            tokio::time::sleep(TOUCH_EVERY).await;
            // What was applied a look ago has been told since, unless it came as a snapshot.
            self.recent.skip_to(revision);
            revision = self.replicator.with_machine(|machine| machine.revision().0);
            match self.readiness() {
                Ok(()) => failed = 0,
                Err(why) => {
                    failed += 1;
                    if failed >= TOUCH_LOST_LOOKS {
                        return why;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use oarlock_core::event::EventKind;
    use oarlock_core::ids::{Revision, SessionId};

    use super::{Event, Found, Recent};

    fn events(revisions: std::ops::RangeInclusive<u64>) -> Vec<Event> {
        let kind = EventKind::SessionOpened { session_id: SessionId(1) };
        revisions.map(|it| Event { revision: Revision(it), kind: kind.clone() }).collect()
    }

    #[test]
    fn a_ring_starts_behind_the_revision_of_its_machine() {
        let recent = Recent::new(7, 10);
        assert_eq!(recent.range(), (8, 8));
        assert!(matches!(recent.read(7), Found::Gap { oldest: 8 }));
        assert!(matches!(recent.read(8), Found::Nothing));
        recent.push(events(8..=9));
        assert!(matches!(recent.read(9), Found::Events(_)));
    }

    #[test]
    fn an_installed_snapshot_is_a_gap_and_never_silence() {
        let recent = Recent::new(0, 10);
        recent.push(events(1..=3));
        recent.push(events(20..=21));
        assert!(matches!(recent.read(4), Found::Gap { oldest: 20 }));
        recent.skip_to(30);
        assert!(matches!(recent.read(22), Found::Gap { oldest: 31 }));
        recent.skip_to(5);
        assert_eq!(recent.range(), (31, 31));
    }

    #[test]
    fn the_ring_is_bounded_by_count() {
        let recent = Recent::new(0, 10);
        for at in 0..100 {
            recent.push(events(at * 3 + 1..=at * 3 + 3));
        }
        assert_eq!(recent.range(), (292, 301));
    }
}
