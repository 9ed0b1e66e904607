//! The Rust client of oarlock and the types of its native HTTP API.
//!
//! A [`Client`] knows several nodes and needs not know who leads: every node answers for all. It
//! repeats what was lost on the way under one request id, so that a repeat has no second effect,
//! and says *unknown* where it cannot find out.

pub mod backup;
mod client;
mod connection;
mod error;
mod identity;
mod many;
mod members;
mod records;
mod socket;
pub mod stream;
mod time;
mod tls;
mod tokens;
mod watch;
pub mod wire;

pub use client::{Client, Options};
pub use error::ClientError;
pub use identity::{BadIdentity, Identity};
pub use socket::Socket;
pub use time::Trust;
pub use tls::Certified;
pub use watch::{StreamEvent, Watch};
