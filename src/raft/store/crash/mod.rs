//! Power cuts at every call to the disk, and flipped bits. Tests only.
//!
//! ```text
//!  script -> real store on a recorder -> trace of calls        (recorder, script)
//!  each call x what may survive of the unsynced -> an image     (disk)
//!  image -> real recovery -> found, judged by                   (oracle: written apart)
//!  found -> goes on -> a second cut, also during the recovery   (log, snapshots)
//! ```
//! Everything is one thread and one seed, so a point has a name that repeats it. `docs/testing.md`
//! says how to run the long form.

mod disk;
mod flips;
mod log;
mod oracle;
mod recorder;
mod script;
mod settings;
mod snapshots;
mod sweep;
mod together;
