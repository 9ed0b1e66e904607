//! What a lock carries and what is remembered of it: values and history.

use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{Method, StatusCode};
use axum::response::Response;
use oarlock_client::wire;
use oarlock_core::command::Command;
use oarlock_core::ids::{LockName, Token, Value};
use oarlock_core::limits;
use oarlock_core::outcome::Outcome;

use super::body::{self, answer as json};
use super::error::Refusal;
use super::query::Parameters;
use super::routes::{App, Route, unexpected};
use super::{name, translate};
use crate::service::replicator::{Query, Replicator, ReplyBody};

/// What stands before a lock's name in the path of its value.
pub(super) const VALUES: &str = "/v1/values/";
/// What stands before a lock's name in the path of its history.
pub(super) const HISTORY: &str = "/v1/history/";

const GRANTS: u32 = 100;
const GRANTS_MAX: u64 = 1_000;

const NOTE: &str = "the cluster keeps the newest 65,536 ended grants over all locks; older ones are \
                    forgotten";

/// Answers the paths of values and of the past.
pub(super) async fn answer<R: Replicator>(
    app: &App<R>,
    (route, method): (Route, Method),
    parts: &Parts,
    body: Body,
) -> Result<Response, Refusal> {
    match (route, method) {
        (Route::Value, Method::GET) => value(app, parts).await,
        (Route::Value, Method::PUT) => set_value(app, parts, body).await,
        (Route::Value, Method::DELETE) => delete_value(app, parts, body).await,
        (Route::History, Method::GET) => history(app, parts).await,
        (Route::Grant, Method::GET) => grant(app, parts).await,
        (other, _) => Err(Refusal::method_not_allowed(other.allow())),
    }
}

fn lock_name(parts: &Parts, prefix: &str) -> Result<LockName, Refusal> {
    name::from_path(parts.uri.path().strip_prefix(prefix).unwrap_or_default())
}

async fn value<R: Replicator>(app: &App<R>, parts: &Parts) -> Result<Response, Refusal> {
    let lock = lock_name(parts, VALUES)?;
    let parameters = Parameters::read(parts.uri.query(), &["consistency"])?;
    let query = Query::Lock { name: lock, waiters_max: 0 };
    let (reply, staleness_ms) = app.look(query, parameters.stale()?).await?;
    let ReplyBody::Lock(view) = &reply.body else { return Err(unexpected()) };
    match translate::lock(view, reply.now).value {
        Some(body) => Ok(json(StatusCode::OK, &wire::Aged { body, staleness_ms })),
        None => Err(Refusal::no_value(view.name.as_str())),
    }
}

async fn set_value<R: Replicator>(
    app: &App<R>,
    parts: &Parts,
    body: Body,
) -> Result<Response, Refusal> {
    let lock = lock_name(parts, VALUES)?;
    Parameters::read(parts.uri.query(), &[])?;
    let request: wire::ValueRequest = body::json(body).await?;
    let lease_id = name::lease_id(&request.lease_id)?;
    let value = request.value.as_deref().map(Value::new).transpose()?;
    let command = Command::SetValue { name: lock.clone(), lease_id, value };
    let (outcome, _) = app.propose(command).await?;
    let Outcome::ValueSet(written) = outcome else { return Err(unexpected()) };
    let lock = lock.as_str();
    Ok(match written {
        Some(info) => json(StatusCode::OK, &translate::value(lock, &info, true)),
        None => deleted(lock, true),
    })
}

async fn delete_value<R: Replicator>(
    app: &App<R>,
    parts: &Parts,
    body: Body,
) -> Result<Response, Refusal> {
    let lock = lock_name(parts, VALUES)?;
    Parameters::read(parts.uri.query(), &[])?;
    body::nothing(body).await?;
    let (outcome, _) = app.propose(Command::DeleteValue { name: lock.clone() }).await?;
    let Outcome::ValueDeleted { existed } = outcome else { return Err(unexpected()) };
    Ok(deleted(lock.as_str(), existed))
}

fn deleted(lock: &str, deleted: bool) -> Response {
    json(StatusCode::OK, &wire::ValueDeleted { lock: lock.to_owned(), deleted })
}

async fn history<R: Replicator>(app: &App<R>, parts: &Parts) -> Result<Response, Refusal> {
    let lock = lock_name(parts, HISTORY)?;
    let parameters = Parameters::read(parts.uri.query(), &["limit", "before", "consistency"])?;
    let limit = match parameters.number("limit", GRANTS_MAX)? {
        Some(0) => return Err(Refusal::bad_request("`limit` is at least 1")),
        Some(limit) => u32::try_from(limit).unwrap_or(GRANTS),
        None => GRANTS,
    };
    let before = parameters.number("before", limits::TOKEN_MAX)?.map(Token);
    let query = Query::History { name: lock.clone(), before, limit };
    let (reply, staleness_ms) = app.look(query, parameters.stale()?).await?;
    let ReplyBody::History(page) = &reply.body else { return Err(unexpected()) };
    let body = wire::History {
        lock: lock.to_string(),
        grants: page.grants.iter().map(translate::past_grant).collect(),
        next: page.next.map(|token| token.0),
        note: NOTE.to_owned(),
    };
    Ok(json(StatusCode::OK, &wire::Aged { body, staleness_ms }))
}

/// Which grant had this token.
async fn grant<R: Replicator>(app: &App<R>, parts: &Parts) -> Result<Response, Refusal> {
    let parameters = Parameters::read(parts.uri.query(), &["token", "consistency"])?;
    let Some(token) = parameters.number("token", limits::TOKEN_MAX)? else {
        return Err(Refusal::bad_request(
            "say which: `/v1/history?token=` for one grant, `/v1/history/{name}` for a lock's",
        ));
    };
    let (reply, staleness_ms) = app.look(Query::Token(Token(token)), parameters.stale()?).await?;
    let ReplyBody::Grant(grant) = &reply.body else { return Err(unexpected()) };
    let Some(grant) = grant else { return Err(Refusal::token_unknown(token)) };
    let body = translate::past_grant(grant);
    Ok(json(StatusCode::OK, &wire::Aged { body, staleness_ms }))
}
