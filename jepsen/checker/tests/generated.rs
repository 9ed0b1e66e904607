//! Histories of a lock service made up by chance: legal ones pass all rules, and each change that
//! makes one illegal is found, by the fast rules and by the search alike where both can see it.

mod changes;
mod service;

pub(super) use self::service::legal;

use super::*;
use crate::chance::Chance;
use changes::Change;

const SEEDS: u64 = 150;

/// Whether a rule that is no search is broken, and whether the search finds no order.
fn verdicts(records: &Records) -> (bool, bool) {
    let verdict = check(records);
    let broken = |search: bool| {
        let mut rules = verdict.rules.iter();
        rules.any(|(rule, found)| {
            matches!(found, Found::Violation(_)) && rule.starts_with(SEARCH) == search
        })
    };
    assert!(verdict.unknown().is_none(), "{verdict:?}");
    (broken(false), broken(true))
}

#[test]
fn every_history_of_a_right_service_passes() {
    let mut kinds = BTreeMap::new();
    for seed in 0..SEEDS {
        let records = legal(seed, 2, 150);
        let verdict = check(&records);
        assert_eq!(verdict.as_result(), Ok(()), "seed {seed}");
        for operation in &records.operations {
            let outcome = match operation.outcome {
                Outcome::Ok(_) => "ok",
                Outcome::Failed(_) => "failed",
                Outcome::Unknown(_) => "unknown",
            };
            *kinds.entry((operation.kind(), outcome)).or_insert(0_usize) += 1;
        }
    }
    // What never happens shows nothing.
    for kind in ["acquire", "acquire-many", "renew", "release", "set-value"] {
        for outcome in ["ok", "failed", "unknown"] {
            assert!(kinds.get(&(kind, outcome)).is_some_and(|n| *n > 20), "{kind}: {kinds:?}");
        }
    }
}

#[test]
fn every_change_that_makes_a_history_illegal_is_found() {
    for change in Change::ALL {
        let mut made = 0;
        for seed in 0..SEEDS {
            let mut chance = Chance::new(seed + 1_000);
            let Some(changed) = change.of(&legal(seed, 2, 150), &mut chance) else { continue };
            let (fast, search) = verdicts(&changed);
            assert!(fast || search, "{change:?} of seed {seed} was not found");
            assert!(
                !change.shows_in_any_order() || (fast && search),
                "{change:?}, seed {seed}: {fast} {search}"
            );
            made += 1;
        }
        assert!(made > 15, "{change:?} was made {made} times only");
    }
}

#[test]
fn the_fast_rules_and_the_search_agree_about_any_change() {
    let (mut refused, mut kept) = (0, 0);
    for seed in 0..SEEDS * 4 {
        let mut chance = Chance::new(seed + 5_000);
        let mut records = legal(seed, 1, 60);
        // Looks and values have rules of their own that the search does not know, and beliefs are
        // no calls.
        changes::keep_grants_only(&mut records);
        changes::disturb(&mut records, &mut chance);
        let verdict = check(&records);
        let broken = |rules: &[&str]| {
            verdict.rules.iter().any(|(rule, found)| {
                matches!(found, Found::Violation(_)) && rules.iter().any(|it| rule.starts_with(it))
            })
        };
        let fast = broken(&[ORDER, IN_TIME, ONCE, REAL_TIME]);
        let search = broken(&[SEARCH]);
        assert_eq!(fast, search, "seed {seed}: {verdict:#?}\n{:#?}", records.operations);
        refused += usize::from(fast);
        kept += usize::from(!fast);
    }
    assert!(refused > 50 && kept > 50, "{refused} refused, {kept} kept");
}
