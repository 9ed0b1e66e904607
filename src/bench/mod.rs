//! A load generator for a cluster that runs somewhere, through its public API alone.
//!
//! It usually shares the machine with the cluster, so it speaks HTTP with prepared requests and a
//! parser that knows only what oarlock answers, and tells its own CPU beside that of the nodes.
//! Clients ask again once they are answered (closed loop) or when operations are due (`schedule`).
//! Every lock has a name below `bench/` and a random number, and is given back at the end; it
//! never touches a lock of anybody else.

mod clients;
mod histogram;
mod live;
mod picture;
pub mod plan;
mod processes;
mod report;
mod run;
mod schedule;
mod tally;
mod wire;

pub use picture::{draw, short};
pub use processes::of_nodes;
pub use report::{Latency, Nodes, Report};
pub use run::{Outside, run};
