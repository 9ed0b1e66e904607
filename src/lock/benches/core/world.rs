//! Machines of any size, and commands for them. Nothing is random: each run does the same.

use oarlock_core::command::{Acquire, Command, Entry, LEVEL, LeaseTerm, Mode, OpenSession};
use oarlock_core::ids::{LeaseId, LockName, Metadata, Owner, SessionId};
use oarlock_core::limits::COMMANDS_PER_ENTRY_MAX;
use oarlock_core::machine::Machine;
use oarlock_core::outcome::Outcome;
use oarlock_core::time::{Grace, LeaseTime, LockDelay, Ttl, Wait};

/// Commands of an entry under load, about.
pub(crate) const COMMANDS_PER_ENTRY: u64 = 64;
const TTL_MS: u64 = 60_000;

/// An id that is spread like a random one, and the same in each run.
fn spread(number: u64) -> u128 {
    let high = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (u128::from(high ^ high >> 31) << 64) | u128::from(number)
}

pub(crate) fn lease_id(number: u64) -> LeaseId {
    LeaseId(spread(number))
}

pub(crate) fn session_id(number: u64) -> SessionId {
    SessionId(spread(number))
}

/// A claim on the lock of that number, or on the one shared lock.
pub(crate) fn acquire(number: u64, lock: &str, wait_ms: u64, term: LeaseTerm) -> Command {
    Command::Acquire(Acquire {
        lease_id: lease_id(number),
        name: LockName::new(lock).expect("a name"),
        owner: Owner::new("runner-7").expect("an owner"),
        mode: Mode::Exclusive,
        term,
        wait: Wait::new(wait_ms).expect("a wait"),
        grace: Grace::new(5_000).expect("a grace"),
        request_id: None,
        metadata: Metadata::default(),
        lock_delay: LockDelay::new(0).expect("a lock-delay"),
    })
}

pub(crate) fn own_ttl() -> LeaseTerm {
    LeaseTerm::Ttl(Ttl::new(TTL_MS).expect("a TTL"))
}

pub(crate) fn name(number: u64) -> String {
    format!("deploy/service-{number}")
}

pub(crate) fn acquires(numbers: std::ops::Range<u64>) -> Vec<Entry> {
    entries(numbers.map(|number| acquire(number, &name(number), 0, own_ttl())), COMMANDS_PER_ENTRY)
}

pub(crate) fn opens(numbers: std::ops::Range<u64>) -> Vec<Entry> {
    let open = |number| {
        Command::OpenSession(OpenSession {
            session_id: session_id(number),
            owner: Owner::new("runner-7").expect("an owner"),
            ttl: Ttl::new(TTL_MS).expect("a TTL"),
            request_id: None,
            metadata: Metadata::default(),
        })
    };
    entries(numbers.map(open), COMMANDS_PER_ENTRY_MAX as u64)
}

/// As the leader would write them, all at one moment: nothing ends meanwhile.
pub(crate) fn entries(commands: impl Iterator<Item = Command>, per_entry: u64) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    for command in commands {
        let stamped = (LeaseTime(1_000_000), command);
        match entries.last_mut() {
            Some(last) if (last.commands.len() as u64) < per_entry => last.commands.push(stamped),
            _ => entries.push(Entry {
                level: LEVEL,
                wall_ms: 1_700_000_000_000,
                commands: vec![stamped],
            }),
        }
    }
    entries
}

/// As a node does it: apply, and take the rows to be stored.
pub(crate) fn apply_all(machine: &mut Machine, entries: &[Entry]) {
    for entry in entries {
        let applied = machine.apply(entry).expect("a known level");
        let is_refused = |outcome: &Outcome| matches!(outcome, Outcome::Rejected(_));
        assert!(!applied.outcomes.iter().any(is_refused), "a bench measures no refusals");
        std::hint::black_box(machine.take_changes());
    }
}

/// A machine that holds so many locks, a portion at a time.
pub(crate) fn holding(locks: u64) -> Machine {
    let mut machine = Machine::new();
    for first in (0..locks).step_by(10_000) {
        apply_all(&mut machine, &acquires(first..locks.min(first + 10_000)));
    }
    machine
}

pub(crate) fn open(machine: &mut Machine, sessions: u64) {
    for first in (0..sessions).step_by(10_000) {
        apply_all(machine, &opens(first..sessions.min(first + 10_000)));
    }
}
