//! The composition root: opens the store, starts Raft, service and surfaces, and stops them in
//! reverse order. The only place that knows everybody.

mod break_glass;
mod disk;
mod listeners;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::task::JoinSet;

use self::listeners::{Listeners, Secure, serve_http};
use crate::config::{self, Config};
use crate::observe::audit::Audit;
use crate::observe::metrics::Metrics;
use crate::raft::birth::random_u128;
use crate::raft::clock;
use crate::raft::join::{Newcomer, remember_joining, save_joined};
use crate::raft::presence;
use crate::raft::replicator::{Parts, RaftReplicator};
use crate::raft::settings::{self, Timing};
use crate::raft::store::files::{self, DirectoryLock};
use crate::raft::store::identity::Identity;
use crate::raft::store::log::{Fatal, LogOptions, LogStore, Synced};
use crate::raft::store::machine::MachineHandle;
use crate::raft::store::reserve::{DiskReserve, DiskState};
use crate::raft::store::restore;
pub use crate::raft::store::restore::{Given, Summary as Restored};
use crate::raft::store::snapshots::Snapshots;
use crate::raft::store::start::{self, LogFacts};
use crate::raft::transport::inbound::Handlers;
use crate::raft::transport::peers::Local;
use crate::raft::transport::wire::PROTOCOL;
use crate::raft::transport::{NetworkFactory, Peers};
use crate::raft::types::{Member, RaftHandle};
use crate::service::replicator::{NodeId, Replicator, Upcalls};
use crate::service::{Options, Service};
use crate::shutdown::Stop;
use crate::traces::Traces;

/// Handing leadership over before a stop takes no longer than this; then it is left to an election.
const HAND_OVER_DEADLINE: Duration = Duration::from_secs(2);

/// Calls in flight at a stop are answered within this time.
const DRAIN_DEADLINE: Duration = Duration::from_secs(3);

/// Why a node cannot run; the text says what to do.
#[derive(Debug)]
pub struct NodeError(String);

impl fmt::Display for NodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NodeError {}

fn because(what: &str) -> impl FnOnce(io::Error) -> NodeError {
    move |error| NodeError(format!("{what}: {error}"))
}

/// Verifies all of a backup and says what it holds.
pub fn inspect_backup(backup: &Path) -> Result<Restored, NodeError> {
    restore::inspect(backup).map_err(because("read the backup"))
}

/// Puts a backup where this node, at its first start, forms a new cluster with it. Says what it
/// holds and above what the tokens go on.
pub fn restore_backup(
    config: &Config,
    backup: &Path,
    given: Given,
) -> Result<(Restored, u64), NodeError> {
    let _directory =
        DirectoryLock::take(&config.data_dir).map_err(because("open the data directory"))?;
    restore::refuse_unless_lowest(config.node_id, &first_members(config))
        .and_then(|()| restore::plant(&config.data_dir, backup, given))
        .map_err(because("restore the backup"))
}

/// Runs a node until `stop`. With `join` it may come into a cluster that runs.
pub async fn run(
    config: Config,
    join: Option<String>,
    traces: &Traces,
    stop: Stop,
) -> Result<(), NodeError> {
    #[cfg(feature = "proof")]
    crate::raft::faults::obey(std::env::var_os("OARLOCK_FAULTS"))
        .map_err(because("read the orders to fail"))?;
    let dir = config.data_dir.clone();
    let _directory = DirectoryLock::take(&dir).map_err(because("open the data directory"))?;
    let Listeners { api, admin, peers: peer_listener } = Listeners::bind(&config).await?;
    let secure = Secure::read(&config)?;
    let metrics = Metrics::new();
    metrics.speaks(PROTOCOL);
    let store = Store::open(&config, &metrics)?;

    let first_members = first_members(&config);
    let addresses = first_members.iter().map(|(id, m)| (*id, m.peer_address.clone())).collect();
    let known = store.identity.clone().filter(|identity| !identity.is_pending());
    let local = Local::new(config.node_id, addresses, known);
    let peers = Peers::with_connector(Arc::clone(&local), secure.connector());
    let handlers = Arc::new(Handlers::default());
    let mut tasks = JoinSet::new();
    presence::show(&store.log, store.snapshots.clone(), &local, random_seed());
    secure.listen_to_peers(&mut tasks, peer_listener, (&local, &handlers), &metrics);

    let newcomer = Newcomer { first_members, token: join, address: advertised(&config), dir: &dir };
    let identity = tokio::select! {
        () = stop.wait() => return Ok(()),
        came = newcomer.come_in(store.identity.clone(), (&local, &peers, &*handlers)) => {
            came.map_err(because("become part of a cluster"))?
        }
    };
    tracing::info!(
        cluster = format!("{:032x}", identity.cluster_id),
        "this node is part of a cluster"
    );

    let log = store.log.clone();
    presence::greet(&identity, (&local, &peers)).await.map_err(NodeError)?;
    let identity = begin_restored(identity, &log, &dir, &local).await?;
    let Started { raft, machine, audit } =
        start_raft(&config, store, (&identity, &peers), &metrics).await?;
    let reserve = Arc::new(reserved(&dir, &config)?);
    let parts = (raft.clone(), machine.clone(), Arc::clone(&reserve));
    let replicator = replicator(&config, &identity, parts, &peers, &metrics);
    let (observer, ids) = (Arc::clone(&metrics), Box::new(random_u128));
    let options = Options { auth_required: config.auth_required, ..Options::default() };
    let service = Service::new(Arc::clone(&replicator), observer, ids, options);
    let reached = (raft.clone(), machine.snapshots(), log.synced());
    wire((&handlers, traces), &machine, &service, &replicator, reached);
    settings::run(&raft, random_seed()).await;
    initialise(&identity, &raft, &dir, &local).await?;
    let serving = tokio::spawn(run_raft(Arc::clone(&replicator), stop.clone()));
    tasks.spawn(presence::stop_if_refused(Arc::clone(&local), raft.clone(), stop.clone()));
    keep_up(&mut tasks, &service, &audit);
    break_glass::keep(&mut tasks, &config, &service, &audit);
    tasks.spawn(disk::watch(reserve, Arc::clone(&replicator)));
    let segment_bytes = config.log_segment_bytes;
    tasks.spawn(disk::measure(log, machine.snapshots(), segment_bytes, Arc::clone(&metrics)));
    tasks.spawn(remember_joining(identity, replicator.raft().clone(), dir, Arc::clone(&local)));
    tracing::info!(api = %config.api_address, peers = %config.peer_address, "serving");
    let told = (&service, &metrics, traces);
    let answers = serve_http((api, admin), secure.api, &config, told, &replicator, &stop);
    let attended = attend(&mut tasks, &stop, answers).await;
    shut_down(&replicator, &mut tasks, machine, &audit).await?;
    serving.await.map_err(|error| NodeError(format!("run Raft: {error}")))??;
    attended.and_then(|()| presence::refused(&local).map_err(NodeError))
}

/// Serves until the stop, and stops when one of the tasks panics: nobody would miss it otherwise, while
/// leases end no more or a full disk is seen by nobody. Others lead then.
async fn attend(
    tasks: &mut JoinSet<()>,
    stop: &Stop,
    serving: impl Future<Output = ()>,
) -> Result<(), NodeError> {
    tokio::pin!(serving);
    let mut attended = Ok(());
    loop {
        tokio::select! {
            () = &mut serving => return attended,
            Some(ended) = tasks.join_next(), if !tasks.is_empty() => {
                if let Err(error) = ended && error.is_panic() {
                    tracing::error!(%error, "a task panicked: this node stops");
                    stop.trigger();
                    attended = Err(NodeError(format!("a task panicked: {error}; please report it")));
                }
            }
        }
    }
}

/// What the service does without being asked.
fn keep_up(tasks: &mut JoinSet<()>, service: &Arc<Service<RaftReplicator>>, audit: &Arc<Audit>) {
    tell_calls(service, audit);
    let (expires, gate) = (Arc::clone(service), Arc::clone(service));
    tasks.spawn(async move { expires.expire().await });
    tasks.spawn(async move { gate.keep_gate().await });
}

/// Has the audit hear who calls this node, if there is one.
fn tell_calls(service: &Service<RaftReplicator>, audit: &Arc<Audit>) {
    if audit.is_on() {
        let hears = Arc::clone(audit);
        service.on_called(Box::new(move |called| hears.called(called, clock::wall_ms())));
    }
}

fn reserved(dir: &Path, config: &Config) -> Result<DiskReserve, NodeError> {
    DiskReserve::open(dir, config.reserve_bytes).map_err(because("take the disk reserve"))
}

/// Where others reach a node that joins.
fn advertised(config: &Config) -> Result<Member, String> {
    let (peer_address, api_address) = config.advertised();
    for (setting, address) in
        [("advertise_peer_address", &peer_address), ("advertise_api_address", &api_address)]
    {
        if config::is_anywhere(address) {
            return Err(format!(
                "nobody can reach this node at {address}: say in {setting} where the others do"
            ));
        }
    }
    Ok(Member { peer_address, api_address, instance_id: 0 })
}

/// Begins with the backup that was put here, if there is one.
async fn begin_restored(
    identity: Identity,
    log: &LogStore,
    dir: &Path,
    local: &Local,
) -> Result<Identity, NodeError> {
    let sown = restore::sow(dir, &identity, log).await;
    if !sown.map_err(because("begin with a restored state"))? {
        return Ok(identity);
    }
    // Before Raft writes to the log, so that what it writes is never sown over.
    let identity = save_joined(&identity, dir, local).map_err(because("write the identity"))?;
    restore::clear(dir).map_err(because("forget the backup that was restored"))?;
    Ok(identity)
}

/// Runs what stands on Raft until Raft is gone. Without a stop that is an error, and the node
/// stops: it could only refuse from then on, and whoever started it should know.
async fn run_raft(replicator: Arc<RaftReplicator>, stop: Stop) -> Result<(), NodeError> {
    until_stopped(replicator.run(), stop).await
}

/// Runs what must not end before the stop, neither by itself nor by a panic: Raft would go on leading
/// with nobody who writes entries.
async fn until_stopped(runs: impl Future<Output = ()>, stop: Stop) -> Result<(), NodeError> {
    let ran = AssertUnwindSafe(runs).catch_unwind().await;
    if ran.is_ok() && stop.is_triggered() {
        return Ok(());
    }
    tracing::error!(panicked = ran.is_err(), "Raft ended by itself: this node stops");
    stop.trigger();
    Err(NodeError("run Raft: it ended by itself; the lines before this say why".to_owned()))
}

fn replicator(
    config: &Config,
    identity: &Identity,
    (raft, machine, reserve): (RaftHandle, MachineHandle, Arc<DiskReserve>),
    peers: &Arc<Peers>,
    metrics: &Arc<Metrics>,
) -> Arc<RaftReplicator> {
    let metrics = Arc::clone(metrics);
    RaftReplicator::new(Parts {
        raft,
        machine,
        peers: Arc::clone(peers),
        cluster_id: identity.cluster_id,
        node_id: config.node_id,
        heartbeat_interval: Duration::from_millis(config.heartbeat_interval_ms),
        election_timeout_min: Duration::from_millis(config.election_timeout_min_ms),
        election_timeout_max: Duration::from_millis(config.election_timeout_max_ms),
        disk_is_low: Box::new(move || reserve.state() == DiskState::Low),
        wall_ms: clock::wall_ms,
        observe_commit: Box::new(move |took, commands| metrics.commit(took, commands)),
    })
}

fn first_members(config: &Config) -> BTreeMap<NodeId, Member> {
    let member = |m: &config::MemberConfig| Member {
        peer_address: m.peer_address.clone(),
        api_address: m.api_address.clone(),
        instance_id: 0,
    };
    config.members.iter().map(|m| (m.id, member(m))).collect()
}

/// What is on disk, opened and verified.
struct Store {
    identity: Option<Identity>,
    log: LogStore,
    /// Of a node that was part of a cluster before it started.
    snapshots: Option<Arc<Snapshots>>,
    fatal: Fatal,
}

impl Store {
    fn open(config: &Config, metrics: &Arc<Metrics>) -> Result<Self, NodeError> {
        let dir = &config.data_dir;
        let identity = Identity::load(dir).map_err(because("read the identity"))?;
        let fatal: Fatal = Arc::new(|why: &str| {
            tracing::error!(why, "this node cannot go on and stops");
            #[expect(
                clippy::disallowed_methods,
                reason = "after a failed write nothing of this process may be trusted"
            )]
            std::process::exit(70);
        });
        let joined = identity.as_ref().is_some_and(|identity| identity.joined);
        let is_sown_later = restore::check(dir, joined, config.node_id, &first_members(config))
            .map_err(because("begin with a restored state"))?;
        let files = files::on_disk(&dir.join("log")).map_err(because("open the log directory"))?;
        let options =
            LogOptions { segment_bytes: config.log_segment_bytes, ..LogOptions::default() };
        let observe = Arc::clone(metrics);
        let observe = Box::new(move |took, _bytes| observe.fsync(took));
        let log = LogStore::open(files, options, observe, Arc::clone(&fatal));
        let log = log.map_err(because("open the log"))?;
        match &identity {
            None if !log.is_empty() => Err(NodeError(format!(
                "{} holds a log and no identity: the identity file was removed; restore it, or \
                 move the directory away and let the node join under a new id",
                dir.display()
            ))),
            Some(identity) if identity.node_id != config.node_id => Err(NodeError(format!(
                "{} belongs to node {}, the configuration says node {}: correct node_id or data_dir",
                dir.display(),
                identity.node_id,
                config.node_id
            ))),
            Some(identity) if identity.joined && log.is_empty() => Err(NodeError(format!(
                "the log of {} is gone, and this node's vote with it; it must not vote again under \
                 this id: move the directory away and let the node join under a new id",
                dir.display()
            ))),
            Some(_) | None => {
                let part_of_one = identity.as_ref().filter(|it| !it.is_pending() && !is_sown_later);
                let snapshots = part_of_one.map(|identity| {
                    start::open_snapshots(&state_options(config, identity), log.bounds().1)
                });
                let snapshots = snapshots.transpose().map_err(because("open the snapshots"))?;
                Ok(Self { identity, log, snapshots, fatal })
            }
        }
    }
}

fn state_options(config: &Config, identity: &Identity) -> start::Options {
    start::Options {
        cache_bytes: config.sled_cache_bytes,
        ..start::Options::new(config.data_dir.clone(), identity.cluster_id)
    }
}

/// For the jitter of elections, and to tell one process of a node from the next.
fn random_seed() -> u64 {
    u64::try_from(random_u128() >> 64).unwrap_or_default()
}

struct Started {
    raft: RaftHandle,
    machine: MachineHandle,
    audit: Arc<Audit>,
}

async fn start_raft(
    config: &Config,
    store: Store,
    (identity, peers): (&Identity, &Arc<Peers>),
    metrics: &Arc<Metrics>,
) -> Result<Started, NodeError> {
    let Store { log, snapshots, fatal, .. } = store;
    let options = state_options(config, identity);
    let opening = {
        let log = log.clone();
        tokio::task::spawn_blocking(move || {
            let last_purged = log.bounds().1;
            let snapshots =
                snapshots.map_or_else(|| start::open_snapshots(&options, last_purged), Ok)?;
            let facts = LogFacts { has: &|id| log.has(id), last_purged };
            start::open(&options, snapshots, &facts, fatal)
        })
    };
    let opened = opening.await.map_err(|error| NodeError(format!("open the state: {error}")))?;
    let (machine, handle) = opened.map_err(because("open the state"))?;
    let audit =
        audit(config, identity.cluster_id, &handle, metrics).map_err(because("open audit_file"))?;
    let raft = settings::build(
        (config.node_id, random_seed()),
        Timing {
            heartbeat_interval_ms: config.heartbeat_interval_ms,
            election_timeout_min_ms: config.election_timeout_min_ms,
            election_timeout_max_ms: config.election_timeout_max_ms,
        },
        config.snapshot_log_entries,
        NetworkFactory(Arc::clone(peers)),
        (log, machine),
    );
    let raft = raft.await.map_err(|error| NodeError(format!("start Raft: {error}")))?;
    Ok(Started { raft, machine: handle, audit })
}

/// Begins to write down who does what, before the first entry is applied.
fn audit(
    config: &Config,
    cluster_id: u128,
    machine: &MachineHandle,
    metrics: &Arc<Metrics>,
) -> io::Result<Arc<Audit>> {
    if config.audit_file.as_os_str().is_empty() {
        return Ok(Audit::off(Arc::clone(metrics)));
    }
    let applied = machine.with_position(|_, at| at.last_applied.map_or(0, |last| last.index));
    let audit = Audit::start(&config.audit_file, cluster_id, applied, Arc::clone(metrics))?;
    let hears = Arc::clone(&audit);
    machine.on_entries(Box::new(move |index, told| hears.tell(index, told)));
    Ok(audit)
}

/// Connects what was made apart: peers and applied entries reach the service.
fn wire(
    (handlers, traces): (&Handlers, &Traces),
    machine: &MachineHandle,
    service: &Arc<Service<RaftReplicator>>,
    replicator: &Arc<RaftReplicator>,
    raft: (RaftHandle, Arc<Snapshots>, Synced),
) {
    // Weak, because the service stands on the machine: they would keep each other for ever.
    let upcalls = Arc::downgrade(service);
    machine.on_events(Box::new(move |events, outcomes| {
        if let Some(upcalls) = upcalls.upgrade() {
            upcalls.applied(events, outcomes);
        }
    }));
    let (upcalls, traces) = (Arc::clone(service), traces.clone());
    let answer = move |by, call| traces.forwarded(Upcalls::call(&*upcalls, by, call));
    let _only_once = handlers.call.set(Box::new(answer));
    let hears = Arc::clone(replicator);
    let _only_once = handlers.beacon.set(Box::new(move |beacon| hears.hear(beacon)));
    let _only_once = handlers.raft.set(raft);
    let asks = Arc::downgrade(service);
    let _only_once = handlers.join.set(Box::new(move |join| {
        let asks = Weak::clone(&asks);
        Box::pin(async move {
            let service = asks.upgrade().ok_or("it is stopping")?;
            service.join_elsewhere(join).await.map_err(|error| error.to_string())
        })
    }));
}

/// The lowest first member initialises Raft once; a crash before that is made up for here.
async fn initialise(
    identity: &Identity,
    raft: &RaftHandle,
    dir: &Path,
    local: &Local,
) -> Result<(), NodeError> {
    let lowest = identity.members.iter().map(|(id, _)| *id).min() == Some(identity.node_id);
    if !lowest || identity.joined || identity.invited {
        return Ok(());
    }
    let initialised = raft.is_initialized().await;
    if !initialised.map_err(|error| NodeError(format!("ask Raft: {error}")))? {
        let members: BTreeMap<NodeId, Member> = identity.members.iter().cloned().collect();
        let done = raft.initialize(members).await;
        done.map_err(|error| NodeError(format!("initialise the cluster: {error}")))?;
    }
    save_joined(identity, dir, local).map(drop).map_err(because("write the identity"))
}

/// Stops Raft and everything that this node runs.
async fn shut_down(
    replicator: &Arc<RaftReplicator>,
    tasks: &mut JoinSet<()>,
    machine: MachineHandle,
    audit: &Audit,
) -> Result<(), NodeError> {
    if let Err(error) = replicator.raft().shutdown().await {
        tracing::warn!(%error, "Raft did not stop cleanly");
    }
    tasks.shutdown().await;
    let closed = tokio::task::spawn_blocking(move || machine.close()).await;
    audit.finish().await;
    closed.map_err(|error| NodeError(format!("close the state: {error}")))
}

/// Gives leadership to the voter that is closest behind.
async fn hand_over(replicator: &Arc<RaftReplicator>) {
    if replicator.leadership().borrow().serving_here {
        let _in_time_or_by_election = replicator.transfer_leader(None).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::replicator::tests::{Disk as TestDisk, Node};

    #[tokio::test(flavor = "multi_thread")]
    async fn a_stopped_node_leaves_nothing_behind() {
        let disk = TestDisk::new();
        let Node { raft, machine, replicator, running, synced, .. } = Node::alone(&disk).await;
        let observer = Metrics::new();
        let ids = Box::new(random_u128);
        let service = Service::new(Arc::clone(&replicator), observer, ids, Options::default());
        let handlers = Handlers::default();
        let reached = (raft.clone(), machine.snapshots(), synced);
        wire((&handlers, &Traces::default()), &machine, &service, &replicator, reached);
        raft.shutdown().await.expect("Raft stops");
        running.await.expect("it runs to its end");
        machine.close();
        let kept = (Arc::downgrade(&service), Arc::downgrade(&replicator));
        drop((handlers, service, replicator, machine, raft));
        assert!(kept.0.upgrade().is_none(), "the service is gone");
        assert!(kept.1.upgrade().is_none(), "and what it stands on");
    }

    #[tokio::test]
    async fn a_task_that_panics_ends_the_node_with_an_error() {
        let (mut tasks, stop) = (JoinSet::new(), Stop::new());
        tasks.spawn(async {});
        tasks.spawn(async { panic!("planted") });
        tasks.spawn(std::future::pending());
        let ended = attend(&mut tasks, &stop, stop.wait()).await;
        let ended = ended.expect_err("nobody asked for it");
        assert!(stop.is_triggered() && ended.to_string().contains("a task panicked"), "{ended}");
    }

    #[tokio::test]
    async fn a_panic_beside_raft_ends_the_node_with_an_error() {
        let stop = Stop::new();
        let ended = until_stopped(async { panic!("planted") }, stop.clone()).await;
        assert!(ended.is_err() && stop.is_triggered());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_raft_that_ends_by_itself_ends_the_node_with_an_error() {
        let disk = TestDisk::new();
        let Node { raft, machine, replicator, running, .. } = Node::alone(&disk).await;
        let stop = Stop::new();
        let serving = tokio::spawn(run_raft(Arc::clone(&replicator), stop.clone()));
        raft.shutdown().await.expect("Raft stops");
        let ended = serving.await.expect("no panic").expect_err("nobody asked for it");
        assert!(ended.to_string().contains("ended by itself"), "{ended}");
        assert!(stop.is_triggered(), "the rest of the node stops as well");
        running.await.expect("it runs to its end");
        machine.close();
    }
}
