//! The rules of oarlock's locks: a pure, deterministic machine.
#![no_std]

extern crate alloc;

pub mod command;
pub mod event;
pub mod ids;
pub mod limits;
pub mod machine;
pub mod outcome;
pub mod query;
pub mod time;
