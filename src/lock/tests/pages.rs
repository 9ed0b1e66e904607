//! Listings of locks that say much about themselves.

use std::collections::BTreeMap;

use oarlock_core::command::{Acquire, Command, Entry, LEVEL, LeaseTerm, Mode};
use oarlock_core::ids::{LeaseId, LockName, Metadata, Owner};
use oarlock_core::limits::{METADATA_BYTES_MAX, PAGE_BYTES_MAX};
use oarlock_core::machine::Machine;
use oarlock_core::time::{Grace, LeaseTime, LockDelay, Wait};

/// A lock whose holder uses all the metadata that it may.
fn heavy(number: usize) -> Command {
    let text = BTreeMap::from([("k".to_owned(), "v".repeat(METADATA_BYTES_MAX - 1))]);
    Command::Acquire(Acquire {
        lease_id: LeaseId(number as u128 + 1),
        name: LockName::new(&format!("heavy/{number:04}")).expect("a name"),
        owner: Owner::new("me").expect("an owner"),
        mode: Mode::Exclusive,
        term: LeaseTerm::Forever,
        wait: Wait::new(0).expect("a wait"),
        grace: Grace::new(0).expect("a grace"),
        request_id: None,
        metadata: Metadata::try_from(text).expect("metadata"),
        lock_delay: LockDelay::new(0).expect("a lock-delay"),
    })
}

#[test]
fn a_page_of_heavy_locks_ends_early_and_the_next_one_goes_on() {
    let mut machine = Machine::new();
    let count = 600;
    let commands = (0..count).map(|number| (LeaseTime(1), heavy(number))).collect();
    machine.apply(&Entry { level: LEVEL, wall_ms: 0, commands }).expect("a level that it knows");
    let (mut seen, mut pages) = (Vec::new(), 0);
    let mut after: Option<String> = None;
    loop {
        let page = machine.locks("heavy/", after.as_deref(), 1_000);
        assert!(page.locks.len() * METADATA_BYTES_MAX <= PAGE_BYTES_MAX + METADATA_BYTES_MAX);
        seen.extend(page.locks.iter().map(|lock| lock.name.to_string()));
        pages += 1;
        let Some(next) = page.next else { break };
        after = Some(next.to_string());
    }
    let all: Vec<String> = (0..count).map(|number| format!("heavy/{number:04}")).collect();
    assert_eq!((seen, pages), (all, 3));
}
