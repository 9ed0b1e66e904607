//! What identities with a quota of locks or sessions have, as the leader knows it.
//!
//! ```text
//!  admitted -> booked before the proposal -> the answer settles it -> its end in the log strikes it out
//!  renewal, attach  --------------------------^ after a change of leaders
//!  first use of a session --------------------^ with all that the machine has under it
//! ```
//! Nothing of it is in the log: the core does not know identities. Who leads anew knows nobody's
//! leases at first and learns them as they are renewed, which is within their TTL; until then an
//! identity may get more. A booking whose fate is not known, because its call was lost or hung up, stays
//! until its quota is asked for and the machine does not know the lease. Costs nothing for identities
//! without such a quota.

mod book;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use oarlock_core::command::{Command, LeaseTerm};
use oarlock_core::ids::{LeaseId, RequestId, SessionId};
use oarlock_core::machine::Machine;
use oarlock_core::outcome::Outcome;
use oarlock_core::query::{LeaseView, SessionView};

use crate::auth::credential::Credential;
use crate::service::error::ServiceError;
use crate::service::handle::Service;
use crate::service::ledger::book::{Book, Fate, Key, Moment, Thing};
use crate::service::replicator::{Call, ProposeError, Replicator, Reply, ReplyBody};

/// The standard lock: never held across an await, nor while the machine is looked at.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Whether there ever was an entry: without one an end in the log costs a load.
    any: AtomicBool,
    book: Mutex<Book>,
}

/// What a call takes or keeps.
enum Intent {
    /// New things, which count against the quota.
    Takes(Taking),
    /// One that is there already, or takes the place of one.
    Keeps(Thing),
    Nothing,
}

struct Taking {
    things: Vec<Thing>,
    first: Thing,
    request_id: Option<RequestId>,
    /// The session that keeps them alive.
    under: Option<SessionId>,
}

impl Ledger {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same for whoever may write the first entry.
    fn opened(&self) -> MutexGuard<'_, Book> {
        self.any.store(true, Ordering::Release);
        self.book()
    }

    /// The log ended a lease.
    pub(super) fn lease_ended(&self, lease_id: LeaseId) {
        self.ended(Thing::Lease(lease_id));
    }

    /// The log ended a session.
    pub(super) fn session_ended(&self, session_id: SessionId) {
        self.ended(Thing::Session(session_id));
    }

    fn ended(&self, thing: Thing) {
        if self.any.load(Ordering::Acquire) {
            self.book().strike(thing);
        }
    }
}

/// A call that is under way, and what it booked. One that is dropped before its answer leaves that in
/// doubt: it was handed to the log in the moment in which it was booked.
struct Booking<'a, R: Replicator> {
    service: &'a Service<R>,
    whose: &'a str,
    key: Key,
    fate: Option<Fate>,
}

impl<R: Replicator> Drop for Booking<'_, R> {
    fn drop(&mut self) {
        let fate = self.fate.take().unwrap_or(Fate::Doubt);
        let at = self.service.moment();
        self.service.ledger.book().settle(self.whose, self.key, fate, at);
    }
}

impl<R: Replicator> Service<R> {
    /// Answers a call that was let in by that credential, here as leader; what it takes counts against
    /// the quota of the identity, if it has one.
    pub(super) async fn serve_as(
        &self,
        by: Option<&str>,
        call: Call,
    ) -> Result<Reply, ServiceError> {
        let bounded = by.and_then(|id| self.bounded(id));
        let Some(credential) = bounded else { return self.serve(call).await };
        match self.intent(&call) {
            Intent::Nothing => self.serve(call).await,
            Intent::Keeps(thing) => self.serve_kept(&credential, thing, call).await,
            Intent::Takes(taking) => {
                let Some(limit) = limit(&credential, taking.first) else {
                    return self.serve(call).await;
                };
                if let Some(session_id) = taking.under {
                    self.adopt(&credential, session_id);
                }
                let Some(key) = self.book(&credential, &taking, limit).await? else {
                    if taking.request_id.is_some_and(|id| self.repeats(id)) {
                        return self.serve_kept(&credential, taking.first, call).await;
                    }
                    return Err(over(taking.first, limit));
                };
                let whose = &credential.id;
                let mut booking = Booking { service: self, whose, key, fate: None };
                let reply = self.serve(call).await;
                booking.fate = Some(fate(&reply, &taking));
                reply
            }
        }
    }

    /// Answers a call that takes nothing new, and learns from it whose that is.
    async fn serve_kept(
        &self,
        credential: &Credential,
        thing: Thing,
        call: Call,
    ) -> Result<Reply, ServiceError> {
        let reply = self.serve(call).await?;
        if is_kept(&reply) {
            if let Thing::Session(session_id) = thing {
                self.adopt(credential, session_id);
            }
            let at = self.moment();
            let things = granted(&reply).unwrap_or_else(|| vec![thing]);
            let mut book = self.ledger.opened();
            for thing in things.into_iter().filter(|thing| is_noted(credential, *thing)) {
                book.put(&credential.id, thing, at);
            }
        }
        Ok(reply)
    }

    /// A session that this leadership has not seen yet belongs to who uses it first, with all that it
    /// keeps alive and nobody else has in the book: nobody renews that singly.
    fn adopt(&self, credential: &Credential, session_id: SessionId) {
        let at = self.moment();
        if !is_noted(credential, Thing::Session(session_id))
            || self.ledger.book().knows_session(session_id, at.term)
        {
            return;
        }
        let found = self.replicator.with_machine(|machine| {
            let open = matches!(machine.session(session_id), SessionView::Open(_));
            open.then(|| machine.leases_of_session(session_id).collect::<Vec<LeaseId>>())
        });
        let Some(leases) = found else { return };
        let mut book = self.ledger.opened();
        for lease in leases.into_iter().map(Thing::Lease) {
            if is_noted(credential, lease) && !book.knows(lease) {
                book.put(&credential.id, lease, at);
            }
        }
        book.put(&credential.id, Thing::Session(session_id), at);
    }

    /// Books what a call takes. Before that is refused, it is looked up what of it is gone unheard.
    async fn book(
        &self,
        credential: &Credential,
        taking: &Taking,
        limit: u32,
    ) -> Result<Option<Key>, ServiceError> {
        let key = taking.request_id.map_or(Key::First(taking.first), Key::Request);
        let book = || {
            let at = self.moment();
            self.ledger.opened().book(&credential.id, key, &taking.things, limit, at)
        };
        if let Some(key) = book() {
            return Ok(Some(key));
        }
        let now = self.replicator.lease_now();
        let doubtful = self.ledger.book().doubtful(&credential.id, now);
        if doubtful.is_empty() {
            return Ok(None);
        }
        // What was handed to the log before this is decided when this is. Of the call itself nothing was
        // done, whatever became of this.
        if let Err(error) = self.replicator.propose(Command::Advance).await {
            self.ledger.book().look_again(&credential.id);
            return Err(match error {
                ProposeError::NotLeader(leader) => ServiceError::NotLeader(leader),
                ProposeError::NotDone(why) | ProposeError::Unknown(why) => {
                    ServiceError::Overloaded(why.to_owned())
                }
            });
        }
        let looked_up: Vec<(Thing, bool)> = self.replicator.with_machine(|machine| {
            doubtful.into_iter().map(|thing| (thing, is_gone(machine, thing))).collect()
        });
        let mut ledger = self.ledger.book();
        for (thing, is_gone) in looked_up {
            ledger.looked_at(thing, is_gone, now);
        }
        drop(ledger);
        Ok(book())
    }

    fn moment(&self) -> Moment {
        Moment { now: self.replicator.lease_now(), term: self.leadership().term }
    }

    /// The credential with that id, if it bounds locks or sessions.
    fn bounded(&self, id: &str) -> Option<Arc<Credential>> {
        let credential = self.gate.credential(id)?;
        let quotas = credential.quotas;
        (quotas.locks.is_some() || quotas.sessions.is_some()).then_some(credential)
    }

    fn repeats(&self, request_id: RequestId) -> bool {
        self.replicator.with_machine(|machine| machine.knows_request(request_id))
    }

    fn intent(&self, call: &Call) -> Intent {
        let Call::Propose(command) = call else { return Intent::Nothing };
        let (request_id, under, things) = match command {
            Command::Acquire(it) => {
                (it.request_id, session_of(it.term), vec![Thing::Lease(it.lease_id)])
            }
            Command::AcquireMany(it) => {
                let things = it.claims.iter().map(|it| Thing::Lease(it.lease_id)).collect();
                (it.request_id, session_of(it.term), things)
            }
            Command::OpenSession(it) => (it.request_id, None, vec![Thing::Session(it.session_id)]),
            Command::HandOver(it) => return Intent::Keeps(Thing::Lease(it.new_lease_id)),
            Command::Attach { lease_id } | Command::Renew { lease_id, .. } => {
                return Intent::Keeps(Thing::Lease(*lease_id));
            }
            Command::RenewSession { session_id, .. } => {
                return Intent::Keeps(Thing::Session(*session_id));
            }
            Command::Advance
            | Command::Detach { .. }
            | Command::DetachAll
            | Command::Release { .. }
            | Command::ForceRelease { .. }
            | Command::CloseSession { .. }
            | Command::SetValue { .. }
            | Command::DeleteValue { .. }
            | Command::PutRecord { .. } => return Intent::Nothing,
        };
        match things.first().copied() {
            // It takes nothing that it did not take before, and must hear what became of that.
            Some(first) if request_id.is_some_and(|id| self.repeats(id)) => Intent::Keeps(first),
            Some(first) => Intent::Takes(Taking { things, first, request_id, under }),
            None => Intent::Nothing,
        }
    }
}

fn session_of(term: LeaseTerm) -> Option<SessionId> {
    match term {
        LeaseTerm::Session(session_id) => Some(session_id),
        LeaseTerm::Ttl(_) | LeaseTerm::Forever => None,
    }
}

fn over(first: Thing, limit: u32) -> ServiceError {
    let what = match first {
        Thing::Lease(_) => "locks held or waited for",
        Thing::Session(_) => "open sessions",
    };
    ServiceError::OverQuota { what: what.to_owned(), limit }
}

/// What became of a call that takes.
fn fate(reply: &Result<Reply, ServiceError>, taking: &Taking) -> Fate {
    match reply {
        // It may be a request that came before under other ids.
        Ok(reply) if is_kept(reply) => {
            Fate::Granted(granted(reply).unwrap_or_else(|| taking.things.clone()))
        }
        Ok(_) => Fate::Nothing,
        Err(error) if error.is_not_done() => Fate::Nothing,
        Err(_) => Fate::Doubt,
    }
}

/// Whether it is written down. What no bound is for is not: nothing would ever look whether its end
/// was missed. Sessions lead to their leases.
fn is_noted(credential: &Credential, thing: Thing) -> bool {
    match thing {
        Thing::Lease(_) => credential.quotas.locks.is_some(),
        Thing::Session(_) => {
            credential.quotas.sessions.is_some() || credential.quotas.locks.is_some()
        }
    }
}

/// How many things of that kind the credential may have.
fn limit(credential: &Credential, thing: Thing) -> Option<u32> {
    match thing {
        Thing::Lease(_) => credential.quotas.locks,
        Thing::Session(_) => credential.quotas.sessions,
    }
}

fn is_gone(machine: &Machine, thing: Thing) -> bool {
    match thing {
        Thing::Lease(id) => {
            matches!(machine.lease(id), LeaseView::Ended(_) | LeaseView::Unknown)
        }
        Thing::Session(id) => !matches!(machine.session(id), SessionView::Open(_)),
    }
}

/// Whether the answer says that something is there.
fn is_kept(reply: &Reply) -> bool {
    match &reply.body {
        ReplyBody::Outcome(outcome) => !matches!(outcome, Outcome::Rejected(_)),
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
        | ReplyBody::Tokens(_) => false,
    }
}

/// What the answer grants, where it says so.
fn granted(reply: &Reply) -> Option<Vec<Thing>> {
    let ReplyBody::Outcome(outcome) = &reply.body else { return None };
    if let Outcome::Granted(grant) = outcome {
        Some(vec![Thing::Lease(grant.lease_id)])
    } else if let Outcome::GrantedMany(grants) = outcome {
        Some(grants.iter().map(|grant| Thing::Lease(grant.lease_id)).collect())
    } else if let Outcome::SessionOpened(session) = outcome {
        Some(vec![Thing::Session(session.session_id)])
    } else {
        None
    }
}
