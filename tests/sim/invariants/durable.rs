//! P5: what was acknowledged is in the log that the nodes agree on, and stays there. (That no node
//! applies something else at the same place is for the witness to see.)

use std::collections::{BTreeMap, BTreeSet};

use oarlock_core::ids::{LeaseId, Token};

use super::{Answer, Entry, Invariant, Told};

#[derive(Default)]
pub(super) struct Durable {
    granted: BTreeMap<LeaseId, Token>,
    tokens: BTreeSet<Token>,
    /// One more lease of a session on its grant: no event tells of it, nor of its end.
    in_session: BTreeSet<LeaseId>,
    ended: BTreeSet<LeaseId>,
}

impl Invariant for Durable {
    fn name(&self) -> &'static str {
        "durable"
    }

    fn applied(&mut self, entry: &Entry<'_>) -> Result<(), String> {
        self.granted.extend(entry.grants().map(|grant| (grant.lease_id, grant.token)));
        self.tokens.extend(entry.grants().map(|grant| grant.token));
        self.ended.extend(entry.ends().map(|ended| ended.lease_id));
        Ok(())
    }

    fn answered(&mut self, answer: &Answer) -> Result<(), String> {
        match &answer.what {
            Told::Granted { grants, label, .. } => {
                for grant in grants {
                    let known = match grant.session_id {
                        Some(_) => self.tokens.contains(&grant.token),
                        None => self.granted.get(&grant.lease_id) == Some(&grant.token),
                    };
                    if grant.session_id.is_some() {
                        self.in_session.insert(grant.lease_id);
                    }
                    if !known {
                        return Err(format!("{label}'s grant {} is not in the log", grant.token.0));
                    }
                }
                Ok(())
            }
            Told::Renewed { lease_id, .. } if !self.granted.contains_key(lease_id) => {
                Err(format!("{lease_id:?} was renewed and never granted"))
            }
            Told::Released { lease_id }
                if !self.ended.contains(lease_id) && !self.in_session.contains(lease_id) =>
            {
                Err(format!("the release of {lease_id:?} is not in the log"))
            }
            _ => Ok(()),
        }
    }
}
