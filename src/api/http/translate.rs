//! Values of the core as JSON, and requests as commands.

use std::time::{Duration, UNIX_EPOCH};

use oarlock_client::wire;
use oarlock_core::command::{LeaseTerm, Mode};
use oarlock_core::history::PastGrant;
use oarlock_core::ids::{Invalid, Metadata, Permits, RequestId};
use oarlock_core::outcome::{Contention, EndReason, Ended, Grant, Holder, SessionInfo, ValueInfo};
use oarlock_core::query::{LockView, WaiterView};
use oarlock_core::time::{LeaseTime, Ttl};

use super::error::Refusal;
use super::name;
use crate::service::NodeState;

impl From<Invalid> for Refusal {
    fn from(invalid: Invalid) -> Self {
        Self::bad_request(&invalid.0)
    }
}

/// The mode as a request says it: permits and their limit belong to one mode alone.
pub(super) fn mode_of(
    mode: Option<wire::Mode>,
    permits: Option<u64>,
    limit: Option<u64>,
) -> Result<Mode, Refusal> {
    match (mode.unwrap_or_default(), permits, limit) {
        (wire::Mode::Exclusive, None, None) => Ok(Mode::Exclusive),
        (wire::Mode::Shared, None, None) => Ok(Mode::Shared),
        (wire::Mode::Permits, permits, Some(limit)) => {
            Ok(Mode::Permits(Permits::new(permits.unwrap_or(1), limit)?))
        }
        (wire::Mode::Permits, _, None) => Err(Refusal::bad_request(
            "limit is missing: how many permits there are, the same for everybody who asks",
        )),
        (wire::Mode::Exclusive | wire::Mode::Shared, _, _) => {
            Err(Refusal::bad_request("permits and limit go with \"mode\": \"permits\""))
        }
    }
}

/// A mode, and the permits and their limit if it has any.
pub(super) fn mode(mode: Mode) -> (wire::Mode, Option<u32>, Option<u32>) {
    match mode {
        Mode::Exclusive => (wire::Mode::Exclusive, None, None),
        Mode::Shared => (wire::Mode::Shared, None, None),
        Mode::Permits(permits) => {
            (wire::Mode::Permits, Some(permits.count()), Some(permits.limit()))
        }
    }
}

/// How the asked-for lease stays alive: by a session, or by a TTL that must be given.
pub(super) fn term(ttl: wire::TtlMs, session: Option<&str>) -> Result<LeaseTerm, Refusal> {
    match (session, ttl) {
        (Some(id), wire::TtlMs::Absent) => Ok(LeaseTerm::Session(name::session_id(id)?)),
        (Some(_), wire::TtlMs::Forever | wire::TtlMs::Ms(_)) => Err(Refusal::bad_request(
            "ttl_ms does not go with session_id: the session keeps the lease alive",
        )),
        (None, wire::TtlMs::Ms(ms)) => Ok(LeaseTerm::Ttl(Ttl::new(ms)?)),
        (None, wire::TtlMs::Forever) => Ok(LeaseTerm::Forever),
        (None, wire::TtlMs::Absent) => Err(Refusal::bad_request(
            "ttl_ms is missing: a number of milliseconds, or null for a lock without expiry",
        )),
    }
}

/// The request id of body or header; two different ones are refused.
pub(super) fn request_id(
    body: Option<&str>,
    header: Option<&str>,
) -> Result<Option<RequestId>, Refusal> {
    let body = body.map(name::request_id).transpose()?;
    let header = header.map(name::request_id).transpose()?;
    match (body, header) {
        (Some(body), Some(header)) if body != header => Err(Refusal::bad_request(
            "request_id and Idempotency-Key differ; one of them is enough",
        )),
        (body, header) => Ok(body.or(header)),
    }
}

pub(super) fn metadata_of(map: Option<wire::Metadata>) -> Result<Metadata, Refusal> {
    Ok(Metadata::try_from(map.unwrap_or_default())?)
}

pub(super) fn lease(grant: &Grant, now: LeaseTime) -> wire::Lease {
    let (mode, permits, limit) = mode(grant.mode);
    wire::Lease {
        lease_id: grant.lease_id.to_string(),
        lock: grant.name.to_string(),
        mode,
        permits,
        limit,
        owner: grant.owner.to_string(),
        token: grant.token.0,
        ttl_ms: grant.ttl_ms,
        remaining_ms: remaining(grant.deadline, now),
        waited_ms: grant.waited_ms,
        session_id: grant.session_id.map(|id| id.to_string()),
        metadata: grant.metadata.clone().into(),
    }
}

pub(super) fn waiting(
    lease_id: String,
    lock: &str,
    owner: &str,
    its_mode: Mode,
    position: u64,
    waiting_ms: u64,
) -> wire::LeaseState {
    wire::LeaseState::Waiting {
        lease_id,
        lock: lock.to_owned(),
        owner: owner.to_owned(),
        mode: mode(its_mode).0,
        position,
        waiting_ms,
    }
}

pub(super) fn released(ended: &Ended) -> wire::Released {
    wire::Released {
        released: true,
        lease_id: ended.lease_id.to_string(),
        lock: ended.name.to_string(),
        token: ended.token.map(|token| token.0),
    }
}

pub(super) fn holder(holder: &Holder, now: LeaseTime) -> wire::Holder {
    let (mode, permits, limit) = mode(holder.mode);
    wire::Holder {
        owner: holder.owner.to_string(),
        mode,
        permits,
        limit,
        token: holder.token.0,
        since: rfc3339(holder.since_wall_ms),
        held_ms: now.ms_since(holder.granted_at),
        renewed_ms_ago: now.ms_since(holder.renewed_at),
        remaining_ms: remaining(holder.deadline, now),
        in_session: holder.in_session,
        metadata: holder.metadata.clone().into(),
    }
}

/// A wall clock for people.
fn rfc3339(wall_ms: u64) -> String {
    let at = UNIX_EPOCH + Duration::from_millis(wall_ms.min(WALL_MS_MAX));
    humantime::format_rfc3339_millis(at).to_string()
}

/// The end of the year 9999: the formatter refuses later years, and a wall clock may lie.
const WALL_MS_MAX: u64 = 253_402_300_799_999;

fn waiter(waiter: &WaiterView) -> wire::Waiter {
    let (mode, permits, _) = mode(waiter.mode);
    wire::Waiter {
        owner: waiter.owner.to_string(),
        mode,
        permits,
        position: waiter.position,
        waiting_ms: waiter.waiting_ms,
        attached: waiter.attached,
        metadata: waiter.metadata.clone().into(),
    }
}

pub(super) fn lock(view: &LockView, now: LeaseTime) -> wire::Lock {
    wire::Lock {
        lock: view.name.to_string(),
        held: view.holder_count > 0,
        holders: view.holders.iter().map(|it| holder(it, now)).collect(),
        holder_count: view.holder_count,
        waiters: view.waiters.iter().map(waiter).collect(),
        queue_length: view.queue_length,
        last_token: view.last_token.map(|token| token.0),
        token_ceiling: view.token_ceiling.0,
        revision: view.revision.map(|revision| revision.0),
        why: None,
        value: view.value.as_deref().map(|info| {
            let writer = |holder: &Holder| holder.token == info.token;
            value(view.name.as_str(), info, view.holders.iter().any(writer))
        }),
        staleness_ms: None,
    }
}

pub(super) fn staleness(age: Option<Duration>) -> wire::Staleness {
    age.map_or(wire::Staleness::Unknown, |age| wire::Staleness::Ms(as_ms(age)))
}

pub(super) fn session(info: &SessionInfo, now: LeaseTime) -> wire::Session {
    wire::Session {
        session_id: info.session_id.to_string(),
        owner: info.owner.to_string(),
        ttl_ms: info.ttl_ms,
        remaining_ms: info.deadline.ms_since(now),
        leases: info.lease_count,
        metadata: info.metadata.clone().into(),
    }
}

pub(super) fn cluster(state: &NodeState) -> wire::Cluster {
    let status = &state.status;
    wire::Cluster {
        cluster_id: status.cluster_id.map(|id| format!("{id:032x}")),
        node_id: status.node_id,
        leader_id: state.leadership.leader_id,
        term: state.leadership.term,
        members: status
            .members
            .iter()
            .map(|member| wire::Member {
                id: member.id,
                api_address: member.api_address.clone(),
                peer_address: member.peer_address.clone(),
                voter: member.voter,
                lag_entries: member.lag_entries,
            })
            .collect(),
        last_log_index: status.last_log_index,
        applied_index: status.applied_index,
        snapshot_index: status.snapshot_index,
        quorum_age_ms: status.quorum_age.map(as_ms),
        ready: state.ready,
    }
}

pub(super) fn how(reason: EndReason) -> &'static str {
    match reason {
        EndReason::Released => "released",
        EndReason::Expired => "expired",
        EndReason::Forced => "forced",
        EndReason::SessionClosed => "session-closed",
        EndReason::SessionExpired => "session-expired",
        EndReason::WaitTimeout => "wait-timeout",
        EndReason::Abandoned => "abandoned",
        EndReason::HandedOver => "handed-over",
    }
}

/// Who is in the way of an acquire, as a half-sentence.
pub(super) fn in_the_way(contention: &Contention, now: LeaseTime) -> String {
    let mut parts = Vec::new();
    if let Some(ms) = remaining(contention.closed_until, now) {
        let left = humantime::format_duration(Duration::from_millis(ms));
        parts.push(format!("closed for {left} more, because a holder was lost or forced"));
    }
    parts.push(held_by(contention, now));
    parts.push(match contention.queue_length {
        0 => "nobody waits".to_owned(),
        1 => "1 waits".to_owned(),
        more => format!("{more} wait"),
    });
    parts.join(", ")
}

fn held_by(contention: &Contention, now: LeaseTime) -> String {
    let Some(first) = contention.holders.first() else { return "nobody holds it".to_owned() };
    let span = |ms| humantime::format_duration(Duration::from_millis(ms));
    let left = remaining(first.deadline, now).map_or_else(
        || "without expiry".to_owned(),
        |ms| format!("{} left unless renewed", span(ms)),
    );
    let others = match contention.holder_count.saturating_sub(1) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let mut told = format!("held by {} (token {}, {left})", first.owner, first.token.0);
    if first.renewed_at > first.granted_at {
        let ago = span(now.ms_since(first.renewed_at));
        told =
            format!("held by {} (token {}, renewed {ago} ago, {left})", first.owner, first.token.0);
    }
    told + &others
}

pub(super) fn value(lock: &str, info: &ValueInfo, current: bool) -> wire::Value {
    wire::Value {
        lock: lock.to_owned(),
        value: info.value.as_str().to_owned(),
        token: info.token.0,
        owner: info.owner.to_string(),
        written: rfc3339(info.written_wall_ms),
        revision: info.revision.0,
        current,
    }
}

pub(super) fn past_grant(grant: &PastGrant) -> wire::PastGrant {
    let (mode, permits, limit) = mode(grant.mode);
    let end = grant.end.as_ref();
    wire::PastGrant {
        lock: grant.name.to_string(),
        token: grant.token.0,
        owner: grant.owner.to_string(),
        mode,
        permits,
        limit,
        metadata: grant.metadata.clone().into(),
        since: rfc3339(grant.granted_wall_ms),
        until: end.map(|end| rfc3339(end.wall_ms)),
        waited_ms: grant.waited_ms,
        held_ms: grant.held_ms,
        how: end.map(|end| how(end.how).to_owned()),
        reason: end.and_then(|end| end.reason.as_ref()).map(ToString::to_string),
    }
}

pub(super) fn remaining(deadline: Option<LeaseTime>, now: LeaseTime) -> Option<u64> {
    deadline.map(|at| at.ms_since(now))
}

fn as_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
