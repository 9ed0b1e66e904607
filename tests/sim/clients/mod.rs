//! Clients as the service sees them: they ask a node, lose connections, ask again elsewhere, and
//! report what they were told. What an answer does not say stays unknown.

mod conclude;
mod door;
mod holding;
mod probe;
mod sessions;
mod watcher;
mod work;

pub(crate) use door::{Doors, Outside};
pub(crate) use probe::probe;
pub(crate) use watcher::Watcher;
pub(crate) use work::Client;
