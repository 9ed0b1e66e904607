//! The native API: JSON over HTTP, on every node.
//!
//! ```text
//!  listen (sockets, deadlines, caps) -> routes (path, method) -> door (who asks) -> locks | leases | sessions | node
//!         body (limits, strict JSON)    name (path -> lock name)    translate <-> service calls
//!         error (rejections and service errors -> problem+json)
//!         sse (frames) <- watch | wait | hold     why (in refusals and inspections)
//! ```

mod backup;
mod body;
mod door;
mod error;
mod hold;
mod leases;
pub mod listen;
mod locks;
mod many;
mod members;
mod name;
mod node;
mod patience;
mod problems;
mod query;
mod records;
mod routes;
mod sessions;
mod sse;
mod tokens;
mod translate;
mod wait;
mod watch;
mod why;

#[cfg(test)]
mod tests;

pub use listen::{Limits, serve, serve_over};
pub use routes::{App, MetricsPage, router};
