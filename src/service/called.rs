//! Who asked for what, and what became of it: told at the node that was asked, where alone the
//! credential is known, to whoever keeps an audit (docs/adr/0027). Written beside no surface, and matched
//! in full, so that a new call does not compile without.
//!
//! What changes something is told with its end, also when its caller hung up before; renewals and
//! reads are told of when they are denied. While nobody listens a call pays for one load, and while
//! nobody is asked for an identity there is none to tell.

use std::borrow::Cow;
use std::fmt;

use oarlock_core::command::Command;
use oarlock_core::ids::LockName;

use crate::auth::credential::is_id;
use crate::auth::right::{Scope, Verb};
use crate::service::error::ServiceError;
use crate::service::gate::{Caller, Shown};
use crate::service::handle::Service;
use crate::service::members::MembersCall;
use crate::service::replicator::{Call, Query, Replicator, Reply};
use crate::service::tokens::TokensCall;

/// One call that came to this node.
#[derive(Debug)]
pub struct Called<'a> {
    /// Name and id of the credential, or in words what was shown instead.
    pub identity: String,
    /// Whether it is one of the cluster's, or the key of this node.
    pub is_known: bool,
    pub asked: &'a str,
    /// The locks that it named, and no others.
    pub locks: &'a [LockName],
    pub end: End<'a>,
}

/// How a call ended.
#[derive(Debug, Clone, Copy)]
pub enum End<'a> {
    Answered(&'a Reply),
    Failed(&'a ServiceError),
    /// The caller hung up; the log may tell what became of it.
    Unheard,
}

/// Hears of calls. Must be quick, and never wait.
pub type Hears = Box<dyn Fn(&Called<'_>) + Send + Sync>;

/// What a call is about.
#[derive(Debug)]
struct Asked {
    what: Cow<'static, str>,
    locks: Vec<LockName>,
    /// Told also when it is not denied.
    changes: bool,
}

/// A call under way that will be told of.
pub(super) struct Telling<'a, R: Replicator> {
    service: &'a Service<R>,
    hears: &'a Hears,
    caller: &'a Caller,
    asked: Asked,
    is_told: bool,
}

impl<R: Replicator> Telling<'_, R> {
    pub(super) fn end(mut self, answer: &Result<Reply, ServiceError>) {
        self.is_told = true;
        match answer {
            Ok(reply) if self.asked.changes => self.tell(End::Answered(reply)),
            Err(error) if self.asked.changes || is_denial(error) => self.tell(End::Failed(error)),
            Ok(_) | Err(_) => {}
        }
    }

    fn tell(&self, end: End<'_>) {
        // The first credential closes the gate by the call that makes it.
        if self.service.is_gate_closed() {
            let Asked { what: asked, locks, .. } = &self.asked;
            let (identity, is_known) = identity(self.caller);
            (self.hears)(&Called { identity, is_known, asked, locks, end });
        }
    }
}

impl<R: Replicator> Drop for Telling<'_, R> {
    fn drop(&mut self) {
        if !self.is_told && self.asked.changes {
            self.tell(End::Unheard);
        }
    }
}

impl<R: Replicator> Service<R> {
    /// Who hears of calls; set once, before the first of them.
    pub fn on_called(&self, hears: Hears) {
        let _set_before = self.hears.set(hears);
    }

    pub(super) fn telling<'a>(&'a self, caller: &'a Caller, call: &Call) -> Option<Telling<'a, R>> {
        let hears = self.hears.get()?;
        if !self.is_gate_closed() && !matches!(call, Call::Tokens(_)) {
            return None;
        }
        let asked = asked(call);
        Some(Telling { service: self, hears, caller, asked, is_told: false })
    }

    /// A stale read that this node does not give.
    pub(super) fn tell_read(&self, caller: &Caller, call: &Call, error: &ServiceError) {
        let Asked { what, locks, .. } = asked(call);
        self.tell_denied(caller, format_args!("{what}"), &locks, error);
    }

    /// Somebody was turned away before there was a call.
    pub(super) fn tell_stranger(
        &self,
        shown: Shown<'_>,
        asked: fmt::Arguments<'_>,
        error: &ServiceError,
    ) {
        let Some(hears) = self.hears.get() else { return };
        let identity = match shown {
            Shown::Nothing => ANONYMOUS.to_owned(),
            Shown::Key(_) => "an unknown token".to_owned(),
            Shown::Certificate(name) => format!("a certificate of {name}"),
        };
        let (asked, end) = (asked.to_string(), End::Failed(error));
        hears(&Called { identity, is_known: false, asked: &asked, locks: &[], end });
    }

    /// Refuses unless the caller may do one of that, over whatever names; `asked` is for the audit.
    pub fn permit_one_of(
        &self,
        caller: &Caller,
        verbs: &[Verb],
        asked: fmt::Arguments<'_>,
    ) -> Result<(), ServiceError> {
        let may = |verb: &Verb| self.may(caller, *verb, Scope::Any);
        let Some(first) = verbs.first() else { return Ok(()) };
        if verbs.iter().any(|verb| may(verb).is_ok()) {
            return Ok(());
        }
        may(first).inspect_err(|error| self.tell_denied(caller, asked, &[], error))
    }

    /// Refuses unless the caller may do that.
    pub fn permit(
        &self,
        caller: &Caller,
        verb: Verb,
        scope: Scope<'_>,
    ) -> Result<(), ServiceError> {
        self.may(caller, verb, scope).inspect_err(|error| {
            let named = if let Scope::Name(name) = scope { LockName::new(name).ok() } else { None };
            let locks: Vec<LockName> = named.into_iter().collect();
            self.tell_denied(caller, format_args!("{verb}"), &locks, error);
        })
    }

    pub(super) fn tell_denied(
        &self,
        caller: &Caller,
        asked: fmt::Arguments<'_>,
        locks: &[LockName],
        error: &ServiceError,
    ) {
        let Some(hears) = self.hears.get() else { return };
        let (identity, was_known) = identity(caller);
        // Whoever shows a credential that ran out is told of no oftener than one who has none.
        let is_known = was_known && !matches!(error, ServiceError::Unauthenticated(_));
        let (asked, end) = (asked.to_string(), End::Failed(error));
        hears(&Called { identity, is_known, asked: &asked, locks, end });
    }
}

const ANONYMOUS: &str = "anonymous";

fn identity(caller: &Caller) -> (String, bool) {
    match caller.id() {
        None => (ANONYMOUS.to_owned(), false),
        // The key of a node is of nobody in particular.
        Some(id) if id == caller.name() => (id, true),
        Some(id) => (format!("{}/{id}", caller.name()), true),
    }
}

/// Whether somebody was turned away for who they are.
pub fn is_denial(error: &ServiceError) -> bool {
    match error {
        ServiceError::Unauthenticated(_) | ServiceError::Forbidden(_) => true,
        ServiceError::NoLeader
        | ServiceError::Overloaded(_)
        | ServiceError::ShuttingDown
        | ServiceError::Unknown(_)
        | ServiceError::NotLeader(_)
        | ServiceError::Leaving
        | ServiceError::Revoked
        | ServiceError::OverQuota { .. } => false,
    }
}

fn asked(call: &Call) -> Asked {
    let changes = |what: Cow<'static, str>| Asked { what, locks: Vec::new(), changes: true };
    match call {
        Call::Propose(command) => asked_of_command(command),
        Call::Read(query) => {
            let lock = match query {
                Query::Lock { name, .. }
                | Query::Fence { name, .. }
                | Query::History { name, .. } => Some(name.clone()),
                Query::Locks { .. } | Query::Lease(_) | Query::Session(_) | Query::Token(_) => None,
            };
            let locks = lock.into_iter().collect();
            Asked { what: "read".into(), locks, changes: false }
        }
        // All of the state goes to whoever asks for where it stands.
        Call::Position => changes("backup".into()),
        Call::TransferLeader(_) => changes("transfer-leader".into()),
        Call::Members(call) => changes(match call {
            MembersCall::Invite { .. } => "invite-member".into(),
            MembersCall::Join(_) => "join".into(),
            MembersCall::Promote(id) => format!("promote-member {id}").into(),
            MembersCall::Remove { node_id, .. } => format!("remove-member {node_id}").into(),
            MembersCall::Replace { old, new } => format!("replace-member {old} by {new}").into(),
        }),
        Call::Tokens(call) => changes(match call {
            TokensCall::Create { id, .. } => format!("create-token {id}").into(),
            TokensCall::Revoke { id } if is_id(id) => format!("revoke-token {id}").into(),
            TokensCall::Revoke { .. } => "revoke-token".into(),
        }),
    }
}

fn asked_of_command(command: &Command) -> Asked {
    let (what, lock, changes) = match command {
        Command::Acquire(it) => ("acquire", Some(&it.name), true),
        Command::AcquireMany(it) => {
            let locks = it.claims.iter().map(|claim| claim.name.clone()).collect();
            return Asked { what: "acquire".into(), locks, changes: true };
        }
        Command::HandOver(_) => ("hand-over", None, true),
        Command::Release { .. } => ("release", None, true),
        Command::ForceRelease { name, .. } => ("force-release", Some(name), true),
        Command::OpenSession(_) => ("open-session", None, true),
        Command::CloseSession { .. } => ("close-session", None, true),
        Command::SetValue { name, value: Some(_), .. } => ("set-value", Some(name), true),
        Command::SetValue { name, value: None, .. } | Command::DeleteValue { name } => {
            ("delete-value", Some(name), true)
        }
        Command::Renew { .. } => ("renew", None, false),
        Command::RenewSession { .. } => ("renew-session", None, false),
        Command::Attach { .. } | Command::Detach { .. } => ("wait", None, false),
        // No surface has these.
        Command::Advance | Command::DetachAll | Command::PutRecord { .. } => {
            ("what the cluster itself does", None, true)
        }
    };
    Asked { what: what.into(), locks: lock.cloned().into_iter().collect(), changes }
}
