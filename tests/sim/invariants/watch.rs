//! Watching: whoever watches sees every event once, in order and as the log has it, or is told of a
//! gap; nothing is missed in silence.

use std::collections::BTreeMap;

use oarlock::raft::store::codec;

use super::{Entry, Invariant, Seen};
use crate::evidence::Evidence;
use crate::trace::hash;

pub(super) struct Watch {
    evidence: Evidence,
    /// What happened at each revision.
    log: BTreeMap<u64, u64>,
    /// The revision that each watcher has to see next.
    next: BTreeMap<u64, u64>,
}

impl Watch {
    pub(super) fn new(evidence: Evidence) -> Self {
        Self { evidence, log: BTreeMap::new(), next: BTreeMap::new() }
    }
}

impl Invariant for Watch {
    fn name(&self) -> &'static str {
        "watch"
    }

    fn applied(&mut self, entry: &Entry<'_>) -> Result<(), String> {
        for event in entry.events {
            self.log.insert(event.revision.0, hash(&codec::encode(event)));
        }
        Ok(())
    }

    fn watched(&mut self, watcher: u64, seen: &Seen<'_>) -> Result<(), String> {
        let next = self.next.entry(watcher).or_insert(1);
        match seen {
            Seen::Event(event) => {
                let revision = event.revision.0;
                if revision != *next {
                    return Err(format!("watcher {watcher} was shown {revision}, not {next}"));
                }
                if self.log.get(&revision) != Some(&hash(&codec::encode(*event))) {
                    return Err(format!("watcher {watcher} was shown another {revision}"));
                }
                *next += 1;
            }
            Seen::Gap(oldest) => {
                self.evidence.reach("a watcher told of a gap");
                if *oldest <= *next {
                    return Err(format!("watcher {watcher} was told of no gap: {oldest}"));
                }
                *next = *oldest;
            }
            Seen::End(newest) => {
                if *next <= *newest {
                    return Err(format!("watcher {watcher} never saw {next}, {newest} is over"));
                }
            }
        }
        Ok(())
    }
}
