//! P1: in log order the holders of a lock are always compatible.

use std::collections::BTreeMap;

use oarlock_core::event::EventKind;
use oarlock_core::ids::{LeaseId, LockName, Token};

use super::{Entry, Holders, Invariant, compatible};

#[derive(Default)]
pub(super) struct Exclusion {
    holders: Holders,
    /// A session that takes a lock again has several leases on one grant.
    leases: BTreeMap<(LockName, Token), Vec<LeaseId>>,
}

impl Invariant for Exclusion {
    fn name(&self) -> &'static str {
        "exclusion"
    }

    fn applied(&mut self, entry: &Entry<'_>) -> Result<(), String> {
        for event in entry.events {
            match &event.kind {
                EventKind::Granted { grant, .. } => {
                    let holders = self.holders.entry(grant.name.clone()).or_default();
                    holders.insert(grant.token, grant.mode);
                    let leases = self.leases.entry((grant.name.clone(), grant.token)).or_default();
                    leases.push(grant.lease_id);
                    let modes: Vec<_> = holders.values().copied().collect();
                    if !compatible(&modes) {
                        return Err(format!(
                            "{} is held by {holders:?} after entry {}",
                            grant.name, entry.index
                        ));
                    }
                }
                EventKind::Ended { ended, .. } => {
                    let Some(token) = ended.token else { continue };
                    let grant = (ended.name.clone(), token);
                    let leases = self.leases.entry(grant.clone()).or_default();
                    leases.retain(|lease| *lease != ended.lease_id);
                    if leases.is_empty() {
                        self.leases.remove(&grant);
                        self.holders.entry(grant.0).or_default().remove(&token);
                    }
                }
                EventKind::Queued { .. }
                | EventKind::SessionOpened { .. }
                | EventKind::SessionEnded { .. }
                | EventKind::Reopened { .. }
                | EventKind::ValueChanged { .. } => {}
            }
        }
        Ok(())
    }
}
