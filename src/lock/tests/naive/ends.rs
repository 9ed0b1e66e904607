//! How things end in the naive model, and what is remembered of them; sessions, because most of
//! what they do is to end.

use oarlock_core::command::{Command, OpenSession};
use oarlock_core::event::EventKind;
use oarlock_core::history::PastEnd;
use oarlock_core::ids::{LeaseId, LockName, Reason, SessionId};
use oarlock_core::outcome::{EndReason, Ended, Outcome, Rejection};
use oarlock_core::time::LeaseTime;

use super::{Due, Known, Naive, Open, Past, Place, rejected};

impl Naive {
    pub(super) fn all_due(&self) -> Vec<(LeaseTime, Due)> {
        let claims = self.claims.iter();
        let claims = claims.filter_map(|c| Some((c.deadline()?, Due::Claim(c.asked.lease_id))));
        let sessions = self.sessions.iter();
        let sessions = sessions.map(|s| (s.deadline, Due::Session(s.asked.session_id)));
        let closed = self.facts.iter();
        let closed = closed.filter_map(|f| Some((f.closed_until?, Due::Lock(f.name.clone()))));
        claims.chain(sessions).chain(closed).collect()
    }

    pub(super) fn end_what_is_due(&mut self, before: &Command) {
        let advances = matches!(before, Command::Advance);
        let limits = &self.limits;
        let mut left = if advances {
            limits.expiries_per_advance_max
        } else {
            limits.expiries_per_command_max
        };
        let mut ended = 0;
        loop {
            let Some((deadline, due)) = self.all_due().into_iter().min() else { return };
            if deadline > self.clock {
                return;
            }
            let cost = match &due {
                Due::Claim(id) => {
                    let claim = self.find(*id).expect("a due claim");
                    if claim.holding().is_none() { claim.group.len().max(1) } else { 1 }
                }
                Due::Lock(_) => 1,
                Due::Session(id) => self.leases_of(*id).len().max(1),
            };
            // An advance ends the first, whatever it costs.
            if cost > left && !(advances && ended == 0) {
                return;
            }
            left = left.saturating_sub(cost);
            ended += 1;
            match due {
                Due::Session(id) => {
                    self.end_session(id, EndReason::SessionExpired);
                }
                Due::Lock(name) => self.open_lock(&name),
                Due::Claim(id) => {
                    let claim = self.claims.iter().find(|c| c.asked.lease_id == id);
                    let claim = claim.expect("a due claim");
                    let how = match (&claim.place, claim.deadlines()) {
                        (Place::Waiting { .. }, (Some(wait), Some(grace))) if grace < wait => {
                            EndReason::Abandoned
                        }
                        (Place::Waiting { .. }, _) => EndReason::WaitTimeout,
                        (Place::Holding(_), (None, _)) => EndReason::Abandoned,
                        (Place::Holding(_), (Some(own), Some(claim))) if claim <= own => {
                            EndReason::Abandoned
                        }
                        (Place::Holding(_), _) => EndReason::Expired,
                    };
                    self.end_together(id, how).expect("a due claim");
                }
            }
        }
    }

    pub(super) fn forget(&mut self) {
        let (clock, kept_ms) = (self.clock, self.limits.answer_kept_ms);
        for _ in 0..self.limits.chunks_forgotten_per_advance_max {
            let old = |groups: &Vec<Vec<Past>>| {
                let newest = groups.first().and_then(|group| group.last());
                newest.is_some_and(|past| past.ended_at.plus_ms(kept_ms) < clock)
            };
            if old(&self.kept) {
                self.kept.remove(0);
            } else if old(&self.recent) {
                self.recent.remove(0);
            }
        }
    }

    pub(super) fn remember(&mut self, past: Past) {
        let recent_count: usize = self.recent.iter().map(Vec::len).sum();
        let groups = if past.request_id.is_some() {
            &mut self.kept
        } else {
            if recent_count >= self.limits.recent_ends_max {
                self.recent.remove(0);
            }
            &mut self.recent
        };
        match groups.last_mut() {
            Some(group) if group.len() < self.limits.answers_per_chunk => group.push(past),
            _ => groups.push(vec![past]),
        }
    }

    pub(super) fn pasts(&self) -> impl Iterator<Item = &Past> {
        self.kept.iter().chain(&self.recent).flatten()
    }

    pub(super) fn kept_count(&self) -> usize {
        self.kept.iter().map(Vec::len).sum()
    }

    /// Request ids that are known.
    pub(super) fn request_count(&self) -> usize {
        let claims = self.claims.iter().filter(|claim| claim.asked.request_id.is_some()).count();
        let sessions = self.sessions.iter().filter(|open| open.asked.request_id.is_some()).count();
        claims + sessions + self.kept_count()
    }

    pub(super) fn end(
        &mut self,
        id: LeaseId,
        how: EndReason,
        reason: Option<&Reason>,
    ) -> Option<Ended> {
        let index = self.claims.iter().position(|claim| claim.asked.lease_id == id)?;
        let claim = self.claims.remove(index);
        let holding = claim.holding();
        let ended = Ended {
            lease_id: id,
            name: claim.asked.name.clone(),
            token: holding.map(|holding| holding.token),
            how,
            ended_at: self.clock,
        };
        let goes_on = holding.is_some_and(|holding| {
            self.claims.iter().any(|c| c.holding().is_some_and(|h| h.token == holding.token))
        });
        if holding.is_some() && matches!(how, EndReason::Expired | EndReason::SessionExpired) {
            let until = self.clock.plus_ms(claim.asked.lock_delay.ms());
            self.close_lock(&claim.asked.name, until);
        }
        if goes_on {
            self.remember(Past {
                request_id: claim.asked.request_id,
                asked: claim.command,
                lease: Some(ended.clone()),
                session: None,
                ended_at: self.clock,
            });
            return Some(ended);
        }
        let end = PastEnd { how, wall_ms: self.wall_ms, reason: reason.cloned() };
        self.keep_history(&claim, end);
        self.emit(EventKind::Ended {
            ended: ended.clone(),
            owner: claim.asked.owner.clone(),
            held_ms: holding.map_or(0, |holding| self.clock.ms_since(holding.granted_at)),
            reason: reason.cloned(),
        });
        self.remember(Past {
            request_id: claim.asked.request_id,
            asked: claim.command,
            lease: Some(ended.clone()),
            session: None,
            ended_at: self.clock,
        });
        Some(ended)
    }

    /// Ends a claim, with all that wait together with it, and lets others in.
    pub(super) fn end_together(&mut self, id: LeaseId, how: EndReason) -> Option<Ended> {
        let claim = self.find(id)?;
        let alone = claim.group.is_empty() || claim.holding().is_some();
        let all = if alone { vec![id] } else { claim.group.clone() };
        let ended: Vec<Ended> = all.iter().filter_map(|id| self.end(*id, how, None)).collect();
        for one in &ended {
            self.settle(&one.name);
        }
        ended.into_iter().find(|one| one.lease_id == id)
    }

    pub(super) fn open(&mut self, open: &OpenSession, command: &Command) -> Outcome {
        match self.repeated(open.request_id, command) {
            Some(Known::Session(id)) => {
                return match self.session_info(id) {
                    Some(info) => Outcome::SessionOpened(info),
                    None => rejected(self.session_over(id)),
                };
            }
            Some(Known::Lease(_) | Known::Other) => return rejected(Rejection::RequestIdReused),
            None => {}
        }
        if open.request_id.is_some() && self.request_count() >= self.limits.answers_max {
            return rejected(Rejection::AnswersFull { limit: self.limits.answers_max as u64 });
        }
        if self.sessions.len() >= self.limits.sessions_max {
            return rejected(Rejection::SessionsFull { limit: self.limits.sessions_max as u64 });
        }
        let deadline = self.clock.plus_ms(open.ttl.ms());
        self.sessions.push(Open { asked: open.clone(), renewed_at: self.clock, deadline });
        self.emit(EventKind::SessionOpened { session_id: open.session_id });
        Outcome::SessionOpened(self.session_info(open.session_id).expect("just opened"))
    }

    pub(super) fn prolong(&mut self, id: SessionId) {
        let clock = self.clock;
        for open in self.sessions.iter_mut().filter(|open| open.asked.session_id == id) {
            open.renewed_at = clock;
            open.deadline = open.deadline.max(clock.plus_ms(open.asked.ttl.ms()));
        }
    }

    pub(super) fn close(&mut self, id: SessionId) -> Outcome {
        if let Some(leases_ended) = self.end_session(id, EndReason::SessionClosed) {
            return Outcome::SessionClosed { session_id: id, leases_ended };
        }
        match self.session_over(id) {
            Rejection::SessionGone { how: EndReason::SessionClosed } => {
                Outcome::SessionClosed { session_id: id, leases_ended: 0 }
            }
            rejection => rejected(rejection),
        }
    }

    pub(super) fn leases_of(&self, id: SessionId) -> Vec<LeaseId> {
        let claims = self.claims.iter().filter(|claim| claim.session_id() == Some(id));
        let mut ids: Vec<LeaseId> = claims.map(|claim| claim.asked.lease_id).collect();
        ids.sort_unstable();
        ids
    }

    pub(super) fn end_session(&mut self, id: SessionId, how: EndReason) -> Option<u64> {
        let index = self.sessions.iter().position(|open| open.asked.session_id == id)?;
        let open = self.sessions.remove(index);
        let ids = self.leases_of(id);
        let ended: Vec<Ended> = ids.iter().filter_map(|id| self.end(*id, how, None)).collect();
        self.remember(Past {
            request_id: open.asked.request_id,
            asked: Command::OpenSession(open.asked),
            lease: None,
            session: Some((id, how)),
            ended_at: self.clock,
        });
        self.emit(EventKind::SessionEnded { session_id: id });
        let mut names: Vec<LockName> = ended.into_iter().map(|ended| ended.name).collect();
        names.sort_unstable();
        for name in &names {
            self.settle(name);
        }
        Some(ids.len() as u64)
    }
}
