//! Bodies in and out: size and time limits, strict JSON, exact lengths.

use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, HeaderValue};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use http_body_util::BodyExt;
use oarlock_client::wire::Nothing;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::error::Refusal;

/// Largest body that is read: metadata, owner and name at their bounds, escaped, fit well.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// So much of a body that is too large is read and thrown away, so that its sender reads our
/// answer instead of a broken pipe. Beyond it the connection is closed.
const DRAIN_BYTES_MAX: u64 = 1024 * 1024;
/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Reads a whole body.
pub(super) async fn read(body: Body) -> Result<Bytes, Refusal> {
    use axum::body::HttpBody;
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    if body.size_hint().lower() > DRAIN_BYTES_MAX {
        return Err(Refusal::body_too_large(BODY_BYTES_MAX).closing());
    }
    match timeout(BODY_TIMEOUT, gather(body)).await {
        Ok(gathered) => gathered,
        Err(_) => Err(Refusal::body_timeout().closing()),
    }
}

async fn gather(mut body: Body) -> Result<Bytes, Refusal> {
    let mut whole = Bytes::new();
    let mut gathered: Vec<u8> = Vec::new();
    let mut seen: u64 = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Refusal::bad_request("the body ended early").closing())?;
        let Ok(data) = frame.into_data() else { continue };
        seen = seen.saturating_add(u64::try_from(data.len()).unwrap_or(u64::MAX));
        if seen > DRAIN_BYTES_MAX {
            return Err(Refusal::body_too_large(BODY_BYTES_MAX).closing());
        }
        if seen > BODY_BYTES_MAX as u64 {
            gathered.clear();
        } else if whole.is_empty() && gathered.is_empty() {
            // Nearly every body comes in one piece, which then is not copied.
            whole = data;
        } else {
            if gathered.is_empty() {
                gathered.extend_from_slice(&whole);
            }
            gathered.extend_from_slice(&data);
        }
    }
    if seen > BODY_BYTES_MAX as u64 {
        return Err(Refusal::body_too_large(BODY_BYTES_MAX));
    }
    Ok(if gathered.is_empty() { whole } else { gathered.into() })
}

/// Reads a JSON object. The content type is not enforced: `curl -d` says that it sends a form.
pub(super) async fn json<T: DeserializeOwned>(body: Body) -> Result<T, Refusal> {
    parse(&read(body).await?)
}

/// Reads the body of a call that takes none: nothing, or `{}`.
pub(super) async fn nothing(body: Body) -> Result<(), Refusal> {
    let bytes = read(body).await?;
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(());
    }
    parse::<Nothing>(&bytes).map(|Nothing {}| ())
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Refusal> {
    // serde would read a struct from an array of its fields' values, too.
    match bytes.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'{') => {}
        Some(_) => return Err(Refusal::bad_request("the body is not a JSON object")),
        None => return Err(Refusal::bad_request("the body is empty; a JSON object is needed")),
    }
    serde_json::from_slice(bytes)
        .map_err(|error| Refusal::bad_request(&format!("the body is not as expected: {error}")))
}

/// The value of the `Idempotency-Key` header.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>, Refusal> {
    let mut values = headers.get_all("idempotency-key").iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Refusal::bad_request("Idempotency-Key comes twice"));
    }
    match value.to_str() {
        Ok(text) => Ok(Some(text)),
        Err(_) => Err(Refusal::bad_request("Idempotency-Key is a UUID with hyphens")),
    }
}

/// An answer in JSON.
pub(super) fn answer<T: Serialize>(status: StatusCode, value: &T) -> Response {
    with_type(status, "application/json", encode(value))
}

/// An answer of one content type; hyper adds its length.
pub(super) fn with_type(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Body>,
) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// JSON of our own types, which have string keys only and so cannot fail to encode.
pub(super) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}
