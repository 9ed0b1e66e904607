//! A right lock service and its clients, in a time of their own: calls take effect at some moment
//! between their call and their answer, leases run out late, some answers are lost.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::chance::Chance;
use crate::checker::fits;
use crate::history::{Answer, Ask, Call, Mode, Operation, Outcome, Records, Refusal, Seen};

const CLIENTS: u64 = 5;
const TTL_MS: u64 = 400;

/// Of one client.
#[derive(Debug, Clone)]
struct Pending {
    call: Call,
    called_ms: u64,
    effect_ms: u64,
}

#[derive(Debug, Clone)]
enum Event {
    /// The client does something.
    Turn(u64),
    Effect(u64, Pending),
    Return(u64, Pending, Outcome),
    Expire {
        request: u64,
        lock: String,
        generation: u64,
    },
    Timeout {
        request: u64,
    },
}

#[derive(Debug, Default)]
struct Lock {
    holders: Vec<(u64, Mode, u64)>,
    queue: VecDeque<u64>,
    value: Option<(u64, u64)>,
}

struct Waiter {
    client: u64,
    pending: Pending,
}

struct Service {
    chance: Chance,
    locks: BTreeMap<String, Lock>,
    waiters: BTreeMap<u64, Waiter>,
    /// Renewals of each lease, so that an old expiry does nothing.
    generations: BTreeMap<(u64, String), u64>,
    token: u64,
    next_number: u64,
    /// What each client believes to hold.
    held: BTreeMap<u64, (u64, Vec<Ask>)>,
    /// By moment; a number keeps those of one moment apart, in order.
    events: BTreeMap<(u64, u64), Event>,
    events_made: u64,
    records: Records,
}

/// A history of so many locks and at least so many calls.
pub(in crate::checker::tests) fn legal(seed: u64, locks: u64, calls: usize) -> Records {
    let mut service = Service {
        chance: Chance::new(seed),
        locks: (0..locks).map(|n| (format!("l{n}"), Lock::default())).collect(),
        waiters: BTreeMap::new(),
        generations: BTreeMap::new(),
        token: 0,
        next_number: 0,
        held: BTreeMap::new(),
        events: BTreeMap::new(),
        events_made: 0,
        records: Records::default(),
    };
    for client in 0..CLIENTS {
        service.at(client, Event::Turn(client));
    }
    while let Some(((now, _), event)) = service.events.pop_first() {
        // Then every call that is under way ends, and nobody begins another.
        let is_over = service.records.operations.len() >= calls;
        match event {
            Event::Turn(_) if is_over => {}
            Event::Turn(client) => service.turn(client, now),
            Event::Effect(client, pending) => service.effect(client, pending, now),
            Event::Return(client, pending, outcome) => {
                service.answer(client, pending, outcome, now);
            }
            Event::Expire { request, lock, generation } => {
                if service.generations.get(&(request, lock.clone())) == Some(&generation) {
                    service.leave(request, &lock, now);
                }
            }
            Event::Timeout { request } => service.give_up(request, now),
        }
    }
    service.records
}

impl Service {
    fn at(&mut self, at: u64, event: Event) {
        self.events_made += 1;
        self.events.insert((at, self.events_made), event);
    }

    fn some_lock(&mut self) -> String {
        let at = usize::try_from(self.chance.below(self.locks.len() as u64)).unwrap_or(0);
        self.locks.keys().nth(at).cloned().unwrap_or_default()
    }

    fn turn(&mut self, client: u64, now: u64) {
        let call = self.next_call(client);
        let effect_ms = now + self.chance.below(20);
        let pending = Pending { call, called_ms: now, effect_ms };
        self.at(effect_ms, Event::Effect(client, pending));
    }

    fn next_call(&mut self, client: u64) -> Call {
        self.next_number += 1;
        let lock = self.some_lock();
        let choice = self.chance.below(10);
        match self.held.get(&client).cloned() {
            Some((request, asks)) => {
                let lock = asks[0].lock.clone();
                match choice {
                    0 | 1 => Call::Renew { request, lock, ttl_ms: TTL_MS },
                    2 => Call::SetValue { request, lock, value: self.next_number },
                    3 => Call::Look { lock },
                    _ => Call::Release { request, lock },
                }
            }
            None if choice == 0 => Call::Look { lock },
            None if choice == 1 => Call::GetValue { lock },
            None => {
                let mut asks = vec![Ask { lock, mode: self.some_mode() }];
                let other = self.some_lock();
                if (2..=3).contains(&choice) && other != asks[0].lock {
                    asks.push(Ask { lock: other, mode: Mode::Exclusive });
                }
                let wait_ms = if choice.is_multiple_of(3) { 0 } else { 300 };
                let request = self.next_number;
                Call::Acquire { request, asks, wait_ms, ttl_ms: Some(TTL_MS), session: None }
            }
        }
    }

    fn some_mode(&mut self) -> Mode {
        match self.chance.below(6) {
            0 => Mode::Shared,
            1 => Mode::Permits { count: 1, limit: 2 },
            _ => Mode::Exclusive,
        }
    }

    fn effect(&mut self, client: u64, pending: Pending, now: u64) {
        let outcome = match &pending.call {
            Call::Acquire { .. } => return self.acquire(client, pending, now),
            Call::Renew { request, lock, .. } => {
                if self.holds(*request, lock) {
                    self.lives(*request, lock, now);
                    let believed_until = millis(pending.called_ms + TTL_MS * 99 / 100);
                    Outcome::Ok(Answer::Renewed { believed_until })
                } else {
                    gone()
                }
            }
            Call::Release { request, lock } => {
                if self.holds(*request, lock) {
                    self.leave(*request, lock, now);
                    Outcome::Ok(Answer::Done)
                } else {
                    gone()
                }
            }
            Call::SetValue { request, lock, value } => {
                let lock = self.locks.get_mut(lock).expect("a lock");
                match lock.holders.iter().find(|(holder, ..)| holder == request) {
                    Some((_, _, token)) => {
                        lock.value = Some((*value, *token));
                        Outcome::Ok(Answer::Done)
                    }
                    None => gone(),
                }
            }
            Call::GetValue { lock } => Outcome::Ok(Answer::Value(self.locks[lock].value)),
            Call::Look { lock } => {
                let of = &self.locks[lock];
                Outcome::Ok(Answer::Seen(Seen {
                    holders: of.holders.iter().map(|(it, _, token)| (*token, *it)).collect(),
                    complete: true,
                    waiters: of.queue.iter().copied().collect(),
                    token_ceiling: self.token,
                }))
            }
            other => unreachable!("{other:?} is not made here"),
        };
        self.reply(client, pending, outcome, now);
    }

    fn reply(&mut self, client: u64, pending: Pending, outcome: Outcome, now: u64) {
        let lost = self.chance.below(25) == 0;
        let outcome = if lost { Outcome::Unknown("lost".to_owned()) } else { outcome };
        let at = now + self.chance.below(20);
        self.at(at, Event::Return(client, pending, outcome));
    }

    fn acquire(&mut self, client: u64, pending: Pending, now: u64) {
        let Call::Acquire { request, asks, wait_ms, .. } = pending.call.clone() else { return };
        for ask in &asks {
            self.locks.get_mut(&ask.lock).expect("a lock").queue.push_back(request);
        }
        self.waiters.insert(request, Waiter { client, pending });
        self.settle(now);
        if wait_ms > 0 {
            self.at(now + wait_ms, Event::Timeout { request });
        } else {
            self.give_up(request, now);
        }
    }

    /// Whoever stands first in all its queues and fits is granted.
    fn settle(&mut self, now: u64) {
        loop {
            let next = self.waiters.iter().find(|(request, waiter)| {
                let Call::Acquire { asks, .. } = &waiter.pending.call else { return false };
                asks.iter().all(|ask| {
                    let lock = &self.locks[&ask.lock];
                    lock.queue.front() == Some(request)
                        && fits(ask.mode, lock.holders.iter().map(|(_, mode, _)| *mode))
                })
            });
            let Some((&request, _)) = next else { return };
            let Waiter { client, pending } = self.waiters.remove(&request).expect("it waits");
            let Call::Acquire { asks, .. } = &pending.call else { return };
            let mut tokens = Vec::new();
            for ask in asks {
                self.token += 1;
                tokens.push(self.token);
                let lock = self.locks.get_mut(&ask.lock).expect("a lock");
                lock.queue.pop_front();
                lock.holders.push((request, ask.mode, self.token));
                self.lives(request, &ask.lock, now);
            }
            let waited_ms = now - pending.effect_ms;
            let until = pending.called_ms + (waited_ms + TTL_MS) * 99 / 100;
            let believed_until = millis(until.saturating_sub(2));
            let granted = Answer::Granted { tokens, waited_ms, believed_until };
            self.reply(client, pending, Outcome::Ok(granted), now);
        }
    }

    fn give_up(&mut self, request: u64, now: u64) {
        let Some(Waiter { client, pending }) = self.waiters.remove(&request) else { return };
        let Call::Acquire { asks, wait_ms, .. } = &pending.call else { return };
        let holders = self.locks[&asks[0].lock].holders.iter().map(|(.., token)| *token).collect();
        for ask in asks {
            self.locks.get_mut(&ask.lock).expect("a lock").queue.retain(|it| *it != request);
        }
        let kind = if *wait_ms == 0 { "lock-held" } else { "wait-timeout" };
        let refusal = Refusal { kind: kind.to_owned(), holders };
        self.reply(client, pending, Outcome::Failed(refusal), now);
        self.settle(now);
    }

    fn holds(&self, request: u64, lock: &str) -> bool {
        self.locks[lock].holders.iter().any(|(holder, ..)| *holder == request)
    }

    /// The lease lives for its TTL from now on, and some longer: expiries are late.
    fn lives(&mut self, request: u64, lock: &str, now: u64) {
        let generation = self.generations.entry((request, lock.to_owned())).or_default();
        *generation += 1;
        let (generation, lock) = (*generation, lock.to_owned());
        let late = self.chance.below(30);
        self.at(now + TTL_MS + late, Event::Expire { request, lock, generation });
    }

    fn leave(&mut self, request: u64, lock: &str, now: u64) {
        self.generations.remove(&(request, lock.to_owned()));
        let of = self.locks.get_mut(lock).expect("a lock");
        of.holders.retain(|(holder, ..)| *holder != request);
        self.settle(now);
    }

    fn answer(&mut self, client: u64, pending: Pending, outcome: Outcome, now: u64) {
        match (&pending.call, &outcome) {
            (Call::Acquire { request, asks, .. }, Outcome::Ok(_)) => {
                // One of seven is forgotten.
                if self.chance.below(7) > 0 {
                    self.held.insert(client, (*request, asks.clone()));
                }
            }
            (Call::Release { .. }, _) | (Call::Renew { .. }, Outcome::Failed(_)) => {
                let rest = self.held.remove(&client);
                // The other locks of the request are given back one after the other.
                if let Some((request, asks)) = rest.filter(|(_, asks)| asks.len() > 1) {
                    self.held.insert(client, (request, asks[1..].to_vec()));
                }
            }
            (_, _) => {}
        }
        let (called_at, returned_at) = (millis(pending.called_ms), millis(now));
        let call = pending.call;
        self.records.operations.push(Operation { client, call, called_at, returned_at, outcome });
        // Now and then long enough for a lease to run out.
        let pause = if self.chance.below(8) == 0 { 600 } else { 30 };
        let next = now + 1 + self.chance.below(pause);
        self.at(next, Event::Turn(client));
    }
}

fn gone() -> Outcome {
    Outcome::Failed(Refusal { kind: "lease-gone".to_owned(), holders: Vec::new() })
}

fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}
