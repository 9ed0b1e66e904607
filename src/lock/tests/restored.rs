//! What a machine promises when its state comes from a backup.

use oarlock_core::command::{Acquire, Command, Entry, LEVEL, LeaseTerm, Mode};
use oarlock_core::ids::{LeaseId, LockName, Metadata, Owner, Token};
use oarlock_core::limits::{TOKEN_JUMP, TOKEN_MAX};
use oarlock_core::machine::Machine;
use oarlock_core::query::LeaseView;
use oarlock_core::time::{Grace, LeaseTime, LockDelay, Ttl, Wait};

#[test]
fn tokens_jump_above_the_backup_and_above_what_was_seen() {
    let mut machine = Machine::new();
    assert_eq!(machine.restored(Token(7)), Some(Token(7 + TOKEN_JUMP)));
    assert_eq!(machine.restored(Token(9)), Some(Token(7 + 2 * TOKEN_JUMP)), "never back");
    assert_eq!(machine.token_ceiling(), Token(7 + 2 * TOKEN_JUMP));
    let from_rows = Machine::from_rows(machine.rows().collect::<Vec<_>>()).expect("an image");
    assert_eq!(from_rows.token_ceiling(), machine.token_ceiling(), "it is part of the state");
}

#[test]
fn a_jump_past_the_last_token_is_refused_and_changes_nothing() {
    let mut machine = Machine::new();
    for above in [TOKEN_MAX - TOKEN_JUMP, TOKEN_MAX, u64::MAX] {
        assert_eq!(machine.restored(Token(above)), None);
        assert_eq!(machine.token_ceiling(), Token(0));
    }
    assert!(machine.restored(Token(TOKEN_MAX - TOKEN_JUMP - 1)).is_some());
}

fn held(lease: u128, name: &str, ttl_ms: u64) -> Command {
    Command::Acquire(Acquire {
        lease_id: LeaseId(lease),
        name: LockName::new(name).expect("a name"),
        owner: Owner::new("me").expect("an owner"),
        mode: Mode::Exclusive,
        term: LeaseTerm::Ttl(Ttl::new(ttl_ms).expect("a TTL")),
        wait: Wait::new(0).expect("a wait"),
        grace: Grace::new(0).expect("a grace"),
        request_id: None,
        metadata: Metadata::default(),
        lock_delay: LockDelay::new(0).expect("a lock-delay"),
    })
}

fn apply(machine: &mut Machine, at_ms: u64, command: Command) {
    let commands = vec![(LeaseTime(at_ms * 1_000), command)];
    machine.apply(&Entry { level: LEVEL, wall_ms: 0, commands }).expect("a level that it knows");
    machine.check().expect("every invariant holds");
}

#[test]
fn what_was_held_has_its_whole_time_again() {
    let mut machine = Machine::new();
    apply(&mut machine, 0, held(1, "a", 10_000));
    // Backed up with a second left; who knows how often it was renewed since.
    apply(&mut machine, 9_000, Command::Advance);
    machine.restored(Token(0)).expect("there are tokens");
    machine.check().expect("every invariant holds");
    apply(&mut machine, 18_999, Command::Advance);
    assert!(matches!(machine.lease(LeaseId(1)), LeaseView::Held { .. }), "ten seconds from there");
    apply(&mut machine, 19_000, Command::Advance);
    assert!(matches!(machine.lease(LeaseId(1)), LeaseView::Ended(_)));
}

#[test]
fn a_watcher_of_the_old_cluster_finds_its_revision_too_old() {
    let mut machine = Machine::new();
    apply(&mut machine, 0, held(1, "a", 10_000));
    let backup = machine.clone();
    machine.restored(Token(0)).expect("there are tokens");
    let first = machine.revision();
    assert!(first.0 > backup.revision().0 + TOKEN_JUMP);
    // The same backup again, above the tokens that the first restore gave.
    let mut second = backup.clone();
    second.restored(machine.token_ceiling()).expect("there are tokens");
    assert!(second.revision().0 > first.0 + TOKEN_JUMP / 2, "nor is it one of the first restore");
}
