//! All peers of a node, and what is asked of them outside of Raft.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use crate::raft::store::identity::Identity;
use crate::raft::transport::link::Link;
use crate::raft::transport::wire::{Beacon, Hello, PROTOCOL, ProbeReply, Request, Response};
use crate::service::replicator::{Call, ForwardError, NodeId, Reply};

/// A peer answers a probe or an offer of birth within this time, or later.
const BIRTH_DEADLINE: Duration = Duration::from_secs(2);

/// What this node says of itself.
pub struct Local {
    pub(super) node_id: NodeId,
    pub(super) first_members: Vec<(NodeId, String)>,
    identity: RwLock<Option<Identity>>,
}

impl Local {
    /// `first_members` are the configured ones, each with its peer address.
    pub fn new(
        node_id: NodeId,
        first_members: Vec<(NodeId, String)>,
        identity: Option<Identity>,
    ) -> Arc<Self> {
        Arc::new(Self { node_id, first_members, identity: RwLock::new(identity) })
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

    pub(super) fn hello(&self, to: NodeId) -> Hello {
        let identity = self.identity.read().unwrap_or_else(PoisonError::into_inner);
        Hello {
            protocol: PROTOCOL,
            cluster_id: identity.as_ref().map(|identity| identity.cluster_id),
            from: self.node_id,
            instance_id: identity.as_ref().map_or(0, Identity::instance_id),
            to,
        }
    }

    pub(super) fn probe(&self) -> ProbeReply {
        ProbeReply {
            node_id: self.node_id,
            first_members: self.first_members.clone(),
            identity: self.identity(),
        }
    }

    /// Why a connection with this hello is not welcome.
    pub(super) fn refuse(&self, hello: &Hello) -> Option<String> {
        if hello.protocol != PROTOCOL {
            return Some(format!("it speaks protocol {}, this node {PROTOCOL}", hello.protocol));
        }
        if hello.to != self.node_id {
            return Some(format!("it looks for node {}, this is node {}", hello.to, self.node_id));
        }
        let identity = self.identity()?;
        let cluster_id = hello.cluster_id?;
        if cluster_id != identity.cluster_id {
            return Some("it belongs to another cluster".to_owned());
        }
        let known = identity.members.iter().find(|(id, _)| *id == hello.from)?;
        (known.1.instance_id != hello.instance_id).then(|| {
            format!("node {} was formed with another disk; it must join under a new id", hello.from)
        })
    }
}

pub(super) struct PeerLinks {
    pub(super) append: Arc<Link>,
    pub(super) control: Arc<Link>,
    pub(super) snapshot: Arc<Link>,
}

/// Connections to every peer.
pub struct Peers {
    pub(super) local: Arc<Local>,
    links: Mutex<BTreeMap<NodeId, Arc<PeerLinks>>>,
}

impl Peers {
    /// Knows the configured first members; others become known through the membership.
    pub fn new(local: Arc<Local>) -> Arc<Self> {
        let first_members = local.first_members.clone();
        let peers = Self { local, links: Mutex::default() };
        for (id, address) in &first_members {
            peers.links_to(*id, Some(address));
        }
        Arc::new(peers)
    }

    pub(super) fn links_to(&self, id: NodeId, address: Option<&str>) -> Option<Arc<PeerLinks>> {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = links.get(&id) {
            if let Some(address) = address {
                known.append.set_address(address);
                known.control.set_address(address);
                known.snapshot.set_address(address);
            }
            return Some(Arc::clone(known));
        }
        let address = address?;
        let link = || Arc::new(Link::new(Arc::clone(&self.local), id, address.to_owned()));
        let made = Arc::new(PeerLinks { append: link(), control: link(), snapshot: link() });
        links.insert(id, Arc::clone(&made));
        Some(made)
    }

    fn control(&self, id: NodeId) -> io::Result<Arc<Link>> {
        let links = self.links_to(id, None);
        links.map(|links| Arc::clone(&links.control)).ok_or(io::ErrorKind::NotFound.into())
    }

    /// Asks another node to answer a call as leader. Dropping the future tells that node.
    pub async fn forward(&self, to: NodeId, call: Call) -> Result<Reply, ForwardError> {
        let not_sent = |error: io::Error| ForwardError::NotSent(error.to_string());
        let link = self.control(to).map_err(not_sent)?;
        let answer = link.start(&Request::Call(call), true).await.map_err(not_sent)?;
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
            links
                .iter()
                .filter(|(id, _)| **id != self.local.node_id)
                .map(|(_, l)| Arc::clone(&l.control))
                .collect()
        };
        for link in links {
            link.tell(&Request::Beacon(beacon.clone()));
        }
    }

    /// Asks a peer who it is.
    pub async fn probe(&self, id: NodeId) -> io::Result<ProbeReply> {
        match self.ask(id, &Request::Probe).await? {
            Response::Probe(reply) => Ok(reply),
            _ => Err(io::Error::other("the answer is of another kind")),
        }
    }

    /// Offers a peer its identity in a new cluster.
    pub async fn offer_birth(&self, id: NodeId, identity: Identity) -> io::Result<()> {
        match self.ask(id, &Request::Birth(identity)).await? {
            Response::Birth(result) => result.map_err(io::Error::other),
            _ => Err(io::Error::other("the answer is of another kind")),
        }
    }

    /// Over a connection of its own: a hello before birth names no cluster, and what was opened
    /// with it is heard for probes and offers alone.
    async fn ask(&self, id: NodeId, request: &Request) -> io::Result<Response> {
        let known = self.local.first_members.iter().find(|(member, _)| *member == id);
        let (_, address) = known.ok_or(io::ErrorKind::NotFound)?;
        let link = Link::new(Arc::clone(&self.local), id, address.clone());
        tokio::time::timeout(BIRTH_DEADLINE, link.ask(request)).await?
    }
}
