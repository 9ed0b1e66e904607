//! Clients as the service sees them: they ask a node, lose connections, ask again elsewhere, and
//! report what they were told. What an answer does not say stays unknown.

mod door;
mod work;

pub(crate) use door::{Doors, Outside};
pub(crate) use work::{Client, probe};
