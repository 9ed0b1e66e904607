//! Everything that is not a 2xx: `application/problem+json` with a stable `type`, a sentence that a
//! person can act on, and whether it happened.

use axum::http::StatusCode;
use axum::http::header::{ALLOW, CONNECTION, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::response::Response;
use oarlock_client::stream::Why;
use oarlock_client::wire::{self, Fate, Problem};
use oarlock_core::limits;
use oarlock_core::outcome::{Contention, CycleStep, EndReason, Ended, Rejection};
use oarlock_core::time::LeaseTime;

use super::body::{encode, with_type};
use super::problems::published;
use super::routes::unexpected;
use super::{translate, why};
use crate::service::error::ServiceError;

/// An answer that refuses.
#[derive(Debug)]
pub(super) struct Refusal(Box<Parts>);

#[derive(Debug)]
struct Parts {
    status: StatusCode,
    problem: Problem,
    retry_after: bool,
    allow: Option<&'static str>,
    closes: bool,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, kind: &str, title: &str, detail: String) -> Self {
        debug_assert!(published(kind, status.as_u16()), "{kind} is missing in `problems`");
        Self(Box::new(Parts {
            status,
            problem: Problem {
                kind: kind.to_owned(),
                title: title.to_owned(),
                status: status.as_u16(),
                detail,
                outcome: Fate::NotDone,
                lock: None,
                holders: None,
                holder_count: None,
                queue_length: None,
                how: None,
                token: None,
                limit: None,
                why: None,
                cycle: None,
                oldest_revision: None,
            },
            retry_after: false,
            allow: None,
            closes: false,
        }))
    }

    pub(super) fn bad_request(detail: &str) -> Self {
        let title = "The request is not valid";
        Self::new(StatusCode::BAD_REQUEST, "bad-request", title, detail.to_owned())
    }

    pub(super) fn member_unknown() -> Self {
        let detail = "no voter of this cluster has this id; /v1/cluster lists the members";
        let title = "There is no such member";
        Self::new(StatusCode::NOT_FOUND, "member-unknown", title, detail.to_owned())
    }

    pub(super) fn no_member(detail: &str) -> Self {
        let title = "There is no such member";
        Self::new(StatusCode::NOT_FOUND, "member-unknown", title, detail.to_owned())
    }

    pub(super) fn id_used(detail: &str) -> Self {
        let title = "This id was given before";
        Self::new(StatusCode::CONFLICT, "member-id-used", title, detail.to_owned())
    }

    pub(super) fn member_behind(detail: &str) -> Self {
        let title = "The member has not caught up";
        Self::new(StatusCode::CONFLICT, "member-behind", title, detail.to_owned()).retrying()
    }

    pub(super) fn members_busy(detail: &str) -> Self {
        let title = "The members change already";
        Self::new(StatusCode::CONFLICT, "members-busy", title, detail.to_owned()).retrying()
    }

    pub(super) fn quorum_at_risk(detail: &str) -> Self {
        let title = "Too few voters would be left";
        Self::new(StatusCode::CONFLICT, "quorum-at-risk", title, detail.to_owned())
    }

    /// Nobody was asked to take over.
    pub(super) fn nobody_to_lead(detail: &str) -> Self {
        let title = "Leadership was not handed over";
        Self::new(StatusCode::CONFLICT, "not-transferred", title, detail.to_owned())
    }

    /// Somebody was asked, and the cluster has another leader by now, or had none for a while.
    pub(super) fn not_transferred(detail: &str) -> Self {
        Self::nobody_to_lead(detail).unknown()
    }

    pub(super) fn bad_name(detail: &str) -> Self {
        let title = "This cannot be the name of a lock";
        Self::new(StatusCode::BAD_REQUEST, "bad-name", title, detail.to_owned())
    }

    pub(super) fn body_too_large(bytes_max: usize) -> Self {
        let detail = format!("a body has at most {bytes_max} bytes");
        let title = "The body is too large";
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "body-too-large", title, detail)
    }

    pub(super) fn body_timeout() -> Self {
        let detail = "the body did not arrive in time".to_owned();
        Self::new(StatusCode::REQUEST_TIMEOUT, "body-timeout", "The body was too slow", detail)
    }

    pub(super) fn not_found() -> Self {
        let detail = "no such path; `GET /` lists what there is".to_owned();
        Self::new(StatusCode::NOT_FOUND, "not-found", "There is nothing here", detail)
    }

    pub(super) fn method_not_allowed(allow: &'static str) -> Self {
        let detail = format!("this path takes {allow}");
        let title = "The method does not fit the path";
        let mut refusal =
            Self::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", title, detail);
        refusal.0.allow = Some(allow);
        refusal
    }

    pub(super) fn revision_gone(oldest: u64) -> Self {
        let detail = format!(
            "this node keeps events from revision {oldest} on; look at the locks, then watch from \
             there or from now"
        );
        let title = "The revision is too old";
        let mut refusal = Self::new(StatusCode::GONE, "revision-gone", title, detail);
        refusal.0.problem.oldest_revision = Some(oldest);
        refusal
    }

    /// What its answer says.
    pub(super) fn problem(&self) -> &Problem {
        &self.0.problem
    }

    /// The same refusal with a reason that carries an estimate.
    pub(super) fn because(mut self, why: Why) -> Self {
        self.0.problem.why = Some(Box::new(why));
        self
    }

    pub(super) fn token_stale(lock: &str, token: u64) -> Self {
        let detail = format!("token {token} does not hold `{lock}` now; do not act on it");
        let title = "The token is not held";
        let mut refusal = Self::new(StatusCode::CONFLICT, "token-stale", title, detail);
        refusal.0.problem.lock = Some(lock.to_owned());
        refusal.0.problem.token = Some(token);
        refusal
    }

    pub(super) fn not_ready(why: &str) -> Self {
        let title = "This node is not ready";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "not-ready", title, why.to_owned()).retrying()
    }

    pub(super) fn lease_unknown() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "lease-unknown",
            "No such lease",
            "no lease with this id is held, waits, or is remembered".to_owned(),
        )
    }

    pub(super) fn session_unknown() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "session-unknown",
            "No such session",
            "no session with this id is open or remembered; open a new one".to_owned(),
        )
    }

    pub(super) fn session_gone(how: EndReason) -> Self {
        let how = translate::how(how);
        let detail = format!("the session ended ({how}), and its leases with it; open a new one");
        let mut refusal = Self::new(StatusCode::GONE, "session-gone", "The session ended", detail);
        refusal.0.problem.how = Some(how.to_owned());
        refusal
    }

    pub(super) fn lease_gone(ended: &Ended) -> Self {
        let how = translate::how(ended.how);
        let detail = format!("the lease on `{}` ended: {}", ended.name, told(ended.how));
        let mut refusal = Self::new(StatusCode::GONE, "lease-gone", "The lease ended", detail);
        refusal.0.problem.lock = Some(ended.name.to_string());
        refusal.0.problem.how = Some(how.to_owned());
        refusal.0.problem.token = ended.token.map(|token| token.0);
        refusal
    }

    /// The wait ran out; `contention` names who is in the way, as far as that could be learnt.
    pub(super) fn wait_timeout(
        ended: &Ended,
        contention: Option<&Contention>,
        now: LeaseTime,
    ) -> Self {
        let who = contention.map(|contention| translate::in_the_way(contention, now));
        let detail = format!(
            "`{}` was not free within wait_ms{}; ask again with a new request id",
            ended.name,
            who.map(|who| format!(": {who}")).unwrap_or_default(),
        );
        let title = "The wait ran out";
        let mut refusal = Self::new(StatusCode::CONFLICT, "wait-timeout", title, detail);
        refusal.0.problem.how = Some(translate::how(EndReason::WaitTimeout).to_owned());
        refusal.0.problem.lock = Some(ended.name.to_string());
        refusal.name(contention, now)
    }

    fn lock_held(contention: &Contention, now: LeaseTime) -> Self {
        let detail = format!(
            "`{}`: {}; pass wait_ms to stand in the queue",
            contention.name,
            translate::in_the_way(contention, now)
        );
        Self::new(StatusCode::CONFLICT, "lock-held", "The lock is held", detail)
            .name(Some(contention), now)
    }

    fn name(mut self, contention: Option<&Contention>, now: LeaseTime) -> Self {
        if let Some(contention) = contention {
            let problem = &mut self.0.problem;
            problem.lock = Some(contention.name.to_string());
            let holders = contention.holders.iter();
            problem.holders = Some(holders.map(|holder| translate::holder(holder, now)).collect());
            problem.holder_count = Some(contention.holder_count);
            problem.queue_length = Some(contention.queue_length);
            problem.why = Some(Box::new(why::of(contention, contention.queue_length, now)));
        }
        self
    }

    fn permit_limit_differs(limit: u64) -> Self {
        let detail = format!(
            "permits of this lock are held or waited for under a limit of {limit}; name the same \
             limit, or wait until nobody uses it"
        );
        let title = "The permits have another limit";
        let mut refusal = Self::new(StatusCode::CONFLICT, "permit-limit-differs", title, detail);
        refusal.0.problem.limit = Some(limit);
        refusal
    }

    fn deadlock(cycle: &[CycleStep]) -> Self {
        let step = |step: &CycleStep| {
            format!("{} waits for `{}` of {}", step.owner, step.waits_for, step.held_by)
        };
        let told: Vec<String> = cycle.iter().map(step).collect();
        let detail = format!(
            "this wait would close a circle: {}; release what you hold, then ask again, or ask for \
             all locks in one request",
            told.join(", ")
        );
        let title = "Sessions would wait for each other";
        let mut refusal = Self::new(StatusCode::CONFLICT, "deadlock", title, detail);
        let step = |step: &CycleStep| wire::CycleStep {
            owner: step.owner.to_string(),
            waits_for: step.waits_for.to_string(),
            held_by: step.held_by.to_string(),
        };
        refusal.0.problem.cycle = Some(cycle.iter().map(step).collect());
        refusal
    }

    pub(super) fn no_value(lock: &str) -> Self {
        let detail = format!("`{lock}` carries no value");
        Self::new(StatusCode::NOT_FOUND, "no-value", "There is no value", detail)
    }

    pub(super) fn token_unknown(token: u64) -> Self {
        let detail = format!(
            "no grant with token {token} is held or remembered; the history keeps the newest only"
        );
        Self::new(StatusCode::NOT_FOUND, "token-unknown", "No such grant", detail)
    }

    pub(super) fn full(kind: &str, what: &str, limit: u64) -> Self {
        let detail = format!("there are {limit} {what} already, and there may not be more");
        let title = "A bound is reached";
        let mut refusal = Self::new(StatusCode::TOO_MANY_REQUESTS, kind, title, detail).retrying();
        refusal.0.problem.limit = Some(limit);
        refusal
    }

    /// A rejection: an answer of the log, which changed nothing.
    pub(super) fn of_rejection(rejection: &Rejection, now: LeaseTime) -> Self {
        match rejection {
            Rejection::LockHeld(contention) => Self::lock_held(contention, now),
            Rejection::QueueFull { limit } => Self::full("queue-full", "waiters here", *limit),
            Rejection::HoldersFull { limit } => {
                Self::full("holders-full", "shared holders here", *limit)
            }
            Rejection::LeasesFull { limit } => Self::full("leases-full", "leases", *limit),
            Rejection::SessionsFull { limit } => Self::full("sessions-full", "sessions", *limit),
            Rejection::SessionLeasesFull { limit } => {
                Self::full("session-leases-full", "leases in this session", *limit)
            }
            Rejection::AnswersFull { limit } => {
                Self::full("answers-full", "remembered answers to request ids", *limit)
            }
            Rejection::RequestIdReused => Self::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "request-id-reused",
                "The request id belongs to another request",
                "a different request came under this id before; use a new id for each request, \
                 and the same one only to repeat it"
                    .to_owned(),
            ),
            Rejection::LeaseGone(ended) => Self::lease_gone(ended),
            Rejection::LeaseUnknown => Self::lease_unknown(),
            Rejection::LeaseWaiting => Self::new(
                StatusCode::CONFLICT,
                "lease-waiting",
                "The lease is not granted yet",
                "a request that waits cannot be renewed; it keeps its place while its connection \
                 or its grace lasts"
                    .to_owned(),
            ),
            Rejection::SessionGone { how } => Self::session_gone(*how),
            Rejection::SessionUnknown => Self::session_unknown(),
            Rejection::PermitLimitDiffers { limit } => Self::permit_limit_differs(*limit),
            Rejection::ClaimsInvalid => Self::bad_request(&format!(
                "`locks` names 1 to {} locks, each once",
                limits::LOCKS_PER_ACQUIRE_MAX
            )),
            Rejection::GrantShared => Self::new(
                StatusCode::CONFLICT,
                "grant-shared",
                "The session holds this lock more than once",
                "the session took this lock again and holds it by several leases; release the \
                 others before one is handed over"
                    .to_owned(),
            ),
            Rejection::Deadlock(cycle) => Self::deadlock(cycle),
            Rejection::LeaseOfOtherLock => Self::new(
                StatusCode::CONFLICT,
                "lease-of-another-lock",
                "The lease holds another lock",
                "this lease does not hold the lock that the path names".to_owned(),
            ),
            Rejection::ValuesFull { limit } => {
                Self::full("values-full", "locks with a value", *limit)
            }
            // No call of this surface writes records.
            Rejection::RecordChanged { .. } | Rejection::RecordsFull { .. } => unexpected(),
            Rejection::TokensExhausted => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "tokens-exhausted",
                "No fencing token is left",
                "all tokens below 2^53 are used; nothing can be granted any more".to_owned(),
            ),
        }
    }

    fn retrying(mut self) -> Self {
        self.0.retry_after = true;
        self
    }

    /// The connection is closed after this answer: its input is not worth reading on.
    pub(super) fn closing(mut self) -> Self {
        self.0.closes = true;
        self
    }

    fn unknown(mut self) -> Self {
        self.0.problem.outcome = Fate::Unknown;
        self
    }
}

/// How a lease ended, for people.
fn told(how: EndReason) -> &'static str {
    match how {
        EndReason::Released => "it was released",
        EndReason::Expired => "it was not renewed within its TTL",
        EndReason::Forced => "somebody force-released it",
        EndReason::SessionClosed => "its session was closed",
        EndReason::SessionExpired => "its session was not renewed within its TTL",
        EndReason::WaitTimeout => "its wait ran out before it was granted",
        EndReason::Abandoned => "its connection was gone for longer than grace_ms",
        EndReason::HandedOver => "its holder handed the lock over",
    }
}

impl From<ServiceError> for Refusal {
    fn from(error: ServiceError) -> Self {
        let detail = error.to_string();
        let unavailable = StatusCode::SERVICE_UNAVAILABLE;
        match error {
            ServiceError::NoLeader | ServiceError::NotLeader(_) => {
                Self::new(unavailable, "no-leader", "No leader is reachable", detail).retrying()
            }
            ServiceError::Overloaded(_) => {
                Self::new(unavailable, "overloaded", "This node is at a bound", detail).retrying()
            }
            ServiceError::ShuttingDown => {
                let title = "This node is shutting down";
                Self::new(unavailable, "shutting-down", title, detail).retrying().closing()
            }
            ServiceError::Leaving => {
                let title = "This node is shutting down";
                Self::new(unavailable, "shutting-down", title, detail)
                    .retrying()
                    .closing()
                    .unknown()
            }
            ServiceError::Unauthenticated(_) => {
                let title = "Nobody known asks";
                Self::new(StatusCode::UNAUTHORIZED, "unauthenticated", title, detail)
            }
            ServiceError::Revoked => {
                let title = "Nobody known asks";
                Self::new(StatusCode::UNAUTHORIZED, "unauthenticated", title, detail).unknown()
            }
            ServiceError::Forbidden(_) => {
                Self::new(StatusCode::FORBIDDEN, "forbidden", "The right is missing", detail)
            }
            ServiceError::OverQuota { limit, .. } => {
                let (status, title) = (StatusCode::TOO_MANY_REQUESTS, "A quota is used up");
                let mut refusal = Self::new(status, "quota-exceeded", title, detail).retrying();
                refusal.0.problem.limit = Some(limit.into());
                refusal
            }
            ServiceError::Unknown(_) => {
                let detail =
                    format!("{detail}; repeat with the same request id, or look before acting");
                let title = "The outcome is unknown";
                Self::new(StatusCode::GATEWAY_TIMEOUT, "unknown-outcome", title, detail).unknown()
            }
        }
    }
}

impl From<Refusal> for Response {
    fn from(refusal: Refusal) -> Self {
        let parts = *refusal.0;
        let body = encode(&parts.problem);
        let mut response = with_type(parts.status, "application/problem+json", body);
        let headers = response.headers_mut();
        if parts.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if let Some(allow) = parts.allow {
            headers.insert(ALLOW, HeaderValue::from_static(allow));
        }
        if parts.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if parts.closes {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}
