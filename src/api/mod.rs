//! Surfaces: each translates one protocol to calls of the service and back, and decides nothing.

pub mod http;
