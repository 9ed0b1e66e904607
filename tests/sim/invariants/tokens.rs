//! P2: tokens only grow, in log order and as clients see it: who asks after another was answered
//! gets the higher one.

use std::collections::BTreeMap;

use oarlock_core::ids::{LeaseId, Token};

use super::{Answer, Entry, Invariant, Told};

#[derive(Default)]
pub(super) struct Tokens {
    newest: Token,
    owners: BTreeMap<Token, String>,
    leases: BTreeMap<LeaseId, Token>,
    /// Highest token that had been told by each moment.
    told: BTreeMap<u64, Token>,
}

impl Invariant for Tokens {
    fn name(&self) -> &'static str {
        "tokens"
    }

    fn applied(&mut self, entry: &Entry<'_>) -> Result<(), String> {
        for grant in entry.grants() {
            self.leases.insert(grant.lease_id, grant.token);
            if grant.token <= self.newest {
                // A session that takes a lock again shares the grant.
                if grant.session_id.is_some() && self.owners.contains_key(&grant.token) {
                    continue;
                }
                return Err(format!("{} after {}", grant.token.0, self.newest.0));
            }
            self.newest = grant.token;
            self.owners.insert(grant.token, grant.owner.as_str().to_owned());
        }
        Ok(())
    }

    fn answered(&mut self, answer: &Answer) -> Result<(), String> {
        let Told::Granted { label, first_asked_at, grants, .. } = &answer.what else {
            return Ok(());
        };
        let before = self.told.range(..*first_asked_at).next_back().map(|(_, token)| *token);
        for grant in grants {
            let known = self.leases.get(&grant.lease_id);
            // A session that takes a lock again has one more lease on its grant, of which no event
            // tells.
            let shares = grant.session_id.is_some() && self.owners.contains_key(&grant.token);
            let again = known.is_none() && shares;
            if known != Some(&grant.token) && !again {
                return Err(format!("{label} was told {grant:?}, the log has {known:?}"));
            }
            if before.is_some_and(|before| grant.token <= before) && !again {
                return Err(format!("{label} got {} though {before:?} was told", grant.token.0));
            }
            let highest = self.told.last_key_value().map_or(Token(0), |(_, token)| *token);
            self.told.insert(answer.answered_at, highest.max(grant.token));
        }
        Ok(())
    }
}
