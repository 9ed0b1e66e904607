//! What operators see of a node: its metrics.

pub mod metrics;
pub mod stopwatch;
