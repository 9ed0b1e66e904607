//! `GET /v1/watch`: what happens to locks, as server-sent events, from this node's own ring.
//!
//! A watcher that reads too slowly gets `gap` and goes on; it is never waited for. Lease and session
//! ids never appear: they are rights of others.

use std::collections::VecDeque;

use axum::http::request::Parts;
use axum::response::Response;
use bytes::Bytes;
use futures_util::FutureExt;
use oarlock_client::stream::{End, Gap, WatchEvent};
use oarlock_core::event::{Event, EventKind};
use oarlock_core::limits;
use tokio::sync::watch;

use super::error::Refusal;
use super::query::Parameters;
use super::routes::App;
use super::sse::StreamEnd;
use super::{sse, translate};
use crate::auth::right::{Scope, Verb};
use crate::service::replicator::Replicator;
use crate::service::watch::Found;

struct Watch<R: Replicator> {
    app: App<R>,
    prefix: String,
    /// The revision that is wanted next.
    from: u64,
    ready: VecDeque<Bytes>,
    news: watch::Receiver<u64>,
    ended: StreamEnd,
    over: bool,
}

pub(super) fn open<R: Replicator>(app: &App<R>, parts: &Parts) -> Result<Response, Refusal> {
    let parameters = Parameters::read(parts.uri.query(), &["prefix", "from_revision"])?;
    let prefix = parameters.text("prefix").unwrap_or_default().to_owned();
    if prefix.len() > limits::NAME_BYTES_MAX {
        return Err(Refusal::bad_request("`prefix` is longer than any name may be"));
    }
    app.service.permit(&app.caller, Verb::Inspect, Scope::Prefix(&prefix))?;
    // Subscribed before the range is read, so that no event falls in between.
    let news = app.service.recent().news();
    let (oldest, next) = app.service.recent().range();
    let from = match last_event_id(parts)? {
        Some(last) => last.saturating_add(1),
        None => parameters.number("from_revision", u64::MAX)?.unwrap_or(next),
    };
    if from < oldest {
        return Err(Refusal::revision_gone(oldest));
    }
    let place = (app.service.stream_place()?, app.service.count_stream(&app.caller)?);
    let ended = sse::end_of(app);
    let ready = VecDeque::from([sse::ping()]);
    let watch = Watch { app: app.clone(), prefix, from, ready, news, ended, over: false };
    Ok(sse::respond(place, watch, Watch::next))
}

/// The header that browsers send when they come back; it wins over the query, which they repeat.
fn last_event_id(parts: &Parts) -> Result<Option<u64>, Refusal> {
    let Some(value) = parts.headers.get("last-event-id") else { return Ok(None) };
    let number = value.to_str().ok().and_then(|text| text.trim().parse().ok());
    number.map(Some).ok_or_else(|| Refusal::bad_request("Last-Event-ID is a revision, a number"))
}

impl<R: Replicator> Watch<R> {
    async fn next(mut self) -> Option<(Bytes, Self)> {
        loop {
            if let Some(frame) = self.ready.pop_front() {
                return Some((frame, self));
            }
            if self.over {
                return None;
            }
            // Looked at here as well: who stays behind always finds events, and never waits.
            if let Some(why) = self.ended.as_mut().now_or_never() {
                self.end(why);
                continue;
            }
            self.news.borrow_and_update();
            match self.app.service.recent().read(self.from) {
                Found::Events(batch) => self.take(&batch),
                Found::Gap { oldest } => {
                    self.from = oldest;
                    let gap = Gap { oldest_revision: oldest };
                    self.ready.push_back(sse::event("gap", None, &gap));
                }
                Found::Nothing => self.wait().await,
            }
        }
    }

    fn take(&mut self, batch: &[Event]) {
        for event in batch.iter().filter(|event| event.revision.0 >= self.from) {
            if let Some(told) = told(event, &self.prefix) {
                self.ready.push_back(sse::event(&told.kind, Some(told.revision), &told));
            }
        }
        if let Some(last) = batch.last() {
            self.from = last.revision.0.saturating_add(1);
        }
    }

    fn end(&mut self, why: &str) {
        self.over = true;
        self.ready.push_back(sse::event("end", None, &End { why: why.to_owned() }));
    }

    async fn wait(&mut self) {
        tokio::select! {
            biased;
            _ = self.news.changed() => {}
            why = &mut self.ended => self.end(why),
            () = tokio::time::sleep(sse::PING_EVERY) => self.ready.push_back(sse::ping()),
        }
    }
}

/// An event as watchers see it; `None` if it is about no lock, or about another.
fn told(event: &Event, prefix: &str) -> Option<WatchEvent> {
    let revision = event.revision.0;
    let told = match &event.kind {
        EventKind::Granted { grant, queued, .. } => WatchEvent {
            kind: "granted".to_owned(),
            lock: grant.name.as_str().starts_with(prefix).then(|| grant.name.to_string())?,
            token: Some(grant.token.0),
            owner: Some(grant.owner.to_string()),
            mode: Some(translate::mode(grant.mode).0),
            queued: Some(*queued),
            ..WatchEvent::default()
        },
        EventKind::Queued { name, owner, queue_length } => WatchEvent {
            kind: "queued".to_owned(),
            lock: name.as_str().starts_with(prefix).then(|| name.to_string())?,
            owner: Some(owner.to_string()),
            queue_length: Some(*queue_length),
            ..WatchEvent::default()
        },
        EventKind::Ended { ended, owner, held_ms, reason } => {
            let how = translate::how(ended.how);
            let held = ended.token.is_some();
            WatchEvent {
                kind: if held { how } else { "left-queue" }.to_owned(),
                lock: ended.name.as_str().starts_with(prefix).then(|| ended.name.to_string())?,
                token: ended.token.map(|token| token.0),
                owner: Some(owner.to_string()),
                how: (!held).then(|| how.to_owned()),
                held_ms: held.then_some(*held_ms),
                reason: reason.as_ref().map(ToString::to_string),
                ..WatchEvent::default()
            }
        }
        EventKind::Reopened { name } => WatchEvent {
            kind: "reopened".to_owned(),
            lock: name.as_str().starts_with(prefix).then(|| name.to_string())?,
            ..WatchEvent::default()
        },
        EventKind::ValueChanged { name, token } => WatchEvent {
            kind: "value-changed".to_owned(),
            lock: name.as_str().starts_with(prefix).then(|| name.to_string())?,
            token: token.map(|token| token.0),
            ..WatchEvent::default()
        },
        EventKind::SessionOpened { .. } | EventKind::SessionEnded { .. } => return None,
    };
    Some(WatchEvent { revision, ..told })
}
