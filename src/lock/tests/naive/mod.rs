//! A naive model of the machine, written apart from it: plain vectors, linear scans, whole commands
//! kept instead of fingerprints. It shares nothing with the machine but the contract's types, so
//! that a mistake has to be made twice to go unseen. Claims stand in the order in which they came,
//! which is the order of every queue.

mod ends;
mod views;

use oarlock_core::command::{Acquire, Command, ForceTarget, LeaseTerm, Mode, OpenSession};
use oarlock_core::event::{Event, EventKind};
use oarlock_core::ids::{LeaseId, LockName, Reason, RequestId, Revision, SessionId, Token};
use oarlock_core::limits::Limits;
use oarlock_core::outcome::{EndReason, Ended, Outcome, Queued, Rejection};
use oarlock_core::time::{LeaseTime, Wait};

pub(crate) struct Naive {
    limits: Limits,
    clock: LeaseTime,
    wall_ms: u64,
    token: u64,
    revision: u64,
    claims: Vec<Claim>,
    sessions: Vec<Open>,
    facts: Vec<Fact>,
    kept: Vec<Vec<Past>>,
    recent: Vec<Vec<Past>>,
    events: Vec<Event>,
}

#[derive(Clone)]
struct Claim {
    asked: Acquire,
    came_at: LeaseTime,
    place: Place,
}

#[derive(Clone)]
enum Place {
    Waiting { wait_until: LeaseTime, grace_until: Option<LeaseTime> },
    Holding(Holding),
}

#[derive(Clone)]
struct Holding {
    token: Token,
    granted_at: LeaseTime,
    wall_ms: u64,
    renewed_at: LeaseTime,
    own_deadline: Option<LeaseTime>,
    claim_until: Option<LeaseTime>,
}

#[derive(Clone)]
struct Open {
    asked: OpenSession,
    renewed_at: LeaseTime,
    deadline: LeaseTime,
}

struct Fact {
    name: LockName,
    revision: Revision,
    last_token: Option<Token>,
}

/// What is over, and the command that had made it.
struct Past {
    asked: Command,
    request_id: Option<RequestId>,
    lease: Option<Ended>,
    session: Option<(SessionId, EndReason)>,
    ended_at: LeaseTime,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Claim(LeaseId),
    Session(SessionId),
}

/// The command without what may differ between a request and its repeat.
fn essence(command: &Command) -> Command {
    match command.clone() {
        Command::Acquire(acquire) => Command::Acquire(Acquire {
            lease_id: LeaseId(0),
            wait: Wait::new(0).expect("no wait"),
            request_id: None,
            ..acquire
        }),
        Command::OpenSession(open) => {
            Command::OpenSession(OpenSession { session_id: SessionId(0), request_id: None, ..open })
        }
        other => other,
    }
}

impl Claim {
    fn deadlines(&self) -> (Option<LeaseTime>, Option<LeaseTime>) {
        match &self.place {
            Place::Waiting { wait_until, grace_until } => (Some(*wait_until), *grace_until),
            Place::Holding(holding) => (holding.own_deadline, holding.claim_until),
        }
    }

    fn deadline(&self) -> Option<LeaseTime> {
        let (first, second) = self.deadlines();
        first.into_iter().chain(second).min()
    }

    fn holding(&self) -> Option<&Holding> {
        match &self.place {
            Place::Holding(holding) => Some(holding),
            Place::Waiting { .. } => None,
        }
    }

    fn session_id(&self) -> Option<SessionId> {
        match self.asked.term {
            LeaseTerm::Session(id) => Some(id),
            LeaseTerm::Ttl(_) | LeaseTerm::Forever => None,
        }
    }
}

fn rejected(rejection: Rejection) -> Outcome {
    Outcome::Rejected(rejection)
}

impl Naive {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            clock: LeaseTime::default(),
            wall_ms: 0,
            token: 0,
            revision: 0,
            claims: Vec::new(),
            sessions: Vec::new(),
            facts: Vec::new(),
            kept: Vec::new(),
            recent: Vec::new(),
            events: Vec::new(),
        }
    }

    pub(crate) fn apply(
        &mut self,
        wall_ms: u64,
        at: LeaseTime,
        command: &Command,
    ) -> (Outcome, Vec<Event>) {
        self.wall_ms = wall_ms;
        self.clock = self.clock.max(at);
        self.end_what_is_due();
        self.forget();
        let outcome = self.run(command);
        (outcome, std::mem::take(&mut self.events))
    }

    fn run(&mut self, command: &Command) -> Outcome {
        match command {
            Command::Advance => Outcome::Done,
            Command::Acquire(acquire) => self.acquire(acquire, command),
            Command::Attach { lease_id } => self.come_back(*lease_id, None),
            Command::Detach { lease_id } => self.lose(Some(*lease_id)),
            Command::DetachAll => self.lose(None),
            Command::Renew { lease_id } => self.renew(*lease_id),
            Command::Release { lease_id } => self.release(*lease_id),
            Command::ForceRelease { name, target, reason } => self.force(name, *target, reason),
            Command::OpenSession(open) => self.open(open, command),
            Command::RenewSession { session_id } => {
                self.prolong(*session_id);
                match self.session_info(*session_id) {
                    Some(info) => Outcome::SessionRenewed(info),
                    None => rejected(self.session_over(*session_id)),
                }
            }
            Command::CloseSession { session_id } => self.close(*session_id),
        }
    }

    fn emit(&mut self, kind: EventKind) {
        self.revision += 1;
        let revision = Revision(self.revision);
        let (name, token) = match &kind {
            EventKind::Granted { grant, .. } => (Some(grant.name.clone()), Some(grant.token)),
            EventKind::Queued { name, .. } => (Some(name.clone()), None),
            EventKind::Ended { ended, .. } => (Some(ended.name.clone()), None),
            EventKind::SessionOpened { .. } | EventKind::SessionEnded { .. } => (None, None),
        };
        if let Some(name) = name {
            match self.facts.iter_mut().find(|fact| fact.name == name) {
                Some(fact) => {
                    fact.revision = revision;
                    fact.last_token = token.or(fact.last_token);
                }
                None => self.facts.push(Fact { name, revision, last_token: token }),
            }
        }
        self.events.push(Event { revision, kind });
    }

    fn holders_of<'a>(&'a self, name: &'a LockName) -> impl Iterator<Item = &'a Claim> {
        self.claims.iter().filter(move |c| c.asked.name == *name && c.holding().is_some())
    }

    fn queue_of<'a>(&'a self, name: &'a LockName) -> impl Iterator<Item = &'a Claim> {
        self.claims.iter().filter(move |c| c.asked.name == *name && c.holding().is_none())
    }

    fn compatible(&self, name: &LockName, mode: Mode) -> bool {
        let all_shared = self.holders_of(name).all(|c| c.asked.mode == Mode::Shared);
        self.holders_of(name).count() == 0 || (mode == Mode::Shared && all_shared)
    }

    /// The first outcome for a request that is known by its request id or its lease id.
    fn repeated(&self, request_id: Option<RequestId>, command: &Command) -> Option<Known> {
        let live = self.claims.iter().map(|c| {
            let known = Known::Lease(c.asked.lease_id);
            (known, c.asked.request_id, Command::Acquire(c.asked.clone()))
        });
        let open = self.sessions.iter().map(|s| {
            let known = Known::Session(s.asked.session_id);
            (known, s.asked.request_id, Command::OpenSession(s.asked.clone()))
        });
        let over = self.pasts().map(|past| {
            let known = match (&past.lease, past.session) {
                (Some(ended), _) => Known::Lease(ended.lease_id),
                (None, Some((id, _))) => Known::Session(id),
                (None, None) => unreachable!("nothing ended"),
            };
            (known, past.request_id, past.asked.clone())
        });
        let wanted = match command {
            Command::Acquire(acquire) => Known::Lease(acquire.lease_id),
            Command::OpenSession(open) => Known::Session(open.session_id),
            _ => unreachable!("only these are remembered"),
        };
        let all: Vec<(Known, Option<RequestId>, Command)> = live.chain(open).chain(over).collect();
        let by_request = all.iter().find(|(_, id, _)| id.is_some() && *id == request_id);
        let (known, first_id, first) =
            by_request.or_else(|| all.iter().find(|(known, _, _)| *known == wanted))?;
        let same_id = request_id.is_none() || request_id == *first_id;
        let same = same_id && essence(first) == essence(command);
        Some(if same { *known } else { Known::Other })
    }

    fn acquire(&mut self, acquire: &Acquire, command: &Command) -> Outcome {
        match self.repeated(acquire.request_id, command) {
            Some(Known::Lease(id)) => return self.come_back(id, Some(acquire.wait)),
            Some(Known::Session(_) | Known::Other) => return rejected(Rejection::RequestIdReused),
            None => {}
        }
        if let Some(rejection) = self.refusal(acquire) {
            return rejected(rejection);
        }
        let name = &acquire.name;
        let at_once = self.queue_of(name).count() == 0
            && self.compatible(name, acquire.mode)
            && self.holders_of(name).count() < self.limits.holders_max;
        let wait_until = self.clock.plus_ms(acquire.wait.ms());
        let place = Place::Waiting { wait_until, grace_until: None };
        self.claims.push(Claim { asked: acquire.clone(), came_at: self.clock, place });
        if at_once {
            self.give(acquire.lease_id, false);
            return Outcome::Granted(Box::new(self.grant(acquire.lease_id).expect("granted")));
        }
        let queue_length = self.queue_of(name).count() as u64;
        let owner = acquire.owner.clone();
        self.emit(EventKind::Queued { name: name.clone(), owner, queue_length });
        Outcome::Queued(Queued { lease_id: acquire.lease_id, position: queue_length })
    }

    fn refusal(&self, acquire: &Acquire) -> Option<Rejection> {
        let limits = &self.limits;
        let full = |count: usize, limit: usize| count >= limit;
        if acquire.request_id.is_some() && full(self.kept_count(), limits.answers_max) {
            return Some(Rejection::AnswersFull { limit: limits.answers_max as u64 });
        }
        let session = match acquire.term {
            LeaseTerm::Session(id) => Some(id),
            LeaseTerm::Ttl(_) | LeaseTerm::Forever => None,
        };
        if let Some(id) = session
            && self.session_info(id).is_none()
        {
            return Some(self.session_over(id));
        }
        if self.token >= limits.token_max {
            return Some(Rejection::TokensExhausted);
        }
        let name = &acquire.name;
        let queue_length = self.queue_of(name).count();
        let fits = queue_length == 0 && self.compatible(name, acquire.mode);
        let crowded = full(self.holders_of(name).count(), limits.holders_max);
        if acquire.wait.ms() == 0 && !fits {
            return Some(Rejection::LockHeld(Box::new(self.contention(name))));
        }
        if acquire.wait.ms() == 0 && crowded {
            return Some(Rejection::HoldersFull { limit: limits.holders_max as u64 });
        }
        if (!fits || crowded) && full(queue_length, limits.queue_length_max) {
            return Some(Rejection::QueueFull { limit: limits.queue_length_max as u64 });
        }
        let per_session = limits.leases_per_session_max;
        if session.is_some_and(|id| full(self.leases_of(id).len(), per_session)) {
            return Some(Rejection::SessionLeasesFull { limit: per_session as u64 });
        }
        let full = full(self.claims.len(), limits.leases_max);
        full.then_some(Rejection::LeasesFull { limit: limits.leases_max as u64 })
    }

    fn claim_mut(&mut self, id: LeaseId) -> Option<&mut Claim> {
        self.claims.iter_mut().find(|claim| claim.asked.lease_id == id)
    }

    /// Turns a claim into a grant.
    fn give(&mut self, id: LeaseId, queued: bool) {
        self.token += 1;
        let (token, clock, wall_ms) = (Token(self.token), self.clock, self.wall_ms);
        let claim = self.claim_mut(id).expect("a claim to grant");
        let detached = matches!(&claim.place, Place::Waiting { grace_until: Some(_), .. });
        let own_deadline = match claim.asked.term {
            LeaseTerm::Ttl(ttl) => Some(clock.plus_ms(ttl.ms())),
            LeaseTerm::Forever | LeaseTerm::Session(_) => None,
        };
        let claim_until = detached.then(|| clock.plus_ms(claim.asked.grace.ms()));
        claim.place = Place::Holding(Holding {
            token,
            granted_at: clock,
            wall_ms,
            renewed_at: clock,
            own_deadline,
            claim_until,
        });
        let grant = Box::new(self.grant(id).expect("granted"));
        self.emit(EventKind::Granted { grant, attached: !detached, queued });
    }

    fn settle(&mut self, name: &LockName) {
        loop {
            let front = self.queue_of(name).next().cloned();
            let Some(front) = front else { break };
            let room = self.holders_of(name).count() < self.limits.holders_max;
            let compatible = self.compatible(name, front.asked.mode);
            if !room || !compatible || self.token >= self.limits.token_max {
                break;
            }
            self.give(front.asked.lease_id, true);
        }
        if !self.claims.iter().any(|claim| claim.asked.name == *name) {
            self.facts.retain(|fact| fact.name != *name);
        }
    }

    fn come_back(&mut self, id: LeaseId, wait: Option<Wait>) -> Outcome {
        let clock = self.clock;
        let Some(claim) = self.claim_mut(id) else { return self.over(id) };
        match &mut claim.place {
            Place::Waiting { wait_until, grace_until } => {
                *grace_until = None;
                let again = wait.map(|wait| clock.plus_ms(wait.ms()));
                *wait_until = again.map_or(*wait_until, |again| again.max(*wait_until));
                let position = self.position(id);
                Outcome::Queued(Queued { lease_id: id, position })
            }
            Place::Holding(holding) => {
                holding.claim_until = None;
                Outcome::Granted(Box::new(self.grant(id).expect("held")))
            }
        }
    }

    fn lose(&mut self, only: Option<LeaseId>) -> Outcome {
        let clock = self.clock;
        for claim in &mut self.claims {
            let meant = only.is_none_or(|id| id == claim.asked.lease_id);
            if let Place::Waiting { grace_until: grace_until @ None, .. } = &mut claim.place
                && meant
            {
                *grace_until = Some(clock.plus_ms(claim.asked.grace.ms()));
            }
        }
        Outcome::Done
    }

    fn over(&self, id: LeaseId) -> Outcome {
        rejected(match self.ended(id) {
            Some(ended) => Rejection::LeaseGone(ended.clone()),
            None => Rejection::LeaseUnknown,
        })
    }

    fn renew(&mut self, id: LeaseId) -> Outcome {
        let clock = self.clock;
        let Some(claim) = self.claim_mut(id) else { return self.over(id) };
        let session_id = claim.session_id();
        let Place::Holding(holding) = &mut claim.place else {
            return rejected(Rejection::LeaseWaiting);
        };
        holding.claim_until = None;
        holding.renewed_at = clock;
        if let LeaseTerm::Ttl(ttl) = claim.asked.term {
            let later = clock.plus_ms(ttl.ms());
            holding.own_deadline = holding.own_deadline.map(|old| old.max(later));
        }
        if let Some(session_id) = session_id {
            self.prolong(session_id);
        }
        Outcome::Renewed(Box::new(self.grant(id).expect("held")))
    }

    fn release(&mut self, id: LeaseId) -> Outcome {
        if let Some(ended) = self.end(id, EndReason::Released, None) {
            self.settle(&ended.name);
            return Outcome::Released(ended);
        }
        match self.ended(id) {
            Some(ended) if ended.how == EndReason::Released => Outcome::Released(ended.clone()),
            _ => self.over(id),
        }
    }

    fn force(&mut self, name: &LockName, target: ForceTarget, reason: &Reason) -> Outcome {
        let mut taken: Vec<(Token, LeaseId)> = self
            .holders_of(name)
            .map(|c| (c.holding().expect("a holder").token, c.asked.lease_id))
            .filter(|(token, _)| match target {
                ForceTarget::Token(wanted) => *token == wanted,
                ForceTarget::All => true,
            })
            .collect();
        taken.sort_unstable();
        let ids = taken.into_iter().map(|(_, id)| id);
        let ended: Vec<Ended> =
            ids.filter_map(|id| self.end(id, EndReason::Forced, Some(reason))).collect();
        self.settle(name);
        Outcome::ForceReleased(ended)
    }
}

/// What a repeated request had made.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Known {
    Lease(LeaseId),
    Session(SessionId),
    /// Something else: the request is no repeat.
    Other,
}
