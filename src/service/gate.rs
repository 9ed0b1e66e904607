//! The gate: every surface says here who asks, and every call passes here before anything is done.
//!
//! ```text
//!  surface: what was shown -> identify -> Caller ─┐
//!  call_as, stale_as, permit  <──────────────────-┘ checks rights -> serve here, or
//!       forward with the id of the credential -> the leader checks again, by its own newest records
//! ```
//! The credentials are records of the core, so revoking goes through the log. Each node keeps them
//! as a book, made anew only after a record changed: while nothing is configured a call pays for a few
//! atomic loads. A node whose state is old may still let somebody ask; what goes to the leader is decided
//! there once more.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use oarlock_core::machine::Machine;
use oarlock_core::outcome::Outcome;
use oarlock_core::time::LeaseTime;
use tokio::sync::watch;

use crate::auth::book::Book;
use crate::auth::credential::{Credential, RECORDS};
use crate::auth::key::Key;
use crate::auth::right::{Scope, Verb};
use crate::service::break_glass::{self, BreakGlass};
use crate::service::demands;
use crate::service::error::ServiceError;
use crate::service::handle::Service;
use crate::service::replicator::{Call, Query, Replicator, Reply};

/// How often a node looks whether records changed in a way that no entry told, by a snapshot.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// A stream looks at least this often whether its credential ran out: the lease clock may stand.
const EXPIRY_LOOK_MAX: Duration = Duration::from_secs(1);

/// What a client shows of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown<'a> {
    Nothing,
    /// A word that should be a key.
    Key(&'a str),
    /// The name in a client certificate that the connection has verified.
    Certificate(&'a str),
}

/// An identity as this node knows it, and what it uses here.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) credential: Arc<Credential>,
    used: Arc<Used>,
}

impl Known {
    /// Uses nothing yet.
    pub(super) fn new(credential: Credential) -> Self {
        Self { credential: Arc::new(credential), used: Arc::default() }
    }
}

/// What one identity uses at this node.
#[derive(Debug, Default)]
struct Used {
    waiting: AtomicU32,
    streams: AtomicU32,
    /// Microseconds at which the next request is due, by the clock of the surface.
    next_request_us: AtomicU64,
}

/// Who asks. Made by the gate alone; nobody in particular may ask only while nothing is configured.
#[derive(Debug, Clone, Default)]
pub struct Caller(Option<Arc<Known>>);

impl Caller {
    /// Of the identity, for logs.
    pub fn name(&self) -> &str {
        self.0.as_ref().map_or("-", |known| known.credential.name.as_str())
    }

    /// Takes out of a reply what the caller may not see.
    pub(super) fn redact(&self, reply: &mut Reply) {
        if let Some(known) = &self.0 {
            demands::redact(&known.credential, reply);
        }
    }

    /// Counts a call that may wait against the caller's quota.
    pub(super) fn count_waiting(&self) -> Result<Counted, ServiceError> {
        let limit = |known: &Known| known.credential.quotas.waiting;
        count(self, Kind::Waiting, limit, "waiting calls at this node")
    }

    /// What a call carries to the leader.
    pub(super) fn id(&self) -> Option<String> {
        self.0.as_ref().map(|known| known.credential.id.clone())
    }
}

/// Something that counts against a quota; given back when dropped.
#[derive(Debug)]
pub struct Counted(Option<(Arc<Used>, Kind)>);

#[derive(Debug, Clone, Copy)]
enum Kind {
    Waiting,
    Streams,
}

impl Used {
    fn counter(&self, kind: Kind) -> &AtomicU32 {
        match kind {
            Kind::Waiting => &self.waiting,
            Kind::Streams => &self.streams,
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some((used, kind)) = &self.0 {
            used.counter(*kind).fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// The book with what its identities use.
#[derive(Debug, Default)]
struct Shelf {
    book: Book,
    known: BTreeMap<String, Arc<Known>>,
    /// When credentials run out, in order.
    expiries: Vec<LeaseTime>,
}

/// The state of the gate on one node. The locks are the standard ones: never held across an await.
#[derive(Debug)]
pub(super) struct Gate {
    /// Closed also while there is no credential.
    required: bool,
    closed: AtomicBool,
    /// How often records changed, and which of those changes the shelf has seen.
    changed: AtomicU64,
    seen: AtomicU64,
    shelf: RwLock<Arc<Shelf>>,
    /// What the configuration of this node knows besides.
    pub(super) break_glass: BreakGlass,
    reading: Mutex<()>,
    /// Wakes streams, whose credential may be gone.
    news: watch::Sender<()>,
    /// The revision of the records at the last look.
    revision: AtomicU64,
}

impl Gate {
    pub(super) fn new(required: bool, machine: &Machine) -> Self {
        let gate = Self {
            required,
            closed: AtomicBool::new(required),
            changed: AtomicU64::new(0),
            seen: AtomicU64::new(0),
            shelf: RwLock::default(),
            break_glass: BreakGlass::default(),
            reading: Mutex::new(()),
            news: watch::Sender::new(()),
            revision: AtomicU64::new(machine.record_revision().0),
        };
        gate.put_up(machine);
        gate
    }

    /// The credential with that id, be it over or not.
    pub(super) fn credential(&self, id: &str) -> Option<Arc<Credential>> {
        self.shelf().book.find(id).cloned()
    }

    /// Hears what every entry did, right after it was applied.
    pub(super) fn applied(&self, outcomes: &[Outcome]) {
        if outcomes.iter().any(|outcome| matches!(outcome, Outcome::RecordPut(_))) {
            self.mark();
        }
    }

    fn mark(&self) {
        self.changed.fetch_add(1, Ordering::AcqRel);
        self.tell_news();
    }

    /// Lets streams look whether their credential is still good.
    pub(super) fn tell_news(&self) {
        self.news.send_replace(());
    }

    /// The next moment after that one at which a credential runs out.
    pub(super) fn next_expiry(&self, after: LeaseTime) -> Option<LeaseTime> {
        let current = self.shelf();
        let passed = current.expiries.partition_point(|at| *at <= after);
        current.expiries.get(passed).copied()
    }

    fn put_up(&self, machine: &Machine) {
        let records = machine.cluster_records(RECORDS);
        let book = Book::read(records.map(|(key, it)| (key.as_str(), it.value.as_bytes())));
        let before = self.shelf();
        let known = |credential: &Arc<Credential>| {
            let before = before.known.get(&credential.id);
            let used = before.map(|known| Arc::clone(&known.used)).unwrap_or_default();
            (credential.id.clone(), Arc::new(Known { credential: Arc::clone(credential), used }))
        };
        let known = book.all().map(known).collect();
        let mut expiries: Vec<_> = book.all().filter_map(|it| it.expires_at).collect();
        expiries.sort_unstable();
        self.closed.store(self.required || !book.is_empty(), Ordering::Release);
        let mut current = self.shelf.write().unwrap_or_else(PoisonError::into_inner);
        *current = Arc::new(Shelf { book, known, expiries });
    }

    fn shelf(&self) -> Arc<Shelf> {
        Arc::clone(&self.shelf.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn is_fresh(&self) -> bool {
        self.seen.load(Ordering::Acquire) == self.changed.load(Ordering::Acquire)
    }
}

impl<R: Replicator> Service<R> {
    /// Brings the gate up to what this node has applied. Whoever asks after a change waits for it.
    pub(super) fn refresh_gate(&self) {
        let gate = &self.gate;
        if gate.is_fresh() {
            return;
        }
        let _one_at_a_time = gate.reading.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = gate.changed.load(Ordering::Acquire);
        if gate.seen.load(Ordering::Acquire) != changed {
            self.replicator.with_machine(|machine| gate.put_up(machine));
            gate.seen.store(changed, Ordering::Release);
        }
    }

    /// Whether callers must show who they are.
    pub fn is_gate_closed(&self) -> bool {
        self.refresh_gate();
        self.gate.closed.load(Ordering::Acquire)
    }

    /// Whether this node has heard of a credential with that id.
    pub(super) fn knows_credential(&self, id: &str) -> bool {
        self.refresh_gate();
        self.gate.shelf().book.find(id).is_some()
    }

    /// Keeps the gate up with snapshots, which no entry tells of; for ever.
    pub async fn keep_gate(&self) {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        loop {
            ticks.tick().await;
            self.keep_gate_now();
        }
    }

    pub(super) fn keep_gate_now(&self) {
        let revision = self.replicator.with_machine(|machine| machine.record_revision().0);
        if self.gate.revision.swap(revision, Ordering::AcqRel) != revision {
            self.gate.mark();
        }
    }

    /// Who that is, and for the log what is asked. While nothing is configured everybody is nobody in
    /// particular, and may ask.
    pub fn identify(
        &self,
        shown: Shown<'_>,
        asked: fmt::Arguments<'_>,
    ) -> Result<Caller, ServiceError> {
        if !self.is_gate_closed() {
            return Ok(Caller::default());
        }
        let current = self.gate.shelf();
        let key = if let Shown::Key(word) = shown { word.parse::<Key>().ok() } else { None };
        let found = match shown {
            Shown::Nothing => return Ok(Caller::default()),
            Shown::Key(_) => key.as_ref().and_then(|key| current.book.of_key(key)),
            Shown::Certificate(name) => current.book.of_certificate(name),
        };
        if found.is_none()
            && let Some(known) = key.and_then(|key| self.gate.break_glass.opened_by(&key))
        {
            self.gate.break_glass.tell(asked);
            return Ok(Caller(Some(known)));
        }
        let known = found.and_then(|credential| current.known.get(&credential.id));
        // Who guesses learns no more than this.
        let Some(known) = known else {
            let error = unauthenticated(match shown {
                Shown::Certificate(name) => format!(
                    "the client certificate names `{name}`, which has no rights here; give it some \
                     with `oarlock tokens create --certificate`"
                ),
                Shown::Nothing | Shown::Key(_) => {
                    "this access token is unknown or was revoked".into()
                }
            });
            self.tell_stranger(shown, asked, &error);
            return Err(error);
        };
        let caller = Caller(Some(Arc::clone(known)));
        if known.credential.is_expired(self.replicator.lease_now()) {
            let error = unauthenticated("this credential has expired".into());
            self.tell_denied(&caller, asked, &[], &error);
            return Err(error);
        }
        Ok(caller)
    }

    /// Whether the caller is still who it was, and its credential still good.
    fn standing<'a>(&self, caller: &'a Caller) -> Result<Option<&'a Credential>, ServiceError> {
        if !self.is_gate_closed() {
            return Ok(None);
        }
        let Some(known) = &caller.0 else {
            return Err(unauthenticated(
                "this cluster asks who you are: send `Authorization: Bearer` with an access token, \
                 or use a client certificate"
                    .into(),
            ));
        };
        let now = match known.credential.id.as_str() {
            break_glass::ID => self.gate.break_glass.key(),
            id => self.gate.shelf().known.get(id).cloned(),
        };
        let now = now.map(|it| Arc::clone(&it.credential));
        if now.is_none_or(|now| now != known.credential) {
            return Err(unauthenticated("this access token is unknown or was revoked".into()));
        }
        if known.credential.is_expired(self.replicator.lease_now()) {
            return Err(unauthenticated("this credential has expired".into()));
        }
        Ok(Some(&known.credential))
    }

    /// Whether the caller may do that, and why not; see [`Service::permit`].
    pub(super) fn may(
        &self,
        caller: &Caller,
        verb: Verb,
        scope: Scope<'_>,
    ) -> Result<(), ServiceError> {
        match self.standing(caller)? {
            Some(credential) if !credential.may(verb, scope) => {
                Err(demands::lacking(credential, verb, scope))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Refuses unless the caller may make that call.
    pub(super) fn admit(&self, caller: &Caller, call: &Call) -> Result<(), ServiceError> {
        if demands::are_none(call) {
            return Ok(());
        }
        if demands::is_first_credential(call) {
            return self.permit_first();
        }
        match self.standing(caller)? {
            Some(credential) => demands::met(credential, call),
            // Anybody could lock everybody else out.
            None if matches!(call, Call::Tokens(_)) => Err(ServiceError::Forbidden(
                "there is no token yet: make the first one with `oarlock tokens init`, on the \
                 machine of a node"
                    .into(),
            )),
            None => Ok(()),
        }
    }

    /// The first credential has nobody to ask: while no administrator is there, whoever sits at the
    /// machine of a node, which the surface has made sure of, may make one.
    pub(super) fn permit_first(&self) -> Result<(), ServiceError> {
        self.refresh_gate();
        if self.gate.shelf().book.has_admin(self.replicator.lease_now(), None) {
            return Err(ServiceError::Forbidden(
                "somebody may administer this cluster already: ask for a token there".into(),
            ));
        }
        Ok(())
    }

    /// A call that a peer let in, by the id of the credential that was shown there.
    pub(super) fn admit_forwarded(
        &self,
        by: Option<&str>,
        call: &Call,
    ) -> Result<(), ServiceError> {
        let caller = match by.filter(|_| self.is_gate_closed()) {
            None => Caller::default(),
            Some(break_glass::ID) => return self.admit_break_glass(call),
            Some(id) => Caller(self.gate.shelf().known.get(id).cloned()),
        };
        self.admit(&caller, call)
    }

    /// What this node knows, and how old that may be; `None` if it cannot tell.
    pub fn stale_as(
        &self,
        caller: &Caller,
        query: Query,
    ) -> Result<(Reply, Option<Duration>), ServiceError> {
        let call = Call::Read(query);
        self.admit(caller, &call).inspect_err(|error| self.tell_read(caller, &call, error))?;
        let Call::Read(query) = &call else { return Err(ServiceError::NoLeader) };
        let (mut reply, age) = self.stale(query);
        caller.redact(&mut reply);
        Ok((reply, age))
    }

    /// Returns when the caller's credential is no longer good.
    pub async fn gone(&self, caller: &Caller) {
        let mut news = self.gate.news.subscribe();
        while self.standing(caller).is_ok() {
            let expires_at = caller.0.as_ref().and_then(|known| known.credential.expires_at);
            let expiry = async {
                match expires_at {
                    Some(at) => tokio::time::sleep(self.until(at)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                // The sender lives as long as this does.
                _ = news.changed() => {}
                () = expiry => {}
            }
        }
    }

    fn until(&self, at: LeaseTime) -> Duration {
        let left_ms = at.ms_since(self.replicator.lease_now()).saturating_add(1);
        Duration::from_millis(left_ms).min(EXPIRY_LOOK_MAX)
    }

    /// Counts a stream against the quota of its caller.
    pub fn count_stream(&self, caller: &Caller) -> Result<Counted, ServiceError> {
        let limit = |known: &Known| known.credential.quotas.streams;
        count(caller, Kind::Streams, limit, "streams at this node")
    }

    /// Counts a request against the quota of its caller; `now` is since any moment in the past. A
    /// caller that rested has as many requests at once as a second has.
    pub fn count_request(&self, caller: &Caller, now: Duration) -> Result<(), ServiceError> {
        let Some(known) = &caller.0 else { return Ok(()) };
        let Some(limit) = known.credential.quotas.requests_per_second else { return Ok(()) };
        let now_us = u64::try_from(now.as_micros()).unwrap_or(u64::MAX).saturating_add(1_000_000);
        let step_us = 1_000_000 / u64::from(limit.max(1));
        let due = |next_us: u64| {
            let next_us = next_us.max(now_us.saturating_sub(1_000_000 - step_us));
            (next_us <= now_us).then(|| next_us.saturating_add(step_us))
        };
        let next = &known.used.next_request_us;
        let what = || "requests per second at this node".to_owned();
        let counted = next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, due);
        counted.map(|_next| ()).map_err(|_| ServiceError::OverQuota { what: what(), limit })
    }
}

fn count(
    caller: &Caller,
    kind: Kind,
    limit: impl Fn(&Known) -> Option<u32>,
    what: &str,
) -> Result<Counted, ServiceError> {
    let Some(known) = &caller.0 else { return Ok(Counted(None)) };
    let Some(limit) = limit(known) else { return Ok(Counted(None)) };
    let more = |used: u32| (used < limit).then_some(used + 1);
    let counter = known.used.counter(kind);
    match counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more) {
        Ok(_) => Ok(Counted(Some((Arc::clone(&known.used), kind)))),
        Err(_) => Err(ServiceError::OverQuota { what: what.to_owned(), limit }),
    }
}

fn unauthenticated(why: String) -> ServiceError {
    ServiceError::Unauthenticated(why)
}
