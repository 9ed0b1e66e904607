//! Replication and disk: the only place that names openraft and sled.

pub mod store;
pub mod types;
