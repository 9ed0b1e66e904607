//! P1: in log order the holders of a lock are always compatible.

use oarlock_core::event::EventKind;

use super::{Entry, Holders, Invariant, compatible};

#[derive(Default)]
pub(super) struct Exclusion {
    holders: Holders,
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
                    self.holders.entry(ended.name.clone()).or_default().remove(&token);
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
