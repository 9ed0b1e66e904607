//! The disk of a node. Raft's log and vote are the durable truth; snapshots bound the log; sled is
//! a view that can be rebuilt from both at any time.
//!
//! ```text
//!  start: log facts + view + snapshots -> machine
//!  apply: machine -> writer thread -> view (sled) -> snapshots
//! ```

pub mod by_hand;
pub mod codec;
#[cfg(test)]
mod conformance;
#[cfg(test)]
mod crash;
pub mod files;
mod home;
pub mod identity;
pub mod log;
pub mod machine;
pub mod reserve;
pub mod restore;
pub mod snapshot;
pub mod snapshots;
pub mod start;
#[cfg(test)]
mod tests;
mod view;
mod writer;
