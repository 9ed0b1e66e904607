//! What the use cases tell about their work. The core emits no metrics and the service knows no
//! metrics library: whoever builds the node passes an observer.

use std::time::Duration;

use oarlock_core::command::Entry;
use oarlock_core::event::Event;
use oarlock_core::machine::Applied;
use oarlock_core::outcome::Outcome;

use crate::service::replicator::NodeId;

/// Hears what happens. Must be quick: it is called while commands are applied.
pub trait Observer: Send + Sync + 'static {
    /// Something happened to a lock or session. Told by the serving leader only, so that sums over
    /// the nodes count each event once.
    fn event(&self, event: &Event);
    /// A command proposed on this node was answered.
    fn outcome(&self, outcome: &Outcome);
    /// This node began to serve as leader; the sum over the nodes counts the elections.
    fn leadership_began(&self);
    /// A wait that was estimated when it began ended in a grant.
    fn estimated(&self, estimated_ms: u64, waited_ms: u64);
    /// A surface answered a request. `route` is a pattern, never a name.
    fn answered(&self, route: &'static str, status: u16, took: Duration);
}

/// Hears nothing.
#[derive(Debug, Default, Clone, Copy)]
pub struct Silent;

impl Observer for Silent {
    fn event(&self, _event: &Event) {}
    fn outcome(&self, _outcome: &Outcome) {}
    fn leadership_began(&self) {}
    fn estimated(&self, _estimated_ms: u64, _waited_ms: u64) {}
    fn answered(&self, _route: &'static str, _status: u16, _took: Duration) {}
}

/// What one applied entry was and did, the same on every node.
#[derive(Debug)]
pub enum Told<'a> {
    /// Commands, and what became of them.
    Commands(&'a Entry, &'a Applied),
    /// The members of the cluster from this entry on.
    Members { voters: Vec<NodeId>, learners: Vec<NodeId> },
    /// Nothing that concerns anybody.
    Nothing,
}
