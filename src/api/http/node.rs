//! What a node says of itself: alive, ready, metrics, the cluster, and an index of paths.

use axum::body::Body;
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::Response;

use oarlock_client::wire::{Leader, LeaderRequest};

use super::body::{self, answer, with_type};
use super::error::Refusal;
use super::query::Parameters;
use super::routes::{App, unexpected};
use super::translate;
use crate::service::replicator::{Call, Replicator, ReplyBody, Transfer};

const TEXT: &str = "text/plain; charset=utf-8";
const METRICS_TEXT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

const INDEX: &str = "\
oarlock: a lock cluster with fencing tokens

POST   /v1/locks/{name}           take a lock: {\"owner\": \"me\", \"ttl_ms\": 30000}
GET    /v1/locks/{name}           who holds it, who waits
GET    /v1/locks?prefix=          list locks
DELETE /v1/locks/{name}?token=    take it from its holder
POST   /v1/leases/{id}/renew      keep it
DELETE /v1/leases/{id}            release it
GET    /v1/leases/{id}            look at it
POST   /v1/sessions               keep many leases with one renewal: {\"owner\", \"ttl_ms\"}
POST   /v1/sessions/{id}/renew
DELETE /v1/sessions/{id}
GET    /v1/sessions/{id}
POST   /v1/fence                  does a token hold a lock now? {\"name\", \"token\"}
GET    /v1/watch?prefix=          what happens, as server-sent events
GET    /v1/hold/{name}?owner=&request_id=   hold a lock while the connection lives
GET    /v1/cluster                members and leader
POST   /v1/cluster/leader         hand leadership over: {\"node_id\": 2}, or {}
GET    /v1/members                who they are; POST invites one, DELETE /{id} removes one
POST   /v1/members/{id}/promote   make it a voter; /{id}/replace: {\"with\": 4}
GET    /v1/tokens                 access tokens; POST makes one, DELETE /{id} revokes it
POST   /v1/tokens/init            the first one, on the machine of a node
POST   /v1/backup                 the whole state, as a file
GET    /livez /readyz /metrics /openapi.json
";

pub(super) fn index() -> Response {
    with_type(StatusCode::OK, TEXT, INDEX)
}

/// Kept equal to the code by a test, which also writes it anew.
const DESCRIPTION: &str = include_str!("../../../docs/api/openapi.json");

/// The API in the form of `OpenAPI` 3.1.
pub(super) fn openapi() -> Response {
    with_type(StatusCode::OK, "application/json", DESCRIPTION)
}

pub(super) fn live() -> Response {
    with_type(StatusCode::OK, TEXT, "alive\n")
}

pub(super) fn ready<R: Replicator>(app: &App<R>) -> Result<Response, Refusal> {
    match app.service.readiness() {
        Ok(()) => Ok(with_type(StatusCode::OK, TEXT, "ready\n")),
        Err(why) => Err(Refusal::not_ready(why)),
    }
}

pub(super) fn metrics<R: Replicator>(app: &App<R>) -> Response {
    let page = (app.metrics)(&app.service.node_state());
    with_type(StatusCode::OK, METRICS_TEXT, page)
}

pub(super) fn cluster<R: Replicator>(app: &App<R>, parts: &Parts) -> Result<Response, Refusal> {
    Parameters::read(parts.uri.query(), &[])?;
    Ok(answer(StatusCode::OK, &translate::cluster(&app.service.node_state())))
}

pub(super) async fn transfer_leader<R: Replicator>(
    app: &App<R>,
    parts: &Parts,
    body: Body,
) -> Result<Response, Refusal> {
    Parameters::read(parts.uri.query(), &[])?;
    let LeaderRequest { node_id } = body::json(body).await?;
    let reply = app.ask(Call::TransferLeader(node_id)).await?;
    let ReplyBody::Transfer(transfer) = reply.body else { return Err(unexpected()) };
    match transfer {
        Transfer::To(leader_id) if node_id.is_none_or(|id| id == leader_id) => {
            Ok(answer(StatusCode::OK, &Leader { leader_id }))
        }
        Transfer::To(leader_id) => Err(Refusal::not_transferred(&format!(
            "it did not take over in time, and node {leader_id} was elected; is it up, and not far behind?"
        ))),
        Transfer::NotInTime => Err(Refusal::not_transferred(
            "nobody took over in time; look at the status of the cluster",
        )),
        Transfer::NotHeard => Err(Refusal::nobody_to_lead(
            "who should take over has not answered the leader lately, so nobody was asked; is it up?",
        )),
        Transfer::NoSuchVoter if node_id.is_none() => {
            Err(Refusal::nobody_to_lead("the cluster has no other voter"))
        }
        Transfer::NoSuchVoter => Err(Refusal::member_unknown()),
    }
}
