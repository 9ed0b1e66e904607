//! The server and command line of oarlock.

pub mod raft;
pub mod service;
