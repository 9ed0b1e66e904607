//! P4: a lease or session that nobody keeps ends soon enough. Its time is counted in simulated
//! milliseconds, whatever the clocks of the nodes say of it, and only calm ones: somebody serves,
//! has served for two seconds, and nothing keeps a majority from working. So the time without a
//! serving leader costs nothing, and each change of the leader two seconds, as promised.

use std::collections::BTreeMap;

use oarlock_core::event::EventKind;
use oarlock_core::ids::{LeaseId, SessionId};
use oarlock_core::outcome::{Grant, Outcome, SessionInfo};
use oarlock_core::time::LeaseTime;

use super::{Entry, Invariant};
use crate::evidence::Evidence;

/// 200 ms are promised; a message and a sync on a calm day come to it.
const LATE_MS_MAX: u64 = 250;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Lease(LeaseId),
    Session(SessionId),
}

/// The deadline that the log knows last, and since how much calm time.
struct Due {
    deadline: LeaseTime,
    ttl_ms: u64,
    since_calm_ms: u64,
}

pub(super) struct Late {
    evidence: Evidence,
    due: BTreeMap<What, Due>,
}

impl Late {
    pub(super) fn new(evidence: Evidence) -> Self {
        Self { evidence, due: BTreeMap::new() }
    }

    /// The command of an entry set this deadline; a repeat, which moves none, counts nothing anew.
    fn keep(&mut self, what: What, ttl_ms: u64, deadline: LeaseTime, calm_ms: u64) {
        let new = Due { deadline, ttl_ms, since_calm_ms: calm_ms };
        let known = self.due.get(&what);
        if known.is_none_or(|known| known.deadline < deadline) {
            self.due.insert(what, new);
        }
    }

    /// A lease in a session is kept by the session.
    fn granted(&mut self, grant: &Grant, calm_ms: u64) {
        if let (None, Some(ttl_ms), Some(deadline)) =
            (grant.session_id, grant.ttl_ms, grant.deadline)
        {
            self.keep(What::Lease(grant.lease_id), ttl_ms, deadline, calm_ms);
        }
    }

    fn renewed(&mut self, grant: &Grant, calm_ms: u64) {
        let what = grant.session_id.map_or(What::Lease(grant.lease_id), What::Session);
        // One that ends within the same entry is not there any more.
        if let (true, Some(ttl_ms), Some(deadline)) =
            (self.due.contains_key(&what), grant.ttl_ms, grant.deadline)
        {
            self.keep(what, ttl_ms, deadline, calm_ms);
        }
    }

    fn kept(&mut self, session: &SessionInfo, calm_ms: u64) {
        let what = What::Session(session.session_id);
        self.keep(what, session.ttl_ms, session.deadline, calm_ms);
    }

    fn ended(&mut self, what: What, calm_ms: u64) {
        if let Some(due) = self.due.remove(&what)
            && (calm_ms - due.since_calm_ms) * 10 >= due.ttl_ms * 9
        {
            self.evidence.reach("a lease or session that ran out in calm time");
        }
    }
}

impl Invariant for Late {
    fn name(&self) -> &'static str {
        "late"
    }

    fn applied(&mut self, entry: &Entry<'_>) -> Result<(), String> {
        let calm_ms = entry.calm_ms;
        for outcome in entry.outcomes {
            match outcome {
                Outcome::Renewed(grant) => self.renewed(grant, calm_ms),
                Outcome::SessionOpened(session) | Outcome::SessionRenewed(session) => {
                    self.kept(session, calm_ms);
                }
                _ => {}
            }
        }
        for event in entry.events {
            match &event.kind {
                EventKind::Granted { grant, .. } => self.granted(grant, calm_ms),
                EventKind::Ended { ended, .. } => self.ended(What::Lease(ended.lease_id), calm_ms),
                EventKind::SessionEnded { session_id } => {
                    self.ended(What::Session(*session_id), calm_ms);
                }
                EventKind::Queued { .. }
                | EventKind::SessionOpened { .. }
                | EventKind::Reopened { .. }
                | EventKind::ValueChanged { .. } => {}
            }
        }
        Ok(())
    }

    fn passes(&mut self, calm_ms: u64) -> Result<(), String> {
        let late = |due: &Due| {
            let allowed_ms = due.ttl_ms + due.ttl_ms.div_ceil(100) + LATE_MS_MAX;
            calm_ms - due.since_calm_ms > allowed_ms
        };
        let late = self.due.iter().find(|(_, due)| late(due));
        late.map_or(Ok(()), |(what, due)| {
            let lived_ms = calm_ms - due.since_calm_ms;
            Err(format!("{what:?} of {} ms is there after {lived_ms} calm ms", due.ttl_ms))
        })
    }
}
