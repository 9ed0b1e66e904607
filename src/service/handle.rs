//! The service itself: what it is made of, what replication calls back into, and how it stops.

use std::sync::{Arc, Weak};

use oarlock_core::event::{Event, EventKind};
use oarlock_core::ids::{LeaseId, SessionId};
use tokio::sync::watch;

use crate::service::calls::{PEER_SLACK, deadline_of};
use crate::service::error::ServiceError;
use crate::service::expiry::Alarm;
use crate::service::observer::Observer;
use crate::service::replicator::{BoxFuture, Call, Leadership, NodeId, Replicator, Reply, Upcalls};
use crate::service::waiting::{WaitingTable, Wake};

/// Makes random 128-bit numbers for lease and session ids. They are rights, so production takes
/// them from the operating system; a simulation passes its own.
pub type IdSource = Box<dyn Fn() -> u128 + Send + Sync>;

/// Bounds of one node; none of them decides anything that is replicated.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Calls that may wait here at once; each costs a task and a few hundred bytes. More are
    /// refused as overloaded.
    pub waiting_calls_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { waiting_calls_max: 100_000 }
    }
}

/// The use cases of one node.
pub struct Service<R: Replicator> {
    pub(super) replicator: Arc<R>,
    pub(super) observer: Arc<dyn Observer>,
    pub(super) options: Options,
    pub(super) node_id: NodeId,
    pub(super) waiting: WaitingTable,
    pub(super) alarm: Alarm,
    pub(super) draining: watch::Sender<bool>,
    leadership: watch::Receiver<Leadership>,
    ids: IdSource,
    this: Weak<Self>,
}

impl<R: Replicator> Service<R> {
    /// Puts the service on top of replication. The caller then hands it to replication as its
    /// [`Upcalls`] and runs [`Service::expire`].
    pub fn new(
        replicator: Arc<R>,
        observer: Arc<dyn Observer>,
        ids: IdSource,
        options: Options,
    ) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            node_id: replicator.status().node_id,
            leadership: replicator.leadership(),
            replicator,
            observer,
            options,
            waiting: WaitingTable::default(),
            alarm: Alarm::default(),
            draining: watch::Sender::new(false),
            ids,
            this: Weak::clone(this),
        })
    }

    /// A fresh lease id.
    pub fn mint_lease_id(&self) -> LeaseId {
        LeaseId((self.ids)())
    }

    /// A fresh session id.
    pub fn mint_session_id(&self) -> SessionId {
        SessionId((self.ids)())
    }

    /// Who leads, as far as this node knows.
    pub fn leadership(&self) -> Leadership {
        *self.leadership.borrow()
    }

    /// Where surfaces report their requests.
    pub fn observer(&self) -> &dyn Observer {
        self.observer.as_ref()
    }

    /// Stops taking work: waiting calls are answered so that their clients resume elsewhere, new
    /// ones are refused. Calls in flight end by themselves.
    pub fn drain(&self) {
        self.draining.send_replace(true);
    }

    /// Whether [`Service::drain`] was called.
    pub fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }

    fn hear(&self, event: &Event) {
        match &event.kind {
            EventKind::Granted { grant, attached, queued } => {
                self.alarm.due_at(grant.deadline);
                if *queued {
                    let wake = if *attached {
                        Wake::Granted(grant.clone())
                    } else {
                        Wake::GrantedDetached
                    };
                    self.waiting.wake(grant.lease_id, &wake);
                }
            }
            EventKind::Ended { ended, .. } => {
                self.waiting.wake(ended.lease_id, &Wake::Ended(ended.clone()));
            }
            EventKind::Queued { .. } | EventKind::SessionOpened { .. } => self.alarm.look(),
            EventKind::SessionEnded { .. } => {}
        }
    }
}

impl<R: Replicator> Upcalls for Service<R> {
    fn applied(&self, events: &[Event]) {
        let serving = self.leadership.borrow().serving_here;
        for event in events {
            self.hear(event);
            if serving {
                self.observer.event(event);
            }
        }
    }

    fn call(&self, call: Call) -> BoxFuture<Result<Reply, ServiceError>> {
        let this = Weak::clone(&self.this);
        Box::pin(async move {
            let Some(service) = this.upgrade() else { return Err(ServiceError::ShuttingDown) };
            // The asking node keeps the real deadline; this one only bounds a caller that vanished
            // without its connection breaking.
            let bound = deadline_of(&call) + PEER_SLACK;
            match tokio::time::timeout(bound, service.serve(call)).await {
                Ok(answer) => answer,
                Err(_) => Err(ServiceError::Unknown("no answer within the deadline".to_owned())),
            }
        })
    }
}
