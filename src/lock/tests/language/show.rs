//! From outcomes, events and views to script lines. Matches are exhaustive, so that nothing new
//! goes unseen.

use oarlock_core::command::Mode;
use oarlock_core::event::{Event, EventKind};
use oarlock_core::history::PastGrant;
use oarlock_core::ids::{Metadata, Revision, Token};
use oarlock_core::machine::Machine;
use oarlock_core::outcome::{
    CycleStep, EndReason, Ended, Grant, Holder, Outcome, Queued, Rejection, SessionInfo, ValueInfo,
};
use oarlock_core::query::{LeaseView, LockView, SessionView};
use oarlock_core::time::LeaseTime;

use super::parse::{Words, name, number};

fn stamp(at: LeaseTime) -> String {
    let (ms, us) = (at.0 / 1000, at.0 % 1000);
    if us == 0 { format!("@{ms}") } else { format!("@{ms}.{us:03}") }
}

fn until(deadline: Option<LeaseTime>) -> String {
    deadline.map_or("without expiry".to_string(), |at| format!("until {}", stamp(at)))
}

fn mode(mode: Mode) -> String {
    match mode {
        Mode::Exclusive => "exclusive".to_string(),
        Mode::Shared => "shared".to_string(),
        Mode::Permits(permits) => format!("{}/{}", permits.count(), permits.limit()),
    }
}

fn closed(until: Option<LeaseTime>) -> String {
    until.map(|at| format!(", closed until {}", stamp(at))).unwrap_or_default()
}

fn value(info: &ValueInfo) -> String {
    let text = info.value.as_str();
    format!("{text:?} by {} under token {}, r{}", info.owner, info.token.0, info.revision.0)
}

fn past(grant: &PastGrant) -> String {
    let end = grant.end.as_ref().map_or("held".to_string(), |end| {
        let reason = end.reason.as_ref().map(|text| format!(", {text}")).unwrap_or_default();
        format!("{}{reason}", end_reason(end.how))
    });
    format!(
        "token {} of {} {} by {} after {} for {}, {end}{}",
        grant.token.0,
        grant.name,
        mode(grant.mode),
        grant.owner,
        grant.waited_ms,
        grant.held_ms,
        metadata(&grant.metadata),
    )
}

fn metadata(metadata: &Metadata) -> String {
    let mut text = String::new();
    for (key, value) in metadata.entries() {
        text.extend([", ", key, ":", value]);
    }
    text
}

fn grant(grant: &Grant) -> String {
    let session =
        grant.session_id.map(|id| format!(" of session {}", { id.0 })).unwrap_or_default();
    let ttl = grant.ttl_ms.map(|ms| format!(", ttl {ms}")).unwrap_or_default();
    format!(
        "lease {}{session}: {} {} by {}, token {}, since {} after {}, {}{ttl}{}",
        { grant.lease_id.0 },
        grant.name,
        mode(grant.mode),
        grant.owner,
        grant.token.0,
        stamp(grant.granted_at),
        grant.waited_ms,
        until(grant.deadline),
        metadata(&grant.metadata),
    )
}

fn ended(ended: &Ended) -> String {
    let what = ended.token.map_or("waiter".to_string(), |token| format!("token {}", token.0));
    format!(
        "lease {}: {} {what} {} {}",
        { ended.lease_id.0 },
        ended.name,
        end_reason(ended.how),
        stamp(ended.ended_at)
    )
}

pub(crate) fn end_reason(how: EndReason) -> &'static str {
    match how {
        EndReason::Released => "Released",
        EndReason::Expired => "Expired",
        EndReason::Forced => "Forced",
        EndReason::SessionClosed => "SessionClosed",
        EndReason::SessionExpired => "SessionExpired",
        EndReason::WaitTimeout => "WaitTimeout",
        EndReason::Abandoned => "Abandoned",
        EndReason::HandedOver => "HandedOver",
    }
}

fn holder(holder: &Holder) -> String {
    format!(
        "{} {} token {} since {} renewed {} {}{}{}",
        holder.owner,
        mode(holder.mode),
        holder.token.0,
        stamp(holder.granted_at),
        stamp(holder.renewed_at),
        until(holder.deadline),
        if holder.in_session { " in session" } else { "" },
        metadata(&holder.metadata),
    )
}

fn session(info: &SessionInfo) -> String {
    format!(
        "session {} by {}, ttl {}, until {}, {} leases{}",
        { info.session_id.0 },
        info.owner,
        info.ttl_ms,
        stamp(info.deadline),
        info.lease_count,
        metadata(&info.metadata),
    )
}

fn at_revision(revision: Option<Revision>) -> String {
    revision.map_or("absent".to_string(), |revision| format!("at {}", revision.0))
}

/// The rejection's name, which the scripts must cover, and its details.
fn rejection(rejection: &Rejection) -> (&'static str, String) {
    match rejection {
        Rejection::LockHeld(contention) => {
            let holders: Vec<String> = contention.holders.iter().map(holder).collect();
            let details = format!(
                "{} has {} holders ({}), {} waiting{}",
                contention.name,
                contention.holder_count,
                holders.join("; "),
                contention.queue_length,
                closed(contention.closed_until)
            );
            ("LockHeld", details)
        }
        Rejection::QueueFull { limit } => ("QueueFull", limit.to_string()),
        Rejection::HoldersFull { limit } => ("HoldersFull", limit.to_string()),
        Rejection::LeasesFull { limit } => ("LeasesFull", limit.to_string()),
        Rejection::SessionsFull { limit } => ("SessionsFull", limit.to_string()),
        Rejection::SessionLeasesFull { limit } => ("SessionLeasesFull", limit.to_string()),
        Rejection::AnswersFull { limit } => ("AnswersFull", limit.to_string()),
        Rejection::RequestIdReused => ("RequestIdReused", String::new()),
        Rejection::LeaseGone(gone) => ("LeaseGone", ended(gone)),
        Rejection::LeaseUnknown => ("LeaseUnknown", String::new()),
        Rejection::LeaseWaiting => ("LeaseWaiting", String::new()),
        Rejection::SessionGone { how } => ("SessionGone", end_reason(*how).to_string()),
        Rejection::SessionUnknown => ("SessionUnknown", String::new()),
        Rejection::TokensExhausted => ("TokensExhausted", String::new()),
        Rejection::PermitLimitDiffers { limit } => ("PermitLimitDiffers", limit.to_string()),
        Rejection::LeaseOfOtherLock => ("LeaseOfOtherLock", String::new()),
        Rejection::ValuesFull { limit } => ("ValuesFull", limit.to_string()),
        Rejection::ClaimsInvalid => ("ClaimsInvalid", String::new()),
        Rejection::GrantShared => ("GrantShared", String::new()),
        Rejection::Deadlock(cycle) => {
            let step = |step: &CycleStep| {
                format!("{} waits for {} of {}", step.owner, step.waits_for, step.held_by)
            };
            ("Deadlock", cycle.iter().map(step).collect::<Vec<String>>().join("; "))
        }
        Rejection::RecordChanged { revision } => ("RecordChanged", at_revision(*revision)),
        Rejection::RecordsFull { limit } => ("RecordsFull", limit.to_string()),
    }
}

/// Every name that [`rejection`] gives; some script must show each.
pub(crate) const REJECTIONS: [&str; 22] = [
    "LockHeld",
    "QueueFull",
    "HoldersFull",
    "LeasesFull",
    "SessionsFull",
    "SessionLeasesFull",
    "AnswersFull",
    "RequestIdReused",
    "LeaseGone",
    "LeaseUnknown",
    "LeaseWaiting",
    "SessionGone",
    "SessionUnknown",
    "TokensExhausted",
    "PermitLimitDiffers",
    "LeaseOfOtherLock",
    "ValuesFull",
    "ClaimsInvalid",
    "GrantShared",
    "Deadlock",
    "RecordChanged",
    "RecordsFull",
];

/// Every name that [`end_reason`] gives; some script must show each.
pub(crate) const END_REASONS: [&str; 8] = [
    "Released",
    "Expired",
    "Forced",
    "SessionClosed",
    "SessionExpired",
    "WaitTimeout",
    "Abandoned",
    "HandedOver",
];

pub(crate) fn outcome(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Done => "done".to_string(),
        Outcome::Granted(held) => format!("granted {}", grant(held)),
        Outcome::Queued(queued) => {
            format!("queued lease {} at position {}", { queued.lease_id.0 }, queued.position)
        }
        Outcome::Renewed(held) => format!("renewed {}", grant(held)),
        Outcome::Released(end) => format!("released {}", ended(end)),
        Outcome::ForceReleased(ends) => {
            let ends: Vec<String> = ends.iter().map(ended).collect();
            format!("forced [{}]", ends.join("; "))
        }
        Outcome::SessionOpened(info) => format!("opened {}", session(info)),
        Outcome::SessionRenewed(info) => format!("renewed {}", session(info)),
        Outcome::SessionClosed { session_id, leases_ended } => {
            format!("closed session {} with {leases_ended} leases", { session_id.0 })
        }
        Outcome::GrantedMany(grants) => {
            format!(
                "granted together [{}]",
                grants.iter().map(grant).collect::<Vec<_>>().join("; ")
            )
        }
        Outcome::QueuedMany(places) => {
            let place = |queued: &Queued| {
                format!("lease {} at position {}", { queued.lease_id.0 }, queued.position)
            };
            format!("queued [{}]", places.iter().map(place).collect::<Vec<_>>().join("; "))
        }
        Outcome::ValueSet(Some(info)) => format!("set {}", value(info)),
        Outcome::ValueSet(None) => "value deleted by the holder".to_string(),
        Outcome::ValueDeleted { existed } => format!("value deleted, existed: {existed}"),
        Outcome::RecordPut(revision) => format!("record {}", at_revision(*revision)),
        Outcome::Rejected(refused) => {
            let (name, details) = rejection(refused);
            format!("rejected {name} {details}").trim_end().to_string()
        }
    }
}

pub(crate) fn event(event: &Event) -> String {
    let what = match &event.kind {
        EventKind::Granted { grant: held, attached, queued, in_group } => {
            let attached = if *attached { "attached" } else { "unclaimed" };
            let queued = if *queued { "from the queue" } else { "at once" };
            let together = if *in_group { ", together" } else { "" };
            format!("granted {queued}{together}, {attached}: {}", grant(held))
        }
        EventKind::Queued { name, owner, queue_length } => {
            format!("queued {owner} for {name}, length {queue_length}")
        }
        EventKind::Ended { ended: end, owner, held_ms, reason } => {
            let reason = reason.as_ref().map(|text| format!(", {text}")).unwrap_or_default();
            format!("ended {} by {owner}, held {held_ms}{reason}", ended(end))
        }
        EventKind::Reopened { name } => format!("{name} reopened"),
        EventKind::ValueChanged { name, token: Some(token) } => {
            format!("value of {name} written under token {}", token.0)
        }
        EventKind::ValueChanged { name, token: None } => format!("value of {name} deleted"),
        EventKind::SessionOpened { session_id } => format!("session {} opened", { session_id.0 }),
        EventKind::SessionEnded { session_id } => format!("session {} ended", { session_id.0 }),
    };
    format!("r{} {what}", event.revision.0)
}

fn lock(view: &LockView) -> Vec<String> {
    let mut lines = vec![format!(
        "{}: {} holders, {} waiting, last token {}, ceiling {}, {}, now {}{}",
        view.name,
        view.holder_count,
        view.queue_length,
        view.last_token.map_or("none".to_string(), |token| token.0.to_string()),
        view.token_ceiling.0,
        view.revision.map_or("forgotten".to_string(), |revision| format!("r{}", revision.0)),
        stamp(view.now),
        closed(view.closed_until),
    )];
    lines.extend(view.value.iter().map(|info| format!("value {}", value(info))));
    lines.extend(view.holders.iter().map(|held| format!("held by {}", holder(held))));
    lines.extend(view.waiters.iter().map(|waiter| {
        format!(
            "{}. {} {} for {} {}{}",
            waiter.position,
            waiter.owner,
            mode(waiter.mode),
            waiter.waiting_ms,
            if waiter.attached { "attached" } else { "detached" },
            metadata(&waiter.metadata),
        )
    }));
    lines
}

fn lease(view: &LeaseView) -> String {
    match view {
        LeaseView::Held(held) => format!("held {}", grant(held)),
        LeaseView::Waiting { name, owner, mode: wanted, position, waiting_ms } => {
            format!("{owner} waits for {name} {}, {position}. for {waiting_ms}", mode(*wanted))
        }
        LeaseView::Ended(end) => format!("ended {}", ended(end)),
        LeaseView::Unknown => "unknown".to_string(),
    }
}

/// The answer to a question line (without its `?`).
pub(crate) fn answer(machine: &Machine, question: &str) -> Vec<String> {
    let mut words = Words::new(question);
    let lines = match words.plain(0) {
        "lock" => {
            let holders_max = words.take("holders").map_or(100, number);
            let waiters_max = words.take("waiters").map_or(100, number);
            lock(&machine.lock(&name(words.plain(1)), holders_max, waiters_max))
        }
        "locks" => {
            let prefix = words.take("prefix").unwrap_or_default();
            let limit = words.take("limit").map_or(100, number);
            let page = machine.locks(prefix, words.take("after"), limit);
            let mut lines: Vec<String> = page.locks.iter().flat_map(lock).collect();
            lines.extend(page.next.map(|next| format!("more after {next}")));
            if lines.is_empty() { vec!["nothing".to_string()] } else { lines }
        }
        "lease" => {
            use oarlock_core::ids::LeaseId;
            vec![lease(&machine.lease(LeaseId(number(words.plain(1)))))]
        }
        "session" => {
            use oarlock_core::ids::SessionId;
            vec![match machine.session(SessionId(number(words.plain(1)))) {
                SessionView::Open(info) => session(&info),
                SessionView::Ended { how } => format!("ended {}", end_reason(how)),
                SessionView::Unknown => "unknown".to_string(),
            }]
        }
        "fence" => match machine.fence(&name(words.plain(1)), Token(number(words.plain(2)))) {
            Ok(held) => vec![format!("holds: {}", holder(&held))],
            Err(view) => [vec!["does not hold".to_string()], lock(&view)].concat(),
        },
        "history" => {
            let before = words.take("before").map(|token| Token(number(token)));
            let limit = words.take("limit").map_or(100, number);
            let page = machine.history(&name(words.plain(1)), before, limit);
            let mut lines: Vec<String> = page.grants.iter().map(past).collect();
            lines.extend(page.next.map(|next| format!("more before {}", next.0)));
            if lines.is_empty() { vec!["nothing".to_string()] } else { lines }
        }
        "token" => {
            let grant = machine.grant_of_token(Token(number(words.plain(1))));
            vec![grant.map_or("unknown".to_string(), |grant| past(&grant))]
        }
        "totals" => {
            let totals = machine.totals();
            vec![format!(
                "{} locks, {} held, {} waiting, {} sessions, {} answers",
                totals.locks,
                totals.leases_held,
                totals.leases_waiting,
                totals.sessions,
                totals.answers
            )]
        }
        "records" => {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let records = machine.cluster_records(words.take("prefix").unwrap_or_default());
            let mut lines: Vec<String> = records
                .map(|(key, it)| {
                    format!("{key} at {}: {}", it.revision.0, text(it.value.as_bytes()))
                })
                .collect();
            lines.push(format!("the last revision is {}", machine.record_revision().0));
            lines
        }
        "due" => {
            let due = machine.next_due().map_or("nothing due".to_string(), stamp);
            let rest = if machine.has_pending() { "pending" } else { "at rest" };
            vec![format!("{due}, {rest}")]
        }
        other => panic!("unknown question {other}"),
    };
    words.done();
    lines
}
