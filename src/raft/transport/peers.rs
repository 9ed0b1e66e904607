//! All peers of a node, and what is asked of them outside of Raft.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use crate::raft::store::identity::Identity;
use crate::raft::transport::levels::Levels;
use crate::raft::transport::link::{CONNECT_DEADLINE, Link};
use crate::raft::transport::marks::{Mark, Marks, REMOVED};
use crate::raft::transport::stream::{Connector, Tcp};
use crate::raft::transport::wire::{
    Beacon, Hello, JoinReply, PROTOCOL, ProbeReply, Purpose, Request, Response, Welcome,
};
use crate::raft::types::Member;
use crate::service::error::ServiceError;
use crate::service::members::Join;
use crate::service::replicator::{Call, ForwardError, NodeId, Reply};

/// A peer answers a probe or an offer of birth within this time, or later.
const BIRTH_DEADLINE: Duration = Duration::from_secs(2);

/// A node answers who wants to join within this time, its leader's included, or later.
const JOIN_DEADLINE: Duration = Duration::from_secs(15);

/// What this node says of itself, and who may speak with it.
pub struct Local {
    pub(super) node_id: NodeId,
    pub(super) first_members: Vec<(NodeId, String)>,
    identity: RwLock<Option<Identity>>,
    pub(super) marks: Marks,
    levels: Levels,
    /// Members that were removed for good.
    removed: watch::Sender<BTreeSet<NodeId>>,
}

impl Local {
    /// `first_members` are the configured ones, each with its peer address.
    pub fn new(
        node_id: NodeId,
        first_members: Vec<(NodeId, String)>,
        identity: Option<Identity>,
    ) -> Arc<Self> {
        let (identity, marks) = (RwLock::new(identity), Marks::default());
        let (levels, removed) = (Levels::default(), watch::Sender::new(BTreeSet::new()));
        Arc::new(Self { node_id, first_members, identity, marks, levels, removed })
    }

    /// The number of this node.
    pub fn node_id(&self) -> NodeId {
        self.node_id
    }

    /// What this node was born as.
    pub fn identity(&self) -> Option<Identity> {
        self.identity.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The node was born.
    pub fn set_identity(&self, identity: Identity) {
        *self.identity.write().unwrap_or_else(PoisonError::into_inner) = Some(identity);
    }

    /// How this node learns what it has durably itself, which it tells with every hello.
    pub fn set_mark(&self, own: impl Fn() -> Mark + Send + Sync + 'static) {
        self.marks.set_own(Box::new(own));
    }

    /// Why a peer refused this node for good, if one did: its disk has less than it acknowledged.
    pub fn refusal(&self) -> Option<String> {
        self.marks.refusal()
    }

    /// As if a peer had said so.
    #[cfg(test)]
    pub(crate) fn is_refused(&self, why: &str) {
        self.marks.was_refused(why);
    }

    /// Waits for such a refusal.
    pub async fn refused(&self) -> String {
        self.marks.refused().await
    }

    pub(super) fn hello(&self, to: NodeId, purpose: Purpose) -> Hello {
        let Welcome { cluster_id, node_id: from, instance_id, mark, level } = self.welcome();
        // Before it is part of the cluster it has nothing to show; its id may be another's still.
        let mark = mark.filter(|_| purpose != Purpose::Birth);
        Hello { protocol: PROTOCOL, purpose, cluster_id, from, instance_id, to, mark, level }
    }

    pub(super) fn welcome(&self) -> Welcome {
        let identity = self.identity.read().unwrap_or_else(PoisonError::into_inner);
        Welcome {
            cluster_id: identity.as_ref().map(|identity| identity.cluster_id),
            node_id: self.node_id,
            instance_id: identity.as_ref().map_or(0, Identity::instance_id),
            mark: self.marks.own(),
            level: self.levels.own(),
        }
    }

    pub(super) fn probe(&self) -> ProbeReply {
        ProbeReply {
            node_id: self.node_id,
            first_members: self.first_members.clone(),
            identity: self.identity(),
        }
    }

    /// Why a connection with this hello is not welcome. `member` is what the membership knows of
    /// the node that says it.
    pub(super) fn admit(&self, hello: &Hello, member: Option<&Member>) -> Result<(), String> {
        if hello.protocol != PROTOCOL {
            return Err(format!("it speaks protocol {}, this node {PROTOCOL}", hello.protocol));
        }
        if hello.to != self.node_id {
            return Err(format!("it looks for node {}, this is node {}", hello.to, self.node_id));
        }
        if hello.from == self.node_id {
            return Err(format!("it calls itself node {}, as this node does", hello.from));
        }
        let expected = member.map_or(0, |member| member.instance_id);
        self.same_cluster(
            hello.cluster_id,
            hello.from,
            (hello.instance_id, expected),
            hello.purpose,
        )?;
        // Only after that: a node of another cluster would take it for itself.
        self.still_member(hello.from)?;
        self.levels.check(&format!("node {}", hello.from), hello.level)?;
        self.marks.check(hello.from, hello.mark)?;
        self.heard_level(hello.from, hello.level, hello.purpose);
        Ok(())
    }

    /// Why the node that answered a hello is not the one that was looked for.
    pub(super) fn check(
        &self,
        welcome: &Welcome,
        to: NodeId,
        expected: u128,
        purpose: Purpose,
    ) -> Result<(), String> {
        if welcome.node_id != to {
            return Err(format!("node {} answers there instead of node {to}", welcome.node_id));
        }
        self.same_cluster(welcome.cluster_id, to, (welcome.instance_id, expected), purpose)?;
        self.levels.check(&format!("node {to}"), welcome.level)?;
        self.marks.check(to, welcome.mark)?;
        self.heard_level(to, welcome.level, purpose);
        Ok(())
    }

    /// Which levels of the log this node and its peers know.
    pub fn levels(&self) -> &Levels {
        &self.levels
    }

    /// Before there is a cluster a node may call itself by any number.
    fn heard_level(&self, from: NodeId, level: u16, purpose: Purpose) {
        if purpose != Purpose::Birth {
            self.levels.announced(from, level);
        }
    }

    pub(super) fn set_removed(&self, removed: BTreeSet<NodeId>) {
        self.levels.forget(&removed);
        self.removed.send_replace(removed);
    }

    /// Why nobody listens to that node any more, if so.
    fn still_member(&self, node_id: NodeId) -> Result<(), String> {
        if !self.removed.borrow().contains(&node_id) {
            return Ok(());
        }
        Err(format!("{REMOVED}: node {node_id} is no member any more, and an id is used once"))
    }

    /// Waits until that node is removed; answers what it is told.
    pub(super) async fn removed(&self, node_id: NodeId) -> String {
        let mut removed = self.removed.subscribe();
        loop {
            if let Err(why) = self.still_member(node_id) {
                return why;
            }
            // The sender lives as long as this does.
            let _changed = removed.changed().await;
        }
    }

    fn same_cluster(
        &self,
        cluster_id: Option<u128>,
        node_id: NodeId,
        (instance_id, expected): (u128, u128),
        purpose: Purpose,
    ) -> Result<(), String> {
        let identity = self.identity.read().unwrap_or_else(PoisonError::into_inner);
        let (identity, cluster_id) = match (&*identity, cluster_id) {
            (Some(identity), Some(cluster_id)) => (identity, cluster_id),
            // Before birth there is nothing to compare, and nothing but probes and offers.
            (None, _) | (_, None) if purpose == Purpose::Birth => return Ok(()),
            (None, _) => return Err("this node is not part of a cluster yet".to_owned()),
            (_, None) => return Err(format!("node {node_id} is not part of a cluster yet")),
        };
        if cluster_id != identity.cluster_id {
            return Err(format!("node {node_id} belongs to another cluster"));
        }
        let first = identity.members.iter().find(|(id, _)| *id == node_id);
        let expected = first.map_or(expected, |(_, member)| member.instance_id);
        // A node that joined later may not know the instance it was given.
        let unknown = first.is_none() && (expected == 0 || instance_id == 0);
        if unknown || expected == instance_id {
            return Ok(());
        }
        Err(format!("node {node_id} was formed with another disk; it must join under a new id"))
    }
}

pub(super) struct PeerLinks {
    pub(super) append: Link,
    pub(super) control: Link,
    pub(super) snapshot: Link,
}

/// Connections to every peer.
pub struct Peers {
    pub(super) local: Arc<Local>,
    connector: Arc<dyn Connector>,
    links: Mutex<BTreeMap<NodeId, Arc<PeerLinks>>>,
}

impl Peers {
    /// Over plain TCP.
    pub fn new(local: Arc<Local>) -> Arc<Self> {
        Self::with_connector(local, Arc::new(Tcp))
    }

    /// Which levels of the log this node and its peers know.
    pub fn levels(&self) -> &Levels {
        self.local.levels()
    }

    /// Knows the configured first members; others become known through the membership.
    pub fn with_connector(local: Arc<Local>, connector: Arc<dyn Connector>) -> Arc<Self> {
        let peers = Self { local, connector, links: Mutex::default() };
        for (id, address) in &peers.local.first_members {
            let instance_id = 0;
            peers.know(*id, address, instance_id);
        }
        Arc::new(peers)
    }

    /// Learns the members. openraft tells of those it replicates to; a follower hears of the
    /// others, whom it may have to forward to, only by this.
    pub fn set_members<'a>(&self, members: impl Iterator<Item = (NodeId, &'a Member)>) {
        let removed = self.local.removed.borrow().clone();
        let others = |id: &NodeId| *id != self.local.node_id && !removed.contains(id);
        for (id, member) in members.filter(|(id, _)| others(id)) {
            self.know(id, &member.peer_address, member.instance_id);
        }
    }

    /// Learns who was removed for good: nobody speaks with those, whatever they say.
    pub fn set_removed(&self, removed: BTreeSet<NodeId>) {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.retain(|id, _| !removed.contains(id));
        drop(links);
        self.local.set_removed(removed);
    }

    /// The links to a peer, which is or moved to that address.
    pub(super) fn know(&self, id: NodeId, address: &str, instance_id: u128) -> Arc<PeerLinks> {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        let known = links.entry(id).or_insert_with(|| {
            let link = |purpose| self.link(id, address, purpose);
            Arc::new(PeerLinks {
                append: link(Purpose::Append),
                control: link(Purpose::Control),
                snapshot: link(Purpose::Snapshot),
            })
        });
        for link in [&known.append, &known.control, &known.snapshot] {
            link.set_place(address, instance_id);
        }
        Arc::clone(known)
    }

    fn link(&self, id: NodeId, address: &str, purpose: Purpose) -> Link {
        let connector = Arc::clone(&self.connector);
        Link::new(Arc::clone(&self.local), connector, id, address.to_owned(), purpose)
    }

    fn find(&self, id: NodeId) -> Option<Arc<PeerLinks>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    /// The same in nobody's name.
    pub async fn forward(&self, to: NodeId, call: Call) -> Result<Reply, ForwardError> {
        self.forward_as(to, None, call).await
    }

    /// Asks another node to answer a call as leader, in the name of whoever showed that credential.
    /// Dropping the future tells that node.
    pub async fn forward_as(
        &self,
        to: NodeId,
        by: Option<String>,
        call: Call,
    ) -> Result<Reply, ForwardError> {
        let not_sent = |why: &dyn ToString| ForwardError::NotSent(why.to_string());
        let links = self.find(to).ok_or_else(|| not_sent(&"no such member is known"))?;
        let request = match by {
            Some(by) => Request::CallAs(by, call),
            None => Request::Call(call),
        };
        let started = timeout(CONNECT_DEADLINE, links.control.start(&request, true)).await;
        let mut answer = match started {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) if error.kind() == io::ErrorKind::QuotaExceeded => {
                return Err(ForwardError::Remote(ServiceError::Overloaded(error.to_string())));
            }
            Ok(Err(error)) => return Err(not_sent(&error)),
            Err(error) => return Err(not_sent(&error)),
        };
        match answer.wait().await {
            Ok(Response::Call(result)) => result.map_err(ForwardError::Remote),
            Ok(Response::Failed(why)) => Err(ForwardError::Broken(why)),
            Ok(_) => Err(ForwardError::Broken("the answer is of another kind".to_owned())),
            Err(error) => Err(ForwardError::Broken(error.to_string())),
        }
    }

    /// Tells every connected peer how the leader stands.
    pub fn broadcast_beacon(&self, beacon: &Beacon) {
        let links: Vec<_> = {
            let links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
            let others = links.iter().filter(|(id, _)| **id != self.local.node_id);
            others.map(|(_, links)| Arc::clone(links)).collect()
        };
        for link in links {
            link.control.tell(&Request::Beacon(beacon.clone()));
        }
    }

    /// Says hello to all peers that are known, before this node takes part in anything: one that
    /// knows better than its disk says so.
    pub async fn greet(&self) {
        let links: Vec<_> = {
            let links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
            let others = links.iter().filter(|(id, _)| **id != self.local.node_id);
            others.map(|(_, links)| Arc::clone(links)).collect()
        };
        let greetings = links.iter().map(|links| links.control.reach());
        // Who is down now is greeted again when there is something to say.
        let _some_may_be_down = futures_util::future::join_all(greetings).await;
    }

    /// Asks a peer who it is.
    pub async fn probe(&self, id: NodeId) -> io::Result<ProbeReply> {
        match self.ask(id, &Request::Probe).await? {
            Response::Probe(reply) => Ok(reply),
            other => Err(other.unexpected()),
        }
    }

    /// Offers a peer its identity in a new cluster.
    pub async fn offer_birth(&self, id: NodeId, identity: Identity) -> io::Result<()> {
        match self.ask(id, &Request::Birth(identity)).await? {
            Response::Birth(result) => result.map_err(io::Error::other),
            other => Err(other.unexpected()),
        }
    }

    /// Who is configured.
    pub fn configured(&self) -> impl Iterator<Item = NodeId> {
        self.local.first_members.iter().map(|(id, _)| *id)
    }

    /// Asks a configured node to be taken in. What it passes to its leader may take as long as any
    /// call.
    pub async fn join(&self, id: NodeId, join: Join) -> io::Result<JoinReply> {
        match self.ask_within(id, &Request::Join(Box::new(join)), JOIN_DEADLINE).await? {
            Response::Join(reply) => Ok(reply),
            other => Err(other.unexpected()),
        }
    }

    async fn ask(&self, id: NodeId, request: &Request) -> io::Result<Response> {
        self.ask_within(id, request, BIRTH_DEADLINE).await
    }

    /// Over a connection of its own: a hello before birth names no cluster, and what was opened
    /// with it is heard for probes and offers alone.
    async fn ask_within(
        &self,
        id: NodeId,
        request: &Request,
        deadline: Duration,
    ) -> io::Result<Response> {
        let known = self.local.first_members.iter().find(|(member, _)| *member == id);
        let (_, address) = known.ok_or(io::ErrorKind::NotFound)?;
        self.link(id, address, Purpose::Birth).ask(request, deadline).await
    }
}
