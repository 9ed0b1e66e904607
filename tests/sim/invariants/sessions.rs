//! A session that was closed or expired is over: nothing is granted under it any more, and all that
//! was held under it has ended before it.

use std::collections::{BTreeMap, BTreeSet};

use oarlock_core::event::EventKind;
use oarlock_core::ids::{SessionId, Token};

use super::{Answer, Entry, Invariant, Told};
use crate::evidence::Evidence;

pub(super) struct Sessions {
    evidence: Evidence,
    held: BTreeMap<Token, SessionId>,
    ended: BTreeSet<SessionId>,
}

impl Sessions {
    pub(super) fn new(evidence: Evidence) -> Self {
        Self { evidence, held: BTreeMap::new(), ended: BTreeSet::new() }
    }
}

impl Invariant for Sessions {
    fn name(&self) -> &'static str {
        "sessions"
    }

    fn applied(&mut self, entry: &Entry<'_>) -> Result<(), String> {
        for event in entry.events {
            match &event.kind {
                EventKind::Granted { grant, .. } => {
                    let Some(session_id) = grant.session_id else { continue };
                    if self.ended.contains(&session_id) {
                        return Err(format!("{grant:?} under a session that had ended"));
                    }
                    self.held.insert(grant.token, session_id);
                }
                EventKind::Ended { ended, .. } => {
                    ended.token.and_then(|token| self.held.remove(&token));
                }
                EventKind::SessionEnded { session_id } => {
                    self.ended.insert(*session_id);
                    if let Some((token, _)) = self.held.iter().find(|(_, its)| *its == session_id) {
                        return Err(format!("{} outlived its session", token.0));
                    }
                }
                EventKind::Queued { .. }
                | EventKind::SessionOpened { .. }
                | EventKind::Reopened { .. }
                | EventKind::ValueChanged { .. } => {}
            }
        }
        Ok(())
    }

    fn answered(&mut self, answer: &Answer) -> Result<(), String> {
        match &answer.what {
            Told::SessionClosed { session_id } => {
                self.evidence.reach("a session closed");
                let known = self.ended.contains(session_id);
                if known { Ok(()) } else { Err("a close is not in the log".to_owned()) }
            }
            _ => Ok(()),
        }
    }
}
