//! Who watches everything that happens: at one node, and at another from where it was when the first
//! one ends the stream.

use std::sync::Arc;

use oarlock::raft::replicator::RaftReplicator;
use oarlock::service::Service;
use oarlock::service::gate::Caller;
use oarlock::service::watch::Found;
use tokio::task::JoinHandle;

use super::Outside;
use crate::invariants::Seen;
use crate::random::Random;
use crate::trace::lock;

/// Batches that are read in one millisecond.
const BATCHES_MAX: usize = 64;

/// An open stream, and the task that ends when the node ends it.
struct Open {
    node: u64,
    service: Arc<Service<RaftReplicator>>,
    ends: JoinHandle<()>,
}

pub(crate) struct Watcher {
    id: u64,
    outside: Outside,
    random: Random,
    from: u64,
    open: Option<Open>,
}

impl Watcher {
    pub(crate) fn new(id: u64, outside: Outside, random: Random) -> Self {
        Self { id, outside, random, from: 1, open: None }
    }

    /// Looks at what there is to see.
    pub(crate) fn tick(&mut self) {
        let alive = |open: &Open| self.outside.doors.is_open(open.node, &open.service);
        if self.open.as_ref().is_some_and(|open| open.ends.is_finished() || !alive(open)) {
            self.leave();
        }
        // Somebody who watches now and then wants to watch elsewhere.
        if self.open.is_some() && self.random.per_mille(1) {
            self.leave();
        }
        if self.open.is_none() {
            let node = *self.random.pick(&self.outside.nodes);
            self.open = self.outside.doors.service(node).map(|(handle, service)| {
                let ends = Arc::clone(&service);
                let ends = handle.spawn(async move {
                    ends.streams_end(&Caller::default()).await;
                });
                Open { node, service, ends }
            });
        }
        self.read();
    }

    fn leave(&mut self) {
        if let Some(open) = self.open.take() {
            open.ends.abort();
        }
    }

    fn read(&mut self) {
        let Some(open) = &self.open else { return };
        let mut witness = lock(&self.outside.witness);
        for _ in 0..BATCHES_MAX {
            match open.service.recent().read(self.from) {
                Found::Events(batch) => {
                    let new = batch.iter().filter(|event| event.revision.0 >= self.from);
                    for event in new {
                        witness.watched(self.id, &Seen::Event(event));
                    }
                    let last = batch.last().map_or(self.from, |event| event.revision.0);
                    self.from = last + 1;
                }
                Found::Gap { oldest } => {
                    witness.watched(self.id, &Seen::Gap(oldest));
                    self.from = oldest;
                }
                Found::Nothing => return,
            }
        }
    }

    /// Whether it saw all that happened, or was told that it missed something.
    pub(crate) fn has_seen(&self, newest: u64) -> bool {
        self.from > newest
    }

    /// All has come to rest.
    pub(crate) fn rest(&self, newest: u64) {
        lock(&self.outside.witness).watched(self.id, &Seen::End(newest));
    }
}
