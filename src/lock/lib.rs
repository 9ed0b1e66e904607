//! The rules of oarlock's locks: a pure, deterministic machine.
//!
//! No clock, no chance, no input or output, no logging, no hash order: [`machine::Machine::apply`]
//! is a function of the state and one log entry. Ids and lease time come in with the entry, so
//! every replica computes the same outcomes, events and rows, at any time and after any restart.
//!
//! # Invariants
//!
//! `check` verifies them all; the promises they hold are in `docs/guarantees.md`.
//!
//! - I1 A lock exists only while it is held or waited for.
//! - I2 Holders and leases agree in both directions.
//! - I3 No token is above the counter, and the counter never falls (P2).
//! - I4 An exclusive holder is alone (P1).
//! - I5, I6 Whoever is first in the queue could not be granted now (P8); nobody overtakes.
//! - I7 No record changed after the newest revision.
//! - I8, I9 Every lease belongs to exactly one holder or queue entry.
//! - I10, I13 A lease with a session lives only while its session does.
//! - I11, I14 Nothing both lives and has ended.
//! - I15 Everything that ends by time is scheduled exactly once (P4).
//!
//! # Bounds
//!
//! All in [`limits`]. `apply` is total: whatever decodes can be applied, arithmetic saturates or
//! is refused, and one command ends a bounded number of leases by time.
#![no_std]
#![warn(missing_docs)]

extern crate alloc;

mod acquire;
mod answers;
mod check;
pub mod command;
pub mod event;
mod fingerprint;
pub mod ids;
pub mod image;
pub mod limits;
pub mod machine;
pub mod outcome;
pub mod query;
mod release;
mod sessions;
mod table;
pub mod time;
