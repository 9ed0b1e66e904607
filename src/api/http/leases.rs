//! Leases: renew, release, look. Whoever knows the id may; nobody else can.

use axum::body::Body;
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::Response;
use oarlock_client::wire;
use oarlock_core::command::Command;
use oarlock_core::ids::LeaseId;
use oarlock_core::outcome::Outcome;
use oarlock_core::planted::{Bug, planted};
use oarlock_core::query::LeaseView;
use oarlock_core::time::LeaseTime;

use super::body::{self, answer};
use super::error::Refusal;
use super::query::Parameters;
use super::routes::{App, unexpected};
use super::{name, translate};
use crate::service::replicator::{Call, Query, Replicator, Reply, ReplyBody};

/// The id in `/v1/leases/{id}`, with or without `/renew` or `/hand-over` after it.
pub(super) fn lease_id(parts: &Parts) -> Result<LeaseId, Refusal> {
    let rest = parts.uri.path().strip_prefix("/v1/leases/").unwrap_or_default();
    let id = rest.strip_suffix("/renew").or_else(|| rest.strip_suffix("/hand-over"));
    name::lease_id(id.unwrap_or(rest))
}

impl<R: Replicator> App<R> {
    /// Proposes a command and hands out its outcome with the lease clock, unless it was rejected.
    pub(super) async fn propose(&self, command: Command) -> Result<(Outcome, LeaseTime), Refusal> {
        let Reply { now, body } = self.ask(Call::Propose(command)).await?;
        match body {
            ReplyBody::Outcome(Outcome::Rejected(rejection)) => {
                Err(Refusal::of_rejection(&rejection, now))
            }
            ReplyBody::Outcome(outcome) => Ok((outcome, now)),
            ReplyBody::Lock(_)
            | ReplyBody::Locks(_)
            | ReplyBody::Lease(_)
            | ReplyBody::Session(_)
            | ReplyBody::Fence(_)
            | ReplyBody::History(_)
            | ReplyBody::Grant(_)
            | ReplyBody::Position(_)
            | ReplyBody::Transfer(_)
            | ReplyBody::Members(_)
            | ReplyBody::Tokens(_) => Err(unexpected()),
        }
    }

    /// Reads from the leader, or from this node with the age of what it knows.
    pub(super) async fn look(
        &self,
        query: Query,
        stale: bool,
    ) -> Result<(Reply, Option<wire::Staleness>), Refusal> {
        if stale {
            let (reply, age) = self.service.stale_as(&self.caller, query)?;
            return Ok((reply, Some(translate::staleness(age))));
        }
        Ok((self.ask(Call::Read(query)).await?, None))
    }
}

pub(super) async fn renew<R: Replicator>(
    app: &App<R>,
    parts: &Parts,
    body: Body,
) -> Result<Response, Refusal> {
    let lease_id = lease_id(parts)?;
    Parameters::read(parts.uri.query(), &[])?;
    body::nothing(body).await?;
    let (outcome, now) = app.propose(Command::Renew { lease_id }).await?;
    let Outcome::Renewed(grant) = outcome else { return Err(unexpected()) };
    Ok(answer(StatusCode::OK, &translate::lease(&grant, now)))
}

pub(super) async fn release<R: Replicator>(
    app: &App<R>,
    parts: &Parts,
    body: Body,
) -> Result<Response, Refusal> {
    let lease_id = lease_id(parts)?;
    Parameters::read(parts.uri.query(), &[])?;
    body::nothing(body).await?;
    let (outcome, _) = app.propose(Command::Release { lease_id }).await?;
    let Outcome::Released(ended) = outcome else { return Err(unexpected()) };
    Ok(answer(StatusCode::OK, &translate::released(&ended)))
}

pub(super) async fn look<R: Replicator>(app: &App<R>, parts: &Parts) -> Result<Response, Refusal> {
    if planted(Bug::LookingReleases) {
        return release(app, parts, Body::empty()).await;
    }
    let lease_id = lease_id(parts)?;
    let parameters = Parameters::read(parts.uri.query(), &["consistency"])?;
    let (reply, staleness_ms) = app.look(Query::Lease(lease_id), parameters.stale()?).await?;
    let ReplyBody::Lease(view) = &reply.body else { return Err(unexpected()) };
    let state = match view {
        LeaseView::Held(grant) => wire::LeaseState::Held(translate::lease(grant, reply.now)),
        LeaseView::Waiting { name, owner, mode, position, waiting_ms } => translate::waiting(
            lease_id.to_string(),
            name.as_str(),
            owner.as_str(),
            *mode,
            *position,
            *waiting_ms,
        ),
        LeaseView::Ended(ended) => return Err(Refusal::lease_gone(ended)),
        LeaseView::Unknown => return Err(Refusal::lease_unknown()),
    };
    Ok(answer(StatusCode::OK, &wire::Aged { body: state, staleness_ms }))
}
