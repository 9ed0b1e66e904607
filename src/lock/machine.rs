//! The machine: `apply` is the only way to change the replicated state.
//!
//! For each command of an entry it first moves the lease clock to the command's stamp, ending what
//! is due, then runs the command. Both are functions of the state and the entry alone. The rules
//! themselves live in `acquire`, `release` and `sessions`.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use core::fmt;

use serde::{Deserialize, Serialize};

use crate::answers::{Memory, Record};
use crate::command::{Command, Entry, LEVEL};
use crate::event::{Event, EventKind};
use crate::ids::{LeaseId, LockName, Revision, Token};
use crate::image::RowKey;
use crate::limits;
use crate::outcome::{EndReason, Ended, Outcome};
use crate::table::{Due, Table};
use crate::time::LeaseTime;

/// The bounds that decide, so that tests can reach them. Production uses the default everywhere:
/// replicas with different bounds would decide differently.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// See [`limits::QUEUE_LENGTH_MAX`].
    pub queue_length: usize,
    /// See [`limits::HOLDERS_MAX`].
    pub holders: usize,
    /// See [`limits::LEASES_MAX`].
    pub leases: usize,
    /// See [`limits::SESSIONS_MAX`].
    pub sessions: usize,
    /// See [`limits::LEASES_PER_SESSION_MAX`].
    pub leases_per_session: usize,
    /// See [`limits::EXPIRIES_PER_ADVANCE_MAX`].
    pub expiries_per_advance: usize,
    /// See [`limits::ANSWERS_MAX`].
    pub answers: usize,
    /// See [`limits::RECENT_ENDS_MAX`].
    pub recent_ends: usize,
    /// See [`limits::TOKEN_MAX`].
    pub token: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            queue_length: limits::QUEUE_LENGTH_MAX,
            holders: limits::HOLDERS_MAX,
            leases: limits::LEASES_MAX,
            sessions: limits::SESSIONS_MAX,
            leases_per_session: limits::LEASES_PER_SESSION_MAX,
            expiries_per_advance: limits::EXPIRIES_PER_ADVANCE_MAX,
            answers: limits::ANSWERS_MAX,
            recent_ends: limits::RECENT_ENDS_MAX,
            token: limits::TOKEN_MAX,
        }
    }
}

/// Clock and counters. Persisted as one row.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    pub(crate) clock: LeaseTime,
    pub(crate) last_token: Token,
    pub(crate) revision: Revision,
    pub(crate) next_ticket: u64,
    pub(crate) next_answers_chunk: u64,
    pub(crate) next_recent_chunk: u64,
}

/// The whole replicated state.
#[derive(Debug, Default)]
pub struct Machine {
    pub(crate) limits: Limits,
    pub(crate) meta: Meta,
    pub(crate) table: Table,
    /// Ends of what came with a request id; none is forgotten early.
    pub(crate) answers: Memory,
    /// Ends of what came without one; the oldest make room.
    pub(crate) recent: Memory,
    pub(crate) changes: BTreeSet<RowKey>,
    events: Vec<Event>,
    /// Wall clock of the entry being applied; stored for display, read by no rule.
    pub(crate) wall_ms: u64,
}

/// What one entry did: an outcome per command, and everything that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// One per command, in order.
    pub outcomes: Vec<Outcome>,
    /// In the order in which they happened.
    pub events: Vec<Event>,
}

/// The entry was written for rules that this build does not know. The node must stop: skipping
/// the entry would make it differ from the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnknownLevel {
    /// The level of the entry.
    pub found: u16,
    /// The newest level of this build.
    pub known: u16,
}

impl fmt::Display for UnknownLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the log holds an entry of level {}, this build knows levels up to {}: upgrade this node",
            self.found, self.known
        )
    }
}

impl Machine {
    /// The state before the first entry.
    pub fn new() -> Self {
        Self::default()
    }

    /// A machine with other bounds, for tests that reach them.
    pub fn with_limits(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Applies one entry. An entry of an unknown level changes nothing.
    pub fn apply(&mut self, entry: &Entry) -> Result<Applied, UnknownLevel> {
        if entry.level == 0 || entry.level > LEVEL {
            return Err(UnknownLevel { found: entry.level, known: LEVEL });
        }
        self.wall_ms = entry.wall_ms;
        let mut outcomes = Vec::with_capacity(entry.commands.len());
        for (at, command) in &entry.commands {
            self.advance(*at);
            outcomes.push(self.run(command));
        }
        Ok(Applied { outcomes, events: core::mem::take(&mut self.events) })
    }

    /// The lease clock: the newest stamp applied.
    pub fn now(&self) -> LeaseTime {
        self.meta.clock
    }

    /// When the first lease, waiter or session falls due.
    pub fn next_due(&self) -> Option<LeaseTime> {
        self.table.deadlines.first().map(|(at, _)| *at)
    }

    /// Whether anything waits for the clock, remembered answers included.
    pub fn has_pending(&self) -> bool {
        !self.table.deadlines.is_empty() || self.answers.len() > 0 || self.recent.len() > 0
    }

    /// The newest token granted to anybody; zero before the first.
    pub fn token_ceiling(&self) -> Token {
        self.meta.last_token
    }

    /// The revision of the newest event.
    pub fn revision(&self) -> Revision {
        self.meta.revision
    }

    fn run(&mut self, command: &Command) -> Outcome {
        match command {
            Command::Advance => Outcome::Done,
            Command::Acquire(acquire) => self.acquire(acquire),
            Command::Attach { lease_id } => self.attach(*lease_id),
            Command::Detach { lease_id } => self.detach(*lease_id),
            Command::DetachAll => self.detach_all(),
            Command::Renew { lease_id } => self.renew(*lease_id),
            Command::Release { lease_id } => self.release(*lease_id),
            Command::ForceRelease { name, target, reason } => {
                self.force_release(name, *target, reason)
            }
            Command::OpenSession(open) => self.open_session(open),
            Command::RenewSession { session_id } => self.renew_session(*session_id),
            Command::CloseSession { session_id } => self.close_session(*session_id),
        }
    }

    /// Moves the clock, never backwards, and ends what is due in (deadline, id) order. Ends at
    /// most `expiries_per_advance` leases; the rest stays held, and renewable, until the next.
    fn advance(&mut self, at: LeaseTime) {
        if at > self.meta.clock {
            self.meta.clock = at;
            self.touch(RowKey::Meta);
        }
        let mut budget = self.limits.expiries_per_advance;
        while let Some(&(due_at, due)) = self.table.deadlines.first() {
            if due_at > self.meta.clock {
                break;
            }
            let cost = match due {
                Due::Lease(_) => 1,
                Due::Session(id) => self.table.sessions.get(&id).map_or(1, |s| s.leases.len() + 1),
            };
            // A session ends whole. It always fits an untouched budget, so it cannot be stuck.
            if cost > budget && budget < self.limits.expiries_per_advance {
                break;
            }
            match due {
                Due::Lease(id) => self.lease_is_due(id),
                Due::Session(id) => {
                    self.end_session(id, EndReason::SessionExpired);
                }
            }
            budget = budget.saturating_sub(cost);
            if budget == 0 {
                break;
            }
        }
        self.forget();
    }

    /// Forgets ends that were kept long enough, a bounded number of chunks at a time.
    fn forget(&mut self) {
        for _ in 0..self.limits.expiries_per_advance.div_ceil(crate::answers::CHUNK_RECORDS) + 1 {
            if self.answers.forget_at().is_some_and(|at| at <= self.meta.clock)
                && let Some(number) = self.answers.forget_oldest()
            {
                self.touch(RowKey::Answers(number));
            }
            if self.recent.forget_at().is_some_and(|at| at <= self.meta.clock)
                && let Some(number) = self.recent.forget_oldest()
            {
                self.touch(RowKey::Recent(number));
            }
        }
    }

    /// Remembers an end, and forgets the oldest of those that nobody was promised.
    pub(crate) fn remember(&mut self, record: Record) {
        if record.request().is_some() {
            let number = self.answers.push(record);
            self.meta.next_answers_chunk = self.answers.next_chunk;
            self.touch(RowKey::Answers(number));
        } else {
            let number = self.recent.push(record);
            self.meta.next_recent_chunk = self.recent.next_chunk;
            self.touch(RowKey::Recent(number));
            while self.recent.len() > self.limits.recent_ends {
                let Some(number) = self.recent.forget_oldest() else { break };
                self.touch(RowKey::Recent(number));
            }
        }
        self.touch(RowKey::Meta);
    }

    /// How a lease ended, while it is remembered.
    pub(crate) fn ended_lease(&self, id: LeaseId) -> Option<&Ended> {
        self.recent.lease(id).or_else(|| self.answers.lease(id))
    }

    /// Marks a row as changed.
    pub(crate) fn touch(&mut self, key: RowKey) {
        self.changes.insert(key);
    }

    /// Says that something happened to a lock: its revision moves.
    pub(crate) fn happened_to(&mut self, name: &LockName, kind: EventKind) {
        let revision = self.happened(kind);
        if let Some(lock) = self.table.locks.get_mut(name) {
            lock.row.revision = revision;
        }
        self.touch(RowKey::Lock(name.clone()));
    }

    /// Says that something happened.
    pub(crate) fn happened(&mut self, kind: EventKind) -> Revision {
        let revision = Revision(self.meta.revision.0.saturating_add(1));
        self.meta.revision = revision;
        self.touch(RowKey::Meta);
        self.events.push(Event { revision, kind });
        revision
    }
}
