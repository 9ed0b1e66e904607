//! Clients that work on a cluster, the history of what they saw, and the checks over it.
//!
//! ```text
//!   workload  -->  history  -->  checker  -->  report
//!   clients        what they     the rules     a page, and the history
//!                  saw, when                   in Jepsen's form
//! ```
//!
//! Nothing here starts a node or knows how one fails: the program beside this library does that to
//! a cluster of its own, and `oarlock prove` leaves it to whoever runs the cluster.

pub mod chance;
pub mod checker;
mod claims;
pub mod edn;
pub mod history;
pub mod report;
pub mod workload;
