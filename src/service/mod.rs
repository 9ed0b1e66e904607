//! Use cases, the same for every protocol. Knows the core and the port to replication; no sockets,
//! no files, no openraft.

pub mod error;
pub mod replicator;
