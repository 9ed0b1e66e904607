//! What of an entry is kept: a line each for who was granted, refused or lost a lock, who forced one
//! out, and for every change of the members and of the cluster's own records.

use oarlock_core::command::{Command, ForceTarget, Mode};
use oarlock_core::event::{Event, EventKind};
use oarlock_core::ids::{LockName, Owner};
use oarlock_core::outcome::{Grant, Outcome, Rejection};
use serde::Serialize;

use crate::observe::metrics::how;
use crate::service::called::{Called, End, is_denial};
use crate::service::error::ServiceError;
use crate::service::kinds::reason;
use crate::service::members::MembersReply;
use crate::service::observer::Told;
use crate::service::replicator::{Reply, ReplyBody};
use crate::service::tokens::TokensReply;

/// One line without its place in the chain. What does not apply is left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(super) struct Record {
    action: &'static str,
    /// Whose doing it is, as far as anybody is known: the owner of the lock.
    #[serde(skip_serializing_if = "Option::is_none")]
    actor: Option<String>,
    /// Whose credential it was, by its name and id; only the node that was asked knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    identity: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lock: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<u64>,
    /// More about it: the mode, how it ended, what was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
    /// As an operator gave it.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl Record {
    fn new(action: &'static str) -> Self {
        Self { action, ..Self::default() }
    }

    fn by(self, actor: &Owner) -> Self {
        Self { actor: Some(actor.as_str().to_owned()), ..self }
    }

    fn on(self, lock: &LockName) -> Self {
        Self { lock: Some(lock.as_str().to_owned()), ..self }
    }

    fn saying(self, detail: impl Into<String>) -> Self {
        Self { detail: Some(detail.into()), ..self }
    }

    /// A run of the node begins.
    pub(super) fn began() -> Self {
        Self::new("began").saying(concat!("oarlock ", env!("CARGO_PKG_VERSION")))
    }

    /// The node stopped in order, with nothing left to write.
    pub(super) fn stopped() -> Self {
        Self::new("stopped")
    }

    /// The key of the node's configuration was used.
    pub(super) fn break_glass(asked: &str) -> Self {
        Self { actor: Some("break-glass".to_owned()), ..Self::new("break-glass").saying(asked) }
    }

    /// These lines were written, and the file does not have them any more.
    pub(super) fn lost(from: u64, to: u64) -> Self {
        Self::new("gap").saying(format!("lines {from} to {to} were written and are gone"))
    }

    /// So many calls to this node have no line.
    pub(super) fn untold(calls: u64) -> Self {
        Self::new("gap").saying(format!("{calls} calls to this node have no line"))
    }

    /// Who called this node for what, and how that ended.
    pub(super) fn called(called: &Called<'_>) -> Self {
        let action = match called.end {
            End::Failed(error) if is_denial(error) => "denied",
            End::Failed(_) | End::Answered(_) | End::Unheard => "called",
        };
        let (end, locks, token) = match called.end {
            End::Answered(reply) => answered(reply),
            End::Failed(error) => (failed(error), Vec::new(), None),
            End::Unheard => ("unheard", Vec::new(), None),
        };
        let named = || called.locks.iter().map(LockName::as_str);
        let locks = if called.locks.is_empty() { locks } else { named().collect() };
        Self {
            identity: Some(called.identity.clone()),
            lock: (!locks.is_empty()).then(|| locks.join(" ")),
            token,
            ..Self::new(action).saying(format!("{}: {end}", called.asked))
        }
    }

    /// These entries have no lines here, or not all of theirs.
    pub(super) fn gap(from: u64, to: u64) -> Self {
        Self::new("gap").saying(format!("entries {from} to {to} may lack lines"))
    }
}

/// How an answer is told: in a word, with the locks that only it names, and the token of a grant.
fn answered(reply: &Reply) -> (&'static str, Vec<&str>, Option<u64>) {
    let word = |word| (word, Vec::new(), None);
    let granted = |grant: &Grant| Some(grant.token.0);
    match &reply.body {
        ReplyBody::Outcome(outcome) => match outcome {
            Outcome::Granted(grant) => ("granted", vec![grant.name.as_str()], granted(grant)),
            Outcome::GrantedMany(grants) => {
                let names = grants.iter().map(|grant| grant.name.as_str()).collect();
                ("granted", names, grants.first().and_then(granted))
            }
            Outcome::Released(ended) => ("released", vec![ended.name.as_str()], None),
            Outcome::Rejected(rejection) => word(reason(rejection)),
            Outcome::Queued(_) | Outcome::QueuedMany(_) => word("queued"),
            Outcome::Done
            | Outcome::Renewed(_)
            | Outcome::ForceReleased(_)
            | Outcome::SessionOpened(_)
            | Outcome::SessionRenewed(_)
            | Outcome::SessionClosed { .. }
            | Outcome::ValueSet(_)
            | Outcome::ValueDeleted { .. }
            | Outcome::RecordPut(_) => word("done"),
        },
        ReplyBody::Members(MembersReply::Refused(_))
        | ReplyBody::Tokens(TokensReply::Refused(_)) => word("refused"),
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
        | ReplyBody::Tokens(_) => word("done"),
    }
}

fn failed(error: &ServiceError) -> &'static str {
    match error {
        ServiceError::NoLeader | ServiceError::NotLeader(_) => "no-leader",
        ServiceError::Overloaded(_) => "overloaded",
        ServiceError::ShuttingDown | ServiceError::Leaving => "shutting-down",
        ServiceError::Unknown(_) => "unknown",
        ServiceError::Unauthenticated(_) => "unauthenticated",
        ServiceError::Forbidden(_) => "forbidden",
        ServiceError::Revoked => "revoked",
        ServiceError::OverQuota { .. } => "quota-exceeded",
    }
}

/// The lines of an entry, and the wall clock of the leader that wrote it, for display.
pub(super) fn of(told: &Told<'_>) -> (Option<u64>, Vec<Record>) {
    match told {
        Told::Nothing => (None, Vec::new()),
        Told::Members { voters, learners } => {
            let detail = format!("voters {voters:?}, learners {learners:?}");
            (None, vec![Record::new("members").saying(detail)])
        }
        Told::Commands(entry, applied) => {
            let commands = entry.commands.iter().map(|(_, command)| command);
            let answered = commands.zip(&applied.outcomes);
            let mut records: Vec<Record> =
                answered.filter_map(|(command, outcome)| of_command(command, outcome)).collect();
            records.extend(applied.events.iter().filter_map(of_event));
            (Some(entry.wall_ms), records)
        }
    }
}

fn of_command(command: &Command, outcome: &Outcome) -> Option<Record> {
    if let Outcome::Rejected(rejection) = outcome {
        return refused(command, rejection);
    }
    match command {
        Command::ForceRelease { name, reason, target, .. } => {
            let whom = match target {
                ForceTarget::Token(token) => format!("token {}", token.0),
                ForceTarget::All => "all".to_owned(),
            };
            let ended = if let Outcome::ForceReleased(ended) = outcome { ended.len() } else { 0 };
            let record = Record::new("forced").on(name);
            let record = record.saying(format!("{whom}; taken from {ended}"));
            Some(Record { reason: Some(reason.as_str().to_owned()), ..record })
        }
        Command::PutRecord { key, value, .. } => {
            let what = if value.is_some() { "written" } else { "deleted" };
            Some(Record::new("record").saying(format!("{} {what}", key.as_str())))
        }
        // Who was granted, and how that ended, is told by the events, whatever brought it about.
        Command::Acquire(_)
        | Command::AcquireMany(_)
        | Command::HandOver(_)
        | Command::OpenSession(_)
        | Command::SetValue { .. }
        | Command::DeleteValue { .. }
        | Command::Advance
        | Command::Attach { .. }
        | Command::Detach { .. }
        | Command::DetachAll
        | Command::Renew { .. }
        | Command::Release { .. }
        | Command::RenewSession { .. }
        | Command::CloseSession { .. } => None,
    }
}

/// A refusal of who asked for something by name; who named a lease alone is not known.
fn refused(command: &Command, rejection: &Rejection) -> Option<Record> {
    let record = Record::new("refused");
    let (asked, record) = match command {
        Command::Acquire(it) => ("acquire", record.by(&it.owner).on(&it.name)),
        Command::AcquireMany(it) => {
            let names: Vec<&str> = it.claims.iter().map(|claim| claim.name.as_str()).collect();
            let lock = Some(names.join(" "));
            ("acquire", Record { lock, ..record.by(&it.owner) })
        }
        Command::HandOver(it) => ("hand-over", record.by(&it.owner)),
        Command::OpenSession(it) => ("open-session", record.by(&it.owner)),
        Command::ForceRelease { name, .. } => ("force-release", record.on(name)),
        Command::SetValue { name, .. } => ("set-value", record.on(name)),
        Command::DeleteValue { name, .. } => ("delete-value", record.on(name)),
        Command::PutRecord { key, .. } => {
            return Some(record.saying(format!("{}: {}", key.as_str(), reason(rejection))));
        }
        Command::Advance
        | Command::Attach { .. }
        | Command::Detach { .. }
        | Command::DetachAll
        | Command::Renew { .. }
        | Command::Release { .. }
        | Command::RenewSession { .. }
        | Command::CloseSession { .. } => return None,
    };
    Some(record.saying(format!("{asked}: {}", reason(rejection))))
}

fn of_event(event: &Event) -> Option<Record> {
    match &event.kind {
        EventKind::Granted { grant, .. } => {
            let mode = match grant.mode {
                Mode::Exclusive => "exclusive".to_owned(),
                Mode::Shared => "shared".to_owned(),
                Mode::Permits(permits) => format!("{} of {}", permits.count(), permits.limit()),
            };
            let record = Record::new("granted").by(&grant.owner).on(&grant.name).saying(mode);
            Some(Record { token: Some(grant.token.0), ..record })
        }
        EventKind::Ended { ended, owner, reason, .. } => {
            let token = Some(ended.token?.0);
            let reason = reason.as_ref().map(|reason| reason.as_str().to_owned());
            let record = Record::new("ended").by(owner).on(&ended.name).saying(how(ended.how));
            Some(Record { token, reason, ..record })
        }
        EventKind::Queued { .. }
        | EventKind::Reopened { .. }
        | EventKind::ValueChanged { .. }
        | EventKind::SessionOpened { .. }
        | EventKind::SessionEnded { .. } => None,
    }
}
