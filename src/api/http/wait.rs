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
use oarlock_core::command::{Acquire, Command};
use oarlock_core::ids::{LeaseId, LockName};
use oarlock_core::outcome::Grant;
use oarlock_core::time::LeaseTime;
use tokio::sync::watch;

use super::error::Refusal;
use super::routes::App;
use super::{locks, sse, translate, why};
use crate::service::ranks::Ranked;
use crate::service::replicator::{Call, Replicator};

/// An acquire that is answered sooner is not told of its place.
const QUIET: Duration = Duration::from_millis(50);

type Answer = Result<(Box<Grant>, LeaseTime), Refusal>;

/// An acquire on its way, and the places of its lock.
pub(super) struct Wait<R: Replicator> {
    app: App<R>,
    name: LockName,
    lease_id: LeaseId,
    request: Option<oarlock_core::ids::RequestId>,
    answer: Pin<Box<dyn Future<Output = Answer> + Send>>,
    rounds: Option<watch::Receiver<Arc<Ranked>>>,
    told: Option<u64>,
    began: bool,
}

/// What a wait brings next.
pub(super) enum Step {
    Tell(Bytes),
    Over(Box<Answer>),
}

impl<R: Replicator> Wait<R> {
    pub(super) fn new(app: &App<R>, acquire: Acquire) -> Self {
        let (name, lease_id, request) =
            (acquire.name.clone(), acquire.lease_id, acquire.request_id);
        let asks = app.clone();
        let answer = Box::pin(async move {
            let reply = asks.ask(Call::Propose(Command::Acquire(acquire))).await?;
            locks::granted(&asks, reply).await
        });
        let app = app.clone();
        Self { app, name, lease_id, request, answer, rounds: None, told: None, began: false }
    }

    /// Waits for the answer, a new place, or the time for a sign of life.
    pub(super) async fn step(&mut self, ping_every: Duration) -> Step {
        if !self.began {
            self.began = true;
            tokio::select! {
                biased;
                answer = &mut self.answer => return Step::Over(Box::new(answer)),
                () = tokio::time::sleep(QUIET) => {}
            }
            let mut rounds = self.app.service.ranks(&self.name);
            rounds.mark_changed();
            self.rounds = Some(rounds);
            // A repeat goes on under the lease id of the first request.
            let first = self.request.and_then(|id| self.app.service.lease_of_request(id));
            self.lease_id = first.unwrap_or(self.lease_id);
        }
        let ping = tokio::time::sleep(ping_every);
        tokio::pin!(ping);
        loop {
            tokio::select! {
                biased;
                answer = &mut self.answer => return Step::Over(Box::new(answer)),
                round = round(&mut self.rounds) => {
                    if let Some(frame) = self.place(&round) {
                        return Step::Tell(frame);
                    }
                }
                () = &mut ping => return Step::Tell(sse::ping()),
            }
        }
    }

    pub(super) fn app(&self) -> App<R> {
        self.app.clone()
    }

    fn place(&mut self, ranked: &Ranked) -> Option<Bytes> {
        let position = ranked.position(self.lease_id)?;
        if self.told == Some(position) {
            return None;
        }
        self.told = Some(position);
        let contention = why::contention(&ranked.view);
        let why = self.app.why(&contention, position.saturating_sub(1), ranked.view.now);
        let estimate_ms = why.estimate_ms;
        let place = Place { lock: self.name.to_string(), position, estimate_ms, why };
        Some(sse::event("queued", None, &place))
    }
}

async fn round(rounds: &mut Option<watch::Receiver<Arc<Ranked>>>) -> Arc<Ranked> {
    if let Some(rounds) = rounds
        && rounds.changed().await.is_ok()
    {
        return Arc::clone(&rounds.borrow_and_update());
    }
    std::future::pending().await
}

/// The stream of an acquire.
pub(super) fn respond<R: Replicator>(app: &App<R>, acquire: Acquire) -> Result<Response, Refusal> {
    let place = app.service.stream_place()?;
    let wait = Some(Wait::new(app, acquire));
    Ok(sse::respond(place, wait, |wait| async move {
        let mut wait = wait?;
        match wait.step(sse::PING_EVERY).await {
            Step::Tell(frame) => Some((frame, Some(wait))),
            Step::Over(answer) => {
                let frame = match *answer {
                    Ok((grant, now)) => sse::event("granted", None, &translate::lease(&grant, now)),
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
