//! Several locks in one decision, and handing one over.

use axum::body::Body;
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::Response;
use oarlock_client::wire;
use oarlock_core::command::{AcquireMany, Claim, Command, HandOver};
use oarlock_core::limits;
use oarlock_core::outcome::{Grant, Outcome, Rejection};
use oarlock_core::time::{Grace, LeaseTime, LockDelay, Wait as WaitMs};

use super::body::{self, answer};
use super::error::Refusal;
use super::query::Parameters;
use super::routes::{App, unexpected};
use super::wait::{self, Wait};
use super::{leases, locks, name, sse, translate};
use crate::service::replicator::{Call, Replicator, Reply, ReplyBody};

pub(super) async fn acquire<R: Replicator>(
    app: &App<R>,
    parts: &Parts,
    body: Body,
) -> Result<Response, Refusal> {
    Parameters::read(parts.uri.query(), &[])?;
    let request: wire::AcquireManyRequest = body::json(body).await?;
    let key = body::idempotency_key(&parts.headers)?;
    let many = command(app, request, key).await?;
    if sse::wanted(&parts.headers) {
        return wait::respond(Wait::many(app, many), |grants, now| leases_of(grants, now));
    }
    let reply = app.ask(Call::Propose(Command::AcquireMany(many))).await?;
    let (grants, now) = granted(app, reply).await?;
    Ok(answer(StatusCode::OK, &leases_of(&grants, now)))
}

/// The grants that an acquire of several locks asked for, or why there are none.
pub(super) async fn granted<R: Replicator>(
    app: &App<R>,
    reply: Reply,
) -> Result<(Vec<Grant>, LeaseTime), Refusal> {
    let ReplyBody::Outcome(outcome) = reply.body else { return Err(unexpected()) };
    match outcome {
        Outcome::GrantedMany(grants) => Ok((grants, reply.now)),
        Outcome::Rejected(rejection) => Err(locks::refused(app, rejection, reply.now).await),
        _ => Err(unexpected()),
    }
}

fn leases_of(grants: &[Grant], now: LeaseTime) -> wire::Leases {
    wire::Leases { leases: grants.iter().map(|grant| translate::lease(grant, now)).collect() }
}

async fn command<R: Replicator>(
    app: &App<R>,
    request: wire::AcquireManyRequest,
    key: Option<&str>,
) -> Result<AcquireMany, Refusal> {
    if request.locks.is_empty() || request.locks.len() > limits::LOCKS_PER_ACQUIRE_MAX {
        return Err(Refusal::of_rejection(&Rejection::ClaimsInvalid, LeaseTime::default()));
    }
    let term = translate::term(request.ttl_ms, request.session_id.as_deref())?;
    let claim = |one: &wire::ClaimRequest| {
        Ok::<_, Refusal>(Claim {
            lease_id: app.service.mint_lease_id(),
            name: name::checked(&one.name)?,
            mode: translate::mode_of(one.mode, one.permits, one.limit)?,
            lock_delay: LockDelay::new(one.lock_delay_ms.unwrap_or(0))?,
        })
    };
    Ok(AcquireMany {
        claims: request.locks.iter().map(claim).collect::<Result<_, _>>()?,
        term,
        wait: WaitMs::new(request.wait_ms.unwrap_or(0))?,
        grace: Grace::new(request.grace_ms.unwrap_or(limits::GRACE_MS_DEFAULT))?,
        request_id: translate::request_id(request.request_id.as_deref(), key)?,
        metadata: translate::metadata_of(request.metadata)?,
        owner: locks::owner(app, request.owner.as_deref(), term).await?,
    })
}

pub(super) async fn hand_over<R: Replicator>(
    app: &App<R>,
    parts: &Parts,
    body: Body,
) -> Result<Response, Refusal> {
    let lease_id = leases::lease_id(parts)?;
    Parameters::read(parts.uri.query(), &[])?;
    let request: wire::HandOverRequest = body::json(body).await?;
    let key = body::idempotency_key(&parts.headers)?;
    let term = translate::term(request.ttl_ms, request.session_id.as_deref())?;
    let command = Command::HandOver(HandOver {
        lease_id,
        new_lease_id: app.service.mint_lease_id(),
        term,
        request_id: translate::request_id(request.request_id.as_deref(), key)?,
        metadata: translate::metadata_of(request.metadata)?,
        owner: locks::owner(app, request.owner.as_deref(), term).await?,
    });
    let (outcome, now) = app.propose(command).await?;
    let Outcome::Granted(grant) = outcome else { return Err(unexpected()) };
    Ok(answer(StatusCode::OK, &translate::lease(&grant, now)))
}
