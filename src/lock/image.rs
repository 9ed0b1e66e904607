//! The whole state as rows, and back.
//!
//! Everything that is replicated has a row; what follows from other rows (queues, holders,
//! deadlines, indexes) has none and is rebuilt. Rows are persisted and sent in snapshots: each
//! carries a version, and one that this build does not know is refused, never guessed at.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use serde::{Deserialize, Serialize};

use crate::command::LEVEL;
use crate::deadlines::Due;
use crate::history::{History, PastGrant};
use crate::ids::{LeaseId, LockName, RecordKey, RequestId, Revision, SessionId, Token};
use crate::limits::Limits;
use crate::machine::Machine;
use crate::outcome::ValueInfo;
use crate::planted::{Bug, planted};
use crate::records::{Record, Records};
use crate::requests::{EndLog, LogKind, Place, Subject};
use crate::sessions::OpenedSession;
use crate::table::Lock;
use crate::time::LeaseTime;

pub use crate::requests::Answer;
pub use crate::sessions::Session;
pub use crate::table::Lease;

/// The version of the rows that this build writes, and the only one that it reads.
pub const ROW_VERSION: u8 = 1;

/// No cluster lives long enough to number this many chunks; a row beyond it is damage.
const CHUNK_NUMBER_MAX: u64 = u64::MAX >> 1;

/// Which row. Its order is that of the image; a store may sort its keys otherwise. Persisted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RowKey {
    /// The clock and the counters; always present.
    Meta,
    /// A lock that is held, waited for, closed, or carries a value.
    Lock(LockName),
    /// A lease, held or waiting.
    Lease(LeaseId),
    /// An open session.
    Session(SessionId),
    /// Ends of what came with a request id, oldest chunk first.
    Answers(u64),
    /// Ends of what came without one, oldest chunk first.
    Recent(u64),
    /// The value of a lock.
    Value(LockName),
    /// Grants that ended, oldest chunk first.
    History(u64),
    /// The last revision that a record was given; absent before the first.
    RecordRevision,
    /// A record of the cluster itself.
    Record(RecordKey),
}

/// One row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// [`ROW_VERSION`]; first, so that a reader meets it before anything that may have changed.
    pub version: u8,
    /// What the row holds; its kind is that of its key.
    pub value: RowValue,
}

/// What a row holds. Persisted: variants are appended, never reordered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RowValue {
    /// Of [`RowKey::Meta`].
    Meta(Meta),
    /// Of [`RowKey::Lock`].
    Lock(LockRow),
    /// Of [`RowKey::Lease`].
    Lease(Box<Lease>),
    /// Of [`RowKey::Session`].
    Session(Session),
    /// Of [`RowKey::Answers`] and [`RowKey::Recent`].
    Chunk(Vec<Answer>),
    /// Of [`RowKey::Value`].
    Value(Box<ValueInfo>),
    /// Of [`RowKey::History`].
    History(Vec<PastGrant>),
    /// Of [`RowKey::RecordRevision`].
    RecordRevision(Revision),
    /// Of [`RowKey::Record`].
    Record(Box<Record>),
}

/// The clock and the counters. Persisted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    pub(crate) level: u16,
    pub(crate) clock: LeaseTime,
    pub(crate) token_last: Token,
    pub(crate) revision: Revision,
}

/// What of a lock does not follow from its leases. Persisted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockRow {
    pub(crate) last_token: Option<Token>,
    pub(crate) revision: Revision,
    pub(crate) closed_until: Option<LeaseTime>,
}

/// Rows that are no image of any machine; the text says what is wrong with them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadImage(pub String);

impl fmt::Display for BadImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the rows are not a valid image: {}", self.0)
    }
}

impl core::error::Error for BadImage {}

impl Machine {
    /// The rows that changed since the last call, in key order; `None` stands for a deletion,
    /// which may be of a row that was never written.
    pub fn take_changes(&mut self) -> Vec<(RowKey, Option<Row>)> {
        let mut changes = Vec::new();
        let meta = self.meta();
        if self.changes.meta.replace(meta) != Some(meta) {
            changes.push((RowKey::Meta, Some(row(RowValue::Meta(meta)))));
        }
        changes.extend(self.take_some_changes(usize::MAX));
        changes
    }

    /// As [`Self::take_changes`], but for the clock's row, and so many rows at most. Those of several
    /// such calls, a later one in the place of an earlier one of the same key, and of
    /// [`Self::take_changes`] at last lead to the state at that last call, whatever is applied between.
    pub fn take_some_changes(&mut self, at_most: usize) -> Vec<(RowKey, Option<Row>)> {
        let keys = self.changes.take(at_most);
        keys.into_iter().map(|key| (key.clone(), self.row(&key))).collect()
    }

    /// How many rows the next [`Self::take_changes`] makes, but for the clock's.
    pub fn changed_row_count(&self) -> usize {
        self.changes.len()
    }

    /// The whole state, in key order.
    pub fn rows(&self) -> impl Iterator<Item = (RowKey, Row)> {
        let chunks = |kind: LogKind| {
            let log = self.memory.log(kind);
            let numbered = (log.first..).zip(log.chunks.iter());
            numbered.map(move |(no, chunk)| (kind.row_key(no), RowValue::Chunk(chunk.clone())))
        };
        let locks = self.table.locks.iter();
        let leases = self.table.leases.iter();
        let sessions = self.sessions.open.iter();
        let values = self.table.locks.iter().filter_map(|(name, lock)| {
            Some((RowKey::Value(name.clone()), RowValue::Value(lock.value.clone()?)))
        });
        let history = (self.history.first..).zip(self.history.chunks.iter());
        let history = history
            .map(|(number, chunk)| (RowKey::History(number), RowValue::History(chunk.clone())));
        let records = self.record_rows();
        core::iter::once((RowKey::Meta, RowValue::Meta(self.meta())))
            .chain(locks.map(|(name, lock)| (RowKey::Lock(name.clone()), lock_row(lock))))
            .chain(leases.map(|(id, lease)| (RowKey::Lease(*id), RowValue::Lease(lease.clone()))))
            .chain(sessions.map(|(id, opened)| {
                (RowKey::Session(*id), RowValue::Session(opened.session.clone()))
            }))
            .chain(chunks(LogKind::Answers))
            .chain(chunks(LogKind::Recent))
            .chain(values)
            .chain(history)
            .chain(records)
            .map(|(key, value)| (key, row(value)))
    }

    /// The machine that these rows are the image of; they may come in any order.
    pub fn from_rows(rows: impl IntoIterator<Item = (RowKey, Row)>) -> Result<Self, BadImage> {
        Self::from_rows_with_limits(rows, Limits::default())
    }

    /// As [`Machine::from_rows`], with the bounds that the machine was run with.
    pub fn from_rows_with_limits(
        rows: impl IntoIterator<Item = (RowKey, Row)>,
        limits: Limits,
    ) -> Result<Self, BadImage> {
        let mut parts = Parts::default();
        for (key, row) in rows {
            parts.sort_in(key, row)?;
        }
        parts.assemble(limits)
    }

    fn meta(&self) -> Meta {
        Meta {
            level: self.level,
            clock: self.clock,
            token_last: self.token_last,
            revision: self.revision,
        }
    }

    fn record_rows(&self) -> impl Iterator<Item = (RowKey, RowValue)> {
        let revision = self.last_record_revision();
        let revision = revision.map(|it| (RowKey::RecordRevision, RowValue::RecordRevision(it)));
        let kept = self.records.kept.iter().map(|(key, record)| {
            (RowKey::Record(key.clone()), RowValue::Record(Box::new(record.clone())))
        });
        revision.into_iter().chain(kept)
    }

    fn last_record_revision(&self) -> Option<Revision> {
        Some(self.records.revision).filter(|revision| *revision > Revision(0))
    }

    fn row(&self, key: &RowKey) -> Option<Row> {
        let chunk = |kind: LogKind, number| {
            self.memory.log(kind).chunk(number).cloned().map(RowValue::Chunk)
        };
        let value = match key {
            RowKey::Meta => Some(RowValue::Meta(self.meta())),
            RowKey::Lock(name) => self.table.locks.get(name).map(|lock| lock_row(lock)),
            RowKey::Lease(id) => {
                let lease = self.table.leases.get(id).cloned();
                let kept =
                    lease.filter(|it| it.token().is_some() || !planted(Bug::ImageLacksWaiters));
                kept.map(RowValue::Lease)
            }
            RowKey::Session(id) => self.sessions.get(*id).cloned().map(RowValue::Session),
            RowKey::Answers(number) => chunk(LogKind::Answers, *number),
            RowKey::Recent(number) => chunk(LogKind::Recent, *number),
            RowKey::Value(name) => {
                let lock = self.table.locks.get(name);
                lock.and_then(|lock| lock.value.clone()).map(RowValue::Value)
            }
            RowKey::History(number) => self.history.chunk(*number).cloned().map(RowValue::History),
            RowKey::RecordRevision => self.last_record_revision().map(RowValue::RecordRevision),
            RowKey::Record(key) => {
                self.cluster_record(key).map(|record| RowValue::Record(Box::new(record.clone())))
            }
        };
        value.map(row)
    }
}

fn row(value: RowValue) -> Row {
    Row { version: ROW_VERSION, value }
}

fn lock_row(lock: &Lock) -> RowValue {
    RowValue::Lock(LockRow {
        last_token: lock.last_token,
        revision: lock.revision,
        closed_until: lock.closed_until,
    })
}

/// Rows by kind, before they are put together.
#[derive(Default)]
struct Parts {
    meta: Option<Meta>,
    locks: BTreeMap<LockName, LockRow>,
    leases: BTreeMap<LeaseId, Box<Lease>>,
    sessions: BTreeMap<SessionId, Session>,
    answers: BTreeMap<u64, Vec<Answer>>,
    recent: BTreeMap<u64, Vec<Answer>>,
    values: BTreeMap<LockName, Box<ValueInfo>>,
    history: BTreeMap<u64, Vec<PastGrant>>,
    record_revision: Option<Revision>,
    records: BTreeMap<RecordKey, Record>,
}

impl Parts {
    fn sort_in(&mut self, key: RowKey, row: Row) -> Result<(), BadImage> {
        if row.version != ROW_VERSION {
            return Err(BadImage(format!(
                "a row has version {}, this build knows version {ROW_VERSION}",
                row.version
            )));
        }
        let twice = match (key, row.value) {
            (RowKey::Meta, RowValue::Meta(meta)) => self.meta.replace(meta).is_some(),
            (RowKey::Lock(name), RowValue::Lock(row)) => self.locks.insert(name, row).is_some(),
            (RowKey::Lease(id), RowValue::Lease(row)) => self.leases.insert(id, row).is_some(),
            (RowKey::Session(id), RowValue::Session(row)) => {
                self.sessions.insert(id, row).is_some()
            }
            (RowKey::Answers(no), RowValue::Chunk(row)) => self.answers.insert(no, row).is_some(),
            (RowKey::Recent(no), RowValue::Chunk(row)) => self.recent.insert(no, row).is_some(),
            (RowKey::Value(name), RowValue::Value(row)) => self.values.insert(name, row).is_some(),
            (RowKey::History(no), RowValue::History(row)) => self.history.insert(no, row).is_some(),
            (RowKey::RecordRevision, RowValue::RecordRevision(row)) => {
                self.record_revision.replace(row).is_some()
            }
            (RowKey::Record(key), RowValue::Record(row)) => {
                self.records.insert(key, *row).is_some()
            }
            (key, _) => return Err(BadImage(format!("{key:?} holds a row of another kind"))),
        };
        if twice { Err(BadImage("a key comes twice".to_string())) } else { Ok(()) }
    }

    fn assemble(self, limits: Limits) -> Result<Machine, BadImage> {
        let meta = self.meta.ok_or_else(|| BadImage("the clock is missing".to_string()))?;
        if meta.level > LEVEL {
            return Err(BadImage(format!(
                "it was written at level {}, this build knows levels up to {LEVEL}",
                meta.level
            )));
        }
        let mut machine = Machine::with_limits(limits);
        machine.level = meta.level;
        machine.clock = meta.clock;
        machine.token_last = meta.token_last;
        machine.revision = meta.revision;
        machine.changes.meta = Some(meta);
        for (name, row) in self.locks {
            machine.deadlines.add(row.closed_until, Due::Lock(name.clone()));
            if row.closed_until.is_some() {
                machine.closed_count = machine.closed_count.saturating_add(1);
            }
            let lock = Lock {
                last_token: row.last_token,
                revision: row.revision,
                closed_until: row.closed_until,
                ..Lock::default()
            };
            machine.table.locks.insert(name, Box::new(lock));
        }
        machine.restore_values(self.values)?;
        machine.history = restore_history(self.history)?;
        machine.records = restore_records(self.record_revision, self.records)?;
        for (session_id, session) in self.sessions {
            machine.restore_session(session_id, session)?;
        }
        for (lease_id, lease) in self.leases {
            machine.restore_lease(lease_id, lease)?;
        }
        if let Some((name, _)) = machine.table.locks.iter().find(|(_, lock)| lock.is_idle()) {
            return Err(BadImage(format!("the lock {name} has nothing to be remembered for")));
        }
        machine.memory.answers = machine.restore_log(LogKind::Answers, self.answers)?;
        machine.memory.recent = machine.restore_log(LogKind::Recent, self.recent)?;
        if planted(Bug::ImageRestartsTokens) {
            let held = machine.table.leases.values().filter_map(|lease| lease.token());
            machine.token_last = held.max().unwrap_or_default();
        }
        Ok(machine)
    }
}

fn restore_records(
    revision: Option<Revision>,
    kept: BTreeMap<RecordKey, Record>,
) -> Result<Records, BadImage> {
    let revision = revision.unwrap_or_default();
    if let Some((key, _)) = kept.iter().find(|(_, record)| record.revision > revision) {
        return Err(BadImage(format!("the record {key} has a revision that was never given")));
    }
    Ok(Records { kept, revision })
}

fn restore_history(chunks: BTreeMap<u64, Vec<PastGrant>>) -> Result<History, BadImage> {
    let first = chunks.keys().next().copied().unwrap_or_default();
    let mut history = History { first, ..History::default() };
    let mut expected = first;
    for (number, grants) in chunks {
        if number != expected || number > CHUNK_NUMBER_MAX || grants.is_empty() {
            return Err(BadImage(format!("the history has a gap before chunk {number}")));
        }
        expected = number.saturating_add(1);
        history.len = history.len.saturating_add(grants.len());
        history.chunks.push_back(grants);
    }
    Ok(history)
}

impl Machine {
    fn restore_values(
        &mut self,
        values: BTreeMap<LockName, Box<ValueInfo>>,
    ) -> Result<(), BadImage> {
        self.value_count = values.len();
        for (name, value) in values {
            let Some(lock) = self.table.locks.get_mut(&name) else {
                return Err(BadImage(format!("a value has no lock {name}")));
            };
            lock.value = Some(value);
        }
        Ok(())
    }

    fn restore_session(&mut self, session_id: SessionId, session: Session) -> Result<(), BadImage> {
        self.restore_request(session.request_id, Subject::Session(session_id))?;
        self.deadlines.add(Some(session.deadline), Due::Session(session_id));
        let opened = OpenedSession { session, leases: BTreeSet::new() };
        self.sessions.open.insert(session_id, opened);
        Ok(())
    }

    fn restore_lease(&mut self, lease_id: LeaseId, mut lease: Box<Lease>) -> Result<(), BadImage> {
        // Every lease shares the text of its lock's name.
        let Some((name, _)) = self.table.locks.get_key_value(&lease.name) else {
            return Err(BadImage(format!("the lease {lease_id:?} has no lock {}", lease.name)));
        };
        lease.name = name.clone();
        self.restore_request(lease.request_id, Subject::Lease(lease_id))?;
        if let Some(session_id) = lease.session_id()
            && !self.sessions.join(session_id, lease_id)
        {
            return Err(BadImage(format!("the lease {lease_id:?} has no session")));
        }
        if lease.token() > Some(self.token_last) {
            return Err(BadImage(format!("the lease {lease_id:?} has a token above the ceiling")));
        }
        self.deadlines.add(lease.deadline(), Due::Lease(lease_id));
        if !self.table.insert(lease_id, lease) {
            return Err(BadImage(format!("the lease {lease_id:?} has no place in its lock")));
        }
        Ok(())
    }

    fn restore_request(
        &mut self,
        request_id: Option<RequestId>,
        subject: Subject,
    ) -> Result<(), BadImage> {
        let request_id = request_id.filter(|_| !planted(Bug::ImageForgetsRequests));
        let Some(request_id) = request_id else { return Ok(()) };
        match self.memory.requests.insert(request_id, subject) {
            Some(_) => Err(BadImage("a request id is known twice".to_string())),
            None => Ok(()),
        }
    }

    fn restore_log(
        &mut self,
        kind: LogKind,
        chunks: BTreeMap<u64, Vec<Answer>>,
    ) -> Result<EndLog, BadImage> {
        let first = chunks.keys().next().copied().unwrap_or_default();
        let mut log = EndLog { first, ..EndLog::default() };
        let mut expected = first;
        for (number, answers) in chunks {
            if number != expected || number > CHUNK_NUMBER_MAX || answers.is_empty() {
                return Err(BadImage(format!("{kind:?} has a gap before chunk {number}")));
            }
            expected = number.saturating_add(1);
            for (offset, answer) in answers.iter().enumerate() {
                let place = Place { kind, chunk: number, offset };
                let subject = answer.subject();
                self.restore_request(answer.request_id, subject)?;
                if self.memory.ended.insert(subject, place).is_some() || self.lives(subject) {
                    return Err(BadImage("an end is remembered twice or too early".to_string()));
                }
            }
            log.len = log.len.saturating_add(answers.len());
            log.chunks.push_back(answers);
        }
        Ok(log)
    }

    pub(crate) fn lives(&self, subject: Subject) -> bool {
        match subject {
            Subject::Lease(lease_id) => self.table.leases.contains_key(&lease_id),
            Subject::Session(session_id) => self.sessions.open.contains_key(&session_id),
        }
    }
}
