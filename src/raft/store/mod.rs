//! The disk of a node. Raft's log and vote are the durable truth; snapshots bound the log; sled is
//! a view that can be rebuilt from both at any time.

pub mod codec;
pub mod files;
pub mod identity;
pub mod log;
pub mod machine;
pub mod snapshot;
pub mod view;
