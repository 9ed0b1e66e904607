//! The native API: JSON over HTTP, on every node.
//!
//! ```text
//!  listen (sockets, deadlines, caps) -> routes (path, method) -> locks | leases | sessions | node
//!         body (limits, strict JSON)    name (path -> lock name)    translate <-> service calls
//!         error (rejections and service errors -> problem+json)
//! ```

mod body;
mod error;
mod leases;
pub mod listen;
mod locks;
mod name;
mod node;
mod patience;
mod query;
mod routes;
mod sessions;
mod translate;

#[cfg(test)]
mod tests;

pub use listen::{Limits, serve};
pub use routes::{App, MetricsPage, router};
