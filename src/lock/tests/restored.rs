//! What a machine promises about tokens when its state comes from a backup.

use oarlock_core::ids::Token;
use oarlock_core::limits::{TOKEN_JUMP, TOKEN_MAX};
use oarlock_core::machine::Machine;

#[test]
fn tokens_jump_above_the_backup_and_above_what_was_seen() {
    let mut machine = Machine::new();
    assert_eq!(machine.jump_tokens(Token(7)), Some(Token(7 + TOKEN_JUMP)));
    assert_eq!(machine.jump_tokens(Token(9)), Some(Token(7 + 2 * TOKEN_JUMP)), "never back");
    assert_eq!(machine.token_ceiling(), Token(7 + 2 * TOKEN_JUMP));
    let from_rows = Machine::from_rows(machine.rows().collect::<Vec<_>>()).expect("an image");
    assert_eq!(from_rows.token_ceiling(), machine.token_ceiling(), "it is part of the state");
}

#[test]
fn a_jump_past_the_last_token_is_refused_and_changes_nothing() {
    let mut machine = Machine::new();
    for above in [TOKEN_MAX - TOKEN_JUMP, TOKEN_MAX, u64::MAX] {
        assert_eq!(machine.jump_tokens(Token(above)), None);
        assert_eq!(machine.token_ceiling(), Token(0));
    }
    assert!(machine.jump_tokens(Token(TOKEN_MAX - TOKEN_JUMP - 1)).is_some());
}
