//! Locks: acquire, inspect, list, force release, and the fence check.

use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::Response;
use oarlock_client::wire;
use oarlock_core::command::{Acquire, Command, ForceTarget, LeaseTerm};
use oarlock_core::ids::{LockName, Owner, Reason, Token};
use oarlock_core::limits;
use oarlock_core::outcome::{EndReason, Ended, Grant, Outcome, Rejection};
use oarlock_core::time::{Grace, LeaseTime, LockDelay, Wait as WaitMs};

use super::body::{self, answer};
use super::error::Refusal;
use super::listen::Peer;
use super::query::Parameters;
use super::routes::{App, unexpected};
use super::wait::{self, Wait};
use super::{name, sse, translate, why};
use crate::service::reads::SessionOwner;
use crate::service::replicator::{Call, Query, Replicator, Reply, ReplyBody};
use oarlock_core::query::SessionView;

/// What stands before a lock's name in a path.
pub(super) const PREFIX: &str = "/v1/locks/";
/// Waiters that one inspection names; the queue's length says how many there are.
const WAITERS_SHOWN_MAX: u32 = 100;
const LIST_LIMIT: u32 = 100;
const LIST_LIMIT_MAX: u64 = 1_000;
/// How long a timed-out wait may take to learn who is in the way.
const CONTENTION_DEADLINE: Duration = Duration::from_secs(1);

const FENCE_NOTE: &str = "true at the instant of the check only: it does not protect against a \
                          pause after it; let the resource itself refuse smaller tokens";

fn lock_name(parts: &Parts) -> Result<LockName, Refusal> {
    name::from_path(parts.uri.path().strip_prefix(PREFIX).unwrap_or_default())
}

pub(super) async fn acquire<R: Replicator>(
    app: &App<R>,
    parts: &Parts,
    body: Body,
) -> Result<Response, Refusal> {
    let lock = lock_name(parts)?;
    Parameters::read(parts.uri.query(), &[])?;
    let request: wire::AcquireRequest = body::json(body).await?;
    let key = body::idempotency_key(&parts.headers)?;
    let acquire = command(app, lock, request, key).await?;
    if sse::wanted(&parts.headers) {
        return wait::respond(Wait::one(app, acquire), |grant, now| translate::lease(grant, now));
    }
    let reply = app.ask(Call::Propose(Command::Acquire(acquire))).await?;
    let (grant, now) = granted(app, reply).await?;
    Ok(answer(StatusCode::OK, &translate::lease(&grant, now)))
}

/// The grant that an acquire asked for, or why there is none.
pub(super) async fn granted<R: Replicator>(
    app: &App<R>,
    reply: Reply,
) -> Result<(Box<Grant>, LeaseTime), Refusal> {
    let ReplyBody::Outcome(outcome) = reply.body else { return Err(unexpected()) };
    match outcome {
        Outcome::Granted(grant) => Ok((grant, reply.now)),
        Outcome::Rejected(rejection) => Err(refused(app, rejection, reply.now).await),
        Outcome::Done
        | Outcome::Queued(_)
        | Outcome::Renewed(_)
        | Outcome::Released(_)
        | Outcome::ForceReleased(_)
        | Outcome::SessionOpened(_)
        | Outcome::SessionRenewed(_)
        | Outcome::SessionClosed { .. }
        | Outcome::ValueSet(_)
        | Outcome::ValueDeleted { .. }
        | Outcome::GrantedMany(_)
        | Outcome::QueuedMany(_)
        | Outcome::RecordPut(_) => Err(unexpected()),
    }
}

/// Why an acquire was refused, with what stands between it and its lock.
pub(super) async fn refused<R: Replicator>(
    app: &App<R>,
    rejection: Rejection,
    now: LeaseTime,
) -> Refusal {
    match rejection {
        Rejection::LeaseGone(ended) if ended.how == EndReason::WaitTimeout => {
            wait_timeout(app, &ended).await
        }
        Rejection::LockHeld(contention) => {
            let why = app.why(&contention, contention.queue_length, now);
            Refusal::of_rejection(&Rejection::LockHeld(contention), now).because(why)
        }
        rejection => Refusal::of_rejection(&rejection, now),
    }
}

async fn command<R: Replicator>(
    app: &App<R>,
    lock: LockName,
    request: wire::AcquireRequest,
    key: Option<&str>,
) -> Result<Acquire, Refusal> {
    let term = translate::term(request.ttl_ms, request.session_id.as_deref())?;
    let request_id = translate::request_id(request.request_id.as_deref(), key)?;
    let wait = WaitMs::new(request.wait_ms.unwrap_or(0))?;
    let grace = Grace::new(request.grace_ms.unwrap_or(limits::GRACE_MS_DEFAULT))?;
    let metadata = translate::metadata_of(request.metadata)?;
    let mode = translate::mode_of(request.mode, request.permits, request.limit)?;
    let lock_delay = LockDelay::new(request.lock_delay_ms.unwrap_or(0))?;
    let owner = owner(app, request.owner.as_deref(), term).await?;
    Ok(Acquire {
        lease_id: app.service.mint_lease_id(),
        name: lock,
        owner,
        mode,
        term,
        wait,
        grace,
        request_id,
        metadata,
        lock_delay,
    })
}

/// The owner as given, or that of the session.
pub(super) async fn owner<R: Replicator>(
    app: &App<R>,
    given: Option<&str>,
    term: LeaseTerm,
) -> Result<Owner, Refusal> {
    match (given, term) {
        (Some(owner), _) => Ok(Owner::new(owner)?),
        (None, LeaseTerm::Session(id)) => match app.service.session_owner(&app.caller, id).await? {
            SessionOwner::Known(owner) => Ok(owner),
            SessionOwner::Missing(SessionView::Ended { how }) => Err(Refusal::session_gone(how)),
            SessionOwner::Missing(SessionView::Unknown | SessionView::Open(_)) => {
                Err(Refusal::session_unknown())
            }
        },
        (None, LeaseTerm::Ttl(_) | LeaseTerm::Forever) => {
            Err(Refusal::bad_request("owner is missing: a text that tells people who you are"))
        }
    }
}

/// The refusal of a wait that ran out, naming who is in the way if that can be learnt quickly.
async fn wait_timeout<R: Replicator>(app: &App<R>, ended: &Ended) -> Refusal {
    let call = Call::Read(Query::Lock { name: ended.name.clone(), waiters_max: 0 });
    match app.service.call_as(&app.caller, call, CONTENTION_DEADLINE).await {
        Ok(reply) => {
            let now = reply.now;
            let ReplyBody::Lock(view) = reply.body else { return unexpected() };
            let contention = why::contention(&view);
            let why = app.why(&contention, contention.queue_length, now);
            Refusal::wait_timeout(ended, Some(&contention), now).because(why)
        }
        Err(_) => Refusal::wait_timeout(ended, None, LeaseTime::default()),
    }
}

pub(super) async fn inspect<R: Replicator>(
    app: &App<R>,
    parts: &Parts,
) -> Result<Response, Refusal> {
    let lock = lock_name(parts)?;
    let parameters = Parameters::read(parts.uri.query(), &["consistency"])?;
    let query = Query::Lock { name: lock, waiters_max: WAITERS_SHOWN_MAX };
    let (reply, staleness) = app.look(query, parameters.stale()?).await?;
    let ReplyBody::Lock(view) = &reply.body else { return Err(unexpected()) };
    let mut lock = translate::lock(view, reply.now);
    let contention = why::contention(view);
    lock.why = Some(app.why(&contention, contention.queue_length, reply.now));
    lock.staleness_ms = staleness;
    Ok(answer(StatusCode::OK, &lock))
}

pub(super) async fn list<R: Replicator>(app: &App<R>, parts: &Parts) -> Result<Response, Refusal> {
    let known = &["prefix", "limit", "cursor", "consistency"];
    let parameters = Parameters::read(parts.uri.query(), known)?;
    let limit = match parameters.number("limit", LIST_LIMIT_MAX)? {
        Some(0) => return Err(Refusal::bad_request("`limit` is at least 1")),
        Some(limit) => u32::try_from(limit).unwrap_or(LIST_LIMIT),
        None => LIST_LIMIT,
    };
    let after = parameters.text("cursor").map(name_of_cursor).transpose()?;
    let prefix = parameters.text("prefix").unwrap_or_default();
    if prefix.len() > limits::NAME_BYTES_MAX {
        return Err(Refusal::bad_request("`prefix` is longer than any name may be"));
    }
    let query = Query::Locks { prefix: prefix.to_owned(), after, limit };
    let (reply, staleness_ms) = app.look(query, parameters.stale()?).await?;
    let ReplyBody::Locks(page) = &reply.body else { return Err(unexpected()) };
    let locks = page.locks.iter().map(|view| translate::lock(view, reply.now)).collect();
    let cursor = page.next.as_ref().map(cursor_of_name);
    Ok(answer(StatusCode::OK, &wire::Locks { locks, cursor, staleness_ms }))
}

/// The last name of a page in hexadecimal digits: safe in any URL, and opaque enough.
fn cursor_of_name(name: &LockName) -> String {
    use std::fmt::Write as _;
    name.as_str().bytes().fold(String::new(), |mut digits, byte| {
        let _infallible = write!(digits, "{byte:02x}");
        digits
    })
}

fn name_of_cursor(cursor: &str) -> Result<String, Refusal> {
    let bad = || Refusal::bad_request("`cursor` is not one that a listing answered");
    // An empty one would mean the first page, which a client that lost its cursor must not take
    // for the next.
    let whole = !cursor.is_empty() && cursor.len().is_multiple_of(2);
    let digits = cursor.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if cursor.len() > 2 * limits::NAME_BYTES_MAX || !whole || !digits {
        return Err(bad());
    }
    let bytes: Result<Vec<u8>, _> = (0..cursor.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(cursor.get(at..at + 2).unwrap_or_default(), 16))
        .collect();
    String::from_utf8(bytes.map_err(|_| bad())?).map_err(|_| bad())
}

pub(super) async fn force_release<R: Replicator>(
    app: &App<R>,
    parts: &Parts,
    body: Body,
) -> Result<Response, Refusal> {
    let lock = lock_name(parts)?;
    let known = &["token", "all", "reason", "lock_delay_ms"];
    let parameters = Parameters::read(parts.uri.query(), known)?;
    body::nothing(body).await?;
    let token = parameters.number("token", limits::TOKEN_MAX)?;
    let target = match (token, parameters.text("all")) {
        (Some(token), None) => ForceTarget::Token(Token(token)),
        (None, Some("true")) => ForceTarget::All,
        (Some(_), Some(_)) | (None, Some(_) | None) => {
            return Err(Refusal::bad_request(
                "say whose grant to end: `?token=` for one, or `?all=true` for every holder",
            ));
        }
    };
    let delay_ms = parameters.number("lock_delay_ms", limits::LOCK_DELAY_MS_MAX)?;
    let lock_delay = delay_ms.map(LockDelay::new).transpose()?;
    let reason = Reason::new(parameters.text("reason").unwrap_or("unspecified"))?;
    tracing::info!(
        audit = true,
        lock = %lock,
        ?target,
        %reason,
        by = app.caller.name(),
        peer = parts.extensions.get::<Peer>().map(|peer| tracing::field::display(peer.0)),
        "force release"
    );
    let command = Command::ForceRelease { name: lock.clone(), target, reason, lock_delay };
    let (outcome, _) = app.propose(command).await?;
    let Outcome::ForceReleased(ended) = outcome else { return Err(unexpected()) };
    let one = |it: &Ended| wire::Taken { token: it.token.map(|token| token.0) };
    let released = ended.iter().map(one).collect();
    Ok(answer(StatusCode::OK, &wire::ForceReleased { lock: lock.to_string(), released }))
}

pub(super) async fn fence<R: Replicator>(
    app: &App<R>,
    parts: &Parts,
    body: Body,
) -> Result<Response, Refusal> {
    Parameters::read(parts.uri.query(), &[])?;
    let request: wire::FenceRequest = body::json(body).await?;
    let lock = name::checked(&request.name)?;
    let query = Query::Fence { name: lock, token: Token(request.token) };
    let reply = app.ask(Call::Read(query)).await?;
    let ReplyBody::Fence(held) = reply.body else { return Err(unexpected()) };
    let Some(grant) = held else {
        return Err(Refusal::token_stale(&request.name, request.token));
    };
    let fence = wire::Fence {
        held: true,
        lock: request.name,
        token: request.token,
        remaining_ms: translate::remaining(grant.deadline, reply.now),
        note: FENCE_NOTE.to_owned(),
    };
    Ok(answer(StatusCode::OK, &fence))
}
