//! A force release that was acknowledged has ended those grants, and nothing that its holder says
//! afterwards revives them.

use std::collections::BTreeMap;

use oarlock_core::ids::{LeaseId, LockName, Token};
use oarlock_core::outcome::EndReason;

use super::{Answer, Entry, Invariant, Told};
use crate::evidence::Evidence;

pub(super) struct Forced {
    evidence: Evidence,
    leases: BTreeMap<LeaseId, u64>,
    tokens: BTreeMap<(LockName, Token), u64>,
}

impl Forced {
    pub(super) fn new(evidence: Evidence) -> Self {
        Self { evidence, leases: BTreeMap::new(), tokens: BTreeMap::new() }
    }
}

impl Invariant for Forced {
    fn name(&self) -> &'static str {
        "forced"
    }

    fn applied(&mut self, entry: &Entry<'_>) -> Result<(), String> {
        for ended in entry.ends().filter(|ended| ended.how == EndReason::Forced) {
            self.evidence.reach("a lock forced");
            self.leases.insert(ended.lease_id, entry.at_ms);
            if let Some(token) = ended.token {
                self.tokens.insert((ended.name.clone(), token), entry.at_ms);
            }
        }
        Ok(())
    }

    fn answered(&mut self, answer: &Answer) -> Result<(), String> {
        // Forced before that was asked, it is over for whoever asks.
        let before = |at: Option<&u64>| at.is_some_and(|at| *at < answer.asked_at);
        match &answer.what {
            Told::Forced { ended } => {
                let known = |token: Token, name: &LockName| {
                    self.tokens.contains_key(&(name.clone(), token))
                };
                let missing = ended
                    .iter()
                    .find(|ended| ended.token.is_some_and(|token| !known(token, &ended.name)));
                missing.map_or(Ok(()), |ended| Err(format!("{ended:?} is not in the log")))
            }
            Told::Renewed { lease_id, .. } if before(self.leases.get(lease_id)) => {
                Err(format!("{lease_id:?} was renewed after it was forced"))
            }
            Told::Fence { name, token, held: true }
                if before(self.tokens.get(&(name.clone(), *token))) =>
            {
                Err(format!("{name} let {} through after it was forced", token.0))
            }
            Told::Written { name, value }
                if before(self.tokens.get(&(name.clone(), value.token))) =>
            {
                Err(format!("{name} took a value of {} after it was forced", value.token.0))
            }
            _ => Ok(()),
        }
    }
}
