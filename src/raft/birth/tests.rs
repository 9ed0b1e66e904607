//! Births over a network in memory, in paused time: no test waits.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::io::DuplexStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::*;
use crate::raft::transport::inbound;
use crate::raft::transport::stream::{Acceptor, Connector, Stream};

/// Who listens where, and who was looked for how often.
#[derive(Default)]
struct Network {
    listeners: Mutex<BTreeMap<String, mpsc::Sender<DuplexStream>>>,
    /// Attempts to reach these never end.
    silent: Mutex<BTreeSet<String>>,
    attempts: watch::Sender<BTreeMap<String, usize>>,
}

fn halves(stream: DuplexStream) -> Stream {
    let (reader, writer) = tokio::io::split(stream);
    Stream { reader: Box::new(reader), writer: Box::new(writer), certified: None }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Network {
    /// Waits until somebody was looked for so often from now on.
    async fn looked_for(&self, id: NodeId, times: usize) {
        let count = |now: &BTreeMap<_, _>| now.get(&address(id)).copied().unwrap_or(0);
        let before = count(&self.attempts.borrow());
        let mut attempts = self.attempts.subscribe();
        attempts.wait_for(|now| count(now) >= before + times).await.expect("the network is there");
    }
}

/// The network as a node reaches it.
struct Wire(Arc<Network>);

impl Connector for Wire {
    fn connect(&self, _to: NodeId, address: String) -> BoxFuture<'static, io::Result<Stream>> {
        self.0.attempts.send_modify(|attempts| *attempts.entry(address.clone()).or_default() += 1);
        if lock(&self.0.silent).contains(&address) {
            return std::future::pending().boxed();
        }
        let (near, far) = tokio::io::duplex(64 * 1024);
        let heard = lock(&self.0.listeners).get(&address).map(|listener| listener.try_send(far));
        let connected = match heard {
            Some(Ok(())) => Ok(halves(near)),
            Some(Err(_)) | None => Err(io::ErrorKind::ConnectionRefused.into()),
        };
        std::future::ready(connected).boxed()
    }
}

struct Ear(mpsc::Receiver<DuplexStream>);

impl Acceptor for Ear {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(Stream, String)>> {
        async move {
            match self.0.recv().await {
                Some(stream) => Ok((halves(stream), "memory:0".to_owned())),
                None => std::future::pending().await,
            }
        }
        .boxed()
    }
}

fn address(id: NodeId) -> String {
    format!("p{id}:1")
}

fn members(ids: impl IntoIterator<Item = NodeId>) -> BTreeMap<NodeId, Member> {
    let member = |id| Member { peer_address: address(id), ..Member::default() };
    ids.into_iter().map(|id| (id, member(id))).collect()
}

/// A node that listens, and one that is being born.
struct Node {
    dir: tempfile::TempDir,
    local: Arc<Local>,
    listening: JoinHandle<()>,
    handlers: Arc<Handlers>,
    peers: Arc<Peers>,
    first: BTreeMap<NodeId, Member>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

impl Node {
    fn start(network: &Arc<Network>, id: NodeId, first: BTreeMap<NodeId, Member>) -> Self {
        let dir = tempfile::tempdir().expect("directory");
        Self::start_in(network, id, first, dir)
    }

    fn start_in(
        network: &Arc<Network>,
        id: NodeId,
        first: BTreeMap<NodeId, Member>,
        dir: tempfile::TempDir,
    ) -> Self {
        let identity = Identity::load(dir.path()).expect("readable");
        let local = Local::new(id, addresses(&first), identity);
        let handlers = Arc::new(Handlers::default());
        let (sender, receiver) = mpsc::channel(16);
        lock(&network.listeners).insert(address(id), sender);
        let serving = inbound::listen(Ear(receiver), Arc::clone(&local), Arc::clone(&handlers));
        let listening = tokio::spawn(serving);
        let wire = Arc::new(Wire(Arc::clone(network)));
        let peers = Peers::with_connector(Arc::clone(&local), wire);
        Self { dir, local, listening, handlers, peers, first }
    }

    /// Ends the node; its disk stays.
    fn kill(mut self) -> tempfile::TempDir {
        let none = tempfile::tempdir().expect("directory");
        std::mem::replace(&mut self.dir, none)
    }

    async fn born(&self) -> io::Result<Identity> {
        let Self { dir, local, handlers, peers, first, .. } = self;
        let born = await_birth(dir.path(), local, peers, handlers, first);
        // Of paused time: an end for a test that would go on asking.
        tokio::time::timeout(Duration::from_mins(5), born).await.expect("it is born or refuses")
    }

    fn on_disk(&self) -> Option<Identity> {
        Identity::load(self.dir.path()).expect("readable")
    }
}

/// Runs a cluster that is already there on one node.
fn join(node: &Node, identity: &Identity) {
    let joined = Identity { joined: true, ..identity.clone() };
    joined.save(node.dir.path()).expect("saved");
    node.local.set_identity(joined);
}

#[tokio::test(start_paused = true)]
async fn when_all_are_empty_the_lowest_mints_one_cluster() {
    let network = Arc::new(Network::default());
    let [a, b, c] = [1, 2, 3].map(|id| Node::start(&network, id, members(1..=3)));
    let (one, two, three) = tokio::join!(a.born(), b.born(), c.born());
    let born = [one, two, three].map(|born| born.expect("it is born"));
    let instances: BTreeSet<_> = born.iter().map(Identity::instance_id).collect();
    assert_eq!(instances.len(), 3, "each has an instance of its own");
    assert!(!instances.contains(&0));
    for (identity, node) in born.iter().zip([&a, &b, &c]) {
        assert_eq!(identity.cluster_id, born[0].cluster_id);
        assert_eq!(identity.members, born[0].members);
        assert_eq!(identity.node_id, node.local.node_id());
        assert!(!identity.joined, "no log was used yet");
        assert_eq!(node.on_disk().as_ref(), Some(identity), "it is on disk");
        assert_eq!(node.local.identity().as_ref(), Some(identity), "and told to peers");
    }
    assert_ne!(born[0].cluster_id, 0);
}

#[tokio::test(start_paused = true)]
async fn a_single_first_member_needs_nobody() {
    let network = Arc::new(Network::default());
    let node = Node::start(&network, 4, members([4]));
    let born = node.born().await.expect("it is born");
    assert_eq!((born.node_id, node.on_disk()), (4, Some(born.clone())));
}

#[tokio::test(start_paused = true)]
async fn an_empty_node_whose_peers_run_a_cluster_stops_and_says_how_to_rejoin() {
    let network = Arc::new(Network::default());
    let [a, b] = [1, 2].map(|id| Node::start(&network, id, members(1..=3)));
    let c = Node::start(&network, 3, members(1..=3));
    let born = tokio::join!(a.born(), b.born(), c.born());
    join(&a, &born.0.expect("it is born"));
    // Node 3 loses its disk. Neither of the others is lower and answers, and one is enough.
    drop(b.kill());
    drop(c.kill());
    lock(&network.listeners).remove(&address(2));
    let emptied = Node::start(&network, 3, members(1..=3));
    let why = emptied.born().await.expect_err("it must not vote again").to_string();
    assert!(why.contains("node 1 already runs cluster"), "{why}");
    assert!(why.contains("give the node a new id and join it"), "{why}");
    assert_eq!(emptied.on_disk(), None);

    // Nor may the lowest mint anew when it is the one that was emptied.
    let network = Arc::new(Network::default());
    let [a, b] = [1, 2].map(|id| Node::start(&network, id, members(1..=2)));
    let born = tokio::join!(a.born(), b.born());
    join(&b, &born.1.expect("it is born"));
    drop(a.kill());
    let emptied = Node::start(&network, 1, members(1..=2));
    let why = emptied.born().await.expect_err("it must not mint").to_string();
    assert!(why.contains("node 2 already runs cluster"), "{why}");
    assert_eq!(emptied.on_disk(), None);
}

#[tokio::test(start_paused = true)]
async fn unlike_lists_of_members_form_no_cluster() {
    let mut moved = members(1..=2);
    moved.entry(2).or_default().peer_address = "elsewhere:1".to_owned();
    for other in [members(1..=3), members([2]), moved] {
        let network = Arc::new(Network::default());
        let a = Node::start(&network, 1, members(1..=2));
        let b = Node::start(&network, 2, other);
        // The other one need not try to be born: it answers either way.
        let why = a.born().await.expect_err("the lists differ").to_string();
        assert!(why.contains("node 2 is configured with other first members"), "{why}");
        assert!(why.contains("make the `members` lists equal"), "{why}");
        assert_eq!((a.on_disk(), b.on_disk()), (None, None));
    }
}

#[tokio::test(start_paused = true)]
async fn a_member_that_is_down_or_silent_is_asked_until_it_answers() {
    let network = Arc::new(Network::default());
    let [a, b] = [1, 2].map(|id| Node::start(&network, id, members(1..=3)));
    lock(&network.silent).insert(address(3));
    let others = async { tokio::join!(a.born(), b.born()) };
    tokio::pin!(others);
    let waiting = async {
        network.looked_for(3, 20).await;
        lock(&network.silent).clear();
        // Now it refuses connections.
        network.looked_for(3, 20).await;
    };
    tokio::select! {
        biased;
        born = &mut others => panic!("born without node 3: {born:?}"),
        () = waiting => {}
    }
    assert_eq!((a.on_disk(), b.on_disk()), (None, None), "a majority is not enough");
    let c = Node::start(&network, 3, members(1..=3));
    let ((one, two), three) = tokio::join!(others, c.born());
    let ids = [one, two, three].map(|born| born.expect("it is born").cluster_id);
    assert_eq!(ids, [ids[0]; 3]);
}

#[tokio::test(start_paused = true)]
async fn a_birth_that_a_crash_left_half_way_is_finished_with_the_same_identity() {
    let network = Arc::new(Network::default());
    let [a, b, c] = [1, 2, 3].map(|id| Node::start(&network, id, members(1..=3)));
    // The lowest crashes when the first of the others is born: it offers in their order.
    let first = tokio::select! {
        biased;
        born = b.born() => born.expect("it is born"),
        born = a.born() => panic!("node 3 never agreed: {born:?}"),
    };
    assert_eq!((a.on_disk(), c.on_disk()), (None, None));
    let a = Node::start_in(&network, 1, members(1..=3), a.kill());
    // Node 2 started again, too: it has its identity and asks nobody.
    let b = Node::start_in(&network, 2, members(1..=3), b.kill());
    let (one, three) = tokio::join!(a.born(), c.born());
    let (one, three) = (one.expect("it is born"), three.expect("it is born"));
    for identity in [&one, &three] {
        assert_eq!(identity.cluster_id, first.cluster_id);
        assert_eq!(identity.members, first.members, "the instances stay");
    }
    assert_eq!(b.on_disk(), Some(first));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_born_while_it_asks_does_not_take_its_own_cluster_for_a_former_one() {
    let network = Arc::new(Network::default());
    let node = Node::start(&network, 2, members(1..=2));
    // Node 1 takes connections, and is slow to answer what comes over them.
    let (sender, receiver) = mpsc::channel(16);
    lock(&network.listeners).insert(address(1), sender);
    let born = node.born();
    tokio::pin!(born);
    tokio::select! {
        biased;
        born = &mut born => panic!("nobody answered yet: {born:?}"),
        () = network.looked_for(1, 1) => {}
    }
    let identity = mint(1, &members(1..=2), [].iter());
    let local = Local::new(1, addresses(&members(1..=2)), None);
    let wire = Arc::new(Wire(Arc::clone(&network)));
    let peers = Peers::with_connector(Arc::clone(&local), wire);
    tokio::select! {
        biased;
        born = &mut born => panic!("it asks still: {born:?}"),
        offered = peers.offer_birth(2, identity.clone()) => offered.expect("it agrees"),
    }
    // With the consent of node 2 the cluster begins; only now does node 1 answer.
    local.set_identity(Identity { joined: true, ..identity.clone() });
    let serving = tokio::spawn(inbound::listen(Ear(receiver), local, Arc::default()));
    let born = born.await.expect("it is born");
    assert_eq!((born.cluster_id, born.node_id), (identity.cluster_id, 2));
    serving.abort();
}
