//! Rows are refused, or they are the image of a machine that goes on with every invariant whole: a
//! backup whose checksums are right may still hold rows that no machine wrote. As in a restore,
//! what can be read is checked before anything believes it.

use oarlock::raft::store::codec;
use oarlock_core::command::{Command, Entry, LEVEL};
use oarlock_core::image::{Row, RowKey};
use oarlock_core::machine::Machine;
use oarlock_core::time::LeaseTime;

pub(crate) fn run(data: &[u8]) {
    let Ok(rows) = codec::decode::<Vec<(RowKey, Row)>>(data) else { return };
    let mut machine = match Machine::from_rows(rows) {
        Ok(machine) => machine,
        Err(refused) => return assert!(refused.0.len() > 5, "{refused}"),
    };
    if let Err(broken) = machine.check() {
        return assert!(!broken.is_empty());
    }
    let again = Machine::from_rows(machine.rows().collect::<Vec<_>>()).expect("its own image");
    assert!(again.rows().eq(machine.rows()), "and is its own image");
    let later = LeaseTime(machine.now().0.saturating_add(3_600_000_000));
    let commands = vec![(later, Command::DetachAll), (later, Command::Advance)];
    machine.apply(&Entry { level: LEVEL, wall_ms: 0, commands }).expect("it goes on");
    machine.check().expect("and stays whole");
}

/// After the first one to three and after all commands of an entry.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let entry = super::codec::seeds().swap_remove(0);
    let whole: Entry = codec::decode(&entry).expect("an entry");
    let upto = [1, 2, 3, whole.commands.len()];
    let image = |count: usize| {
        let mut machine = Machine::new();
        let commands = whole.commands[..count].to_vec();
        machine.apply(&Entry { commands, ..whole.clone() }).expect("a level that it knows");
        codec::encode(&machine.rows().collect::<Vec<_>>())
    };
    upto.map(image).to_vec()
}
