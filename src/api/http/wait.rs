//! Waiting over server-sent events: `queued` with each change of place, then `granted` or `refused`.
//!
//! The wait itself is the same call as without events; dropping the stream drops the call, and the
//! log learns that the connection is gone. Places come from rounds that are shared by all waiters of
//! a lock, so a hand-over wakes one waiter and a round at most once a second tells the others.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::response::Response;
use bytes::Bytes;
use oarlock_client::stream::Place;
use oarlock_core::command::{Acquire, AcquireMany, Claim, Command};
use oarlock_core::ids::{LeaseId, LockName, RequestId};
use oarlock_core::outcome::Grant;
use oarlock_core::time::LeaseTime;
use serde::Serialize;
use tokio::sync::watch;

use super::error::Refusal;
use super::routes::App;
use super::{locks, sse, why};
use crate::service::ranks::Ranked;
use crate::service::replicator::{Call, Replicator};
use crate::traces;

/// An acquire that is answered sooner is not told of its place.
const QUIET: Duration = Duration::from_millis(50);

/// What an acquire brings, with the lease clock of its answer.
type Answer<T> = Result<(T, LeaseTime), Refusal>;
type Rounds = watch::Receiver<Arc<Ranked>>;

/// An acquire on its way, and the places of its locks.
pub(super) struct Wait<R: Replicator, T> {
    app: App<R>,
    request: Option<RequestId>,
    answer: Pin<Box<dyn Future<Output = Answer<T>> + Send>>,
    /// One for each lock that it asks for.
    places: Vec<Queued>,
    began: bool,
}

/// A place in the queue of one lock.
struct Queued {
    name: LockName,
    lease_id: LeaseId,
    rounds: Option<Rounds>,
    told: Option<u64>,
}

/// What a wait brings next.
pub(super) enum Step<T> {
    Tell(Bytes),
    Over(Box<Answer<T>>),
}

impl<R: Replicator> Wait<R, Box<Grant>> {
    pub(super) fn one(app: &App<R>, acquire: Acquire) -> Self {
        let places = vec![(acquire.name.clone(), acquire.lease_id)];
        let (asks, request) = (app.clone(), acquire.request_id);
        let answer = traces::carried(async move {
            let reply = asks.ask(Call::Propose(Command::Acquire(acquire))).await?;
            locks::granted(&asks, reply).await
        });
        Self::new(app, request, places, Box::pin(answer))
    }
}

impl<R: Replicator> Wait<R, Vec<Grant>> {
    pub(super) fn many(app: &App<R>, many: AcquireMany) -> Self {
        let place = |claim: &Claim| (claim.name.clone(), claim.lease_id);
        let places = many.claims.iter().map(place).collect();
        let (asks, request) = (app.clone(), many.request_id);
        let answer = traces::carried(async move {
            let reply = asks.ask(Call::Propose(Command::AcquireMany(many))).await?;
            super::many::granted(&asks, reply).await
        });
        Self::new(app, request, places, Box::pin(answer))
    }
}

impl<R: Replicator, T> Wait<R, T> {
    fn new(
        app: &App<R>,
        request: Option<RequestId>,
        places: Vec<(LockName, LeaseId)>,
        answer: Pin<Box<dyn Future<Output = Answer<T>> + Send>>,
    ) -> Self {
        let places = places.into_iter().map(Queued::new).collect();
        Self { app: app.clone(), request, answer, places, began: false }
    }

    /// Waits for the answer, a new place, or the time for a sign of life.
    pub(super) async fn step(&mut self, ping_every: Duration) -> Step<T> {
        if !self.began {
            self.began = true;
            tokio::select! {
                biased;
                answer = &mut self.answer => return Step::Over(Box::new(answer)),
                () = tokio::time::sleep(QUIET) => {}
            }
            self.look_at_places();
        }
        let ping = tokio::time::sleep(ping_every);
        tokio::pin!(ping);
        loop {
            tokio::select! {
                biased;
                answer = &mut self.answer => return Step::Over(Box::new(answer)),
                (at, round) = round(&mut self.places) => {
                    let place = self.places.get_mut(at);
                    if let Some(frame) = place.and_then(|place| place.tell(&self.app, &round)) {
                        return Step::Tell(frame);
                    }
                }
                () = &mut ping => return Step::Tell(sse::ping()),
            }
        }
    }

    fn look_at_places(&mut self) {
        // A repeat goes on under the lease ids of the first request.
        let first = self.request.map(|id| self.app.service.waiting_of_request(id));
        for (name, lease_id) in first.into_iter().flatten() {
            if let Some(place) = self.places.iter_mut().find(|place| place.name == name) {
                place.lease_id = lease_id;
            }
        }
        for place in &mut self.places {
            let mut rounds = self.app.service.ranks(&place.name);
            rounds.mark_changed();
            place.rounds = Some(rounds);
        }
    }

    pub(super) fn app(&self) -> App<R> {
        self.app.clone()
    }
}

impl Queued {
    fn new((name, lease_id): (LockName, LeaseId)) -> Self {
        Self { name, lease_id, rounds: None, told: None }
    }

    /// The place as an event, if it is another than the one told last.
    fn tell<R: Replicator>(&mut self, app: &App<R>, ranked: &Ranked) -> Option<Bytes> {
        let position = ranked.position(self.lease_id)?;
        if self.told == Some(position) {
            return None;
        }
        self.told = Some(position);
        let contention = why::contention(&ranked.view);
        let why = app.why(&contention, position.saturating_sub(1), ranked.view.now);
        let estimate_ms = why.estimate_ms;
        let place = Place { lock: self.name.to_string(), position, estimate_ms, why };
        Some(sse::event("queued", None, &place))
    }
}

/// The next round of any of the locks, and which.
async fn round(places: &mut [Queued]) -> (usize, Arc<Ranked>) {
    let changes = places.iter_mut().enumerate().filter_map(|(at, place)| {
        let rounds = place.rounds.as_mut()?;
        Some(Box::pin(async move {
            match rounds.changed().await {
                Ok(()) => (at, Arc::clone(&rounds.borrow_and_update())),
                Err(_closed) => std::future::pending().await,
            }
        }))
    });
    let changes: Vec<_> = changes.collect();
    if changes.is_empty() {
        return std::future::pending().await;
    }
    futures_util::future::select_all(changes).await.0
}

/// The stream of an acquire; `granted` makes the data of its last event.
pub(super) fn respond<R: Replicator, T: Send + 'static, B: Serialize + 'static>(
    wait: Wait<R, T>,
    granted: fn(&T, LeaseTime) -> B,
) -> Result<Response, Refusal> {
    let service = &wait.app.service;
    let place = (service.stream_place()?, service.count_stream(&wait.app.caller)?);
    Ok(sse::respond(place, Some(wait), move |wait| async move {
        let mut wait = wait?;
        match wait.step(sse::PING_EVERY).await {
            Step::Tell(frame) => Some((frame, Some(wait))),
            Step::Over(answer) => {
                let frame = match *answer {
                    Ok((grant, now)) => sse::event("granted", None, &granted(&grant, now)),
                    Err(refusal) => refused(&refusal),
                };
                Some((frame, None))
            }
        }
    }))
}

/// A refusal as the last event.
pub(super) fn refused(refusal: &Refusal) -> Bytes {
    sse::event("refused", None, refusal.problem())
}
