//! Questions about the replicated state: linearizable on the leader (P6), or local and dated.

use std::time::Duration;

use oarlock_core::ids::{Owner, SessionId};
use oarlock_core::machine::Machine;
use oarlock_core::planted::{Bug, planted};
use tokio::time::timeout;

use crate::auth::right::{Scope, Verb};
use crate::service::calls::REQUEST_DEADLINE;
use crate::service::error::ServiceError;
use crate::service::gate::Caller;
use crate::service::handle::Service;
use crate::service::replicator::{Backup, Call, Query, Replicator, Reply, ReplyBody};
use crate::service::spans;
use crate::traces::Step;
use oarlock_core::query::SessionView;

/// Holders that one inspection names; the rest is counted.
const HOLDERS_MAX: usize = 1_000;

/// Getting the whole state written out; ten million leases take some ten seconds.
const BACKUP_DEADLINE: Duration = Duration::from_mins(2);

impl<R: Replicator> Service<R> {
    /// A linearizable read: the barrier began after the question arrived.
    pub(super) async fn read(&self, query: Query) -> Result<Reply, ServiceError> {
        let confirming = self.step(Step::Confirm);
        spans::of_query(&query, |fact| confirming.tell(fact));
        self.replicator.read_barrier().await?;
        Ok(self.look(&query))
    }

    /// The log position of a state that is not older than this call.
    pub(super) async fn position(&self) -> Result<Reply, ServiceError> {
        self.replicator.read_barrier().await?;
        let applied_index = self.replicator.status().applied_index;
        Ok(Reply { now: self.replicator.lease_now(), body: ReplyBody::Position(applied_index) })
    }

    /// A copy of the state on this node that has all that was acknowledged before the call.
    pub async fn backup(&self, caller: &Caller) -> Result<Backup, ServiceError> {
        let copying = async {
            let reply = self.call_as(caller, Call::Position, REQUEST_DEADLINE).await?;
            let ReplyBody::Position(applied_index) = reply.body else {
                return Err(ServiceError::Unknown("the answer fits no position".to_owned()));
            };
            Ok(self.replicator.backup(applied_index).await?)
        };
        let copied = timeout(BACKUP_DEADLINE, copying).await;
        copied.unwrap_or(Err(ServiceError::Overloaded(
            "the copy was not written in time: look at the disk of this node, or ask another one"
                .to_owned(),
        )))
    }

    /// What this node knows, and how old that may be; `None` if it cannot tell.
    pub(super) fn stale(&self, query: &Query) -> (Reply, Option<Duration>) {
        // Taken first: the state can only be newer than this says.
        let staleness = self.replicator.staleness();
        (self.look(query), staleness)
    }

    /// The owner of an open session. It never changes, so this node's state suffices when it
    /// knows the session.
    pub async fn session_owner(
        &self,
        caller: &Caller,
        id: SessionId,
    ) -> Result<SessionOwner, ServiceError> {
        self.permit(caller, Verb::Acquire, Scope::Any)?;
        let known = self.replicator.with_machine(|machine| machine.session(id));
        if let SessionView::Open(info) = known {
            return Ok(SessionOwner::Known(info.owner));
        }
        let call = Call::Read(Query::Session(id));
        let reply = self.call_as(caller, call, REQUEST_DEADLINE).await?;
        Ok(match reply.body {
            ReplyBody::Session(SessionView::Open(info)) => SessionOwner::Known(info.owner),
            ReplyBody::Session(view @ (SessionView::Ended { .. } | SessionView::Unknown)) => {
                SessionOwner::Missing(view)
            }
            ReplyBody::Outcome(_)
            | ReplyBody::Lock(_)
            | ReplyBody::Locks(_)
            | ReplyBody::Lease(_)
            | ReplyBody::Fence(_)
            | ReplyBody::History(_)
            | ReplyBody::Grant(_)
            | ReplyBody::Position(_)
            | ReplyBody::Transfer(_)
            | ReplyBody::Members(_)
            | ReplyBody::Tokens(_) => SessionOwner::Missing(SessionView::Unknown),
        })
    }

    fn look(&self, query: &Query) -> Reply {
        let now = self.replicator.lease_now();
        let mut body = self.replicator.with_machine(|machine| answer(machine, query));
        if planted(Bug::FollowerForgetsThePast)
            && !self.leadership().serving_here
            && let ReplyBody::History(past) = &mut body
        {
            drop(past.grants.drain(..past.grants.len().min(1)));
        }
        Reply { now, body }
    }
}

/// Who owns a session, or why nobody does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionOwner {
    Known(Owner),
    Missing(SessionView),
}

fn answer(machine: &Machine, query: &Query) -> ReplyBody {
    match query {
        Query::Lock { name, waiters_max } => {
            ReplyBody::Lock(machine.lock(name, HOLDERS_MAX, as_count(*waiters_max)))
        }
        Query::Locks { prefix, after, limit } => {
            ReplyBody::Locks(machine.locks(prefix, after.as_deref(), as_count(*limit)))
        }
        Query::Lease(id) => ReplyBody::Lease(machine.lease(*id)),
        Query::Session(id) => ReplyBody::Session(machine.session(*id)),
        Query::History { name, before, limit } => {
            ReplyBody::History(machine.history(name, *before, as_count(*limit)))
        }
        Query::Token(token) => ReplyBody::Grant(machine.grant_of_token(*token)),
        // Like every other read this goes by the log alone. A lease that is due by this leader's
        // clock and not ended in the log may live on under the next leader, whose clock begins where
        // the log stands.
        Query::Fence { name, token } => ReplyBody::Fence(machine.fence(name, *token).ok()),
    }
}

fn as_count(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
