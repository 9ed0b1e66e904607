//! Sessions: open, renew, look, close.

use axum::body::Body;
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::Response;
use oarlock_client::wire;
use oarlock_core::command::{Command, OpenSession};
use oarlock_core::ids::{Owner, SessionId};
use oarlock_core::outcome::Outcome;
use oarlock_core::time::Ttl;

use super::body::{self, answer};
use super::error::Refusal;
use super::query::Parameters;
use super::routes::{App, unexpected};
use super::{name, translate};
use crate::service::replicator::{Query, Replicator, ReplyBody};
use oarlock_core::query::SessionView;

/// The id in `/v1/sessions/{id}` or `/v1/sessions/{id}/renew`.
fn session_id(parts: &Parts) -> Result<SessionId, Refusal> {
    let rest = parts.uri.path().strip_prefix("/v1/sessions/").unwrap_or_default();
    name::session_id(rest.strip_suffix("/renew").unwrap_or(rest))
}

pub(super) async fn open<R: Replicator>(
    app: &App<R>,
    parts: &Parts,
    body: Body,
) -> Result<Response, Refusal> {
    Parameters::read(parts.uri.query(), &[])?;
    let request: wire::SessionRequest = body::json(body).await?;
    let key = body::idempotency_key(&parts.headers)?;
    let open = OpenSession {
        session_id: app.service.mint_session_id(),
        owner: Owner::new(&request.owner)?,
        ttl: Ttl::new(request.ttl_ms)?,
        request_id: translate::request_id(request.request_id.as_deref(), key)?,
        metadata: translate::metadata_of(request.metadata)?,
    };
    let (outcome, now) = app.propose(Command::OpenSession(open)).await?;
    let Outcome::SessionOpened(info) = outcome else { return Err(unexpected()) };
    Ok(answer(StatusCode::OK, &translate::session(&info, now)))
}

pub(super) async fn renew<R: Replicator>(
    app: &App<R>,
    parts: &Parts,
    body: Body,
) -> Result<Response, Refusal> {
    let session_id = session_id(parts)?;
    Parameters::read(parts.uri.query(), &[])?;
    body::nothing(body).await?;
    let (outcome, now) = app.propose(Command::RenewSession { session_id }).await?;
    let Outcome::SessionRenewed(info) = outcome else { return Err(unexpected()) };
    Ok(answer(StatusCode::OK, &translate::session(&info, now)))
}

pub(super) async fn close<R: Replicator>(
    app: &App<R>,
    parts: &Parts,
    body: Body,
) -> Result<Response, Refusal> {
    let session_id = session_id(parts)?;
    Parameters::read(parts.uri.query(), &[])?;
    body::nothing(body).await?;
    let (outcome, _) = app.propose(Command::CloseSession { session_id }).await?;
    let Outcome::SessionClosed { session_id, leases_ended } = outcome else {
        return Err(unexpected());
    };
    let session_id = session_id.to_string();
    Ok(answer(StatusCode::OK, &wire::SessionClosed { closed: true, session_id, leases_ended }))
}

pub(super) async fn look<R: Replicator>(app: &App<R>, parts: &Parts) -> Result<Response, Refusal> {
    let session_id = session_id(parts)?;
    let parameters = Parameters::read(parts.uri.query(), &["consistency"])?;
    let (reply, staleness_ms) = app.look(Query::Session(session_id), parameters.stale()?).await?;
    let ReplyBody::Session(view) = &reply.body else { return Err(unexpected()) };
    match view {
        SessionView::Open(info) => {
            let body = translate::session(info, reply.now);
            Ok(answer(StatusCode::OK, &wire::Aged { body, staleness_ms }))
        }
        SessionView::Ended { how } => Err(Refusal::session_gone(*how)),
        SessionView::Unknown => Err(Refusal::session_unknown()),
    }
}
