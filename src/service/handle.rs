//! The service itself: what it is made of, what replication calls back into, and how it stops.

use std::sync::{Arc, OnceLock, Weak};

use oarlock_core::event::{Event, EventKind};
use oarlock_core::ids::{LeaseId, SessionId};
use oarlock_core::outcome::{EndReason, Outcome};
use oarlock_core::planted::{Bug, planted};
use tokio::sync::{Semaphore, watch};

use crate::service::called::Hears;
use crate::service::calls::{PEER_SLACK, deadline_of};
use crate::service::error::ServiceError;
use crate::service::estimate::Holds;
use crate::service::expiry::Alarm;
use crate::service::gate::Gate;
use crate::service::ledger::Ledger;
use crate::service::observer::Observer;
use crate::service::ranks::Ranks;
use crate::service::replicator::{BoxFuture, Call, Leadership, NodeId, Replicator, Reply, Upcalls};
use crate::service::waiting::{WaitingTable, Wake};
use crate::service::watch::{Places, Recent};

/// Makes random 128-bit numbers for lease and session ids. They are rights, so production takes
/// them from the operating system; a simulation passes its own.
pub type IdSource = Box<dyn Fn() -> u128 + Send + Sync>;

/// Bounds of one node; none of them decides anything that is replicated.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Calls that may wait here at once; each costs a task and a few hundred bytes. More are
    /// refused as overloaded.
    pub waiting_calls_max: usize,
    /// Streams that may be open at once: watches, holds, and waits that report their place.
    pub streams_max: usize,
    /// Recent events kept for watchers; each costs some hundred bytes. A watcher that is further
    /// behind is told of a gap.
    pub events_kept_max: usize,
    /// Whether callers must show who they are also while there is no credential.
    pub auth_required: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            waiting_calls_max: 100_000,
            streams_max: 15_000,
            events_kept_max: 16_384,
            auth_required: false,
        }
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
    pub(super) recent: Recent,
    pub(super) places: Places,
    pub(super) holds: Holds,
    pub(super) ranks: Ranks,
    pub(super) gate: Gate,
    pub(super) ledger: Ledger,
    pub(super) hears: OnceLock<Hears>,
    pub(super) draining: watch::Sender<bool>,
    leadership: watch::Receiver<Leadership>,
    pub(super) ids: IdSource,
    /// Whose turn it is to change the members.
    pub(super) members_turn: Semaphore,
    pub(super) tokens_turn: Semaphore,
    /// Whose turn it is to have the log end what is due, for an answer that waits for that.
    pub(super) advance_turn: Semaphore,
    pub(super) this: Weak<Self>,
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
        let (revision, gate) = replicator.with_machine(|machine| {
            (machine.revision().0, Gate::new(options.auth_required, machine))
        });
        Arc::new_cyclic(|this| Self {
            node_id: replicator.status().node_id,
            leadership: replicator.leadership(),
            replicator,
            observer,
            options,
            waiting: WaitingTable::default(),
            alarm: Alarm::default(),
            recent: Recent::new(revision, options.events_kept_max),
            places: Places::new(options.streams_max),
            holds: Holds::default(),
            ranks: Ranks::default(),
            gate,
            ledger: Ledger::default(),
            hears: OnceLock::new(),
            draining: watch::Sender::new(false),
            ids,
            members_turn: Semaphore::new(1),
            tokens_turn: Semaphore::new(1),
            advance_turn: Semaphore::new(1),
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
            EventKind::Granted { grant, attached, queued, in_group } => {
                self.alarm.due_at(grant.deadline);
                if *queued && !planted(Bug::GrantWakesNobody) {
                    // Of several locks only an attach can tell all grants at once.
                    let there = *attached || planted(Bug::ToldBeforeAttached);
                    let wake = if there && !*in_group {
                        Wake::Granted(grant.clone())
                    } else {
                        Wake::AttachFirst
                    };
                    self.waiting.wake(grant.lease_id, &wake);
                }
            }
            EventKind::Ended { ended, held_ms, .. } => {
                if ended.token.is_some() {
                    self.holds.ended(&ended.name, *held_ms);
                }
                match ended.how {
                    // A lock-delay may have begun.
                    EndReason::Expired | EndReason::SessionExpired | EndReason::Forced => {
                        self.alarm.look();
                    }
                    EndReason::Released
                    | EndReason::SessionClosed
                    | EndReason::WaitTimeout
                    | EndReason::Abandoned
                    | EndReason::HandedOver => {}
                }
                self.ledger.lease_ended(ended.lease_id);
                self.waiting.wake(ended.lease_id, &Wake::Ended(ended.clone()));
            }
            EventKind::Queued { .. } | EventKind::SessionOpened { .. } => self.alarm.look(),
            EventKind::SessionEnded { session_id } => self.ledger.session_ended(*session_id),
            EventKind::Reopened { .. } | EventKind::ValueChanged { .. } => {}
        }
    }
}

impl<R: Replicator> Upcalls for Service<R> {
    fn applied(&self, events: Vec<Event>, outcomes: &[Outcome]) {
        self.gate.applied(outcomes);
        let serving = self.leadership.borrow().serving_here;
        for event in &events {
            self.hear(event);
            if serving {
                self.observer.event(event);
            }
        }
        self.recent.push(events);
    }

    fn call(&self, by: Option<String>, call: Call) -> BoxFuture<Result<Reply, ServiceError>> {
        let this = Weak::clone(&self.this);
        Box::pin(async move {
            let Some(service) = this.upgrade() else { return Err(ServiceError::ShuttingDown) };
            service.admit_forwarded(by.as_deref(), &call)?;
            // The asking node keeps the real deadline; this one only bounds a caller that vanished
            // without its connection breaking.
            let bound = deadline_of(&call) + PEER_SLACK;
            match tokio::time::timeout(bound, service.serve_as(by.as_deref(), call)).await {
                Ok(answer) => answer,
                Err(_) => Err(ServiceError::Unknown("no answer within the deadline".to_owned())),
            }
        })
    }
}
