//! P7: a request id has one effect. Labels are used for one request each, so a label is granted
//! each lock once, and every answer to it names the same grants.

use std::collections::BTreeMap;

use oarlock_core::ids::{LeaseId, LockName, Token};

use super::{Answer, Entry, Invariant, Told};

#[derive(Default)]
pub(super) struct Once {
    granted: BTreeMap<(String, LockName), Token>,
    told: BTreeMap<String, Vec<(LeaseId, Token)>>,
}

impl Invariant for Once {
    fn name(&self) -> &'static str {
        "once"
    }

    fn applied(&mut self, entry: &Entry<'_>) -> Result<(), String> {
        for grant in entry.grants() {
            let claim = (grant.owner.as_str().to_owned(), grant.name.clone());
            if let Some(first) = self.granted.insert(claim.clone(), grant.token) {
                return Err(format!("{claim:?} has {} and {}", first.0, grant.token.0));
            }
        }
        Ok(())
    }

    fn answered(&mut self, answer: &Answer) -> Result<(), String> {
        let Told::Granted { label, grants, .. } = &answer.what else { return Ok(()) };
        let now: Vec<_> = grants.iter().map(|grant| (grant.lease_id, grant.token)).collect();
        match self.told.insert(label.clone(), now.clone()) {
            Some(first) if first != now => Err(format!("{label} was told {first:?}, then {now:?}")),
            Some(_) | None => Ok(()),
        }
    }
}
