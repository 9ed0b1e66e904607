//! The cases. Each prepares, then hands over what is measured and how many operations that is.

use std::hint::black_box;

use oarlock_core::command::{Command, Entry};
use oarlock_core::image::{Row, RowKey};
use oarlock_core::machine::Machine;
use oarlock_core::time::LeaseTime;

use crate::codec;
use crate::world::{
    COMMANDS_PER_ENTRY, acquire, acquires, apply_all, entries, holding, lease_id, open, own_ttl,
    session_id,
};

const FEW: u64 = 1_000;
const MANY: u64 = 1_000_000;
/// Locks of the machine whose image is built and loaded.
const IMAGE: u64 = 20_000;
/// Commands that are measured; a thousand and more make the rare costs visible.
const COMMANDS: u64 = 6_400;
/// Waiters in line while a lock is handed over.
const WAITING: u64 = 5_000;
/// Beyond all numbers that a machine of a case holds.
const FRESH: u64 = 10_000_000;

pub(crate) struct Case<'a> {
    pub(crate) name: &'static str,
    /// The result is told for one of them.
    pub(crate) operations: u64,
    pub(crate) work: &'a mut dyn FnMut(),
}

/// Names and numbers of operations, in the order of the cases.
pub(crate) const NAMES: &[(&str, u64)] = &[
    ("acquire beside 1,000 locks", COMMANDS),
    ("renew a lease beside 1,000 locks", COMMANDS),
    ("release beside 1,000 locks", COMMANDS),
    ("hand a lock over, 5,000 wait", COMMANDS / 2),
    ("expire a lease", 1_024),
    ("encode an acquire", COMMANDS),
    ("decode an acquire", COMMANDS),
    ("encode a lock's rows from the image", IMAGE),
    ("decode and load a lock's rows", IMAGE),
    ("acquire beside 1,000,000 locks", COMMANDS),
    ("renew a lease beside 1,000,000 locks", COMMANDS),
    ("release beside 1,000,000 locks", COMMANDS),
    ("renew a session beside 1,000,000 sessions", COMMANDS),
];

/// Runs all of them in their order.
pub(crate) fn all(mut measure: impl FnMut(Case<'_>)) {
    let mut names = NAMES.iter();
    let mut run = |work: &mut dyn FnMut()| {
        let (name, operations) = *names.next().expect("each case has a name");
        measure(Case { name, operations, work });
    };
    let mut machine = holding(FEW);
    apply_cases(&mut machine, &mut run);
    queue_case(&mut run);
    expiry_case(&mut run);
    codec_cases(&mut run);
    image_cases(&mut run);
    machine = holding(MANY);
    apply_cases(&mut machine, &mut run);
    drop(machine);
    let mut machine = Machine::new();
    open(&mut machine, MANY);
    let renewals = spread_over(MANY).map(|n| Command::RenewSession { session_id: session_id(n) });
    let renewals = entries(renewals, COMMANDS_PER_ENTRY);
    run(&mut || apply_all(&mut machine, &renewals));
    assert!(names.next().is_none(), "each name has a case");
}

/// Some of so many, from the first to the last.
fn spread_over(count: u64) -> impl Iterator<Item = u64> {
    (0..COMMANDS).map(move |number| number * 7_919 % count)
}

fn apply_cases(machine: &mut Machine, run: &mut impl FnMut(&mut dyn FnMut())) {
    let held = machine.rows().count() as u64 / 2;
    let new = acquires(FRESH..FRESH + COMMANDS);
    run(&mut || apply_all(machine, &new));
    let renewals = spread_over(held).map(|n| Command::Renew { lease_id: lease_id(n) });
    let renewals = entries(renewals, COMMANDS_PER_ENTRY);
    run(&mut || apply_all(machine, &renewals));
    let releases =
        (FRESH..FRESH + COMMANDS).map(|number| Command::Release { lease_id: lease_id(number) });
    let releases = entries(releases, COMMANDS_PER_ENTRY);
    run(&mut || apply_all(machine, &releases));
}

fn queue_case(run: &mut impl FnMut(&mut dyn FnMut())) {
    let mut machine = Machine::new();
    let claim = |number| acquire(number, "the-one", 3_600_000, own_ttl());
    apply_all(&mut machine, &entries((0..=WAITING).map(claim), COMMANDS_PER_ENTRY));
    let releases = (0..COMMANDS / 2).map(|n| Command::Release { lease_id: lease_id(n) });
    let releases = entries(releases, 1);
    run(&mut || apply_all(&mut machine, &releases));
}

fn expiry_case(run: &mut impl FnMut(&mut dyn FnMut())) {
    let mut machine = holding(1_024);
    let mut advance = entries(std::iter::once(Command::Advance), 1);
    advance[0].commands[0].0 = LeaseTime(120_000_000);
    run(&mut || apply_all(&mut machine, &advance));
    assert_eq!(machine.next_due(), None, "all of them ended");
}

fn codec_cases(run: &mut impl FnMut(&mut dyn FnMut())) {
    let log = acquires(0..COMMANDS);
    let encoded: Vec<Vec<u8>> = log.iter().map(codec::encode).collect();
    run(&mut || log.iter().for_each(|entry| drop(black_box(codec::encode(entry)))));
    run(&mut || {
        for bytes in &encoded {
            black_box(codec::decode::<Entry>(bytes).expect("an entry"));
        }
    });
}

fn image_cases(run: &mut impl FnMut(&mut dyn FnMut())) {
    let machine = holding(IMAGE);
    let mut image: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    run(&mut || {
        let rows = machine.rows().map(|(key, row)| (codec::encode(&key), codec::encode(&row)));
        image = rows.collect();
    });
    run(&mut || {
        let decode = |(key, row): &(Vec<u8>, Vec<u8>)| {
            let key = codec::decode::<RowKey>(key).expect("a key");
            (key, codec::decode::<Row>(row).expect("a row"))
        };
        black_box(Machine::from_rows(image.iter().map(decode)).expect("an image"));
    });
}
