//! What each call demands of its caller: one verb, over each of the names that it is about. Written
//! beside no surface, so that none can forget it, and matched in full, so that a new call does not
//! compile without.

use oarlock_core::command::Command;
use oarlock_core::ids::{LockName, Owner};
use oarlock_core::outcome::{CycleStep, Outcome, Rejection};

use crate::auth::credential::Credential;
use crate::auth::right::{Scope, Verb};
use crate::service::error::ServiceError;
use crate::service::members::MembersCall;
use crate::service::replicator::{Call, Query, Reply, ReplyBody};
use crate::service::tokens::TokensCall;

/// Whether the call brings its own proof: a join token, which the gate of the members checks.
pub(super) fn are_none(call: &Call) -> bool {
    matches!(call, Call::Members(MembersCall::Join(_)))
}

/// Whether the call makes the first credential, which nobody can be asked for.
pub(super) fn is_first_credential(call: &Call) -> bool {
    matches!(call, Call::Tokens(TokensCall::Create { first: true, .. }))
}

/// Refuses unless the credential has the rights for the call, for each inner operation too.
pub(super) fn met(credential: &Credential, call: &Call) -> Result<(), ServiceError> {
    match call {
        Call::Propose(command) => command_met(credential, command),
        Call::Read(query) => query_met(credential, query),
        Call::Members(MembersCall::Join(_)) => Ok(()),
        Call::Position | Call::TransferLeader(_) | Call::Members(_) | Call::Tokens(_) => {
            need(credential, &[Verb::Admin], Scope::Any)
        }
    }
}

fn command_met(credential: &Credential, command: &Command) -> Result<(), ServiceError> {
    let name = |name: &LockName| need(credential, &[Verb::Acquire], Scope::Name(name.as_str()));
    match command {
        Command::Acquire(acquire) => name(&acquire.name),
        Command::AcquireMany(many) => many.claims.iter().try_for_each(|claim| name(&claim.name)),
        Command::SetValue { name: lock, .. } | Command::DeleteValue { name: lock } => name(lock),
        Command::ForceRelease { name, .. } => {
            need(credential, &[Verb::Force], Scope::Name(name.as_str()))
        }
        // Named by an id that nobody can guess: whoever knows it was given it.
        Command::HandOver(_)
        | Command::Attach { .. }
        | Command::Detach { .. }
        | Command::Renew { .. }
        | Command::Release { .. }
        | Command::OpenSession(_)
        | Command::RenewSession { .. }
        | Command::CloseSession { .. } => need(credential, &[Verb::Acquire], Scope::Any),
        // No surface has these.
        Command::Advance | Command::DetachAll | Command::PutRecord { .. } => {
            Err(ServiceError::Forbidden("only the cluster itself does that".to_owned()))
        }
    }
}

fn query_met(credential: &Credential, query: &Query) -> Result<(), ServiceError> {
    let inspect = |scope| need(credential, &[Verb::Inspect], scope);
    // What whoever takes the lock is told anyway: by a refusal, or by holding it.
    let either = |name: &LockName| {
        need(credential, &[Verb::Inspect, Verb::Acquire], Scope::Name(name.as_str()))
    };
    match query {
        Query::Lock { name, waiters_max: 0 } | Query::Fence { name, .. } => either(name),
        Query::Lock { name, .. } | Query::History { name, .. } => {
            inspect(Scope::Name(name.as_str()))
        }
        Query::Locks { prefix, .. } => inspect(Scope::Prefix(prefix)),
        // The lock is known only with the answer, from which it is taken if it may not be seen.
        Query::Token(_) => inspect(Scope::Any),
        Query::Lease(_) | Query::Session(_) => need(credential, &[Verb::Acquire], Scope::Any),
    }
}

fn need(credential: &Credential, verbs: &[Verb], scope: Scope<'_>) -> Result<(), ServiceError> {
    if verbs.iter().any(|verb| credential.may(*verb, scope)) {
        return Ok(());
    }
    let verb = verbs.first().copied().unwrap_or(Verb::Admin);
    Err(lacking(credential, verb, scope))
}

/// The refusal, with what would be needed.
pub(super) fn lacking(credential: &Credential, verb: Verb, scope: Scope<'_>) -> ServiceError {
    let name = &credential.name;
    let about = match scope {
        Scope::Name(lock) => format!(" over `{lock}`"),
        Scope::Prefix("") => " over all names; name a prefix that it has".to_owned(),
        Scope::Prefix(prefix) => format!(" over all names that begin with `{prefix}`"),
        Scope::Any => String::new(),
    };
    ServiceError::Forbidden(format!("`{name}` lacks the right {verb}{about}"))
}

/// Takes out of a reply what is about locks that the caller may not see.
pub(super) fn redact(credential: &Credential, reply: &mut Reply) {
    let sees = |name: &LockName| {
        let scope = Scope::Name(name.as_str());
        credential.may(Verb::Inspect, scope) || credential.may(Verb::Acquire, scope)
    };
    match &mut reply.body {
        ReplyBody::Grant(grant) => {
            if grant
                .as_ref()
                .is_some_and(|it| !credential.may(Verb::Inspect, Scope::Name(it.name.as_str())))
            {
                *grant = None;
            }
        }
        ReplyBody::Outcome(Outcome::Rejected(Rejection::Deadlock(cycle))) => {
            for step in cycle.iter_mut().filter(|step| !sees(&step.waits_for)) {
                hide(step);
            }
        }
        ReplyBody::Outcome(_)
        | ReplyBody::Lock(_)
        | ReplyBody::Locks(_)
        | ReplyBody::Lease(_)
        | ReplyBody::Session(_)
        | ReplyBody::Fence(_)
        | ReplyBody::History(_)
        | ReplyBody::Position(_)
        | ReplyBody::Transfer(_)
        | ReplyBody::Members(_)
        | ReplyBody::Tokens(_) => {}
    }
}

/// That there is a circle must be told; by way of which lock of others need not.
fn hide(step: &mut CycleStep) {
    if let (Ok(lock), Ok(owner)) = (LockName::new("another lock"), Owner::new("somebody")) {
        *step = CycleStep { owner: owner.clone(), waits_for: lock, held_by: owner };
    }
}
