//! Hand-over: the grant that is given away ends and the one that takes its place begins in one
//! step, for the same lock, in the same mode, under a higher token.

use std::collections::BTreeMap;

use oarlock_core::command::Mode;
use oarlock_core::event::EventKind;
use oarlock_core::ids::{LockName, Token};
use oarlock_core::outcome::EndReason;

use super::{Entry, Invariant};
use crate::evidence::Evidence;

pub(super) struct HandOver {
    evidence: Evidence,
    held: BTreeMap<Token, Mode>,
}

impl HandOver {
    pub(super) fn new(evidence: Evidence) -> Self {
        Self { evidence, held: BTreeMap::new() }
    }
}

impl Invariant for HandOver {
    fn name(&self) -> &'static str {
        "handover"
    }

    fn applied(&mut self, entry: &Entry<'_>) -> Result<(), String> {
        let mut given: Option<(&LockName, Token)> = None;
        for event in entry.events {
            match (&event.kind, given.take()) {
                (EventKind::Granted { grant, queued, .. }, Some((name, token))) => {
                    let same = self.held.get(&token) == Some(&grant.mode);
                    if grant.name != *name || *queued || grant.token <= token || !same {
                        return Err(format!("{name} with {} went to {grant:?}", token.0));
                    }
                    self.evidence.reach("a lock handed over");
                }
                (_, Some((name, token))) => {
                    return Err(format!("{name} with {} was given to nobody", token.0));
                }
                (_, None) => {}
            }
            match &event.kind {
                EventKind::Granted { grant, .. } => {
                    self.held.insert(grant.token, grant.mode);
                }
                EventKind::Ended { ended, .. } if ended.how == EndReason::HandedOver => {
                    given = ended.token.map(|token| (&ended.name, token));
                }
                _ => {}
            }
        }
        match given {
            Some((name, token)) => Err(format!("{name} with {} was given to nobody", token.0)),
            None => Ok(()),
        }
    }
}
