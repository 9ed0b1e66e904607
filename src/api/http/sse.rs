//! Server-sent events: frames, and the response that carries them.
//!
//! A stream is pulled by its connection: whatever makes its frames runs only while the client takes
//! them, and is dropped with the connection. Nothing here buffers.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue};
use axum::http::{HeaderMap, Response as HttpResponse, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use serde::Serialize;
use tokio::sync::OwnedSemaphorePermit;

use super::body::{encode, with_type};
use super::routes::App;
use crate::service::gate::Counted;
use crate::service::replicator::Replicator;

const EVENT_STREAM: &str = "text/event-stream";
/// How often a comment is written to a stream that has nothing to tell: it finds dead peers, and
/// keeps proxies from losing patience.
pub(super) const PING_EVERY: Duration = Duration::from_secs(10);

/// When a stream has to end, and why; one for all its life, because losing touch takes a while to see.
pub(super) type StreamEnd = Pin<Box<dyn Future<Output = &'static str> + Send>>;

/// The end of a stream of that caller.
pub(super) fn end_of<R: Replicator>(app: &App<R>) -> StreamEnd {
    let (service, caller) = (Arc::clone(&app.service), app.caller.clone());
    Box::pin(async move { service.streams_end(&caller).await })
}

/// The comment.
pub(super) fn ping() -> Bytes {
    Bytes::from_static(b": ping\n\n")
}

/// One event; JSON has no line breaks, so that one `data:` line holds it.
pub(super) fn event<T: Serialize>(kind: &str, id: Option<u64>, data: &T) -> Bytes {
    let mut frame = Vec::with_capacity(256);
    if let Some(id) = id {
        frame.extend_from_slice(format!("id: {id}\n").as_bytes());
    }
    frame.extend_from_slice(format!("event: {kind}\ndata: ").as_bytes());
    frame.extend_from_slice(&encode(data));
    frame.extend_from_slice(b"\n\n");
    frame.into()
}

/// Whether the client asks for events instead of one answer.
pub(super) fn wanted(headers: &HeaderMap) -> bool {
    let mut accepts = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepts.any(|accept| accept.contains(EVENT_STREAM))
}

/// Whether an answer goes on for as long as its client listens.
pub(super) fn is_stream<B>(response: &HttpResponse<B>) -> bool {
    response.headers().get(CONTENT_TYPE).is_some_and(|kind| kind == EVENT_STREAM)
}

/// A response of events. `next` makes one frame after the other from the state, until `None`.
pub(super) fn respond<S, F, N>(
    place: (OwnedSemaphorePermit, Counted),
    state: S,
    mut next: N,
) -> Response
where
    S: Send + 'static,
    F: Future<Output = Option<(Bytes, S)>> + Send + 'static,
    N: FnMut(S) -> F + Send + 'static,
{
    let frames = stream::unfold(state, move |state| {
        let _held_while_open = &place;
        let frame = next(state);
        async move { frame.await.map(|(frame, state)| (Ok::<_, Infallible>(frame), state)) }
    });
    let mut response = with_type(StatusCode::OK, EVENT_STREAM, Body::from_stream(frames));
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Proxies of the nginx family would collect the events otherwise.
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}
