//! The Rust client of oarlock and the types of its native HTTP API.

pub mod wire;
