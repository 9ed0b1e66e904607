//! What the steps of a call tell its trace: fixed words, names of locks, numbers of nodes and terms.

use oarlock_core::command::Command;
use oarlock_core::ids::LockName;
use oarlock_core::outcome::{Outcome, Rejection};

use crate::service::error::ServiceError;
use crate::service::handle::Service;
use crate::service::kinds;
use crate::service::replicator::{
    Call, ForwardError, ProposeError, Query, Replicator, Reply, ReplyBody,
};
use crate::traces::{self, Fact, Span, Step};

impl<R: Replicator> Service<R> {
    /// A step of the work on a request, under the leadership that this node knows of.
    pub(super) fn step(&self, step: Step) -> Span {
        let span = traces::step(step);
        if span.is_open() {
            span.tell(Fact::Term(self.leadership().term));
        }
        span
    }
}

/// What is asked for. Only of commands, of which a request has one at most. Answers whether a lock was
/// named: an attribute is told once.
pub(super) fn of_call(call: &Call, tell: impl Fn(Fact<'_>)) -> bool {
    match call {
        Call::Propose(command) => of_command(command, tell),
        Call::Read(_)
        | Call::Position
        | Call::TransferLeader(_)
        | Call::Members(_)
        | Call::Tokens(_) => false,
    }
}

/// The same of a command alone.
pub(super) fn of_command(command: &Command, tell: impl Fn(Fact<'_>)) -> bool {
    tell(Fact::Command(kinds::command(command)));
    let name = match command {
        Command::Acquire(acquire) => &acquire.name,
        Command::ForceRelease { name, .. }
        | Command::SetValue { name, .. }
        | Command::DeleteValue { name } => name,
        Command::AcquireMany(many) => {
            tell(Fact::Locks(many.claims.len()));
            return false;
        }
        // Only the answer knows of which lock.
        Command::Renew { .. }
        | Command::Release { .. }
        | Command::HandOver(_)
        | Command::Attach { .. }
        | Command::Detach { .. }
        | Command::DetachAll
        | Command::Advance
        | Command::OpenSession(_)
        | Command::RenewSession { .. }
        | Command::CloseSession { .. }
        | Command::PutRecord { .. } => return false,
    };
    tell(Fact::Lock(name));
    true
}

/// Which lock a read asks for.
pub(super) fn of_query(query: &Query, tell: impl Fn(Fact<'_>)) {
    match query {
        Query::Lock { name, .. } | Query::Fence { name, .. } | Query::History { name, .. } => {
            tell(Fact::Lock(name));
        }
        Query::Locks { .. } | Query::Lease(_) | Query::Session(_) | Query::Token(_) => {}
    }
}

/// What became of it, and of which lock if that is not told yet.
pub(super) fn of_reply(reply: &Reply, is_named: bool, tell: impl Fn(Fact<'_>)) {
    if let ReplyBody::Outcome(outcome) = &reply.body {
        of_outcome(outcome, is_named, tell);
    }
}

/// The same of a proposal, which may have failed.
pub(super) fn of_proposal(
    outcome: &Result<Outcome, ProposeError>,
    is_named: bool,
    tell: impl Fn(Fact<'_>),
) {
    match outcome {
        Ok(outcome) => of_outcome(outcome, is_named, tell),
        Err(ProposeError::NotDone(_)) => tell(Fact::Outcome("not-done")),
        Err(ProposeError::NotLeader(_)) => tell(Fact::Outcome("not-leader")),
        Err(ProposeError::Unknown(_)) => tell(Fact::Outcome("unknown")),
    }
}

/// The same of an answer of the leader.
pub(super) fn of_answer(answer: &Result<Reply, ForwardError>, tell: impl Fn(Fact<'_>)) {
    match answer {
        Ok(reply) => of_reply(reply, false, tell),
        Err(ForwardError::NotSent(_)) => tell(Fact::Outcome("not-sent")),
        Err(ForwardError::Broken(_) | ForwardError::Remote(ServiceError::Unknown(_))) => {
            tell(Fact::Outcome("unknown"));
        }
        Err(ForwardError::Remote(_)) => tell(Fact::Outcome("refused")),
    }
}

fn of_outcome(outcome: &Outcome, is_named: bool, tell: impl Fn(Fact<'_>)) {
    tell(Fact::Outcome(kinds::outcome(outcome)));
    if let Some(name) = lock_in(outcome).filter(|_| !is_named) {
        tell(Fact::Lock(name));
    }
}

fn lock_in(outcome: &Outcome) -> Option<&LockName> {
    match outcome {
        Outcome::Granted(grant) | Outcome::Renewed(grant) => Some(&grant.name),
        Outcome::Released(ended) | Outcome::Rejected(Rejection::LeaseGone(ended)) => {
            Some(&ended.name)
        }
        Outcome::Rejected(_)
        | Outcome::Done
        | Outcome::Queued(_)
        | Outcome::ForceReleased(_)
        | Outcome::SessionOpened(_)
        | Outcome::SessionRenewed(_)
        | Outcome::SessionClosed { .. }
        | Outcome::ValueSet(_)
        | Outcome::ValueDeleted { .. }
        | Outcome::GrantedMany(_)
        | Outcome::QueuedMany(_)
        | Outcome::RecordPut(_) => None,
    }
}
