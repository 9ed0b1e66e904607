//! Use cases, the same for every protocol. Knows the core and the port to replication; no sockets,
//! no files, no openraft.
//!
//! ```text
//!  surface -> gate -> calls (who leads? forward, repeat, resume) -> locks (propose, wait) -> replicator
//!  peer    ------------------------------------------------^            |
//!  apply   -> handle::applied -> waiting (wakes one) ; expiry (earlier?) ; observer ;
//!                                watch (recent events) ; estimate (hold times) ; gate (credentials)
//! ```
//!
//! Start reading at [`handle`].

pub mod break_glass;
pub mod called;
mod calls;
mod cluster;
mod demands;
pub mod error;
mod estimate;
mod expiry;
pub mod gate;
pub mod handle;
pub mod kinds;
mod ledger;
mod locks;
pub mod members;
pub mod observer;
pub mod ranks;
pub mod reads;
pub mod replicator;
pub mod solo;
mod spans;
pub mod tokens;
mod waiting;
pub mod watch;

#[cfg(test)]
mod tests;

pub use calls::{REQUEST_DEADLINE, deadline_of};
pub use cluster::NodeState;
pub use handle::{IdSource, Options, Service};
