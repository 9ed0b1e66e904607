//! What a million clients cost one group: bytes of log, entries, rows and memory, with the real core.

use oarlock_core::command::{Command, LeaseTerm};
use oarlock_core::limits::{COMMANDS_PER_ENTRY_MAX, SESSIONS_MAX};
use oarlock_core::machine::Machine;

use crate::codec;
use crate::world::{acquire, apply_all, entries, lease_id, name, open, session_id};

const PORTION: u64 = 10_000;

/// Prints all of it. Everything but memory follows from the code alone.
pub(crate) fn tell() {
    let clients = SESSIONS_MAX as u64;
    let mut machine = Machine::new();
    let empty = resident_bytes();
    open(&mut machine, clients);
    let with_sessions = resident_bytes();
    println!("{clients} clients, a session each, as many as one group takes\n");
    println!(
        "memory of the core for a session        {:>6} bytes",
        (with_sessions - empty) / clients
    );
    for first in (0..clients).step_by(10_000) {
        let claim = |n| acquire(n, &name(n), 0, LeaseTerm::Session(session_id(n)));
        apply_all(&mut machine, &entries((first..first + PORTION).map(claim), 64));
    }
    let with_leases = resident_bytes();
    println!(
        "memory for a lease in it, with its lock {:>6} bytes",
        (with_leases - with_sessions) / clients
    );
    let by_session =
        renewals(&mut machine, clients, |n| Command::RenewSession { session_id: session_id(n) });
    let by_lease = renewals(&mut machine, clients, |n| Command::Renew { lease_id: lease_id(n) });
    for (what, cost) in [("a session", by_session), ("a lease of it", by_lease)] {
        println!("\nto renew {what}");
        println!("  in the log                            {:>6} bytes", cost.log_bytes / clients);
        println!("  rows to be stored, before coalescing  {:>6} bytes", cost.row_bytes / clients);
    }
    println!("\nall of them renewed once in …   renewals/s   entries/s at least   log KiB/s");
    for seconds in [5, 10, 60, 600] {
        let per_s = clients / seconds;
        let entries = per_s.div_ceil(COMMANDS_PER_ENTRY_MAX as u64);
        let kib = by_session.log_bytes / seconds / 1024;
        println!("{seconds:>5} s {per_s:>34} {entries:>20} {kib:>11}");
    }
}

#[derive(Clone, Copy)]
struct Cost {
    log_bytes: u64,
    row_bytes: u64,
}

/// One renewal for each, in entries that are as full as they may be.
fn renewals(machine: &mut Machine, clients: u64, command: impl Fn(u64) -> Command) -> Cost {
    let mut cost = Cost { log_bytes: 0, row_bytes: 0 };
    for first in (0..clients).step_by(COMMANDS_PER_ENTRY_MAX) {
        let end = clients.min(first + COMMANDS_PER_ENTRY_MAX as u64);
        for entry in entries((first..end).map(&command), COMMANDS_PER_ENTRY_MAX as u64) {
            cost.log_bytes += codec::encode(&entry).len() as u64;
            machine.apply(&entry).expect("a known level");
            let rows = machine.take_changes();
            let bytes = |(key, row)| codec::encode(key).len() + codec::encode(row).len();
            cost.row_bytes +=
                rows.iter().map(|(key, row)| (key, row)).map(bytes).sum::<usize>() as u64;
        }
    }
    cost
}

/// Of this process, as the kernel counts it.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}
