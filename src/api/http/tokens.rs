//! Access tokens and the rights of client certificates: made, listed, revoked.

use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{Method, StatusCode};
use axum::response::Response;
use oarlock_client::wire::{
    AccessToken, AccessTokenInfo, AccessTokenRequest, AccessTokenRevoked, AccessTokens,
    FirstTokenRequest,
};

use super::body::{self, answer as json};
use super::door;
use super::error::Refusal;
use super::listen::{Here, Peer};
use super::query::Parameters;
use super::routes::{App, Route};
use crate::auth::credential::{self, Credential, Proof, Quotas, RIGHTS_MAX};
use crate::auth::right::Right;
use crate::service::replicator::Replicator;
use crate::service::tokens::{TTL_MS_MAX, TTL_MS_MIN, TokensRefusal, Wanted};

/// Answers the paths of access tokens.
pub(super) async fn answer<R: Replicator>(
    app: &App<R>,
    (route, method): (Route, Method),
    parts: &Parts,
    body: Body,
) -> Result<Response, Refusal> {
    match (route, method) {
        (Route::Tokens, Method::GET) => list(app, parts),
        (Route::Tokens, Method::POST) => create(app, parts, body).await,
        (Route::TokensInit, Method::POST) => init(app, parts, body).await,
        (Route::Token, Method::DELETE) => revoke(app, parts, body).await,
        (other, _) => Err(Refusal::method_not_allowed(other.allow())),
    }
}

fn list<R: Replicator>(app: &App<R>, parts: &Parts) -> Result<Response, Refusal> {
    Parameters::read(parts.uri.query(), &[])?;
    let credentials = app.service.credentials();
    let tokens = credentials.iter().map(|(it, left_ms)| info(it, *left_ms)).collect();
    Ok(json(StatusCode::OK, &AccessTokens { tokens }))
}

fn info(credential: &Credential, expires_in_ms: Option<u64>) -> AccessTokenInfo {
    let Quotas { requests_per_second, waiting, streams, locks, sessions } = credential.quotas;
    AccessTokenInfo {
        token_id: credential.id.clone(),
        name: credential.name.clone(),
        certificate: credential.proof == Proof::Certificate,
        rights: credential.rights.iter().map(ToString::to_string).collect(),
        expires_in_ms,
        requests_per_second,
        waiting,
        streams,
        locks,
        sessions,
    }
}

async fn create<R: Replicator>(
    app: &App<R>,
    parts: &Parts,
    body: Body,
) -> Result<Response, Refusal> {
    Parameters::read(parts.uri.query(), &[])?;
    let request: AccessTokenRequest = body::json(body).await?;
    if request.rights.is_empty() || request.rights.len() > RIGHTS_MAX {
        return Err(Refusal::bad_request(&format!("`rights` has 1 to {RIGHTS_MAX} rights")));
    }
    let right = |text: &String| text.parse::<Right>();
    let rights = request.rights.iter().map(right).collect::<Result<_, _>>();
    let quotas = Quotas {
        requests_per_second: request.requests_per_second,
        waiting: request.waiting,
        streams: request.streams,
        locks: request.locks,
        sessions: request.sessions,
    };
    if quotas.requests_per_second.is_some_and(|it| it == 0 || it > 1_000_000) {
        return Err(Refusal::bad_request("`requests_per_second` is 1 to 1000000"));
    }
    let wanted = Wanted {
        name: request.name,
        certificate: request.certificate.unwrap_or(false),
        rights: rights.map_err(|error| Refusal::bad_request(&error.0))?,
        ttl_ms: request.ttl_ms,
        quotas,
    };
    make(app, wanted, false).await
}

/// The first token, with all rights, for whoever sits at the machine of this node.
async fn init<R: Replicator>(app: &App<R>, parts: &Parts, body: Body) -> Result<Response, Refusal> {
    Parameters::read(parts.uri.query(), &[])?;
    if !door::is_local(parts.extensions.get::<Peer>(), &parts.headers) {
        return Err(Refusal::not_here(
            "the first token is made on the machine of a node: run `oarlock tokens init` there, with \
             the loopback address of its API as --endpoint",
        ));
    }
    if !sits_here(app, parts).await {
        return Err(Refusal::not_here(
            "the first token is made by the user that this node runs as, or by root: run `oarlock \
             tokens init` as one of them; a proxy cannot ask for it",
        ));
    }
    let FirstTokenRequest { name } = body::json(body).await?;
    let (rights, quotas) = (Right::all(), Quotas::default());
    make(app, Wanted { name, certificate: false, rights, ttl_ms: None, quotas }, true).await
}

/// Whether the process that asks is one of the user that may read the files of this node anyway. What
/// a proxy passes on carries its own name, and looks as local as it likes.
async fn sits_here<R: Replicator>(app: &App<R>, parts: &Parts) -> bool {
    let ends = parts.extensions.get::<Peer>().zip(parts.extensions.get::<Here>());
    let Some((Peer(from), Here(at))) = ends.map(|(from, at)| (*from, *at)) else { return false };
    let is_own = app.is_own;
    tokio::task::spawn_blocking(move || is_own(from, at)).await.unwrap_or(false)
}

async fn make<R: Replicator>(
    app: &App<R>,
    wanted: Wanted,
    first: bool,
) -> Result<Response, Refusal> {
    if !credential::is_name(&wanted.name) {
        return Err(Refusal::bad_request(&format!(
            "`name` is 1 to {} letters, digits, dots, hyphens and underscores",
            credential::NAME_BYTES_MAX
        )));
    }
    if wanted.ttl_ms.is_some_and(|ms| !(TTL_MS_MIN..=TTL_MS_MAX).contains(&ms)) {
        return Err(Refusal::bad_request(&format!(
            "`ttl_ms` is {TTL_MS_MIN} to {TTL_MS_MAX} milliseconds; without it a token does not expire"
        )));
    }
    let (name, expires_in_ms) = (wanted.name.clone(), wanted.ttl_ms);
    let made = app.service.create_credential(&app.caller, wanted, first).await?;
    let (token_id, key) = made.map_err(|refusal| Refusal::of_tokens(&refusal))?;
    tracing::info!(audit = true, id = token_id, name, by = app.caller.name(), "token made");
    let access_token = key.map(|key| key.word());
    Ok(json(StatusCode::OK, &AccessToken { token_id, name, access_token, expires_in_ms }))
}

async fn revoke<R: Replicator>(
    app: &App<R>,
    parts: &Parts,
    body: Body,
) -> Result<Response, Refusal> {
    let token_id = parts.uri.path().strip_prefix("/v1/tokens/").unwrap_or_default();
    Parameters::read(parts.uri.query(), &[])?;
    body::nothing(body).await?;
    let revoked = app.service.revoke_credential(&app.caller, token_id).await?;
    if !revoked.map_err(|refusal| Refusal::of_tokens(&refusal))? {
        return Err(Refusal::no_token(token_id));
    }
    tracing::info!(audit = true, id = token_id, by = app.caller.name(), "token revoked");
    let token_id = token_id.to_owned();
    Ok(json(StatusCode::OK, &AccessTokenRevoked { token_id, revoked: true }))
}

impl Refusal {
    /// A change of the credentials that cannot be made.
    fn of_tokens(refusal: &TokensRefusal) -> Self {
        let conflict = StatusCode::CONFLICT;
        match refusal {
            TokensRefusal::Exists => {
                let detail = "there is one of this kind and name already; revoke it first";
                Self::new(conflict, "token-exists", "The token exists", detail.to_owned())
            }
            TokensRefusal::LastAdmin => {
                let detail = "nobody could administer the cluster without it; make another token \
                              with the right admin first";
                let title = "The last administrator stays";
                Self::new(conflict, "last-admin", title, detail.to_owned())
            }
            TokensRefusal::TooMany { limit } => Self::full("access-tokens-full", "tokens", *limit),
            TokensRefusal::TooLarge => {
                Self::bad_request("the rights of one token have some 3,500 bytes together at most")
            }
        }
    }

    fn no_token(id: &str) -> Self {
        let detail = format!("no token has the id {id:?}; `GET /v1/tokens` lists them");
        let title = "No such token";
        Self::new(StatusCode::NOT_FOUND, "access-token-unknown", title, detail)
    }

    fn not_here(detail: &str) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", "The right is missing", detail.to_owned())
    }
}
