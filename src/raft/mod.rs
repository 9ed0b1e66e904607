//! Replication and disk: the only place that names openraft and sled.

pub mod batcher;
pub mod birth;
pub mod clock;
#[cfg(feature = "proof")]
pub mod faults;
pub mod join;
pub mod presence;
pub mod replicator;
pub mod settings;
mod size;
pub mod store;
pub mod transport;
pub mod types;
