//! Faults of disks and clocks inside a node, for the proof alone: builds with the feature `proof`
//! have this, and no other build does.
//!
//! ```text
//!  harness writes  node1.faults         sync = hold, unsynced = memory, clock_ppm = 9000, …
//!  node reads it   at calls to the disk and readings of the clock, some times a second
//!  node writes     node1.faults.state   what bit: bytes not synced, syncs failed, time gained, …
//! ```
//! A real machine has one disk and one clock, which is why the orders are the process's and not a
//! node's: the clock is read by functions without parameters, and two nodes of one process would
//! have the same. Without the variable that names the file nothing here does anything.

pub mod clock;
mod control;
mod disk;

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use crate::raft::faults::control::Control;
use crate::raft::faults::disk::FaultyDisk;
use crate::raft::store::files::Files;

/// The orders of this process, once it has any.
static CONTROL: OnceLock<Control> = OnceLock::new();

/// From now on this process obeys the orders in a file. `None`, and it behaves.
pub fn obey(file: Option<OsString>) -> io::Result<()> {
    if let Some(file) = file {
        let control = Control::open(Path::new(&file))?;
        tracing::warn!(orders = %Path::new(&file).display(), "this node obeys orders to fail");
        let _in_a_process_once = CONTROL.set(control);
    }
    Ok(())
}

/// The directory as a disk that obeys; `None` without orders.
pub(in crate::raft) fn disk(dir: &Path) -> io::Result<Option<Arc<dyn Files>>> {
    match CONTROL.get() {
        Some(control) => Ok(Some(Arc::new(FaultyDisk::open(dir, control)?))),
        None => Ok(None),
    }
}
