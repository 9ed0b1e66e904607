//! How a client reaches a node: over a connection with some delay, which ends with the node's
//! process. A client that goes away drops its call.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use oarlock::raft::replicator::RaftReplicator;
use oarlock::service::replicator::{Call, Reply};
use oarlock::service::{Service, deadline_of};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use crate::evidence::Evidence;
use crate::invariants::{About, Answer, Told};
use crate::random::Random;
use crate::trace::{Now, lock};
use crate::witness::Witness;

pub(crate) type Open = (Handle, Arc<Service<RaftReplicator>>);

/// The connections of clients to one node, in the order in which they were made, in which they also
/// break when its process ends.
struct Door {
    open: Open,
    connections: BTreeMap<u64, oneshot::Sender<()>>,
    made: u64,
}

/// The nodes that can be asked now.
#[derive(Clone, Default)]
pub(crate) struct Doors(Arc<Mutex<BTreeMap<u64, Door>>>);

impl Doors {
    pub(crate) fn open(&self, node: u64, handle: Handle, service: Arc<Service<RaftReplicator>>) {
        let door = Door { open: (handle, service), connections: BTreeMap::new(), made: 0 };
        lock(&self.0).insert(node, door);
    }

    pub(crate) fn close(&self, node: u64) {
        let closed = lock(&self.0).remove(&node);
        drop(closed);
    }

    /// A node's service, as long as its process lives.
    pub(crate) fn service(&self, node: u64) -> Option<Open> {
        lock(&self.0).get(&node).map(|door| door.open.clone())
    }

    pub(crate) fn is_open(&self, node: u64, service: &Arc<Service<RaftReplicator>>) -> bool {
        lock(&self.0).get(&node).is_some_and(|door| Arc::ptr_eq(&door.open.1, service))
    }

    /// A connection, and what tells that it broke.
    fn connect(&self, node: u64) -> Option<(Open, oneshot::Receiver<()>)> {
        let mut doors = lock(&self.0);
        let door = doors.get_mut(&node)?;
        let (alive, broke) = oneshot::channel();
        door.connections.retain(|_, connection| !connection.is_closed());
        door.made += 1;
        door.connections.insert(door.made, alive);
        Some((door.open.clone(), broke))
    }
}

/// Ends the call with its client.
struct Hangup(AbortHandle);

impl Drop for Hangup {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What a client has of the world.
#[derive(Clone)]
pub(crate) struct Outside {
    pub(crate) now: Now,
    pub(crate) doors: Doors,
    pub(crate) witness: Arc<Mutex<Witness>>,
    pub(crate) evidence: Evidence,
    pub(crate) nodes: Vec<u64>,
}

impl Outside {
    /// Asks a node and waits for the answer, at most `patience` longer than the service promises.
    /// The error says whether it certainly did not happen.
    pub(crate) async fn call(
        &self,
        node: u64,
        call: Call,
        patience: Duration,
        random: &mut Random,
    ) -> Result<Reply, Told> {
        sleep(Duration::from_millis(random.within(0, 3))).await;
        let Some(((handle, service), broke)) = self.doors.connect(node) else {
            return Err(Told::Refused("no connection".to_owned()));
        };
        let (reply, answered) = oneshot::channel();
        let deadline = deadline_of(&call);
        let task = handle.spawn(async move {
            let _gone = reply.send(service.call(call, deadline).await);
        });
        let _hangup = Hangup(task.abort_handle());
        let answered = async {
            tokio::select! {
                biased;
                _ = broke => None,
                answer = answered => answer.ok(),
            }
        };
        let answer = timeout(patience, answered).await;
        let answer = answer.map_err(|_| Told::Unknown("the client hung up".to_owned()))?;
        let answer = answer.ok_or_else(|| Told::Unknown("the connection broke".to_owned()))?;
        sleep(Duration::from_millis(random.within(0, 3))).await;
        answer.map_err(|error| {
            let why = error.to_string();
            if error.is_not_done() { Told::Refused(why) } else { Told::Unknown(why) }
        })
    }

    /// Reports what a client was told.
    pub(crate) fn tell(&self, client: u64, asked_at: u64, what: Told) {
        self.tell_about(client, asked_at, None, what);
    }

    /// Reports what a client was told when it asked for that.
    pub(crate) fn tell_about(&self, client: u64, asked_at: u64, about: Option<About>, what: Told) {
        let answer = Answer { client, asked_at, answered_at: self.now.ms(), about, what };
        lock(&self.witness).answered(&answer);
    }
}
