//! The server and command line of oarlock.

pub mod api;
pub mod observe;
pub mod raft;
pub mod service;
