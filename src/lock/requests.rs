//! The memory that makes a request happen once (P7): which request ids and ids are known, and how
//! what they named ended.
//!
//! Ended leases and sessions stand in two logs made of chunks, a row each. *Answers* came with a
//! request id; none of them is forgotten before its time, and when too many are kept, new request
//! ids are refused. *Recent ends* came without one; they only tell a late renewal how its lease
//! ended, so the oldest make room.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::changes::Changes;
use crate::command::{Acquire, AcquireMany, HandOver, LeaseTerm, Mode, OpenSession};
use crate::ids::{LeaseId, Metadata, RequestId, SessionId};
use crate::image::RowKey;
use crate::limits::{Limits, count};
use crate::outcome::{EndReason, Ended};
use crate::planted::{Bug, planted};
use crate::time::LeaseTime;

/// What a request made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Subject {
    Lease(LeaseId),
    Session(SessionId),
}

/// How a lease or session ended, and which request had made it. Persisted in chunks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    pub(crate) request_id: Option<RequestId>,
    pub(crate) fingerprint: u64,
    pub(crate) end: End,
}

/// What ended. Persisted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum End {
    Lease(Ended),
    Session { session_id: SessionId, how: EndReason, ended_at: LeaseTime },
}

impl Answer {
    pub(crate) fn subject(&self) -> Subject {
        match &self.end {
            End::Lease(ended) => Subject::Lease(ended.lease_id),
            End::Session { session_id, .. } => Subject::Session(*session_id),
        }
    }

    pub(crate) fn ended_at(&self) -> LeaseTime {
        match &self.end {
            End::Lease(ended) => ended.ended_at,
            End::Session { ended_at, .. } => *ended_at,
        }
    }
}

/// Which of the two logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogKind {
    Answers,
    Recent,
}

impl LogKind {
    pub(crate) fn row_key(self, chunk: u64) -> RowKey {
        match self {
            Self::Answers => RowKey::Answers(chunk),
            Self::Recent => RowKey::Recent(chunk),
        }
    }
}

/// A log of ends in the order they happened. Chunks are numbered without gaps; an empty log starts
/// again at zero, so that its numbers follow from its rows.
#[derive(Debug, Clone, Default)]
pub(crate) struct EndLog {
    pub(crate) first: u64,
    pub(crate) chunks: VecDeque<Vec<Answer>>,
    pub(crate) len: usize,
}

impl EndLog {
    pub(crate) fn chunk(&self, number: u64) -> Option<&Vec<Answer>> {
        let offset = number.checked_sub(self.first)?;
        self.chunks.get(usize::try_from(offset).ok()?)
    }

    fn get(&self, place: Place) -> Option<&Answer> {
        self.chunk(place.chunk)?.get(place.offset)
    }

    fn forgettable(&self, clock: LeaseTime, kept_ms: u64) -> bool {
        let kept_ms = if planted(Bug::EndIsForgottenEarly) { kept_ms / 100 } else { kept_ms };
        let newest = self.chunks.front().and_then(|chunk| chunk.last());
        newest.is_some_and(|answer| answer.ended_at().plus_ms(kept_ms) < clock)
    }
}

/// Where an answer stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) kind: LogKind,
    pub(crate) chunk: u64,
    pub(crate) offset: usize,
}

/// Everything that is known by a request id, or has ended.
#[derive(Debug, Clone, Default)]
pub(crate) struct Memory {
    pub(crate) answers: EndLog,
    pub(crate) recent: EndLog,
    /// Request ids of what lives, waits, or is remembered.
    pub(crate) requests: BTreeMap<RequestId, Subject>,
    pub(crate) ended: BTreeMap<Subject, Place>,
}

impl Memory {
    pub(crate) fn log(&self, kind: LogKind) -> &EndLog {
        match kind {
            LogKind::Answers => &self.answers,
            LogKind::Recent => &self.recent,
        }
    }

    fn log_mut(&mut self, kind: LogKind) -> &mut EndLog {
        match kind {
            LogKind::Answers => &mut self.answers,
            LogKind::Recent => &mut self.recent,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ended.is_empty()
    }

    /// Whether one more request id could not be promised its memory: each that lives will be an
    /// answer one day.
    pub(crate) fn is_full(&self, limits: &Limits) -> bool {
        self.requests.len() >= limits.answers_max
    }

    pub(crate) fn by_request(&self, request_id: Option<RequestId>) -> Option<Subject> {
        if planted(Bug::RepeatIsNew) {
            return None;
        }
        self.requests.get(&request_id?).copied()
    }

    /// A request made something that lives from now on.
    pub(crate) fn begin(&mut self, request_id: Option<RequestId>, subject: Subject) {
        if let Some(request_id) = request_id {
            self.requests.insert(request_id, subject);
        }
    }

    pub(crate) fn answer(&self, subject: Subject) -> Option<&Answer> {
        let place = *self.ended.get(&subject)?;
        self.log(place.kind).get(place)
    }

    /// Which request made the ended subject: its request id and fingerprint.
    pub(crate) fn origin(&self, subject: Subject) -> Option<(Option<RequestId>, u64)> {
        self.answer(subject).map(|answer| (answer.request_id, answer.fingerprint))
    }

    /// How the lease ended, if that is remembered.
    pub(crate) fn lease_end(&self, lease_id: LeaseId) -> Option<&Ended> {
        match &self.answer(Subject::Lease(lease_id))?.end {
            End::Lease(ended) => Some(ended),
            End::Session { .. } => None,
        }
    }

    /// How the session ended, if that is remembered.
    pub(crate) fn session_end(&self, session_id: SessionId) -> Option<EndReason> {
        match self.answer(Subject::Session(session_id))?.end {
            End::Session { how, .. } => Some(how),
            End::Lease(_) => None,
        }
    }

    /// Remembers an end; its request id stays known with it.
    pub(crate) fn remember(&mut self, answer: Answer, limits: &Limits, changes: &mut Changes) {
        let kind = match answer.request_id {
            Some(_) => LogKind::Answers,
            None => LogKind::Recent,
        };
        match kind {
            LogKind::Answers => {}
            LogKind::Recent => {
                while self.recent.len > 0 && self.recent.len >= limits.recent_ends_max {
                    self.forget_chunk(kind, changes);
                }
            }
        }
        self.append(kind, answer, limits, changes);
    }

    fn append(&mut self, kind: LogKind, answer: Answer, limits: &Limits, changes: &mut Changes) {
        let subject = answer.subject();
        let log = self.log_mut(kind);
        let full = |chunk: &Vec<Answer>| chunk.len() >= limits.answers_per_chunk;
        let fresh = log.chunks.back().is_none_or(full);
        if fresh {
            if log.chunks.is_empty() {
                log.first = 0;
            }
            log.chunks.push_back(Vec::new());
        }
        let last = count(log.chunks.len()).saturating_sub(1);
        let number = log.first.saturating_add(last);
        let Some(chunk) = log.chunks.back_mut() else { return };
        let place = Place { kind, chunk: number, offset: chunk.len() };
        chunk.push(answer);
        log.len = log.len.saturating_add(1);
        self.ended.insert(subject, place);
        if fresh {
            changes.created(kind.row_key(number));
        } else {
            changes.changed(kind.row_key(number));
        }
    }

    /// Forgets chunks whose newest end is old enough, a bounded number of them.
    pub(crate) fn forget(&mut self, clock: LeaseTime, limits: &Limits, changes: &mut Changes) {
        let mut budget = limits.chunks_forgotten_per_advance_max;
        for kind in [LogKind::Answers, LogKind::Recent] {
            while budget > 0 && self.log(kind).forgettable(clock, limits.answer_kept_ms) {
                self.forget_chunk(kind, changes);
                budget = budget.saturating_sub(1);
            }
        }
    }

    fn forget_chunk(&mut self, kind: LogKind, changes: &mut Changes) {
        let log = self.log_mut(kind);
        let Some(chunk) = log.chunks.pop_front() else { return };
        let number = log.first;
        log.first = log.first.saturating_add(1);
        log.len = log.len.saturating_sub(chunk.len());
        for answer in &chunk {
            self.ended.remove(&answer.subject());
            if let Some(request_id) = answer.request_id {
                self.requests.remove(&request_id);
            }
        }
        changes.deleted(kind.row_key(number));
    }
}

/// FNV-1a over a canonical form: each field by its length or a tag, then its bytes. Good enough to
/// tell a repeat from a mistake; nobody gains by a collision with their own request.
struct Fingerprint(u64);

impl Fingerprint {
    fn new(kind: u8) -> Self {
        let mut print = Self(0xcbf2_9ce4_8422_2325);
        print.bytes(&[kind]);
        print
    }

    fn bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn number(&mut self, number: u64) {
        self.bytes(&number.to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.number(count(text.len()));
        self.bytes(text.as_bytes());
    }

    fn mode(&mut self, mode: Mode) {
        match mode {
            Mode::Exclusive => self.bytes(&[0]),
            Mode::Shared => self.bytes(&[1]),
            Mode::Permits(permits) => {
                self.bytes(&[2]);
                self.number(u64::from(permits.count()));
                self.number(u64::from(permits.limit()));
            }
        }
    }

    fn term(&mut self, term: LeaseTerm) {
        match term {
            LeaseTerm::Ttl(ttl) => {
                self.bytes(&[0]);
                self.number(ttl.ms());
            }
            LeaseTerm::Forever => self.bytes(&[1]),
            LeaseTerm::Session(session_id) => {
                self.bytes(&[2]);
                self.bytes(&session_id.0.to_le_bytes());
            }
        }
    }

    fn metadata(&mut self, metadata: &Metadata) {
        for (key, value) in metadata.entries() {
            self.text(key);
            self.text(value);
        }
    }
}

/// Equal for two acquires that ask for the same, however long they wait and whatever their ids.
pub(crate) fn acquire_fingerprint(acquire: &Acquire) -> u64 {
    let mut print = Fingerprint::new(1);
    print.text(acquire.name.as_str());
    print.text(acquire.owner.as_str());
    print.mode(acquire.mode);
    print.term(acquire.term);
    print.number(acquire.grace.ms());
    print.number(acquire.lock_delay.ms());
    print.metadata(&acquire.metadata);
    print.0
}

/// Equal for two requests for the same locks, in the same order.
pub(crate) fn many_fingerprint(many: &AcquireMany) -> u64 {
    let mut print = Fingerprint::new(3);
    for claim in &many.claims {
        print.text(claim.name.as_str());
        print.mode(claim.mode);
        print.number(claim.lock_delay.ms());
    }
    print.text(many.owner.as_str());
    print.term(many.term);
    print.number(many.grace.ms());
    print.metadata(&many.metadata);
    print.0
}

/// Equal for two hand-overs of the same lease to the same owner.
pub(crate) fn hand_over_fingerprint(hand_over: &HandOver) -> u64 {
    let mut print = Fingerprint::new(4);
    print.bytes(&hand_over.lease_id.0.to_le_bytes());
    print.text(hand_over.owner.as_str());
    print.term(hand_over.term);
    print.metadata(&hand_over.metadata);
    print.0
}

/// Equal for two openings that ask for the same, whatever their ids.
pub(crate) fn session_fingerprint(open: &OpenSession) -> u64 {
    let mut print = Fingerprint::new(2);
    print.text(open.owner.as_str());
    print.number(open.ttl.ms());
    print.metadata(&open.metadata);
    print.0
}
