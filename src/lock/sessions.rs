//! Sessions: many leases kept alive by one renewal, living and dying together.

use crate::acquire::bound;
use crate::answers::Record;
use crate::command::OpenSession;
use crate::event::EventKind;
use crate::fingerprint::of_open_session;
use crate::ids::SessionId;
use crate::image::RowKey;
use crate::machine::Machine;
use crate::outcome::{EndReason, Outcome, Rejection, SessionInfo};
use crate::table::{Due, SessionRow};

impl Machine {
    pub(crate) fn open_session(&mut self, open: &OpenSession) -> Outcome {
        let request = open.request_id.map(|id| (id, of_open_session(open)));
        if let Some((request_id, fingerprint)) = request {
            if let Some(&(known, due)) = self.table.requests.get(&request_id) {
                return match due {
                    Due::Session(id) if known == fingerprint => self.session_outcome(id),
                    Due::Session(_) | Due::Lease(_) => {
                        Outcome::Rejected(Rejection::RequestIdReused)
                    }
                };
            }
            match self.answers.request(request_id) {
                Some(Record::Session { how, request: Some((_, known)), .. })
                    if *known == fingerprint =>
                {
                    return Outcome::Rejected(Rejection::SessionGone { how: *how });
                }
                Some(Record::Session { .. } | Record::Lease { .. }) => {
                    return Outcome::Rejected(Rejection::RequestIdReused);
                }
                None => {}
            }
            if self.answers.len() >= self.limits.answers {
                let limit = bound(self.limits.answers);
                return Outcome::Rejected(Rejection::AnswersFull { limit });
            }
        }
        if self.table.sessions.contains_key(&open.session_id) {
            return self.session_outcome(open.session_id);
        }
        if self.table.sessions.len() >= self.limits.sessions {
            return Outcome::Rejected(Rejection::SessionsFull {
                limit: bound(self.limits.sessions),
            });
        }
        let row = SessionRow {
            owner: open.owner.clone(),
            ttl: open.ttl,
            deadline: self.meta.clock.plus_ms(open.ttl.ms()),
            request,
            metadata: open.metadata.clone(),
        };
        self.table.insert_session(open.session_id, row);
        self.touch(RowKey::Session(open.session_id));
        self.happened(EventKind::SessionOpened { session_id: open.session_id });
        self.session_outcome(open.session_id)
    }

    pub(crate) fn renew_session(&mut self, id: SessionId) -> Outcome {
        let now = self.meta.clock;
        let Some(session) = self.table.sessions.get_mut(&id) else {
            return Outcome::Rejected(self.session_missing(id));
        };
        let before = session.row.deadline;
        let after = before.max(now.plus_ms(session.row.ttl.ms()));
        session.row.deadline = after;
        self.table.deadlines.remove(&(before, Due::Session(id)));
        self.table.deadlines.insert((after, Due::Session(id)));
        self.touch(RowKey::Session(id));
        match self.session_info(id) {
            Some(info) => Outcome::SessionRenewed(info),
            None => Outcome::Rejected(self.session_missing(id)),
        }
    }

    /// Repeatable: a second close answers that it is closed.
    pub(crate) fn close_session(&mut self, id: SessionId) -> Outcome {
        match self.end_session(id, EndReason::SessionClosed) {
            Some(leases_ended) => Outcome::SessionClosed { session_id: id, leases_ended },
            None => match self.ended_session(id) {
                Some(EndReason::SessionClosed) => {
                    Outcome::SessionClosed { session_id: id, leases_ended: 0 }
                }
                Some(_) | None => Outcome::Rejected(self.session_missing(id)),
            },
        }
    }

    /// Ends a session and its leases. The session goes first, so that none of its waiters is
    /// granted on the way.
    pub(crate) fn end_session(&mut self, id: SessionId, how: EndReason) -> Option<u64> {
        let session = self.table.remove_session(id)?;
        self.touch(RowKey::Session(id));
        self.remember(Record::Session {
            session_id: id,
            how,
            ended_at: self.meta.clock,
            request: session.row.request,
        });
        self.happened(EventKind::SessionEnded { session_id: id });
        let count = bound(session.leases.len());
        // Waiters first: ending a holder may hand its lock to the next in line, which must not be
        // another lease of this dead session.
        let (waiting, held): (alloc::vec::Vec<_>, alloc::vec::Vec<_>) =
            session.leases.into_iter().partition(|lease| self.position(*lease).is_some());
        for lease in waiting.into_iter().chain(held) {
            self.end_lease(lease, how, None);
        }
        Some(count)
    }

    pub(crate) fn ended_session(&self, id: SessionId) -> Option<EndReason> {
        self.recent.session(id).or_else(|| self.answers.session(id))
    }

    pub(crate) fn session_missing(&self, id: SessionId) -> Rejection {
        self.ended_session(id)
            .map_or(Rejection::SessionUnknown, |how| Rejection::SessionGone { how })
    }

    pub(crate) fn session_info(&self, id: SessionId) -> Option<SessionInfo> {
        let session = self.table.sessions.get(&id)?;
        Some(SessionInfo {
            session_id: id,
            owner: session.row.owner.clone(),
            ttl_ms: session.row.ttl.ms(),
            deadline: session.row.deadline,
            lease_count: bound(session.leases.len()),
            metadata: session.row.metadata.clone(),
        })
    }

    fn session_outcome(&self, id: SessionId) -> Outcome {
        match self.session_info(id) {
            Some(info) => Outcome::SessionOpened(info),
            None => Outcome::Rejected(self.session_missing(id)),
        }
    }
}
