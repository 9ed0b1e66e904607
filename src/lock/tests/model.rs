//! Random commands against the naive model: every outcome, every event and every view must agree
//! after every command. Few names, ids and profiles make commands meet; small bounds make them
//! reach every refusal.
//!
//! The seed is fixed, so a run repeats itself; `PROPTEST_RNG_SEED=…` and `PROPTEST_CASES=…` choose
//! other and more sequences.

mod naive;

use std::collections::{BTreeMap, BTreeSet};

use oarlock_core::command::{
    Acquire, AcquireMany, Claim, Command, Entry, Expected, ForceTarget, HandOver, LEVEL, LeaseTerm,
    Mode, OpenSession,
};
use oarlock_core::event::EventKind;
use oarlock_core::ids::{
    LeaseId, LockName, Metadata, Owner, Permits, Reason, RecordKey, RecordValue, RequestId,
    Revision, SessionId, Token, Value,
};
use oarlock_core::image::{Row, RowKey};
use oarlock_core::limits::Limits;
use oarlock_core::machine::{Applied, Machine, UnknownLevel};
use oarlock_core::outcome::Outcome;
use oarlock_core::planted;
use oarlock_core::query::LockView;
use oarlock_core::time::{Grace, LeaseTime, LockDelay, Ttl, Wait};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{RngSeed, TestCaseResult, TestRunner};

use naive::Naive;

const NAMES: [&str; 3] = ["a", "b", "b/c"];
/// Lease ids in a generated command say how far back to look: see [`aim`].
const LEASE_IDS: u128 = 14;
const SESSION_IDS: u128 = 4;
const REQUEST_IDS: u128 = 12;

fn small_limits() -> Limits {
    Limits {
        queue_length_max: 2,
        holders_max: 2,
        leases_max: 6,
        sessions_max: 2,
        leases_per_session_max: 3,
        values_max: 1,
        records_max: 2,
        history_max: 5,
        deadlock_walk_max: 10_000,
        expiries_per_advance_max: 3,
        expiries_per_command_max: 2,
        answers_max: 5,
        answer_kept_ms: 1_500,
        recent_ends_max: 6,
        answers_per_chunk: 2,
        chunks_forgotten_per_advance_max: 1,
        token_max: 12,
    }
}

fn lock_name(index: usize) -> LockName {
    LockName::new(NAMES[index % NAMES.len()]).expect("a valid name")
}

/// What an acquire asks for, apart from its ids and its wait: one of a few profiles, so that
/// repeats happen by chance.
fn acquire(profile: u8, id: u128, request: Option<u128>, wait_ms: u64) -> Command {
    let number = u64::from(profile);
    let term = match profile % 5 {
        0 | 1 => LeaseTerm::Ttl(Ttl::new(200 + 100 * number).expect("a valid TTL")),
        2 => LeaseTerm::Forever,
        _ => LeaseTerm::Session(SessionId(u128::from(profile / 9))),
    };
    let metadata: BTreeMap<String, String> =
        (0..number % 2).map(|_| ("profile".to_string(), profile.to_string())).collect();
    Command::Acquire(Acquire {
        lease_id: LeaseId(id),
        name: lock_name(usize::from(profile)),
        owner: Owner::new(&format!("owner-{}", profile % 2)).expect("a valid owner"),
        mode: match profile {
            // Two limits for the same name, so that they meet.
            12.. => Mode::Permits(permits(1 + number % 2, 2 + number / 15)),
            _ if profile % 4 < 2 => Mode::Shared,
            _ => Mode::Exclusive,
        },
        term,
        wait: Wait::new(wait_ms).expect("a valid wait"),
        grace: Grace::new(150 * (number % 3)).expect("a valid grace"),
        request_id: request.map(RequestId),
        metadata: Metadata::try_from(metadata).expect("valid metadata"),
        lock_delay: LockDelay::new(if number % 4 == 3 { 250 } else { 0 })
            .expect("a valid lock-delay"),
    })
}

fn permits(count: u64, limit: u64) -> Permits {
    Permits::new(count, limit).expect("valid permits")
}

fn any_acquire() -> impl Strategy<Value = Command> {
    let wait = prop_oneof![Just(0), Just(300), Just(2_000)];
    let request = prop::option::of(0..REQUEST_IDS);
    // Most requests with an id take their profile from it, as a repeat would.
    let profile = prop_oneof![3 => 0..12_u8, 1 => 12..18_u8];
    (profile, 0..LEASE_IDS, request, wait, 0..4_u8).prop_map(|(any, id, request, wait, stray)| {
        let usual = request.and_then(|request| u8::try_from(request).ok());
        let profile = if stray == 0 { any } else { usual.unwrap_or(any) };
        acquire(profile, id, request, wait)
    })
}

/// Few enough sessions and names that a session takes its own lock again.
fn again() -> impl Strategy<Value = Command> {
    let profile = prop_oneof![Just(3_u8), Just(8_u8)];
    (profile, 2..LEASE_IDS).prop_map(|(profile, id)| acquire(profile, id, None, 0))
}

fn any_open() -> impl Strategy<Value = Command> {
    let request = prop::option::of(0..REQUEST_IDS);
    (0..SESSION_IDS, request, 0..2_u64).prop_map(|(id, request, kind)| {
        Command::OpenSession(OpenSession {
            session_id: SessionId(id),
            owner: Owner::new("worker").expect("a valid owner"),
            ttl: Ttl::new(400 + 400 * kind).expect("a valid TTL"),
            request_id: request.map(RequestId),
            metadata: Metadata::default(),
        })
    })
}

fn any_force() -> impl Strategy<Value = Command> {
    let delay = prop_oneof![1 => Just(None), 3 => Just(Some(0)), 1 => Just(Some(300))];
    (0..NAMES.len(), prop::option::of(1..16_u64), delay).prop_map(|(name, token, delay)| {
        Command::ForceRelease {
            name: lock_name(name),
            target: token.map_or(ForceTarget::All, |token| ForceTarget::Token(Token(token))),
            reason: Reason::new("test").expect("a valid reason"),
            lock_delay: delay.map(|ms| LockDelay::new(ms).expect("a valid lock-delay")),
        }
    })
}

fn any_many() -> impl Strategy<Value = Command> {
    let wait = prop_oneof![Just(0), Just(2_000)];
    let request = prop::option::of(0..REQUEST_IDS);
    (0..12_u8, 0..NAMES.len(), 1..4_usize, request, wait).prop_map(
        |(profile, first, count, request, wait_ms)| {
            let Command::Acquire(one) = acquire(profile, 0, request, wait_ms) else {
                unreachable!("an acquire")
            };
            // The last name may come a second time, which is refused.
            let claims = (0..count).map(|index| Claim {
                lease_id: LeaseId(0),
                name: lock_name((first + index.min(usize::from(profile % 5))) % NAMES.len()),
                mode: if index == 0 { one.mode } else { Mode::Shared },
                lock_delay: one.lock_delay,
            });
            Command::AcquireMany(AcquireMany {
                claims: claims.collect(),
                owner: one.owner,
                term: one.term,
                wait: one.wait,
                grace: one.grace,
                request_id: one.request_id,
                metadata: one.metadata,
            })
        },
    )
}

fn any_hand_over() -> impl Strategy<Value = Command> {
    let request = prop::option::of(0..REQUEST_IDS);
    (0..12_u8, 0..4_u128, request).prop_map(|(profile, lease, request)| {
        let Command::Acquire(one) = acquire(profile, 0, request, 0) else {
            unreachable!("an acquire")
        };
        Command::HandOver(HandOver {
            lease_id: LeaseId(lease),
            new_lease_id: LeaseId(0),
            owner: one.owner,
            term: one.term,
            request_id: one.request_id,
            metadata: one.metadata,
        })
    })
}

fn any_value() -> impl Strategy<Value = Command> {
    let value = prop::option::of(0..3_u8);
    (0..NAMES.len(), 0..6_u128, value).prop_map(|(name, lease, value)| Command::SetValue {
        name: lock_name(name),
        lease_id: LeaseId(lease),
        value: value.map(|number| Value::new(&number.to_string()).expect("a valid value")),
    })
}

const KEYS: [&str; 4] = ["a", "b", "b/c", "c"];

fn any_record() -> impl Strategy<Value = Command> {
    let value = prop::option::of(0..9_u8);
    let expected = prop_oneof![
        2 => Just(Expected::Anything),
        2 => Just(Expected::Absent),
        3 => (0..9_u64).prop_map(|revision| Expected::At(Revision(revision))),
    ];
    (0..KEYS.len(), value, expected).prop_map(|(key, value, expected)| Command::PutRecord {
        key: RecordKey::new(KEYS[key]).expect("a valid key"),
        value: value.map(|byte| RecordValue::new(&[byte]).expect("a valid record")),
        expected,
    })
}

fn any_command() -> impl Strategy<Value = Command> {
    let lease = || (0..LEASE_IDS).prop_map(LeaseId);
    let session = || (0..SESSION_IDS).prop_map(SessionId);
    prop_oneof![
        14 => any_acquire(),
        6 => again(),
        3 => lease().prop_map(|lease_id| Command::Release { lease_id }),
        3 => lease().prop_map(|lease_id| Command::Renew { lease_id }),
        2 => lease().prop_map(|lease_id| Command::Attach { lease_id }),
        2 => lease().prop_map(|lease_id| Command::Detach { lease_id }),
        1 => Just(Command::DetachAll),
        1 => Just(Command::Advance),
        1 => any_force(),
        2 => any_many(),
        3 => any_hand_over(),
        4 => any_value(),
        2 => any_record(),
        1 => (0..NAMES.len()).prop_map(|name| Command::DeleteValue { name: lock_name(name) }),
        3 => any_open(),
        1 => session().prop_map(|session_id| Command::RenewSession { session_id }),
        1 => session().prop_map(|session_id| Command::CloseSession { session_id }),
    ]
}

/// Makes most acquires come with a new lease id and most other commands mean one of the newest:
/// ids taken by chance alone would seldom meet.
fn aim(mut command: Command, issued: &mut Vec<LeaseId>) -> Command {
    let newest = |number: u128| {
        let back = usize::try_from(number).ok()?;
        issued.len().checked_sub(back + 1).and_then(|index| issued.get(index)).copied()
    };
    match &mut command {
        Command::Acquire(acquire) => {
            let known = newest(acquire.lease_id.0).filter(|_| acquire.lease_id.0 < 2);
            let fresh = LeaseId(LEASE_IDS + issued.len() as u128);
            acquire.lease_id = known.unwrap_or(fresh);
            if known.is_none() {
                issued.push(fresh);
            }
        }
        Command::AcquireMany(many) => {
            for claim in &mut many.claims {
                claim.lease_id = LeaseId(LEASE_IDS + issued.len() as u128);
                issued.push(claim.lease_id);
            }
        }
        Command::HandOver(hand_over) => {
            hand_over.lease_id = newest(hand_over.lease_id.0).unwrap_or(hand_over.lease_id);
            hand_over.new_lease_id = LeaseId(LEASE_IDS + issued.len() as u128);
            issued.push(hand_over.new_lease_id);
        }
        Command::Attach { lease_id }
        | Command::Detach { lease_id }
        | Command::Renew { lease_id }
        | Command::Release { lease_id }
        | Command::SetValue { lease_id, .. } => *lease_id = newest(lease_id.0).unwrap_or(*lease_id),
        Command::Advance
        | Command::DetachAll
        | Command::ForceRelease { .. }
        | Command::OpenSession(_)
        | Command::RenewSession { .. }
        | Command::CloseSession { .. }
        | Command::DeleteValue { .. }
        | Command::PutRecord { .. } => {}
    }
    command
}

/// A command, how far its stamp lies from the one before (also backwards), and whether it begins
/// a new entry and is followed by a drain of the changes.
#[derive(Debug, Clone)]
struct Step {
    command: Command,
    at: LeaseTime,
    begins_entry: bool,
    drains: bool,
}

fn any_steps(max: usize) -> impl Strategy<Value = Vec<Step>> {
    let delta_us = prop_oneof![
        6 => 0..60_000_i64,
        2 => 60_000..400_000_i64,
        1 => 400_000..2_500_000_i64,
        1 => -50_000..0_i64,
    ];
    let step = (any_command(), delta_us, any::<bool>(), any::<bool>());
    prop::collection::vec(step, 1..max).prop_map(|steps| {
        let mut now_us = 1_000_000_u64;
        let mut issued = Vec::new();
        let step = |(command, delta_us, begins_entry, drains)| {
            now_us = now_us.saturating_add_signed(delta_us);
            let command = aim(command, &mut issued);
            Step { command, at: LeaseTime(now_us), begins_entry, drains }
        };
        steps.into_iter().map(step).collect()
    })
}

fn config(cases: u32) -> ProptestConfig {
    planted::choose(std::env::var(planted::VARIABLE).ok()).expect("a planted bug");
    let default = ProptestConfig::default();
    let chosen = |name: &str| std::env::var_os(name).is_some();
    ProptestConfig {
        cases: if chosen("PROPTEST_CASES") { default.cases } else { cases },
        rng_seed: if chosen("PROPTEST_RNG_SEED") { default.rng_seed } else { RngSeed::Fixed(7400) },
        failure_persistence: None,
        ..default
    }
}

fn entry(steps: &[Step]) -> Entry {
    let commands = steps.iter().map(|step| (step.at, step.command.clone())).collect();
    Entry { level: LEVEL, wall_ms: 1_700_000_000_000, commands }
}

fn store(stored: &mut BTreeMap<RowKey, Row>, machine: &mut Machine) {
    for (key, row) in machine.take_changes() {
        match row {
            Some(row) => stored.insert(key, row),
            None => stored.remove(&key),
        };
    }
}

fn agree(machine: &Machine, naive: &Naive) -> TestCaseResult {
    for index in 0..NAMES.len() {
        let name = lock_name(index);
        prop_assert_eq!(machine.lock(&name, 9, 9), naive.lock(&name, 9, 9));
        prop_assert_eq!(machine.lock(&name, 1, 1), naive.lock(&name, 1, 1));
        prop_assert_eq!(machine.value(&name), naive.value(&name));
        prop_assert_eq!(machine.history(&name, None, 9), naive.history(&name, None, 9));
        let before = Some(Token(5));
        prop_assert_eq!(machine.history(&name, before, 1), naive.history(&name, before, 1));
        for token in 0..=small_limits().token_max {
            prop_assert_eq!(
                machine.grant_of_token(Token(token)),
                naive.grant_of_token(Token(token))
            );
            let fenced = machine.fence(&name, Token(token)).ok();
            prop_assert_eq!(fenced, naive.fence(&name, Token(token)));
        }
    }
    let listed = machine.locks("", None, 9).locks;
    let expected: Vec<_> = (0..NAMES.len())
        .map(|index| LockView { value: None, ..naive.lock(&lock_name(index), 10, 10) })
        .filter(|view| view.revision.is_some())
        .collect();
    prop_assert_eq!(listed, expected);
    for id in 0..LEASE_IDS + 240 {
        prop_assert_eq!(machine.lease(LeaseId(id)), naive.lease(LeaseId(id)));
    }
    for id in 0..SESSION_IDS {
        prop_assert_eq!(machine.session(SessionId(id)), naive.session(SessionId(id)));
    }
    prop_assert!(machine.cluster_records("").eq(naive.records("")));
    prop_assert!(machine.cluster_records("b").eq(naive.records("b")));
    prop_assert_eq!(machine.totals(), naive.totals());
    prop_assert_eq!(machine.next_due(), naive.next_due());
    prop_assert_eq!(machine.has_pending(), naive.has_pending());
    Ok(())
}

proptest! {
    #![proptest_config(config(2_000))]

    #[test]
    fn the_machine_does_what_the_naive_model_does(steps in any_steps(80)) {
        let mut machine = Machine::with_limits(small_limits());
        let mut naive = Naive::new(small_limits());
        let mut stored = BTreeMap::new();
        store(&mut stored, &mut machine);
        for step in &steps {
            let entry = entry(std::slice::from_ref(step));
            let applied = machine.apply(&entry).expect("a known level");
            let (outcome, events) = naive.apply(entry.wall_ms, step.at, &step.command);
            prop_assert_eq!(applied, Applied { outcomes: vec![outcome], events });
            prop_assert_eq!(machine.check(), Ok(()));
            agree(&machine, &naive)?;
            if step.drains {
                store(&mut stored, &mut machine);
                prop_assert!(machine.rows().eq(stored.clone()), "changes are not the image");
            }
        }
    }
}

proptest! {
    #![proptest_config(config(1_000))]

    #[test]
    fn how_commands_are_split_over_entries_makes_no_difference(steps in any_steps(80)) {
        let mut one_by_one = Machine::with_limits(small_limits());
        let mut expected = Applied::default();
        for step in &steps {
            let applied = one_by_one.apply(&entry(std::slice::from_ref(step))).expect("known");
            expected.outcomes.extend(applied.outcomes);
            expected.events.extend(applied.events);
        }
        let mut grouped = Machine::with_limits(small_limits());
        let mut found = Applied::default();
        for group in steps.chunk_by(|_, next| !next.begins_entry) {
            let applied = grouped.apply(&entry(group)).expect("known");
            found.outcomes.extend(applied.outcomes);
            found.events.extend(applied.events);
        }
        prop_assert_eq!(found, expected);
        prop_assert!(grouped.rows().eq(one_by_one.rows()));
    }

    #[test]
    fn a_machine_made_of_rows_goes_on_like_the_one_that_wrote_them(steps in any_steps(80)) {
        let mut machine = Machine::with_limits(small_limits());
        let mut restored = Machine::with_limits(small_limits());
        for step in &steps {
            let entry = entry(std::slice::from_ref(step));
            prop_assert_eq!(restored.apply(&entry), machine.apply(&entry));
            prop_assert!(restored.rows().eq(machine.rows()));
            if step.drains {
                let rows: Vec<(RowKey, Row)> = machine.rows().collect();
                // A store may keep its rows in any order.
                let again = Machine::from_rows_with_limits(rows.into_iter().rev(), small_limits());
                restored = again.expect("a valid image");
                prop_assert_eq!(restored.check(), Ok(()));
                prop_assert_eq!(restored.take_changes(), vec![]);
            }
        }
    }
}

/// A model that no sequence drives into a corner proves nothing about it.
#[test]
fn the_random_commands_reach_every_refusal_and_every_end() {
    let mut runner = TestRunner::new(config(1_500));
    let mut refusals = BTreeSet::new();
    let mut ends = BTreeSet::new();
    for _ in 0..1_500 {
        let steps = any_steps(80).new_tree(&mut runner).expect("a sequence").current();
        let mut machine = Machine::with_limits(small_limits());
        let applied = machine.apply(&entry(&steps)).expect("a known level");
        refusals.extend(applied.outcomes.iter().filter_map(|outcome| match outcome {
            Outcome::Rejected(rejection) => {
                // The name alone: refusals differ in their details.
                format!("{rejection:?}").split([' ', '(']).next().map(str::to_string)
            }
            _ => None,
        }));
        ends.extend(applied.events.iter().filter_map(|event| match &event.kind {
            EventKind::Ended { ended, .. } => Some(ended.how),
            _ => None,
        }));
    }
    assert_eq!(refusals.len(), 22, "a refusal is out of reach: {refusals:?}");
    assert_eq!(ends.len(), 8, "an end is out of reach: {ends:?}");
}

#[test]
fn an_entry_of_an_unknown_level_is_refused_and_changes_nothing() {
    let mut machine = Machine::new();
    for found in [0, LEVEL + 1] {
        let commands = vec![(LeaseTime(5), Command::Advance)];
        let refused = machine.apply(&Entry { level: found, wall_ms: 0, commands });
        assert_eq!(refused, Err(UnknownLevel { found, known: LEVEL }));
    }
    assert!(machine.rows().eq(Machine::new().rows()));
}

#[test]
fn the_end_of_time_is_survived() {
    let mut machine = Machine::new();
    let steps = [
        (u64::MAX - 1, acquire(0, 1, Some(1), 2_000)),
        (u64::MAX, acquire(0, 2, None, 2_000)),
        (u64::MAX, acquire(2, 3, None, 2_000)),
        (0, Command::DetachAll),
        (u64::MAX, Command::Renew { lease_id: LeaseId(1) }),
        (u64::MAX, Command::Release { lease_id: LeaseId(2) }),
    ];
    for (at, command) in steps {
        let entry = Entry { level: LEVEL, wall_ms: 0, commands: vec![(LeaseTime(at), command)] };
        machine.apply(&entry).expect("a known level");
        assert_eq!(machine.check(), Ok(()));
    }
}
