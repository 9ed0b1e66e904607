//! What identities with a quota of locks or sessions have, as the leader knows it.
//!
//! ```text
//!  admitted -> booked before the proposal -> the answer settles it -> its end in the log strikes it out
//!  renewal, attach  --------------------------^ after a change of leaders
//! ```
//! Nothing of it is in the log: the core does not know identities. Who leads anew knows nobody's
//! leases at first and learns them as they are renewed, which is within their TTL; until then an
//! identity may get more. A booking whose fate is not known stays until its quota is asked for and
//! the machine does not know the lease. Costs nothing for identities without such a quota.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use oarlock_core::command::Command;
use oarlock_core::ids::{LeaseId, SessionId};
use oarlock_core::machine::Machine;
use oarlock_core::outcome::Outcome;
use oarlock_core::query::{LeaseView, SessionView};
use oarlock_core::time::LeaseTime;

use crate::auth::credential::Credential;
use crate::service::calls::REQUEST_DEADLINE;
use crate::service::error::ServiceError;
use crate::service::handle::Service;
use crate::service::replicator::{Call, Replicator, Reply, ReplyBody};

/// Something that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Thing {
    Lease(LeaseId),
    Session(SessionId),
}

/// Whose it is, and since when.
#[derive(Debug)]
struct Entry {
    whose: String,
    since: LeaseTime,
}

/// How many things of each kind one identity has.
#[derive(Debug, Default, Clone, Copy)]
struct Used {
    leases: u32,
    sessions: u32,
    /// When what may have ended unheard was last looked for.
    looked_at: LeaseTime,
}

#[derive(Debug, Default)]
struct Kept {
    things: BTreeMap<Thing, Entry>,
    used: BTreeMap<String, Used>,
}

/// The standard lock: never held across an await, nor while the machine is looked at.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Whether there ever was an entry: without one an end in the log costs a load.
    any: AtomicBool,
    kept: Mutex<Kept>,
}

/// What a call takes or keeps.
enum Intent {
    /// New things, which count against the quota.
    Takes(Vec<Thing>),
    /// One that is there already, or takes the place of one.
    Keeps(Thing),
    Nothing,
}

impl Kept {
    fn count(&mut self, whose: &str, thing: Thing) -> &mut u32 {
        let used = self.used.entry(whose.to_owned()).or_default();
        match thing {
            Thing::Lease(_) => &mut used.leases,
            Thing::Session(_) => &mut used.sessions,
        }
    }

    fn put(&mut self, whose: &str, thing: Thing, since: LeaseTime) {
        self.strike(thing);
        self.things.insert(thing, Entry { whose: whose.to_owned(), since });
        *self.count(whose, thing) += 1;
    }

    fn strike(&mut self, thing: Thing) {
        if let Some(Entry { whose, .. }) = self.things.remove(&thing) {
            let count = self.count(&whose, thing);
            *count = count.saturating_sub(1);
            if self.used.get(&whose).is_some_and(|used| used.leases == 0 && used.sessions == 0) {
                self.used.remove(&whose);
            }
        }
    }
}

impl Ledger {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
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
            self.kept().strike(thing);
        }
    }

    /// Notes what is there. What has no bound is not noted: nothing would ever look whether its end
    /// was missed.
    fn put(&self, credential: &Credential, things: &[Thing], now: LeaseTime) {
        self.any.store(true, Ordering::Release);
        let mut kept = self.kept();
        for thing in things.iter().filter(|thing| limit(credential, **thing).is_some()) {
            kept.put(&credential.id, *thing, now);
        }
    }

    fn strike(&self, things: &[Thing]) {
        let mut kept = self.kept();
        for thing in things {
            kept.strike(*thing);
        }
    }

    /// Books them all, or says what there would be too much of.
    fn book(
        &self,
        credential: &Credential,
        things: &[Thing],
        now: LeaseTime,
    ) -> Result<(), ServiceError> {
        let Some(first) = things.first() else { return Ok(()) };
        let Some(limit) = limit(credential, *first) else { return Ok(()) };
        let what = match first {
            Thing::Lease(_) => "locks held or waited for",
            Thing::Session(_) => "open sessions",
        };
        self.any.store(true, Ordering::Release);
        let mut kept = self.kept();
        // A second try of the same call finds its own booking.
        let booked =
            |thing: &Thing| kept.things.get(thing).is_some_and(|it| it.whose == credential.id);
        let more = things.iter().filter(|thing| !booked(thing)).count();
        let more = u32::try_from(more).unwrap_or(u32::MAX);
        let count = *kept.count(&credential.id, *first);
        if more > 0 && count.saturating_add(more) > limit {
            return Err(ServiceError::OverQuota { what: what.to_owned(), limit });
        }
        for thing in things {
            kept.put(&credential.id, *thing, now);
        }
        Ok(())
    }

    /// What of an identity may have ended without being heard of: nothing that may still be on its
    /// way. At most once in a while, because whoever is over its quota may ask as often as it likes.
    fn doubtful(&self, whose: &str, now: LeaseTime) -> Vec<Thing> {
        let mut kept = self.kept();
        let used = kept.used.entry(whose.to_owned()).or_default();
        if now < used.looked_at {
            return Vec::new();
        }
        used.looked_at = now.plus_ms(1_000);
        let deadline_ms = u64::try_from(REQUEST_DEADLINE.as_millis()).unwrap_or(u64::MAX);
        let old = |entry: &Entry| entry.since.plus_ms(deadline_ms) <= now;
        let all = kept.things.iter().filter(|(_, entry)| entry.whose == whose && old(entry));
        all.map(|(thing, _)| *thing).collect()
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
            Intent::Keeps(thing) => {
                let reply = self.serve(call).await?;
                if is_kept(&reply) {
                    let things = granted(&reply).unwrap_or_else(|| vec![thing]);
                    self.ledger.put(&credential, &things, self.replicator.lease_now());
                }
                Ok(reply)
            }
            Intent::Takes(things) => {
                self.book(&credential, &things)?;
                let reply = self.serve(call).await;
                self.settle(&credential, &things, &reply);
                reply
            }
        }
    }

    fn book(&self, credential: &Credential, things: &[Thing]) -> Result<(), ServiceError> {
        let now = self.replicator.lease_now();
        let Err(over) = self.ledger.book(credential, things, now) else { return Ok(()) };
        let doubtful = self.ledger.doubtful(&credential.id, now);
        let gone: Vec<Thing> = self.replicator.with_machine(|machine| {
            doubtful.into_iter().filter(|thing| is_gone(machine, *thing)).collect()
        });
        if gone.is_empty() {
            return Err(over);
        }
        self.ledger.strike(&gone);
        self.ledger.book(credential, things, now)
    }

    /// What was booked stays if it is there now, or may be.
    fn settle(
        &self,
        credential: &Credential,
        things: &[Thing],
        reply: &Result<Reply, ServiceError>,
    ) {
        let now = self.replicator.lease_now();
        match reply {
            Err(error) if !error.is_not_done() => {}
            Ok(reply) if is_kept(reply) => {
                // Of a request that came before under other ids.
                if let Some(granted) = granted(reply).filter(|granted| granted != things) {
                    self.ledger.strike(things);
                    self.ledger.put(credential, &granted, now);
                }
            }
            Ok(_) | Err(_) => self.ledger.strike(things),
        }
    }

    /// The credential with that id, if it bounds locks or sessions.
    fn bounded(&self, id: &str) -> Option<Arc<Credential>> {
        let credential = self.gate.credential(id)?;
        let quotas = credential.quotas;
        (quotas.locks.is_some() || quotas.sessions.is_some()).then_some(credential)
    }

    fn intent(&self, call: &Call) -> Intent {
        let Call::Propose(command) = call else { return Intent::Nothing };
        let (request_id, things) = match command {
            Command::Acquire(it) => (it.request_id, vec![Thing::Lease(it.lease_id)]),
            Command::AcquireMany(it) => {
                (it.request_id, it.claims.iter().map(|it| Thing::Lease(it.lease_id)).collect())
            }
            Command::OpenSession(it) => (it.request_id, vec![Thing::Session(it.session_id)]),
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
        let repeats = |id| self.replicator.with_machine(|machine| machine.knows_request(id));
        match things.first() {
            // It takes nothing that it did not take before, and must hear what became of that.
            Some(first) if request_id.is_some_and(repeats) => Intent::Keeps(*first),
            Some(_) => Intent::Takes(things),
            None => Intent::Nothing,
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
