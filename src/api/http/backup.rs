//! `POST /v1/backup`: a consistent copy of the state, as a file.
//!
//! Any node writes it from its own state, at a position that the leader gave after the request
//! arrived. It is checksummed from the first byte to the last, so a copy that is cut off or damaged
//! on its way is refused by `oarlock restore`.

use std::io;
use std::sync::Arc;

use axum::body::Body;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH, HeaderName, HeaderValue,
};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;

use super::body::{self, with_type};
use super::error::Refusal;
use super::query::Parameters;
use super::routes::App;
use crate::service::replicator::{Backup, Replicator};

/// What is read from the disk at a time.
const PIECE_BYTES: u64 = 256 * 1024;

pub(super) async fn take<R: Replicator>(
    app: &App<R>,
    parts: &Parts,
    request: Body,
) -> Result<Response, Refusal> {
    Parameters::read(parts.uri.query(), &[])?;
    body::nothing(request).await?;
    // It ends by itself, so a stop of the node lets it end; but only so many at once.
    let place = (app.service.stream_place()?, app.service.count_stream(&app.caller)?);
    let backup = Arc::new(app.service.backup(&app.caller).await?);
    let (bytes, applied_index) = (backup.bytes, backup.applied_index);
    let pieces = stream::try_unfold(0, move |offset| {
        let _held_while_open = &place;
        let backup = Arc::clone(&backup);
        async move {
            let piece = read(backup, offset).await?;
            Ok::<_, io::Error>(piece.map(|piece| (piece.clone(), offset + piece.len() as u64)))
        }
    });
    let mut response =
        with_type(StatusCode::OK, "application/octet-stream", Body::from_stream(pieces));
    describe(response.headers_mut(), bytes, applied_index);
    Ok(response)
}

fn describe(headers: &mut HeaderMap, bytes: u64, applied_index: u64) {
    headers.insert(CONTENT_LENGTH, HeaderValue::from(bytes));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        CONTENT_DISPOSITION,
        HeaderValue::from_static("attachment; filename=\"oarlock.backup\""),
    );
    headers
        .insert(HeaderName::from_static("oarlock-applied-index"), HeaderValue::from(applied_index));
}

async fn read(backup: Arc<Backup>, offset: u64) -> io::Result<Option<Bytes>> {
    let length = PIECE_BYTES.min(backup.bytes.saturating_sub(offset));
    if length == 0 {
        return Ok(None);
    }
    let reading = tokio::task::spawn_blocking(move || {
        let mut piece = vec![0; usize::try_from(length).unwrap_or(0)];
        (backup.read_at)(&mut piece, offset)?;
        Ok(Some(Bytes::from(piece)))
    });
    reading.await.map_err(io::Error::other)?
}
