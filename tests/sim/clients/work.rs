//! What one client does, again and again until it is told to stop: take a lock or several, alone or
//! in a session, waiting or not; repeat what was in doubt; renew, look, check the fence; release, or
//! walk away and let it expire.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use oarlock::service::replicator::{Call, Query, Reply, ReplyBody};
use oarlock_core::command::{Acquire, AcquireMany, Claim, Command, LeaseTerm, Mode, OpenSession};
use oarlock_core::ids::{LeaseId, LockName, Metadata, Owner, Permits, RequestId, SessionId};
use oarlock_core::outcome::{Grant, Outcome, Rejection};
use oarlock_core::time::{Grace, LockDelay, Ttl, Wait};
use tokio::time::sleep;

use super::Outside;
use crate::invariants::Told;
use crate::random::Random;

/// All who take permits of a lock name this limit.
const PERMITS_LIMIT: u64 = 3;

/// Longer than any call may take.
const PATIENT: Duration = Duration::from_mins(2);

/// See the module.
pub(crate) struct Client {
    pub(crate) id: u64,
    pub(crate) outside: Outside,
    pub(crate) random: Random,
    pub(crate) locks: u64,
    pub(crate) stop: Arc<AtomicBool>,
    pub(crate) claims: u64,
    pub(crate) session: Option<(SessionId, u64)>,
}

/// One request, which may be sent several times.
#[expect(clippy::struct_field_names, reason = "the product calls it so")]
struct Request {
    label: String,
    names: Vec<LockName>,
    modes: Vec<Mode>,
    term: LeaseTerm,
    wait_ms: u64,
    request_id: Option<RequestId>,
    first_asked_at: u64,
    repeats: bool,
}

pub(crate) fn name_of(number: u64) -> LockName {
    LockName::new(&format!("lock/{number}")).expect("a name")
}

impl Client {
    pub(crate) async fn run(mut self) {
        while !self.stop.load(Ordering::Relaxed) {
            sleep(Duration::from_millis(self.random.within(1, 150))).await;
            match self.random.within(0, 100) {
                0..70 => self.take(false).await,
                70..82 => self.take(true).await,
                82..92 => self.look().await,
                _ => self.change_session().await,
            }
        }
    }

    fn node(&mut self) -> u64 {
        *self.random.pick(&self.outside.nodes)
    }

    /// Asks once, and reports what was told.
    async fn ask(
        &mut self,
        call: Call,
        patience: Duration,
        conclude: impl FnOnce(&Reply) -> Told,
    ) -> Told {
        let node = self.node();
        let asked_at = self.outside.now.ms();
        let answer = self.outside.call(node, call, patience, &mut self.random).await;
        let told = match answer {
            Ok(reply) => conclude(&reply),
            Err(told) => told,
        };
        self.outside.tell(self.id, asked_at, told.clone());
        told
    }

    fn mode(&mut self) -> Mode {
        match self.random.within(0, 10) {
            0..6 => Mode::Exclusive,
            6..8 => Mode::Shared,
            _ => {
                let count = self.random.within(1, PERMITS_LIMIT + 1);
                Mode::Permits(Permits::new(count, PERMITS_LIMIT).expect("within the limit"))
            }
        }
    }

    fn request(&mut self, several: bool) -> Request {
        self.claims += 1;
        let mut names: Vec<LockName> = if several {
            let all: Vec<u64> = (0..self.locks).collect();
            self.random.some_of(&all).into_iter().map(name_of).collect()
        } else {
            vec![name_of(self.random.within(0, self.locks))]
        };
        names.truncate(3);
        let modes = names.iter().map(|_| self.mode()).collect();
        let term = match self.session {
            Some((id, _)) if self.random.per_mille(500) => LeaseTerm::Session(id),
            Some(_) | None => {
                LeaseTerm::Ttl(Ttl::new(self.random.within(600, 4_000)).expect("a TTL"))
            }
        };
        let waits = self.random.per_mille(650);
        let wait_ms = if waits { self.random.within(100, 6_000) } else { 0 };
        let id = RequestId(self.random.next_u128());
        Request {
            label: format!("c{}-{}", self.id, self.claims),
            names,
            modes,
            term,
            wait_ms,
            request_id: self.random.per_mille(700).then_some(id),
            first_asked_at: self.outside.now.ms(),
            repeats: false,
        }
    }

    fn command(&mut self, request: &Request) -> Command {
        let owner = Owner::new(&request.label).expect("an owner");
        let wait = Wait::new(request.wait_ms).expect("a wait");
        let grace = Grace::new(2_000).expect("a grace");
        let (term, request_id) = (request.term, request.request_id);
        let lock_delay = LockDelay::new(0).expect("a delay");
        if let ([name], [mode]) = (request.names.as_slice(), request.modes.as_slice()) {
            return Command::Acquire(Acquire {
                lease_id: LeaseId(self.random.next_u128()),
                name: name.clone(),
                owner,
                mode: *mode,
                term,
                wait,
                grace,
                request_id,
                metadata: Metadata::default(),
                lock_delay,
            });
        }
        let claims = request.names.iter().zip(&request.modes).map(|(name, mode)| Claim {
            lease_id: LeaseId(self.random.next_u128()),
            name: name.clone(),
            mode: *mode,
            lock_delay,
        });
        let claims = claims.collect();
        let metadata = Metadata::default();
        Command::AcquireMany(AcquireMany { claims, owner, term, wait, grace, request_id, metadata })
    }

    /// Takes what the request asks for, repeating it while it is in doubt.
    async fn take(&mut self, several: bool) {
        let mut request = self.request(several);
        for _ in 0..4 {
            let call = Call::Propose(self.command(&request));
            let hangs_up = self.random.per_mille(100);
            let patience = if hangs_up { self.random.within(1, 1_500) } else { 120_000 };
            let patience = Duration::from_millis(patience);
            let told = self.ask(call, patience, |reply| conclude_claim(&request, reply)).await;
            match told {
                Told::Granted { grants, .. } => return self.hold(&request, grants).await,
                Told::Unknown(_) if request.request_id.is_some() && self.random.per_mille(800) => {
                    request.repeats = true;
                    sleep(Duration::from_millis(self.random.within(1, 800))).await;
                }
                _ => return,
            }
        }
    }

    /// Holds for a while, and then gives back, or walks away.
    async fn hold(&mut self, request: &Request, grants: Vec<Grant>) {
        for _ in 0..self.random.within(0, 4) {
            sleep(Duration::from_millis(self.random.within(1, 500))).await;
            let grant = self.random.pick(&grants).clone();
            match self.random.within(0, 10) {
                0..4 => self.renew(request, &grant).await,
                4..6 => self.check_fence(&grant).await,
                6..8 if request.request_id.is_some() => {
                    // A repeat of what is held is answered with the same grant.
                    let call = Call::Propose(self.command(request));
                    let again = Request { label: request.label.clone(), ..request.repeated() };
                    self.ask(call, PATIENT, |reply| conclude_claim(&again, reply)).await;
                }
                _ => self.look().await,
            }
        }
        if self.random.per_mille(200) {
            return;
        }
        for grant in grants {
            let lease_id = grant.lease_id;
            self.outside.tell(self.id, self.outside.now.ms(), Told::GivesUp { lease_id });
            let call = Call::Propose(Command::Release { lease_id });
            self.ask(call, PATIENT, |reply| conclude_release(lease_id, reply)).await;
        }
    }

    async fn renew(&mut self, request: &Request, grant: &Grant) {
        let lease_id = grant.lease_id;
        let (LeaseTerm::Ttl(_), Some(ttl_ms)) = (request.term, grant.ttl_ms) else {
            return self.renew_session().await;
        };
        let call = Call::Propose(Command::Renew { lease_id });
        let conclude = |reply: &Reply| match outcome(reply) {
            Some(Outcome::Renewed(_)) => Told::Renewed { lease_id, ttl_ms },
            other => conclude_refusal(lease_id, other),
        };
        self.ask(call, PATIENT, conclude).await;
    }

    async fn check_fence(&mut self, grant: &Grant) {
        let (name, token) = (grant.name.clone(), grant.token);
        let call = Call::Read(Query::Fence { name: name.clone(), token });
        let conclude = move |reply: &Reply| match &reply.body {
            ReplyBody::Fence(holder) => Told::Fence { name, token, held: holder.is_some() },
            other => Told::Refused(format!("{other:?}")),
        };
        self.ask(call, PATIENT, conclude).await;
    }

    async fn look(&mut self) {
        let name = name_of(self.random.within(0, self.locks));
        let call = Call::Read(Query::Lock { name, waiters_max: 10 });
        let conclude = |reply: &Reply| match &reply.body {
            ReplyBody::Lock(view) => Told::Look(Box::new(view.clone())),
            other => Told::Refused(format!("{other:?}")),
        };
        self.ask(call, PATIENT, conclude).await;
    }

    async fn renew_session(&mut self) {
        let Some((session_id, ttl_ms)) = self.session else { return };
        let call = Call::Propose(Command::RenewSession { session_id });
        let conclude = |reply: &Reply| match outcome(reply) {
            Some(Outcome::SessionRenewed(_)) => Told::Session { session_id, ttl_ms },
            other => Told::Refused(format!("{other:?}")),
        };
        self.ask(call, PATIENT, conclude).await;
    }

    /// Opens a session, or renews, closes or forgets the one it has.
    async fn change_session(&mut self) {
        let Some((session_id, _)) = self.session else { return self.open_session().await };
        match self.random.within(0, 10) {
            0..6 => self.renew_session().await,
            6..8 => {
                self.session = None;
                let call = Call::Propose(Command::CloseSession { session_id });
                let conclude = |reply: &Reply| match outcome(reply) {
                    Some(Outcome::SessionClosed { .. }) => Told::SessionClosed,
                    other => Told::Refused(format!("{other:?}")),
                };
                self.ask(call, PATIENT, conclude).await;
            }
            _ => self.session = None,
        }
    }

    async fn open_session(&mut self) {
        self.claims += 1;
        let (session_id, ttl_ms) =
            (SessionId(self.random.next_u128()), self.random.within(1_500, 5_000));
        let label = format!("s{}-{}", self.id, self.claims);
        let command = Command::OpenSession(OpenSession {
            session_id,
            owner: Owner::new(&label).expect("an owner"),
            ttl: Ttl::new(ttl_ms).expect("a TTL"),
            request_id: Some(RequestId(self.random.next_u128())),
            metadata: Metadata::default(),
        });
        let conclude = |reply: &Reply| match outcome(reply) {
            Some(Outcome::SessionOpened(_)) => Told::Session { session_id, ttl_ms },
            other => Told::Refused(format!("{other:?}")),
        };
        let told = self.ask(Call::Propose(command), PATIENT, conclude).await;
        if matches!(told, Told::Session { .. }) {
            self.session = Some((session_id, ttl_ms));
        }
    }
}

impl Request {
    fn repeated(&self) -> Self {
        Self {
            label: self.label.clone(),
            names: self.names.clone(),
            modes: self.modes.clone(),
            repeats: true,
            ..*self
        }
    }
}

fn outcome(reply: &Reply) -> Option<&Outcome> {
    match &reply.body {
        ReplyBody::Outcome(outcome) => Some(outcome),
        _ => None,
    }
}

fn conclude_claim(request: &Request, reply: &Reply) -> Told {
    let grants = match outcome(reply) {
        Some(Outcome::Granted(grant)) => vec![grant.as_ref().clone()],
        Some(Outcome::GrantedMany(grants)) => grants.clone(),
        other => return Told::Refused(format!("{other:?}")),
    };
    let (label, first_asked_at) = (request.label.clone(), request.first_asked_at);
    Told::Granted { label, first_asked_at, repeats: request.repeats, grants }
}

fn conclude_release(lease_id: LeaseId, reply: &Reply) -> Told {
    match outcome(reply) {
        Some(Outcome::Released(_)) => Told::Released { lease_id },
        other => conclude_refusal(lease_id, other),
    }
}

fn conclude_refusal(lease_id: LeaseId, outcome: Option<&Outcome>) -> Told {
    match outcome {
        Some(Outcome::Rejected(Rejection::LeaseGone(_))) => Told::Gone { lease_id },
        other => Told::Refused(format!("{other:?}")),
    }
}

/// Takes a lock and gives it back, patiently: nothing is in the way for ever.
pub(crate) async fn probe(outside: Outside, number: u64, mut random: Random) {
    let label = format!("probe-{number}");
    let command = Command::Acquire(Acquire {
        lease_id: LeaseId(random.next_u128()),
        name: name_of(number),
        owner: Owner::new(&label).expect("an owner"),
        mode: Mode::Exclusive,
        term: LeaseTerm::Ttl(Ttl::new(5_000).expect("a TTL")),
        wait: Wait::new(10_000).expect("a wait"),
        grace: Grace::new(2_000).expect("a grace"),
        request_id: Some(RequestId(random.next_u128())),
        metadata: Metadata::default(),
        lock_delay: LockDelay::new(0).expect("a delay"),
    });
    let node = *random.pick(&outside.nodes);
    let asked_at = outside.now.ms();
    let answer = outside.call(node, Call::Propose(command), PATIENT, &mut random).await;
    let grant = match answer.as_ref().map(outcome) {
        Ok(Some(Outcome::Granted(grant))) => grant.clone(),
        other => {
            let why = format!("progress: {} could not be taken: {other:?}", name_of(number));
            return crate::trace::lock(&outside.witness).complain(why);
        }
    };
    let (lease_id, grants) = (grant.lease_id, vec![*grant]);
    let told = Told::Granted { label, first_asked_at: asked_at, repeats: false, grants };
    outside.tell(number, asked_at, told);
    outside.tell(number, outside.now.ms(), Told::GivesUp { lease_id });
    let call = Call::Propose(Command::Release { lease_id });
    let released = outside.call(node, call, PATIENT, &mut random).await;
    if !matches!(released.as_ref().map(outcome), Ok(Some(Outcome::Released(_)))) {
        let why = format!("progress: {} was not released: {released:?}", name_of(number));
        crate::trace::lock(&outside.witness).complain(why);
    }
}
