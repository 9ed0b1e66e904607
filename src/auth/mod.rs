//! Identity and rights: who may do what, decided from values alone.
//!
//! ```text
//!  word (shown once) -> its hash in a credential -> records of the core -> book -> decision
//!  certificate       -> its name in a credential ----^
//! ```
//! Nothing here sees a request, a connection or a clock. Who asks, and when, is `service/gate.rs`.

pub mod book;
pub mod credential;
pub mod key;
pub mod right;
