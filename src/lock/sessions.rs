//! Sessions: one deadline for many leases.
//!
//! A lease of a session has no deadline of its own and ends with its session. A session ends
//! whole: first all its leases and places in queues, then the queues settle, so that none of them
//! is granted to the session that is ending.

use alloc::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::command::OpenSession;
use crate::deadlines::Due;
use crate::event::EventKind;
use crate::ids::{LeaseId, LockName, Metadata, Owner, RequestId, SessionId};
use crate::image::RowKey;
use crate::limits::count;
use crate::machine::{Machine, Step};
use crate::outcome::{EndReason, Outcome, Rejection, SessionInfo};
use crate::planted::{Bug, planted};
use crate::requests::{Answer, End, Subject, session_fingerprint};
use crate::time::{LeaseTime, Ttl};

/// What is kept of a session. Persisted as a row: a change of its shape needs a new row version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    pub(crate) owner: Owner,
    pub(crate) metadata: Metadata,
    pub(crate) ttl: Ttl,
    pub(crate) request_id: Option<RequestId>,
    pub(crate) fingerprint: u64,
    pub(crate) opened_at: LeaseTime,
    pub(crate) renewed_at: LeaseTime,
    pub(crate) deadline: LeaseTime,
}

/// A session and its leases, held or waiting; the leases follow from their own rows.
#[derive(Debug, Clone)]
pub(crate) struct OpenedSession {
    pub(crate) session: Session,
    pub(crate) leases: BTreeSet<LeaseId>,
}

/// All open sessions.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sessions {
    pub(crate) open: BTreeMap<SessionId, OpenedSession>,
}

impl Sessions {
    pub(crate) fn get(&self, session_id: SessionId) -> Option<&Session> {
        self.open.get(&session_id).map(|opened| &opened.session)
    }

    /// `false` if there is no such session.
    pub(crate) fn join(&mut self, session_id: SessionId, lease_id: LeaseId) -> bool {
        let opened = self.open.get_mut(&session_id);
        opened.is_some_and(|opened| opened.leases.insert(lease_id))
    }

    pub(crate) fn leave(&mut self, session_id: SessionId, lease_id: LeaseId) {
        if let Some(opened) = self.open.get_mut(&session_id) {
            opened.leases.remove(&lease_id);
        }
    }
}

impl Machine {
    pub(crate) fn open_session(&mut self, open: &OpenSession, step: &mut Step) -> Outcome {
        let fingerprint = session_fingerprint(open);
        if let Some(outcome) = self.repeat_open(open, fingerprint) {
            return outcome;
        }
        if open.request_id.is_some() && self.memory.is_full(&self.limits) {
            let limit = count(self.limits.answers_max);
            return Outcome::Rejected(Rejection::AnswersFull { limit });
        }
        if self.sessions.open.len() >= self.limits.sessions_max {
            let limit = count(self.limits.sessions_max);
            return Outcome::Rejected(Rejection::SessionsFull { limit });
        }
        let session = Session {
            owner: open.owner.clone(),
            metadata: open.metadata.clone(),
            ttl: open.ttl,
            request_id: open.request_id,
            fingerprint,
            opened_at: self.clock,
            renewed_at: self.clock,
            deadline: self.clock.plus_ms(open.ttl.ms()),
        };
        self.deadlines.add(Some(session.deadline), Due::Session(open.session_id));
        self.memory.begin(open.request_id, Subject::Session(open.session_id));
        let opened = OpenedSession { session, leases: BTreeSet::new() };
        self.sessions.open.insert(open.session_id, opened);
        self.changes.created(RowKey::Session(open.session_id));
        self.emit(EventKind::SessionOpened { session_id: open.session_id }, step);
        self.session_info(open.session_id).map_or(Outcome::Done, Outcome::SessionOpened)
    }

    /// The answer if this request, or its session id, is known: what became of the first one.
    fn repeat_open(&self, open: &OpenSession, fingerprint: u64) -> Option<Outcome> {
        let session_id = match self.memory.by_request(open.request_id) {
            Some(Subject::Session(session_id)) => session_id,
            Some(Subject::Lease(_)) => {
                return Some(Outcome::Rejected(Rejection::RequestIdReused));
            }
            None => open.session_id,
        };
        let (request_id, first) = match self.sessions.get(session_id) {
            Some(session) => (session.request_id, session.fingerprint),
            None => self.memory.origin(Subject::Session(session_id))?,
        };
        let same_request = open.request_id.is_none() || open.request_id == request_id;
        if !same_request || first != fingerprint {
            return Some(Outcome::Rejected(Rejection::RequestIdReused));
        }
        Some(match self.session_info(session_id) {
            Some(info) => Outcome::SessionOpened(info),
            None => Outcome::Rejected(self.session_gone(session_id)),
        })
    }

    pub(crate) fn renew_session(&mut self, session_id: SessionId) -> Outcome {
        self.extend_session(session_id);
        match self.session_info(session_id) {
            Some(info) => Outcome::SessionRenewed(info),
            None => Outcome::Rejected(self.session_gone(session_id)),
        }
    }

    /// Moves the session's deadline, never to an earlier moment (P3).
    pub(crate) fn extend_session(&mut self, session_id: SessionId) {
        let Some(opened) = self.sessions.open.get_mut(&session_id) else { return };
        let session = &mut opened.session;
        let old_deadline = session.deadline;
        session.renewed_at = self.clock;
        session.deadline = old_deadline.max(self.clock.plus_ms(session.ttl.ms()));
        let due = Due::Session(session_id);
        self.deadlines.shift(Some(old_deadline), Some(session.deadline), due);
        self.changes.changed(RowKey::Session(session_id));
    }

    /// Ends a session; repeating it answers that it is closed.
    pub(crate) fn close_session(&mut self, session_id: SessionId, step: &mut Step) -> Outcome {
        if let Some(leases_ended) = self.end_session(session_id, EndReason::SessionClosed, step) {
            return Outcome::SessionClosed { session_id, leases_ended };
        }
        if self.memory.session_end(session_id) == Some(EndReason::SessionClosed) {
            return Outcome::SessionClosed { session_id, leases_ended: 0 };
        }
        Outcome::Rejected(self.session_gone(session_id))
    }

    /// Ends a session with all its leases, and says how many; `None` if it is not open.
    pub(crate) fn end_session(
        &mut self,
        session_id: SessionId,
        how: EndReason,
        step: &mut Step,
    ) -> Option<u64> {
        let opened = self.sessions.open.remove(&session_id)?;
        self.deadlines.remove(Some(opened.session.deadline), Due::Session(session_id));
        self.changes.deleted(RowKey::Session(session_id));
        let mut left: BTreeSet<LockName> = BTreeSet::new();
        for lease_id in &opened.leases {
            let ended = self.end_lease(*lease_id, how, None, step);
            if let (Some(ended), true) = (&ended, planted(Bug::EndingSessionIsGranted)) {
                self.settle(&ended.name, step);
            }
            left.extend(ended.map(|ended| ended.name));
        }
        let answer = Answer {
            request_id: opened.session.request_id,
            fingerprint: opened.session.fingerprint,
            end: End::Session { session_id, how, ended_at: self.clock },
        };
        self.memory.remember(answer, &self.limits, &mut self.changes);
        self.emit(EventKind::SessionEnded { session_id }, step);
        for name in &left {
            self.settle(name, step);
        }
        Some(count(opened.leases.len()))
    }

    pub(crate) fn session_lease_count(&self, session_id: SessionId) -> usize {
        self.sessions.open.get(&session_id).map_or(0, |opened| opened.leases.len())
    }

    /// Refuses more leases than a session may have.
    pub(crate) fn session_has_room(
        &self,
        session_id: SessionId,
        more: usize,
    ) -> Result<(), Rejection> {
        let limit = self.limits.leases_per_session_max;
        if self.session_lease_count(session_id).saturating_add(more) > limit {
            return Err(Rejection::SessionLeasesFull { limit: count(limit) });
        }
        Ok(())
    }

    /// Refuses a session that is not open.
    pub(crate) fn known_session(&self, session_id: SessionId) -> Result<(), Rejection> {
        match self.sessions.get(session_id) {
            Some(_) => Ok(()),
            None => Err(self.session_gone(session_id)),
        }
    }

    fn session_gone(&self, session_id: SessionId) -> Rejection {
        match self.memory.session_end(session_id) {
            Some(how) => Rejection::SessionGone { how },
            None => Rejection::SessionUnknown,
        }
    }

    pub(crate) fn session_info(&self, session_id: SessionId) -> Option<SessionInfo> {
        let opened = self.sessions.open.get(&session_id)?;
        Some(SessionInfo {
            session_id,
            owner: opened.session.owner.clone(),
            ttl_ms: opened.session.ttl.ms(),
            deadline: opened.session.deadline,
            lease_count: count(opened.leases.len()),
            metadata: opened.session.metadata.clone(),
        })
    }
}
