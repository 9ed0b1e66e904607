//! Values: only who holds a lock writes its value; a read shows what was written last, never less
//! than was acknowledged before it was asked, and a text under the one token that wrote it.

use std::collections::{BTreeMap, BTreeSet};

use oarlock_core::event::EventKind;
use oarlock_core::ids::{LockName, Revision, Token};
use oarlock_core::outcome::ValueInfo;

use super::{Answer, Entry, Invariant, Told};
use crate::evidence::Evidence;

/// Of one lock, in the order of the log: which token wrote at which revision, or that it was
/// deleted.
type Writes = BTreeMap<Revision, Option<Token>>;

pub(super) struct Values {
    evidence: Evidence,
    held: BTreeSet<(LockName, Token)>,
    writes: BTreeMap<LockName, Writes>,
    /// What each revision was told to carry.
    texts: BTreeMap<Revision, String>,
    /// The newest revision of each lock that was told by each moment.
    told: BTreeMap<LockName, BTreeMap<u64, Revision>>,
    asked: BTreeSet<(LockName, String)>,
}

impl Values {
    pub(super) fn new(evidence: Evidence) -> Self {
        Self {
            evidence,
            held: BTreeSet::new(),
            writes: BTreeMap::new(),
            texts: BTreeMap::new(),
            told: BTreeMap::new(),
            asked: BTreeSet::new(),
        }
    }

    fn judge(&mut self, name: &LockName, value: &ValueInfo) -> Result<(), String> {
        let text = value.value.as_str().to_owned();
        if !self.asked.contains(&(name.clone(), text.clone())) {
            return Err(format!("{name} carries {text}, which nobody wrote there"));
        }
        let wrote = self.writes.get(name).and_then(|writes| writes.get(&value.revision));
        if wrote != Some(&Some(value.token)) {
            return Err(format!("{name} carries {value:?}, the log has {wrote:?}"));
        }
        let first = self.texts.entry(value.revision).or_insert_with(|| text.clone());
        if *first != text {
            return Err(format!("{name} carried {first} and {text} at one revision"));
        }
        Ok(())
    }

    fn tell(&mut self, name: &LockName, revision: Revision, at_ms: u64) {
        let told = self.told.entry(name.clone()).or_default();
        let newest = told.last_key_value().map_or(revision, |(_, it)| revision.max(*it));
        told.insert(at_ms, newest);
    }
}

impl Invariant for Values {
    fn name(&self) -> &'static str {
        "values"
    }

    fn applied(&mut self, entry: &Entry<'_>) -> Result<(), String> {
        for event in entry.events {
            match &event.kind {
                EventKind::Granted { grant, .. } => {
                    self.held.insert((grant.name.clone(), grant.token));
                }
                EventKind::Ended { ended, .. } => {
                    if let Some(token) = ended.token {
                        self.held.remove(&(ended.name.clone(), token));
                    }
                }
                EventKind::ValueChanged { name, token } => {
                    let holds = |token: Token| self.held.contains(&(name.clone(), token));
                    if token.is_some_and(|token| !holds(token)) {
                        return Err(format!("{token:?} wrote to {name} without holding it"));
                    }
                    self.writes.entry(name.clone()).or_default().insert(event.revision, *token);
                }
                EventKind::Queued { .. }
                | EventKind::SessionOpened { .. }
                | EventKind::SessionEnded { .. }
                | EventKind::Reopened { .. } => {}
            }
        }
        Ok(())
    }

    fn answered(&mut self, answer: &Answer) -> Result<(), String> {
        match &answer.what {
            Told::Writes { name, text } => {
                self.asked.insert((name.clone(), text.clone()));
            }
            Told::Written { name, value } => {
                self.evidence.reach("a value written");
                self.judge(name, value)?;
                self.tell(name, value.revision, answer.answered_at);
            }
            Told::Look(view) => {
                let told = self.told.get(&view.name);
                let known = told.and_then(|told| told.range(..answer.asked_at).next_back());
                let known = known.map(|(_, revision)| *revision);
                // Without a value the read is as new as the newest deletion that was applied.
                let shown = match &view.value {
                    Some(value) => {
                        self.evidence.reach("a value read");
                        Some(value.revision)
                    }
                    None => self.writes.get(&view.name).and_then(|writes| {
                        writes.iter().rev().find(|(_, token)| token.is_none()).map(|(it, _)| *it)
                    }),
                };
                if known.is_some_and(|known| shown.is_none_or(|shown| shown < known)) {
                    return Err(format!("{} shows {shown:?} after {known:?}", view.name));
                }
                if let Some(value) = &view.value {
                    self.judge(&view.name, value)?;
                    self.tell(&view.name, value.revision, answer.answered_at);
                }
            }
            _ => {}
        }
        Ok(())
    }
}
