//! The rules that a history must keep, written apart from the code that they judge. One file for
//! each; the letters are those of `docs/testing.md`.
//!
//! Most are fast and lean on the tokens, which tell the order of the grants. The general search
//! (`search`) leans on nothing but the meaning of the calls and judges every lock again.

mod belief;
mod grants;
mod looks;
mod many;
mod order;
mod refusals;
mod search;
mod tokens;
mod values;

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use self::tests::legal_history;

use std::collections::BTreeMap;

use crate::claims::{self, Claim, Claims};
use crate::history::{Mode, Records};

/// What came of one rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// It holds; what was judged.
    Nothing(String),
    /// It does not; the first violation, as a sentence.
    Violation(String),
    /// Nobody can tell, which is a failure too.
    Unknown(String),
}

/// What came of all rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub rules: Vec<(&'static str, Found)>,
}

impl Verdict {
    pub fn violation(&self) -> Option<&str> {
        self.rules.iter().find_map(|(_, found)| match found {
            Found::Violation(why) => Some(why.as_str()),
            Found::Nothing(_) | Found::Unknown(_) => None,
        })
    }

    pub fn unknown(&self) -> Option<&str> {
        self.rules.iter().find_map(|(_, found)| match found {
            Found::Unknown(why) => Some(why.as_str()),
            Found::Nothing(_) | Found::Violation(_) => None,
        })
    }

    /// The first violation, or else what could not be judged.
    pub fn as_result(&self) -> Result<(), String> {
        let problem = self.violation().or_else(|| self.unknown());
        problem.map_or(Ok(()), |why| Err(why.to_owned()))
    }
}

/// Judges a history by all rules.
pub fn check(records: &Records) -> Verdict {
    let claims = claims::of(records);
    let operations = &records.operations;
    let by_lock = by_lock(&claims);
    let grants = format!("{} grants of {} locks", claims.len(), by_lock.len());
    let each = |rule: fn(&[&Claim]) -> Result<(), String>| {
        by_lock.values().try_for_each(|claims| rule(claims))
    };
    let mut rules = vec![
        ("something was granted", some_grants(claims.len())),
        ("A an order of grants explains all", found(each(grants::follow_each_other), &grants)),
        ("A leases end in time, and once", found(each(grants::end_once_and_in_time), &grants)),
        ("B tokens are given once", found(tokens::are_given_once(operations), &grants)),
        ("B tokens follow real time", found(each(tokens::follow_real_time), &grants)),
        ("B the guarded resource strands nobody", found(stranded(records), &writes(records))),
        ("C beliefs never overlap", found(each(belief::never_overlaps), &grants)),
        ("C reads are fresh", found(looks::are_fresh(operations, &claims), &looks(records))),
        (
            "C values are the last written",
            found(values::are_the_last_written(operations, &claims), &kind(records, "get-value")),
        ),
        (
            "D first come is first served",
            found(order::is_first_come_first_served(operations, &claims), &looks(records)),
        ),
        (
            "D several locks are all or nothing",
            found(many::are_all_or_nothing(operations), &kind(records, "acquire-many")),
        ),
        (
            "D what was refused did not happen",
            found(refusals::did_not_happen(operations), &looks(records)),
        ),
    ];
    rules.push(("A again, by a search for any order", searched(records, &claims)));
    Verdict { rules }
}

fn found(result: Result<(), String>, what: &str) -> Found {
    result.map_or_else(Found::Violation, |()| Found::Nothing(what.to_owned()))
}

fn some_grants(count: usize) -> Found {
    if count == 0 {
        return Found::Unknown("nothing was granted: the history proves nothing".to_owned());
    }
    Found::Nothing(format!("{count} grants"))
}

fn searched(records: &Records, claims: &Claims<'_>) -> Found {
    match search::explains(records, claims) {
        Ok(searched) => {
            Found::Nothing(format!("{} calls on {} locks", searched.calls, searched.locks))
        }
        Err(search::Unexplained::Never(why)) => Found::Violation(why),
        Err(search::Unexplained::Unknown(why)) => Found::Unknown(why),
    }
}

fn stranded(records: &Records) -> Result<(), String> {
    let first = records.stranded.first();
    first.map_or(Ok(()), |it| Err(format!("somebody else's write came between: {it:?}")))
}

fn writes(records: &Records) -> String {
    format!("{} writes, {} refused to former holders", records.writes.0, records.writes.1)
}

fn looks(records: &Records) -> String {
    kind(records, "look")
}

fn kind(records: &Records, kind: &str) -> String {
    let count = records.operations.iter().filter(|operation| operation.kind() == kind).count();
    format!("{count} of {kind}")
}

/// The grants of each lock in token order.
fn by_lock<'a>(claims: &'a Claims<'_>) -> BTreeMap<&'a str, Vec<&'a Claim>> {
    let mut by_lock: BTreeMap<&str, Vec<&Claim>> = BTreeMap::new();
    for claim in claims.values() {
        by_lock.entry(&claim.lock).or_default().push(claim);
    }
    for claims in by_lock.values_mut() {
        claims.sort_by_key(|claim| claim.token);
    }
    by_lock
}

/// Whether somebody may hold a lock beside those who hold it (P1).
fn fits(mode: Mode, mut holders: impl Iterator<Item = Mode>) -> bool {
    match mode {
        Mode::Exclusive => holders.next().is_none(),
        Mode::Shared => holders.all(|holder| holder == Mode::Shared),
        Mode::Permits { count, limit } => {
            let taken = holders.try_fold(count, |taken, holder| match holder {
                Mode::Permits { count, limit: same } if same == limit => Some(taken + count),
                Mode::Permits { .. } | Mode::Exclusive | Mode::Shared => None,
            });
            taken.is_some_and(|taken| taken <= limit)
        }
    }
}
