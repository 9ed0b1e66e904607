//! TLS 1.3 for clients and peers: certificates read from files, read again when they change, and
//! what a failed handshake means. One stack, rustls with ring, and no older version of the protocol.
//!
//! ```text
//!  files -> Material -> rustls configurations -> new handshakes
//!    ^        keeps the last ones that could be used; connections that are up go on
//!    └ every few seconds, and at SIGHUP
//! ```

pub mod explain;
pub mod material;
pub mod name;
pub mod revoked;
pub mod validity;
