//! The machine: everything that is replicated, and the only way to change it.
//!
//! `apply` takes one log entry; for each of its commands it moves the lease clock, ends what is
//! due, then runs the command. It is total and deterministic: the same entries give the same
//! outcomes, events and rows on every node, however they are split and whenever a node started
//! from rows instead of from the beginning.

use alloc::vec::Vec;
use core::fmt;

use crate::changes::Changes;
use crate::command::{Command, Entry, LEVEL};
use crate::deadlines::{Deadlines, Due};
use crate::event::{Event, EventKind};
use crate::history::History;
use crate::ids::{Revision, Token};
use crate::limits::Limits;
use crate::outcome::{EndReason, Outcome};
use crate::planted::{Bug, planted};
use crate::records::Records;
use crate::requests::Memory;
use crate::sessions::Sessions;
use crate::table::{Lease, LeaseState, Table};
use crate::time::LeaseTime;

/// The replicated state.
#[derive(Debug, Clone, Default)]
pub struct Machine {
    pub(crate) limits: Limits,
    pub(crate) clock: LeaseTime,
    /// The highest level of any entry applied.
    pub(crate) level: u16,
    pub(crate) token_last: Token,
    pub(crate) revision: Revision,
    pub(crate) table: Table,
    pub(crate) sessions: Sessions,
    pub(crate) deadlines: Deadlines,
    pub(crate) memory: Memory,
    pub(crate) history: History,
    pub(crate) records: Records,
    pub(crate) value_count: usize,
    /// Locks that a lock-delay keeps closed.
    pub(crate) closed_count: usize,
    pub(crate) changes: Changes,
}

/// What one entry did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// One for each command, in its order.
    pub outcomes: Vec<Outcome>,
    /// In revision order.
    pub events: Vec<Event>,
}

/// The entry was written by newer rules: this node must halt, because guessing would split it
/// from the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnknownLevel {
    /// The level of the entry.
    pub found: u16,
    /// The newest level that this build knows.
    pub known: u16,
}

impl fmt::Display for UnknownLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "a log entry has level {}, this build knows levels 1 to {}: upgrade this node",
            self.found, self.known
        )
    }
}

impl core::error::Error for UnknownLevel {}

/// What the commands of one entry share and add to.
pub(crate) struct Step {
    pub(crate) wall_ms: u64,
    pub(crate) events: Vec<Event>,
}

impl Machine {
    /// The state of a cluster that was just born.
    pub fn new() -> Self {
        Self::default()
    }

    /// A machine with other bounds, for tests that could not reach the real ones.
    pub fn with_limits(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Applies one entry: for each command the clock moves to its stamp, never backwards, then the
    /// command runs.
    pub fn apply(&mut self, entry: &Entry) -> Result<Applied, UnknownLevel> {
        if !(1..=LEVEL).contains(&entry.level) {
            return Err(UnknownLevel { found: entry.level, known: LEVEL });
        }
        self.level = self.level.max(entry.level);
        let mut step = Step { wall_ms: entry.wall_ms, events: Vec::new() };
        if planted(Bug::EndsBeforeTheEntry) {
            entry.commands.last().into_iter().for_each(|(at, command)| {
                self.advance(*at, command, &mut step);
            });
        }
        let mut outcomes = Vec::with_capacity(entry.commands.len());
        for (at, command) in &entry.commands {
            self.advance(*at, command, &mut step);
            outcomes.push(self.run(command, &mut step));
        }
        Ok(Applied { outcomes, events: step.events })
    }

    /// The lease clock.
    pub fn now(&self) -> LeaseTime {
        self.clock
    }

    /// The earliest moment at which a lease, a waiter, a session or a lock-delay ends by itself. It
    /// may have passed already: then more was due than one advance may end. Remembered answers are
    /// not counted, they are forgotten whenever the clock moves.
    pub fn next_due(&self) -> Option<LeaseTime> {
        self.deadlines.first().map(|(deadline, _)| deadline)
    }

    /// Whether the clock must move for the state to come to rest: something is due some day, or
    /// answers wait to be forgotten.
    pub fn has_pending(&self) -> bool {
        self.next_due().is_some() || !self.memory.is_empty()
    }

    /// No token above it was ever granted.
    pub fn token_ceiling(&self) -> Token {
        self.token_last
    }

    /// The revision of the newest event.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    fn run(&mut self, command: &Command, step: &mut Step) -> Outcome {
        match command {
            Command::Advance => Outcome::Done,
            Command::Acquire(acquire) => self.acquire(acquire, step),
            Command::Attach { lease_id } => self.attach(*lease_id),
            Command::Detach { lease_id } => self.detach(*lease_id),
            Command::DetachAll => self.detach_all(),
            Command::Renew { lease_id } => self.renew(*lease_id),
            Command::Release { lease_id } => self.release(*lease_id, step),
            Command::ForceRelease { name, target, reason, lock_delay } => {
                self.force_release(name, *target, (reason, *lock_delay), step)
            }
            Command::OpenSession(open) => self.open_session(open, step),
            Command::RenewSession { session_id } => self.renew_session(*session_id),
            Command::CloseSession { session_id } => self.close_session(*session_id, step),
            Command::SetValue { name, lease_id, value } => {
                self.set_value(name, *lease_id, value.as_ref(), step)
            }
            Command::DeleteValue { name } => self.delete_value(name, step),
            Command::AcquireMany(many) => self.acquire_many(many, step),
            Command::HandOver(hand_over) => self.hand_over(hand_over, step),
            Command::PutRecord { key, value, expected } => {
                self.put_record(key, value.as_ref(), *expected)
            }
        }
    }

    /// Moves the clock and ends what is due in (deadline, id) order. The work is bounded, by much
    /// less where the command is somebody's own: what does not fit stays held, and renewable. A
    /// session ends whole, so one that does not fit what is left of the budget waits; an `Advance`
    /// always ends the first that is due.
    fn advance(&mut self, at: LeaseTime, before: &Command, step: &mut Step) {
        self.clock = self.clock.max(at);
        let (budget, mut alone) = match before {
            Command::Advance => (self.limits.expiries_per_advance_max, true),
            _ => (self.limits.expiries_per_command_max, false),
        };
        let mut spent = 0_usize;
        while let Some((deadline, due)) = self.deadlines.first() {
            if deadline > self.clock {
                break;
            }
            let cost = match &due {
                Due::Lease(lease_id) => self.waiting_group(*lease_id).map_or(1, Vec::len),
                Due::Lock(_) => 1,
                Due::Session(session_id) => self.session_lease_count(*session_id).max(1),
            };
            if !alone && spent.saturating_add(cost) > budget {
                if planted(Bug::BeyondTheBoundIsForgotten) {
                    self.deadlines.remove(Some(deadline), due);
                }
                break;
            }
            alone = false;
            spent = spent.saturating_add(cost);
            // The entry goes first, whatever follows, so that this loop cannot meet it again.
            self.deadlines.remove(Some(deadline), due.clone());
            match due {
                Due::Session(session_id) => {
                    self.end_session(session_id, EndReason::SessionExpired, step);
                }
                Due::Lease(lease_id) => {
                    let how = self.table.leases.get(&lease_id).map(|lease| due_reason(lease));
                    if let Some(how) = how {
                        self.end_and_settle(lease_id, how, None, step);
                    }
                }
                Due::Lock(name) => self.reopen(&name, step),
            }
        }
        self.memory.forget(self.clock, &self.limits, &mut self.changes);
    }

    /// Gives the event the next revision.
    pub(crate) fn emit(&mut self, kind: EventKind, step: &mut Step) -> Revision {
        self.revision = Revision(self.revision.0.saturating_add(1));
        step.events.push(Event { revision: self.revision, kind });
        self.revision
    }

    /// The next fencing token (P2), or none: a token is never given twice.
    pub(crate) fn next_token(&mut self) -> Option<Token> {
        if self.tokens_left() == 0 {
            return None;
        }
        self.token_last = Token(self.token_last.0.saturating_add(1));
        Some(self.token_last)
    }

    /// How many tokens may still be given.
    pub(crate) fn tokens_left(&self) -> u64 {
        self.limits.token_max.saturating_sub(self.token_last.0)
    }
}

/// What ends a lease whose deadline has come: the earlier of its two deadlines.
fn due_reason(lease: &Lease) -> EndReason {
    match &lease.state {
        LeaseState::Waiting(waiting) => match waiting.grace_until {
            Some(grace_until) if grace_until < waiting.wait_until => EndReason::Abandoned,
            Some(_) | None => EndReason::WaitTimeout,
        },
        LeaseState::Held(held) => match (held.claim_until, held.expires_at) {
            (Some(_), None) => EndReason::Abandoned,
            (Some(claim), Some(expires)) if claim <= expires => EndReason::Abandoned,
            (Some(_) | None, Some(_)) | (None, None) => EndReason::Expired,
        },
    }
}
