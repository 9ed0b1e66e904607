//! P8: waiters are served first come first served, and nobody overtakes a queue, except whom a holder
//! gives its lock to.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use oarlock_core::event::EventKind;
use oarlock_core::ids::{LockName, Token};
use oarlock_core::outcome::EndReason;

use super::{Entry, Invariant};

#[derive(Default)]
pub(super) struct Fifo {
    /// Who waits, by label, in the order of the log.
    queues: BTreeMap<LockName, VecDeque<String>>,
    granted: BTreeSet<Token>,
}

impl Invariant for Fifo {
    fn name(&self) -> &'static str {
        "fifo"
    }

    fn applied(&mut self, entry: &Entry<'_>) -> Result<(), String> {
        let mut given: Option<&LockName> = None;
        for event in entry.events {
            let given_to = given.take();
            match &event.kind {
                EventKind::Queued { name, owner, .. } => {
                    let queue = self.queues.entry(name.clone()).or_default();
                    queue.push_back(owner.as_str().to_owned());
                }
                EventKind::Granted { grant, queued, .. } => {
                    let queue = self.queues.entry(grant.name.clone()).or_default();
                    let again = !self.granted.insert(grant.token);
                    let owner = grant.owner.as_str();
                    if *queued && queue.front().map(String::as_str) != Some(owner) {
                        return Err(format!("{owner} was served before {queue:?}"));
                    }
                    if *queued {
                        queue.pop_front();
                    } else if !queue.is_empty() && !again && given_to != Some(&grant.name) {
                        return Err(format!("{owner} overtook {queue:?}"));
                    }
                }
                EventKind::Ended { ended, owner, .. } => {
                    if ended.how == EndReason::HandedOver {
                        given = Some(&ended.name);
                    }
                    if ended.token.is_none() {
                        let queue = self.queues.entry(ended.name.clone()).or_default();
                        if let Some(place) = queue.iter().position(|it| it == owner.as_str()) {
                            queue.remove(place);
                        }
                    }
                }
                EventKind::SessionOpened { .. }
                | EventKind::SessionEnded { .. }
                | EventKind::Reopened { .. }
                | EventKind::ValueChanged { .. } => {}
            }
        }
        Ok(())
    }
}
