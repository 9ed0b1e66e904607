//! The rules of oarlock's locks: a pure, deterministic machine.
#![no_std]
#![warn(missing_docs)]

extern crate alloc;

mod acquire;
mod changes;
mod check;
pub mod command;
mod deadlines;
pub mod event;
pub mod ids;
pub mod image;
pub mod limits;
pub mod machine;
pub mod outcome;
pub mod query;
mod queue;
mod release;
mod requests;
mod sessions;
mod table;
pub mod time;
