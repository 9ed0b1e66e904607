//! A naive model of the machine, written apart from it: plain vectors, linear scans, whole commands
//! kept instead of fingerprints. It shares nothing with the machine but the contract's types, so
//! that a mistake has to be made twice to go unseen. Claims stand in the order in which they came,
//! which is the order of every queue.

mod circles;
mod ends;
mod records;
mod together;
mod values;
mod views;

use oarlock_core::command::{
    Acquire, AcquireMany, Command, ForceTarget, HandOver, LeaseTerm, Mode, OpenSession,
};
use oarlock_core::event::{Event, EventKind};
use oarlock_core::history::PastGrant;
use oarlock_core::ids::{
    LeaseId, LockName, Reason, RecordKey, RequestId, Revision, SessionId, Token,
};
use oarlock_core::limits::Limits;
use oarlock_core::outcome::{EndReason, Ended, Outcome, Queued, Rejection, ValueInfo};
use oarlock_core::records::Record;
use oarlock_core::time::{LeaseTime, LockDelay, Wait};

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
    history: Vec<Vec<PastGrant>>,
    events: Vec<Event>,
    /// In the order in which they were written.
    records: Vec<(RecordKey, Record)>,
    puts: u64,
}

#[derive(Clone)]
struct Claim {
    asked: Acquire,
    /// The command that made it.
    command: Command,
    /// All lease ids of a request for several locks; empty if it was for one.
    group: Vec<LeaseId>,
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
    closed_until: Option<LeaseTime>,
    value: Option<ValueInfo>,
}

/// What is over, and the command that had made it.
struct Past {
    asked: Command,
    request_id: Option<RequestId>,
    lease: Option<Ended>,
    session: Option<(SessionId, EndReason)>,
    ended_at: LeaseTime,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Claim(LeaseId),
    Session(SessionId),
    Lock(LockName),
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
        Command::AcquireMany(mut many) => {
            for claim in &mut many.claims {
                claim.lease_id = LeaseId(0);
            }
            Command::AcquireMany(AcquireMany { wait: Wait::NONE, request_id: None, ..many })
        }
        Command::HandOver(hand_over) => {
            Command::HandOver(HandOver { new_lease_id: LeaseId(0), request_id: None, ..hand_over })
        }
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

    fn is_first(&self) -> bool {
        self.group.first().is_none_or(|first| *first == self.asked.lease_id)
    }

    fn deadline(&self) -> Option<LeaseTime> {
        if self.holding().is_none() && !self.is_first() {
            return None;
        }
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
            history: Vec::new(),
            events: Vec::new(),
            records: Vec::new(),
            puts: 0,
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
        self.end_what_is_due(command);
        self.forget();
        let outcome = self.run(command);
        (outcome, std::mem::take(&mut self.events))
    }

    fn run(&mut self, command: &Command) -> Outcome {
        match command {
            Command::Advance => Outcome::Done,
            Command::Acquire(acquire) => self.acquire(acquire, command),
            Command::Attach { lease_id } => self.come_back(*lease_id, true),
            Command::Detach { lease_id } => self.lose(Some(*lease_id)),
            Command::DetachAll => self.lose(None),
            Command::Renew { lease_id } => self.renew(*lease_id),
            Command::Release { lease_id } => self.release(*lease_id),
            Command::ForceRelease { name, target, reason, lock_delay } => {
                self.force(name, *target, reason, *lock_delay)
            }
            Command::SetValue { name, lease_id, value } => self.set(name, *lease_id, value.clone()),
            Command::DeleteValue { name } => self.unset(name),
            Command::PutRecord { key, value, expected } => self.put(key, value.as_ref(), *expected),
            Command::AcquireMany(many) => self.acquire_many(many, command),
            Command::HandOver(hand_over) => self.hand_over(hand_over, command),
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
            EventKind::Reopened { name } | EventKind::ValueChanged { name, .. } => {
                (Some(name.clone()), None)
            }
            EventKind::SessionOpened { .. } | EventKind::SessionEnded { .. } => (None, None),
        };
        if let Some(name) = name {
            if let Some(fact) = self.facts.iter_mut().find(|fact| fact.name == name) {
                fact.revision = revision;
                fact.last_token = token.or(fact.last_token);
            } else {
                let (closed_until, value) = (None, None);
                self.facts.push(Fact { name, revision, last_token: token, closed_until, value });
            }
        }
        self.events.push(Event { revision, kind });
    }

    fn holders_of<'a>(&'a self, name: &'a LockName) -> impl Iterator<Item = &'a Claim> {
        self.claims.iter().filter(move |c| c.asked.name == *name && self.stands_among_holders(c))
    }

    /// Of the leases of one grant, the one with the lowest id.
    fn stands_among_holders(&self, claim: &Claim) -> bool {
        let Some(holding) = claim.holding() else { return false };
        let same = |other: &&Claim| other.holding().is_some_and(|h| h.token == holding.token);
        let first = self.claims.iter().filter(same).map(|other| other.asked.lease_id).min();
        first == Some(claim.asked.lease_id)
    }

    fn queue_of<'a>(&'a self, name: &'a LockName) -> impl Iterator<Item = &'a Claim> {
        self.claims.iter().filter(move |c| c.asked.name == *name && c.holding().is_none())
    }

    fn compatible(&self, name: &LockName, mode: Mode) -> bool {
        let mut modes: Vec<Mode> = self.holders_of(name).map(|c| c.asked.mode).collect();
        modes.push(mode);
        let shared = modes.iter().all(|mode| *mode == Mode::Shared);
        let permits: Vec<(u64, u64)> = modes.iter().filter_map(|mode| permits(*mode)).collect();
        let taken: u64 = permits.iter().map(|(count, _)| count).sum();
        let within = permits.len() == modes.len()
            && permits.iter().all(|(_, limit)| *limit == permits[0].1 && taken <= *limit);
        modes.len() == 1 || shared || within
    }

    fn closed(&self, name: &LockName) -> bool {
        self.fact(name).is_some_and(|fact| fact.closed_until.is_some())
    }

    fn closed_count(&self) -> usize {
        self.facts.iter().filter(|fact| fact.closed_until.is_some()).count()
    }

    fn fact(&self, name: &LockName) -> Option<&Fact> {
        self.facts.iter().find(|fact| fact.name == *name)
    }

    /// The first outcome for a request that is known by its request id or its lease id.
    fn repeated(&self, request_id: Option<RequestId>, command: &Command) -> Option<Known> {
        let live = self.claims.iter().map(|c| {
            let known = Known::Lease(c.asked.lease_id);
            (known, c.asked.request_id, c.command.clone())
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
            Command::AcquireMany(many) => Known::Lease(many.claims[0].lease_id),
            Command::HandOver(hand_over) => Known::Lease(hand_over.new_lease_id),
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
            Some(Known::Lease(id)) => return self.come_back(id, id == acquire.lease_id),
            Some(Known::Session(_) | Known::Other) => return rejected(Rejection::RequestIdReused),
            None => {}
        }
        if let Some(rejection) = self.refusal(acquire) {
            return rejected(rejection);
        }
        if let Some(first) = self.held_already(acquire) {
            return self.share(acquire, command, &first);
        }
        let at_once = self.fits_now(acquire);
        self.push(acquire, command, Vec::new());
        if at_once {
            self.give(acquire.lease_id, false);
            return Outcome::Granted(Box::new(self.grant(acquire.lease_id).expect("granted")));
        }
        Outcome::Queued(self.tell_queued(acquire))
    }

    fn fits_now(&self, acquire: &Acquire) -> bool {
        let name = &acquire.name;
        self.queue_of(name).count() == 0
            && !self.closed(name)
            && self.compatible(name, acquire.mode)
            && self.holders_of(name).count() < self.limits.holders_max
    }

    fn push(&mut self, acquire: &Acquire, command: &Command, group: Vec<LeaseId>) {
        let wait_until = self.clock.plus_ms(acquire.wait.ms());
        let place = Place::Waiting { wait_until, grace_until: None };
        let (asked, command, came_at) = (acquire.clone(), command.clone(), self.clock);
        self.claims.push(Claim { asked, command, group, came_at, place });
    }

    fn tell_queued(&mut self, acquire: &Acquire) -> Queued {
        let name = &acquire.name;
        let queue_length = self.queue_of(name).count() as u64;
        let owner = acquire.owner.clone();
        self.emit(EventKind::Queued { name: name.clone(), owner, queue_length });
        Queued { lease_id: acquire.lease_id, position: queue_length }
    }

    fn refusal(&self, acquire: &Acquire) -> Option<Rejection> {
        let limits = &self.limits;
        let full = |count: usize, limit: usize| count >= limit;
        if acquire.request_id.is_some() && full(self.request_count(), limits.answers_max) {
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
        let shares = self.held_already(acquire).is_some();
        if !shares && self.token >= limits.token_max {
            return Some(Rejection::TokensExhausted);
        }
        if !shares && let Some(rejection) = self.refusal_of_lock(acquire) {
            return Some(rejection);
        }
        if !shares
            && !self.fits_now(acquire)
            && let Some(circle) = self.circle(std::slice::from_ref(acquire))
        {
            return Some(Rejection::Deadlock(circle));
        }
        let per_session = limits.leases_per_session_max;
        if session.is_some_and(|id| full(self.leases_of(id).len(), per_session)) {
            return Some(Rejection::SessionLeasesFull { limit: per_session as u64 });
        }
        let full = full(self.claims.len() + self.closed_count(), limits.leases_max);
        full.then_some(Rejection::LeasesFull { limit: limits.leases_max as u64 })
    }

    /// What the lock and its queue alone refuse.
    fn refusal_of_lock(&self, acquire: &Acquire) -> Option<Rejection> {
        let limits = &self.limits;
        let full = |count: usize, limit: usize| count >= limit;
        let name = &acquire.name;
        let queue_length = self.queue_of(name).count();
        let others = self.claims.iter().filter(|claim| claim.asked.name == *name);
        let limits_named = others.filter_map(|claim| permits(claim.asked.mode));
        let other = permits(acquire.mode).and_then(|(_, asked)| {
            limits_named.map(|(_, limit)| limit).find(|limit| *limit != asked)
        });
        if let Some(limit) = other {
            return Some(Rejection::PermitLimitDiffers { limit });
        }
        let fits = queue_length == 0 && !self.closed(name) && self.compatible(name, acquire.mode);
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
        None
    }

    fn claim_mut(&mut self, id: LeaseId) -> Option<&mut Claim> {
        self.claims.iter_mut().find(|claim| claim.asked.lease_id == id)
    }

    /// Turns a claim into a grant.
    fn give(&mut self, id: LeaseId, queued: bool) {
        let detached = self.detached(id);
        self.give_as(id, queued, detached);
    }

    fn give_as(&mut self, id: LeaseId, queued: bool, detached: bool) {
        self.token += 1;
        let (token, clock, wall_ms) = (Token(self.token), self.clock, self.wall_ms);
        let in_group = !self.find(id).expect("a claim to grant").group.is_empty();
        let claim = self.claim_mut(id).expect("a claim to grant");
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
        self.emit(EventKind::Granted { grant, attached: !detached, queued, in_group });
    }

    /// Whether the connection of a waiter, or of the request that it belongs to, is known gone.
    fn detached(&self, id: LeaseId) -> bool {
        let claim = self.find(id).expect("a claim");
        let first = claim.group.first().and_then(|first| self.find(*first)).unwrap_or(claim);
        matches!(&first.place, Place::Waiting { grace_until: Some(_), .. })
    }

    fn settle(&mut self, name: &LockName) {
        let mut names = vec![name.clone()];
        while let Some(name) = names.pop() {
            let mut others = Vec::new();
            while let Some(ready) = self.ready(&name) {
                if self.token + ready.len() as u64 > self.limits.token_max {
                    break;
                }
                // Whether the request is attached is its first lease's to say, also for the others.
                let detached = self.detached(ready[0]);
                for id in &ready {
                    let other = self.find(*id).expect("a waiter").asked.name.clone();
                    others.extend(Some(other).filter(|other| *other != name));
                    self.give_as(*id, true, detached);
                }
            }
            self.drop_if_free(&name);
            names.extend(others);
        }
    }

    /// The next in line if it can hold now, with all that were asked for with it.
    fn ready(&self, name: &LockName) -> Option<Vec<LeaseId>> {
        let front = self.queue_of(name).next()?;
        let single = vec![front.asked.lease_id];
        let all = if front.group.is_empty() { single } else { front.group.clone() };
        let can = |id: &LeaseId| {
            let claim = self.find(*id).expect("all wait together");
            let name = &claim.asked.name;
            self.queue_of(name).next().map(|front| front.asked.lease_id) == Some(*id)
                && self.holders_of(name).count() < self.limits.holders_max
                && self.compatible(name, claim.asked.mode)
                && !self.closed(name)
        };
        all.iter().all(can).then_some(all)
    }

    fn drop_if_free(&mut self, name: &LockName) {
        if !self.claims.iter().any(|claim| claim.asked.name == *name) {
            let kept = |fact: &Fact| fact.closed_until.is_some() || fact.value.is_some();
            self.facts.retain(|fact| fact.name != *name || kept(fact));
        }
    }

    fn come_back(&mut self, id: LeaseId, is_there: bool) -> Outcome {
        match self.together(id) {
            Some(all) => self.come_back_together(&all, is_there),
            None => self.come_back_alone(id, is_there),
        }
    }

    fn come_back_alone(&mut self, id: LeaseId, is_there: bool) -> Outcome {
        let Some(claim) = self.claim_mut(id) else { return self.over(id) };
        match &mut claim.place {
            Place::Waiting { grace_until, .. } => {
                if is_there {
                    *grace_until = None;
                }
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
        let only = only.map(|id| {
            let claim = self.find(id).filter(|claim| claim.holding().is_none());
            claim.and_then(|claim| claim.group.first().copied()).unwrap_or(id)
        });
        for claim in &mut self.claims {
            let meant = claim.is_first() && only.is_none_or(|id| id == claim.asked.lease_id);
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
        if let Some(ended) = self.end_together(id, EndReason::Released) {
            return Outcome::Released(ended);
        }
        match self.ended(id) {
            Some(ended) if ended.how == EndReason::Released => Outcome::Released(ended.clone()),
            _ => self.over(id),
        }
    }

    fn force(
        &mut self,
        name: &LockName,
        target: ForceTarget,
        reason: &Reason,
        lock_delay: Option<LockDelay>,
    ) -> Outcome {
        let mut taken: Vec<(Token, LeaseId)> = self
            .claims
            .iter()
            .filter(|claim| claim.asked.name == *name && claim.holding().is_some())
            .map(|c| (c.holding().expect("a holder").token, c.asked.lease_id))
            .filter(|(token, _)| match target {
                ForceTarget::Token(wanted) => *token == wanted,
                ForceTarget::All => true,
            })
            .collect();
        taken.sort_unstable();
        let left = taken.iter().map(|(_, id)| {
            let claim = self.find(*id).expect("a holder");
            let deadline = self.effective_deadline(claim);
            deadline.unwrap_or_else(|| self.clock.plus_ms(claim.asked.lock_delay.ms()))
        });
        let left = left.max().unwrap_or(self.clock);
        let ids = taken.into_iter().map(|(_, id)| id);
        let mut ended: Vec<Ended> =
            ids.filter_map(|id| self.end(id, EndReason::Forced, Some(reason))).collect();
        ended.dedup_by_key(|ended| ended.token);
        if !ended.is_empty() {
            let chosen = lock_delay.map(|delay| self.clock.plus_ms(delay.ms()));
            self.close_lock(name, chosen.unwrap_or(left));
        }
        self.settle(name);
        Outcome::ForceReleased(ended)
    }
}

/// The permits that a mode takes, and the limit that it names.
fn permits(mode: Mode) -> Option<(u64, u64)> {
    match mode {
        Mode::Exclusive | Mode::Shared => None,
        Mode::Permits(permits) => Some((permits.count().into(), permits.limit().into())),
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
