//! Lock-delay: after a holder was lost or forced nobody is granted the lock for as long as was asked
//! for, in lease time, whatever the events say of its reopening. (That it reopens soon enough is for
//! `progress` to see.)

use std::collections::BTreeMap;

use oarlock_core::event::EventKind;
use oarlock_core::ids::{LockName, Token};
use oarlock_core::outcome::{EndReason, Ended};
use oarlock_core::time::LeaseTime;

use super::{DELAY_KEY, Entry, FORCED_FOR_MS, FORCED_GENTLY, Invariant, noted};
use crate::evidence::Evidence;

/// What the holder asked for, and until when it surely holds without any renewal.
struct Held {
    delay_ms: u64,
    deadline: Option<LeaseTime>,
}

pub(super) struct Delay {
    evidence: Evidence,
    held: BTreeMap<Token, Held>,
    closed: BTreeMap<LockName, LeaseTime>,
    /// Of this entry: a grant by hand-over asks no delay.
    handed_over: Option<LockName>,
}

impl Delay {
    pub(super) fn new(evidence: Evidence) -> Self {
        Self { evidence, held: BTreeMap::new(), closed: BTreeMap::new(), handed_over: None }
    }

    fn ended(&mut self, ended: &Ended, reason: Option<&str>) {
        let Some(held) = ended.token.and_then(|token| self.held.remove(&token)) else { return };
        let until = match (ended.how, reason) {
            (EndReason::Expired | EndReason::SessionExpired, _) => {
                (held.delay_ms > 0).then(|| ended.ended_at.plus_ms(held.delay_ms))
            }
            (EndReason::Forced, Some(FORCED_GENTLY)) => held.deadline,
            (EndReason::Forced, Some(reason)) => {
                let ms = reason.strip_prefix(FORCED_FOR_MS).and_then(|ms| ms.parse().ok());
                ms.map(|ms| ended.ended_at.plus_ms(ms))
            }
            _ => None,
        };
        let Some(until) = until.filter(|until| *until > ended.ended_at) else { return };
        self.evidence.reach("a lock closed after its holder was lost");
        let closed = self.closed.entry(ended.name.clone()).or_insert(until);
        *closed = until.max(*closed);
    }
}

impl Invariant for Delay {
    fn name(&self) -> &'static str {
        "delay"
    }

    fn applied(&mut self, entry: &Entry<'_>) -> Result<(), String> {
        self.handed_over = None;
        for event in entry.events {
            match &event.kind {
                EventKind::Granted { grant, .. } => {
                    let closed = self.closed.get(&grant.name);
                    let by_holder = self.handed_over.take().as_ref() == Some(&grant.name);
                    if closed.is_some_and(|until| grant.granted_at < *until) && !by_holder {
                        return Err(format!(
                            "{} was granted to {} at {:?}, closed until {closed:?}",
                            grant.name, grant.owner, grant.granted_at
                        ));
                    }
                    let delay = noted(grant, DELAY_KEY).and_then(|text| text.parse().ok());
                    let held = Held { delay_ms: delay.unwrap_or(0), deadline: grant.deadline };
                    self.held.entry(grant.token).or_insert(held);
                }
                EventKind::Ended { ended, reason, .. } => {
                    if ended.how == EndReason::HandedOver {
                        self.handed_over = Some(ended.name.clone());
                    }
                    self.ended(ended, reason.as_ref().map(oarlock_core::ids::Reason::as_str));
                }
                EventKind::Queued { .. }
                | EventKind::Reopened { .. }
                | EventKind::SessionOpened { .. }
                | EventKind::SessionEnded { .. }
                | EventKind::ValueChanged { .. } => {}
            }
        }
        Ok(())
    }
}
