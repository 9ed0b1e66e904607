//! `GET /v1/hold/{name}`: a lock that lives as long as its connection.
//!
//! ```text
//!  acquire (TTL = grace) -> queued* -> granted -> renew every grace/3 while the client listens
//!                                                   | connection gone: renewals stop, free in grace
//!                                                   | lease over: `lost`
//! ```
//!
//! Renewals go through the log like any other. A reconnect with the same request id, at any node,
//! finds the lease and goes on. It gives no client-side bound: whoever only looks at the connection
//! learns of a loss later than others may be granted the lock, so its token must be checked (P10).

use std::time::Duration;

use axum::http::request::Parts;
use axum::response::Response;
use bytes::Bytes;
use oarlock_client::stream::{End, Held, Lost};
use oarlock_client::wire;
use oarlock_core::command::{Acquire, Command, LeaseTerm};
use oarlock_core::ids::{LeaseId, LockName, Metadata, Owner};
use oarlock_core::limits;
use oarlock_core::outcome::{Ended, Grant, Outcome, Rejection};
use oarlock_core::time::{Grace, LockDelay, Ttl, Wait as WaitMs};

use super::body;
use super::error::Refusal;
use super::query::Parameters;
use super::routes::App;
use super::sse::StreamEnd;
use super::wait::{Step, Wait, refused};
use super::{name, sse, translate};
use crate::auth::right::{Scope, Verb};
use crate::service::replicator::{Call, Replicator, ReplyBody};

const PREFIX: &str = "/v1/hold/";
const KNOWN: &[&str] = &["owner", "grace_ms", "wait_ms", "mode", "permits", "limit", "request_id"];
const GRACE_MS: u64 = 10_000;
/// Below it, a renewal every third of it would be load rather than care.
const GRACE_MS_MIN: u64 = 1_000;
const NOTE: &str = "the lock is kept while this connection lives, and free within grace_ms after it \
                    is known gone. It gives no client-side bound: you may learn of a loss after \
                    somebody else was granted the lock; let the resource refuse smaller tokens";

enum State<R: Replicator> {
    Waiting(Wait<R, Box<Grant>>, Duration),
    Held {
        app: App<R>,
        lease_id: LeaseId,
        lock: LockName,
        pause: Duration,
        every: Duration,
        ended: StreamEnd,
    },
    Over,
}

pub(super) fn open<R: Replicator>(app: &App<R>, parts: &Parts) -> Result<Response, Refusal> {
    let lock = name::from_path(parts.uri.path().strip_prefix(PREFIX).unwrap_or_default())?;
    let parameters = Parameters::read(parts.uri.query(), KNOWN)?;
    let grace_ms = parameters.number("grace_ms", limits::GRACE_MS_MAX)?.unwrap_or(GRACE_MS);
    if grace_ms < GRACE_MS_MIN {
        return Err(Refusal::bad_request("`grace_ms` is at least 1000"));
    }
    let acquire = acquire(app, lock, &parameters, parts, grace_ms)?;
    // Before the answer begins, so that a refusal has its status.
    let scope = Scope::Name(acquire.name.as_str());
    app.service.permit(&app.caller, Verb::Acquire, scope)?;
    let place = (app.service.stream_place()?, app.service.count_stream(&app.caller)?);
    let every = Duration::from_millis(grace_ms / 3);
    let state = State::Waiting(Wait::one(app, acquire), every);
    Ok(sse::respond(place, state, State::next))
}

fn acquire<R: Replicator>(
    app: &App<R>,
    lock: LockName,
    parameters: &Parameters,
    parts: &Parts,
    grace_ms: u64,
) -> Result<Acquire, Refusal> {
    let key = body::idempotency_key(&parts.headers)?;
    let request_id = translate::request_id(parameters.text("request_id"), key)?;
    if request_id.is_none() {
        return Err(Refusal::bad_request(
            "request_id is missing: a UUID with which a reconnect finds its lock again",
        ));
    }
    let mode = match parameters.text("mode") {
        None | Some("exclusive") => wire::Mode::Exclusive,
        Some("shared") => wire::Mode::Shared,
        Some("permits") => wire::Mode::Permits,
        Some(_) => {
            return Err(Refusal::bad_request("`mode` is exclusive, shared or permits"));
        }
    };
    let permits_max = u64::from(limits::PERMITS_MAX);
    let permits = parameters.number("permits", permits_max)?;
    let limit = parameters.number("limit", permits_max)?;
    let owner = parameters.text("owner").ok_or_else(|| {
        Refusal::bad_request("owner is missing: a text that tells people who you are")
    })?;
    Ok(Acquire {
        lease_id: app.service.mint_lease_id(),
        name: lock,
        owner: Owner::new(owner)?,
        mode: translate::mode_of(Some(mode), permits, limit)?,
        term: LeaseTerm::Ttl(Ttl::new(grace_ms)?),
        wait: WaitMs::new(parameters.number("wait_ms", limits::WAIT_MS_MAX)?.unwrap_or(0))?,
        grace: Grace::new(grace_ms)?,
        request_id,
        metadata: Metadata::default(),
        lock_delay: LockDelay::NONE,
    })
}

impl<R: Replicator> State<R> {
    async fn next(self) -> Option<(Bytes, Self)> {
        match self {
            Self::Over => None,
            Self::Waiting(mut wait, every) => match wait.step(every.min(sse::PING_EVERY)).await {
                Step::Tell(frame) => Some((frame, Self::Waiting(wait, every))),
                Step::Over(answer) => Some(match *answer {
                    Ok((grant, now)) => {
                        let lease = translate::lease(&grant, now);
                        let held = Held { lease, note: NOTE.to_owned() };
                        let (lease_id, lock) = (grant.lease_id, grant.name);
                        let app = wait.app();
                        // Found again by a reconnect, it may have little left.
                        let left = Duration::from_millis(held.lease.remaining_ms.unwrap_or(0));
                        let pause = if left > every * 2 { every } else { Duration::ZERO };
                        let ended = sse::end_of(&app);
                        let state = Self::Held { app, lease_id, lock, pause, every, ended };
                        (sse::event("granted", None, &held), state)
                    }
                    Err(refusal) => (refused(&refusal), Self::Over),
                }),
            },
            Self::Held { app, lease_id, lock, pause, every, mut ended } => {
                Some(match keep(&app, lease_id, (pause, every), &mut ended).await {
                    Kept::Yes => {
                        let state = Self::Held { app, lease_id, lock, pause: every, every, ended };
                        (sse::ping(), state)
                    }
                    Kept::Lost(how) => {
                        let lost = Lost { lock: lock.to_string(), how };
                        (sse::event("lost", None, &lost), Self::Over)
                    }
                    Kept::End(why) => {
                        (sse::event("end", None, &End { why: why.to_owned() }), Self::Over)
                    }
                })
            }
        }
    }
}

enum Kept {
    Yes,
    Lost(String),
    End(&'static str),
}

/// Renews once, a third of the grace after the last time. A renewal without an answer is no loss:
/// the next one follows, and the lease clock stands still while nobody leads.
async fn keep<R: Replicator>(
    app: &App<R>,
    lease_id: LeaseId,
    (pause, every): (Duration, Duration),
    ended: &mut StreamEnd,
) -> Kept {
    let renew = async {
        tokio::time::sleep(pause).await;
        let call = Call::Propose(Command::Renew { lease_id });
        app.service.call_as(&app.caller, call, every).await
    };
    let reply = tokio::select! {
        biased;
        reply = renew => reply,
        why = ended => return Kept::End(why),
    };
    let Ok(reply) = reply else { return Kept::Yes };
    match reply.body {
        ReplyBody::Outcome(Outcome::Rejected(Rejection::LeaseGone(Ended { how, .. }))) => {
            Kept::Lost(translate::how(how).to_owned())
        }
        ReplyBody::Outcome(Outcome::Rejected(Rejection::LeaseUnknown)) => {
            Kept::Lost("unknown".to_owned())
        }
        ReplyBody::Outcome(_)
        | ReplyBody::Lock(_)
        | ReplyBody::Locks(_)
        | ReplyBody::Lease(_)
        | ReplyBody::Session(_)
        | ReplyBody::Fence(_)
        | ReplyBody::History(_)
        | ReplyBody::Grant(_)
        | ReplyBody::Position(_)
        | ReplyBody::Transfer(_)
        | ReplyBody::Members(_)
        | ReplyBody::Tokens(_) => Kept::Yes,
    }
}
