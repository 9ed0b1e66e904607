//! The disk of a node. Raft's log and vote are the durable truth; snapshots bound the log; sled is
//! a view that can be rebuilt from both at any time.

pub mod codec;
pub mod files;
mod home;
pub mod identity;
pub mod machine;
pub mod reserve;
pub mod shelf;
pub mod snapshot;
pub mod start;
mod view;
mod writer;
