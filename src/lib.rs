//! The server and command line of oarlock.
//!
//! ```text
//!  main · node · config · observe · cli · bench     outermost: builds the parts, knows everybody
//!        │                 │
//!      api/*             raft/                     the outside world, and replication with its disk
//!        └──────┬──────────┘                       they do not know each other
//!            service/                              use cases; owns the port to replication; the gate
//!               │
//!             auth/                                who may do what, decided from values
//!               │
//!         oarlock-core (src/lock)                  the rules of locks, pure
//! ```
//!
//! Beside these, `traces` is told by api, service and node what a request went through.

pub mod api;
pub mod auth;
pub mod bench;
pub mod cli;
pub mod config;
pub mod node;
pub mod observe;
pub mod raft;
pub mod service;
pub mod shutdown;
pub mod tls;
pub mod traces;
