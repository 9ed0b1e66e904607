//! What a client may trust: until it sent the request, plus the wait, plus the TTL, less one percent
//! and 50 ms, on its own clock. No two clients that trust only this hold a lock against each other,
//! also when a lock is forced, unless somebody forces it without waiting for what remains.

use std::collections::BTreeMap;

use oarlock_core::command::Mode;
use oarlock_core::event::EventKind;
use oarlock_core::ids::{LeaseId, LockName};

use super::{Answer, Entry, FORCED_GENTLY, Invariant, Told, compatible};

/// What a client takes off for clocks and delays.
const MARGIN_MS: u64 = 50;

struct Trust {
    label: String,
    name: LockName,
    mode: Mode,
    from: u64,
    /// Until the lease may end, or the client began to give it back.
    until: u64,
}

#[derive(Default)]
pub(super) struct Belief {
    trusted: BTreeMap<LeaseId, Trust>,
    /// Taken away at that moment, by somebody who did not wait for the lease to end.
    taken: BTreeMap<LeaseId, u64>,
}

pub(crate) fn trusted_ms(ttl_ms: u64) -> u64 {
    (ttl_ms * 99 / 100).saturating_sub(MARGIN_MS)
}

impl Belief {
    fn overlaps(&self, lease: LeaseId) -> Result<(), String> {
        let Some(new) = self.trusted.get(&lease) else { return Ok(()) };
        for (id, other) in &self.trusted {
            let at_once = other.from.max(new.from) < other.until.min(new.until);
            if *id != lease
                && other.name == new.name
                && at_once
                && !compatible(&[other.mode, new.mode])
            {
                return Err(format!(
                    "{} trusts in {} from {} to {} ms, {} from {} to {} ms",
                    new.label, new.name, new.from, new.until, other.label, other.from, other.until
                ));
            }
        }
        Ok(())
    }
}

impl Invariant for Belief {
    fn name(&self) -> &'static str {
        "belief"
    }

    fn applied(&mut self, entry: &Entry<'_>) -> Result<(), String> {
        for event in entry.events {
            let EventKind::Ended { ended, reason: Some(reason), .. } = &event.kind else {
                continue;
            };
            if reason.as_str() != FORCED_GENTLY {
                self.taken.insert(ended.lease_id, entry.at_ms);
                if let Some(trust) = self.trusted.get_mut(&ended.lease_id) {
                    trust.until = trust.until.min(entry.at_ms);
                }
            }
        }
        Ok(())
    }

    fn answered(&mut self, answer: &Answer) -> Result<(), String> {
        match &answer.what {
            Told::Granted { label, first_asked_at, repeats, grants } => {
                for grant in grants.iter().filter(|grant| grant.session_id.is_none()) {
                    let Some(ttl_ms) = grant.ttl_ms else { continue };
                    let until = first_asked_at + grant.waited_ms + trusted_ms(ttl_ms);
                    let taken = self.taken.contains_key(&grant.lease_id);
                    if *repeats || taken || answer.answered_at >= until {
                        continue;
                    }
                    let trust = Trust {
                        label: label.clone(),
                        name: grant.name.clone(),
                        mode: grant.mode,
                        from: answer.answered_at,
                        until,
                    };
                    self.trusted.insert(grant.lease_id, trust);
                    self.overlaps(grant.lease_id)?;
                }
                let horizon = answer.answered_at.saturating_sub(60_000);
                self.trusted.retain(|_, trust| trust.until > horizon);
                Ok(())
            }
            Told::Renewed { lease_id, ttl_ms } => {
                if let Some(trust) = self.trusted.get_mut(lease_id)
                    && trust.until > answer.answered_at
                {
                    trust.until = trust.until.max(answer.asked_at + trusted_ms(*ttl_ms));
                }
                self.overlaps(*lease_id)
            }
            Told::GivesUp { lease_id } | Told::Gone { lease_id } => {
                if let Some(trust) = self.trusted.get_mut(lease_id) {
                    trust.until = trust.until.min(answer.asked_at);
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
