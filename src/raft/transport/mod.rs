//! How nodes speak with each other: length-delimited frames over TCP, on a listener of their own.
//!
//! Three connections to each peer, so that nothing small waits behind something large: an ordered
//! stream for appends, one for control (votes, heartbeats, forwarded calls, beacons) and one for
//! snapshots. Each begins with a hello in which both sides say who they are; a node of another
//! cluster, under another number, or with another instance than the membership knows is refused
//! before anything else is read. Every call has a deadline; every queue has a bound.

pub mod inbound;
mod link;
pub mod network;
pub mod peers;
pub mod wire;

pub use network::NetworkFactory;
pub use peers::Peers;
pub use wire::Beacon;
