//! The places of those who wait over a stream, computed once per lock and second for all of them.
//!
//! One task per lock that is waited for here walks the queue once, and wakes the streams only when
//! it changed. A hand-over by itself wakes nobody but whom it concerns. Places come from this node's
//! own state, so a follower serves them too; they are for display and decide nothing.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use oarlock_core::ids::{LeaseId, LockName, RequestId};
use oarlock_core::outcome::HOLDERS_SHOWN_MAX;
use oarlock_core::planted::{Bug, planted};
use oarlock_core::query::LockView;
use tokio::sync::watch;

use crate::service::handle::Service;
use crate::service::replicator::Replicator;

/// The shortest time between two rounds for one lock.
const ROUND: Duration = Duration::from_secs(1);

/// One lock and the places in its queue at one moment.
#[derive(Debug)]
pub struct Ranked {
    pub view: LockView,
    places: HashMap<LeaseId, u64>,
}

impl Ranked {
    /// 1 for the next in line; `None` for who does not wait.
    pub fn position(&self, lease_id: LeaseId) -> Option<u64> {
        self.places.get(&lease_id).copied()
    }
}

type Rounds = watch::Receiver<Arc<Ranked>>;

/// The locks that streams wait for. The mutex is the standard one: never held across an await.
#[derive(Debug, Default)]
pub(super) struct Ranks(Mutex<HashMap<LockName, watch::Sender<Arc<Ranked>>>>);

impl<R: Replicator> Service<R> {
    /// The places in one lock's queue; changes at most once a second.
    pub fn ranks(&self, name: &LockName) -> Rounds {
        let mut ranks = self.ranks.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(rounds) = ranks.get(name.as_str()) {
            return rounds.subscribe();
        }
        let rounds = watch::Sender::new(Arc::new(self.ranked(name)));
        let seen = rounds.subscribe();
        ranks.insert(name.clone(), rounds);
        let (this, name) = (self.this.clone(), name.clone());
        tokio::spawn(async move {
            loop {
                let often = if planted(Bug::StreamsAreAllWoken) { 10 } else { 1 };
                tokio::time::sleep(ROUND / often).await;
                let Some(service) = this.upgrade() else { return };
                if !service.round(&name) {
                    return;
                }
            }
        });
        seen
    }

    /// Computes one round; false when nobody listens any more.
    fn round(&self, name: &LockName) -> bool {
        let fresh = self.ranked(name);
        let mut ranks = self.ranks.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(rounds) = ranks.get(name.as_str()) else { return false };
        if rounds.receiver_count() == 0 {
            ranks.remove(name.as_str());
            return false;
        }
        rounds.send_if_modified(|last| {
            let changed = last.places != fresh.places || planted(Bug::StreamsAreAllWoken);
            if changed {
                *last = Arc::new(fresh);
            }
            changed
        });
        true
    }

    fn ranked(&self, name: &LockName) -> Ranked {
        let (view, queue) = self.replicator.with_machine(|machine| {
            (machine.lock(name, HOLDERS_SHOWN_MAX, 0), machine.queue(name))
        });
        let places = queue.into_iter().zip(1..).collect();
        Ranked { view, places }
    }

    /// The places that a request id has here: a repeat goes on under the first one's leases.
    pub fn waiting_of_request(&self, id: RequestId) -> Vec<(LockName, LeaseId)> {
        self.replicator.with_machine(|machine| machine.waiting_of_request(id))
    }
}
