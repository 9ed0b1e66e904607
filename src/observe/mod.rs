//! What operators see of a node: its metrics, and the record of who did what.

pub mod audit;
pub mod metrics;
pub mod neighbour;
pub mod stopwatch;
