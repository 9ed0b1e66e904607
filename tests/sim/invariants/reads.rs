//! P6: reads miss nothing that was known when they were asked. A look shows nobody, and a fence says
//! yes to nobody, whose release was acknowledged before; a fence says no to nobody who may still
//! trust.

use std::collections::BTreeMap;

use oarlock_core::ids::{LeaseId, LockName, Token};
use oarlock_core::outcome::EndReason;

use super::belief::trusted_ms;
use super::{Answer, Entry, Invariant, Told};

#[derive(Default)]
struct Known {
    name: Option<LockName>,
    token: Token,
    told_at: u64,
    /// Its grant may have other leases.
    in_session: bool,
    /// The client may trust it until then, for what it was last told.
    until: u64,
    /// When its client began to end it.
    given_up_at: Option<u64>,
    /// When its end was acknowledged.
    ended_at: Option<u64>,
}

#[derive(Default)]
pub(super) struct Reads {
    known: BTreeMap<LeaseId, Known>,
    /// Highest token told by each moment.
    told: BTreeMap<u64, Token>,
}

impl Reads {
    /// Whether a token's end was acknowledged before this was asked.
    fn had_ended(&self, name: &LockName, token: Token, answer: &Answer) -> bool {
        self.known.values().any(|known| {
            known.token == token
                && known.name.as_ref() == Some(name)
                && !known.in_session
                && known.ended_at.is_some_and(|at| at < answer.asked_at)
        })
    }

    fn live(&self, name: &LockName, answer: &Answer) -> impl Iterator<Item = &Known> {
        let (asked, answered) = (answer.asked_at, answer.answered_at);
        let of_lock = move |known: &&Known| known.name.as_ref() == Some(name);
        self.known.values().filter(of_lock).filter(move |known| {
            let given_up = known.given_up_at.is_some_and(|at| at <= answered);
            known.told_at < asked && known.until > answered && !given_up
        })
    }
}

impl Invariant for Reads {
    fn name(&self) -> &'static str {
        "reads"
    }

    fn applied(&mut self, entry: &Entry<'_>) -> Result<(), String> {
        for ended in entry.ends().filter(|ended| ended.how == EndReason::Forced) {
            let known = self.known.entry(ended.lease_id).or_default();
            known.given_up_at.get_or_insert(entry.at_ms);
        }
        Ok(())
    }

    fn answered(&mut self, answer: &Answer) -> Result<(), String> {
        match &answer.what {
            Told::Granted { grants, first_asked_at, .. } => {
                for grant in grants {
                    let until = match (grant.session_id, grant.ttl_ms) {
                        (None, Some(ttl)) => first_asked_at + grant.waited_ms + trusted_ms(ttl),
                        (Some(_), _) | (None, None) => 0,
                    };
                    let known = self.known.entry(grant.lease_id).or_default();
                    known.name = Some(grant.name.clone());
                    known.token = grant.token;
                    known.in_session = grant.session_id.is_some();
                    known.told_at = answer.answered_at;
                    known.until = until;
                    let highest = self.told.last_key_value().map_or(Token(0), |(_, it)| *it);
                    self.told.insert(answer.answered_at, highest.max(grant.token));
                }
            }
            Told::GivesUp { lease_id } => {
                let known = self.known.entry(*lease_id).or_default();
                known.given_up_at.get_or_insert(answer.asked_at);
            }
            Told::Released { lease_id } | Told::Gone { lease_id } => {
                let known = self.known.entry(*lease_id).or_default();
                known.given_up_at.get_or_insert(answer.asked_at);
                known.ended_at.get_or_insert(answer.answered_at);
            }
            Told::Look(view) => {
                let known = self.told.range(..answer.asked_at).next_back();
                if known.is_some_and(|(_, token)| *token > view.token_ceiling) {
                    return Err(format!("{} showed less than {known:?}", view.name));
                }
                let mut tokens = view.holders.iter().map(|holder| holder.token);
                if let Some(token) = tokens.find(|it| self.had_ended(&view.name, *it, answer)) {
                    return Err(format!("{} showed {} after its end", view.name, token.0));
                }
                let shown = |token| view.holders.iter().any(|holder| holder.token == token);
                if let Some(missed) = self.live(&view.name, answer).find(|it| !shown(it.token)) {
                    return Err(format!("{} did not show {}", view.name, missed.token.0));
                }
            }
            Told::Fence { name, token, held } => {
                if *held && self.had_ended(name, *token, answer) {
                    return Err(format!("{name} let {} through after its end", token.0));
                }
                if !held && self.live(name, answer).any(|known| known.token == *token) {
                    return Err(format!("{name} kept {} out before its end", token.0));
                }
            }
            _ => {}
        }
        Ok(())
    }
}
