//! P9: what was refused on every try never happens, neither before the refusal nor after it. (That
//! nobody is told too early that a lease is gone is for `expiry` to see.)

use std::collections::BTreeMap;

use oarlock_core::event::EventKind;
use oarlock_core::outcome::EndReason;

use super::{About, Answer, Entry, Invariant, Told};

#[derive(Default)]
pub(super) struct Refusals {
    /// Why each was refused last; `None` once it was answered otherwise, also by nothing.
    refused: BTreeMap<About, Option<String>>,
    /// What happened, and when.
    happened: BTreeMap<About, u64>,
}

impl Invariant for Refusals {
    fn name(&self) -> &'static str {
        "refusals"
    }

    fn applied(&mut self, entry: &Entry<'_>) -> Result<(), String> {
        for event in entry.events {
            let about = match &event.kind {
                EventKind::Queued { owner, .. } => About::Claim(owner.as_str().to_owned()),
                EventKind::Granted { grant, .. } => About::Claim(grant.owner.as_str().to_owned()),
                EventKind::Ended { ended, .. } if ended.how == EndReason::Released => {
                    About::Release(ended.lease_id)
                }
                EventKind::SessionOpened { session_id } => About::Open(*session_id),
                EventKind::Ended { .. }
                | EventKind::SessionEnded { .. }
                | EventKind::Reopened { .. }
                | EventKind::ValueChanged { .. } => continue,
            };
            self.happened.entry(about).or_insert(entry.at_ms);
        }
        Ok(())
    }

    fn answered(&mut self, answer: &Answer) -> Result<(), String> {
        if let Some(about) = &answer.about {
            let why = match &answer.what {
                Told::Refused(why) => Some(format!("{why}, at {} ms", answer.answered_at)),
                _ => None,
            };
            let known = self.refused.entry(about.clone()).or_insert_with(|| why.clone());
            *known = known.take().and(why);
        }
        Ok(())
    }

    fn rest(&mut self) -> Result<(), String> {
        for (about, why) in &self.refused {
            if let (Some(why), Some(at)) = (why, self.happened.get(about)) {
                return Err(format!("{about:?} was refused ({why}), and happened at {at} ms"));
            }
        }
        Ok(())
    }
}
