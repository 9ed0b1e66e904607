//! How nodes speak with each other: length-delimited frames over TCP, on a listener of their own.
//!
//! ```text
//!  openraft -> network ─┐                                      ┌─> raft_peer -> openraft
//!                       ├─> link -> frame ~~ stream ~~ frame -> inbound
//!  service  -> peers   ─┘                                      └─> handlers  -> service
//! ```
//! Three connections to each peer, so that nothing small waits behind something large: an ordered
//! stream for appends, one for control (votes, heartbeats, forwarded calls, beacons) and one for
//! snapshots. Each begins with a hello in which both sides say who they are; a node of another
//! cluster, under another number, or with another instance than the membership knows is refused
//! with a reason before anything else is read. Every call has a deadline or ends when pings find
//! the peer gone; every queue has a bound.
//!
//! Nothing is encrypted here, and a hello proves nothing: TLS goes into `stream`.

mod blocking;
mod frame;
pub mod inbound;
pub mod levels;
mod link;
pub mod marks;
pub mod network;
pub mod peers;
pub mod raft_peer;
mod receiving;
pub mod stream;
#[cfg(test)]
mod tests;
pub mod tls;
pub mod wire;

pub use network::NetworkFactory;
pub use peers::Peers;
pub use wire::Beacon;
