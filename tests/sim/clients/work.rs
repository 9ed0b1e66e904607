//! What one client does, again and again until it is told to stop: take a lock or several, alone or
//! in a session, waiting or not, over one node or over two at once; repeat what was in doubt; and
//! what follows from that.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use oarlock::service::replicator::{Call, Reply};
use oarlock_core::command::{Acquire, AcquireMany, Claim, Command, LeaseTerm, Mode};
use oarlock_core::ids::{LeaseId, LockName, Metadata, Owner, Permits, RequestId, SessionId};
use oarlock_core::time::{Grace, LockDelay, Ttl, Wait};
use tokio::time::sleep;

use super::Outside;
use super::conclude::conclude_claim;
use crate::invariants::{About, DELAY_KEY, LABEL_KEY, Told};
use crate::random::Random;

/// All who take permits of a lock name this limit.
const PERMITS_LIMIT: u64 = 3;

/// Longer than any call may take.
pub(super) const PATIENT: Duration = Duration::from_mins(2);

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
pub(super) struct Request {
    pub(super) label: String,
    pub(super) names: Vec<LockName>,
    pub(super) modes: Vec<Mode>,
    pub(super) term: LeaseTerm,
    pub(super) wait_ms: u64,
    pub(super) delay_ms: u64,
    pub(super) request_id: Option<RequestId>,
    pub(super) first_asked_at: u64,
    pub(super) repeats: bool,
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
                82..89 => self.look().await,
                89..92 => self.operate().await,
                _ => self.change_session().await,
            }
        }
    }

    fn node(&mut self) -> u64 {
        *self.random.pick(&self.outside.nodes)
    }

    /// Asks once, and reports what was told.
    pub(super) async fn ask(
        &mut self,
        call: Call,
        patience: Duration,
        conclude: impl FnOnce(&Reply) -> Told,
    ) -> Told {
        let node = self.node();
        let (asked_at, about) = (self.outside.now.ms(), About::of(&call));
        let answer = self.outside.call(node, call, patience, &mut self.random).await;
        let told = match answer {
            Ok(reply) => conclude(&reply),
            Err(told) => told,
        };
        self.outside.tell_about(self.id, asked_at, about, told.clone());
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
        // A grant that several leases of a session share has one delay.
        let delay_ms = match term {
            LeaseTerm::Session(_) => 250,
            _ if self.random.per_mille(500) => self.random.within(50, 1_200),
            _ => 0,
        };
        Request {
            label: format!("c{}-{}", self.id, self.claims),
            names,
            modes,
            term,
            wait_ms,
            delay_ms,
            request_id: self.random.per_mille(700).then_some(id),
            first_asked_at: self.outside.now.ms(),
            repeats: false,
        }
    }

    pub(super) fn command(&mut self, request: &Request) -> Command {
        let owner = Owner::new(&request.label).expect("an owner");
        let wait = Wait::new(request.wait_ms).expect("a wait");
        let grace = Grace::new(2_000).expect("a grace");
        let (term, request_id) = (request.term, request.request_id);
        let lock_delay = LockDelay::new(request.delay_ms).expect("a delay");
        let metadata = metadata(&request.label, request.delay_ms);
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
                metadata,
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
        Command::AcquireMany(AcquireMany { claims, owner, term, wait, grace, request_id, metadata })
    }

    /// Asks two nodes at once; one of the connections may end early.
    async fn ask_twice(&mut self, request: &Request, patience: Duration) -> Told {
        let calls = [self.command(request), self.command(request)].map(Call::Propose);
        let nodes = [self.node(), self.node()];
        let asked_at = self.outside.now.ms();
        let (outside, mut one, mut other) =
            (self.outside.clone(), self.random.fork(), self.random.fork());
        let [first, second] = calls;
        let (first, second) = tokio::join!(
            biased;
            outside.call(nodes[0], first, patience, &mut one),
            outside.call(nodes[1], second, PATIENT, &mut other),
        );
        let conclude = |answer: Result<Reply, Told>| {
            let told = answer.map_or_else(|told| told, |reply| conclude_claim(request, &reply));
            let about = Some(About::Claim(request.label.clone()));
            outside.tell_about(self.id, asked_at, about, told.clone());
            told
        };
        let told = [conclude(first), conclude(second)];
        outside.evidence.reach("a request over two nodes at once");
        let is_granted = |told: &Told| matches!(told, Told::Granted { .. });
        let is_unknown = |told: &Told| matches!(told, Told::Unknown(_));
        let [first, second] = told;
        let takes_first = is_granted(&first) || (is_unknown(&first) && !is_granted(&second));
        if takes_first { first } else { second }
    }

    /// Takes what the request asks for, repeating it while it is in doubt.
    async fn take(&mut self, several: bool) {
        let mut request = self.request(several);
        for _ in 0..4 {
            let call = Call::Propose(self.command(&request));
            let hangs_up = self.random.per_mille(100);
            let patience = if hangs_up { self.random.within(1, 1_500) } else { 120_000 };
            let patience = Duration::from_millis(patience);
            let twice = request.request_id.is_some() && self.random.per_mille(120);
            let told = if twice {
                self.ask_twice(&request, patience).await
            } else {
                self.ask(call, patience, |reply| conclude_claim(&request, reply)).await
            };
            match told {
                Told::Granted { grants, .. } => return self.hold(&request, grants).await,
                Told::Unknown(_) if request.request_id.is_some() && self.random.per_mille(800) => {
                    request.repeats = true;
                    self.outside.evidence.reach("a request repeated by its client");
                    sleep(Duration::from_millis(self.random.within(1, 800))).await;
                }
                _ => return,
            }
        }
    }
}

impl Request {
    pub(super) fn repeated(&self) -> Self {
        Self {
            label: self.label.clone(),
            names: self.names.clone(),
            modes: self.modes.clone(),
            repeats: true,
            ..*self
        }
    }
}

/// A label and a delay, where the invariants find them.
pub(super) fn metadata(label: &str, delay_ms: u64) -> Metadata {
    let entries = [(LABEL_KEY, label.to_owned()), (DELAY_KEY, delay_ms.to_string())];
    let entries = entries.into_iter().map(|(key, text)| (key.to_owned(), text));
    Metadata::try_from(entries.collect::<BTreeMap<_, _>>()).expect("metadata")
}
