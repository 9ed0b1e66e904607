//! One node: the parts that `src/node.rs` puts together, over the simulated network and disk, in a
//! runtime of its own whose clock the simulation moves. Dropping the runtime is the end of the
//! process; not moving it is a pause.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use oarlock::raft::presence;
use oarlock::raft::replicator::{Parts, RaftReplicator};
use oarlock::raft::settings::{self, Timing};
use oarlock::raft::store::by_hand::{self, HandKeeper};
use oarlock::raft::store::identity::Identity;
use oarlock::raft::store::log::by_hand as log_by_hand;
use oarlock::raft::store::log::by_hand::HandWriter;
use oarlock::raft::store::log::{Fatal, LogOptions, LogStore};
use oarlock::raft::store::machine::{MachineHandle, StateMachine};
use oarlock::raft::transport::inbound::{self, Handlers};
use oarlock::raft::transport::peers::Local;
use oarlock::raft::transport::{NetworkFactory, Peers};
use oarlock::raft::types::{Member, Vote};
use oarlock::service::members::KnownMember;
use oarlock::service::observer::Silent;
use oarlock::service::replicator::Call;
use oarlock::service::replicator::{Replicator, Upcalls};
use oarlock::service::{Options, Service};
use oarlock_core::command::Command;
use oarlock_core::ids::LeaseId;
use openraft::async_runtime::WatchReceiver;
use openraft::storage::RaftLogReader;
use tokio::runtime::{Builder, Handle, RngSeed, Runtime};

use crate::disk::SimDisk;
use crate::evidence::{Evidence, HEALING};
use crate::net::Net;
use crate::random::Random;
use crate::trace::{Trace, lock};
use crate::witness::{Witness, sum_of};

pub(crate) const CLUSTER_ID: u128 = 0x0a71;
/// The longest silence before an election, and how long a leader trusts its quorum.
pub(crate) const ELECTION_MAX_MS: u64 = 1_000;

/// As the sample configuration has it.
const TIMING: Timing = Timing {
    heartbeat_interval_ms: 100,
    election_timeout_min_ms: 500,
    election_timeout_max_ms: ELECTION_MAX_MS,
};

/// What every node is built with.
#[derive(Clone)]
pub(crate) struct Common {
    pub(crate) members: Vec<u64>,
    pub(crate) net: Net,
    pub(crate) trace: Trace,
    pub(crate) witness: Arc<Mutex<Witness>>,
    pub(crate) evidence: Evidence,
    /// Claims that were forwarded: a client names its own anew when it repeats, a node does not.
    pub(crate) forwarded: Arc<Mutex<BTreeSet<LeaseId>>>,
    pub(crate) snapshot_log_entries: u64,
    pub(crate) segment_bytes: u64,
    /// Nodes of another build: the behaviour level that each announces.
    pub(crate) builds: Arc<Mutex<BTreeMap<u64, u16>>>,
}

/// What outlives the process.
pub(crate) struct Machine {
    pub(crate) log: SimDisk,
    pub(crate) snapshots: SimDisk,
    /// The fault for which there is room for the reserve only.
    pub(crate) low_of: Arc<AtomicUsize>,
}

impl Machine {
    pub(crate) fn new(id: u64, common: &Common) -> Self {
        let disk = |id| SimDisk::new(id, common.trace.clone(), common.evidence.clone());
        Self { log: disk(id), snapshots: disk(id + 100), low_of: Arc::default() }
    }

    pub(crate) fn has_room(&self) -> bool {
        self.low_of.load(Ordering::Relaxed) == HEALING
    }
}

/// A running process.
pub(crate) struct Process {
    // Dropped first: the tasks use what follows.
    runtime: Runtime,
    pub(crate) service: Arc<Service<RaftReplicator>>,
    pub(crate) replicator: Arc<RaftReplicator>,
    local: Arc<Local>,
    pub(crate) machine: MachineHandle,
    pub(crate) writer: HandWriter,
    pub(crate) keeper: HandKeeper,
    /// What its disk said that it had voted.
    pub(crate) vote_at_start: Option<Vote>,
    /// Why it ended itself.
    pub(crate) fatal: Arc<Mutex<Option<String>>>,
}

/// A paused runtime of one thread, all of whose chance comes from the seed.
pub(crate) fn runtime(random: &mut Random) -> Runtime {
    let seed = RngSeed::from_bytes(&random.next().to_le_bytes());
    let mut builder = Builder::new_current_thread();
    builder.enable_time().start_paused(true).rng_seed(seed);
    builder.build().expect("a runtime")
}

/// No decision reads it.
fn wall_ms() -> u64 {
    1_800_000_000_000
}

fn member(id: u64) -> Member {
    Member {
        peer_address: format!("node-{id}:1"),
        api_address: format!("node-{id}:2"),
        instance_id: 0x1000 + u128::from(id),
    }
}

/// What a machine says of itself that asks to be a member.
pub(crate) fn known_member(node_id: u64) -> KnownMember {
    let Member { peer_address, api_address, instance_id } = member(node_id);
    KnownMember { node_id, peer_address, api_address, instance_id }
}

/// As of a first member, or as of one that joined.
fn identity(node_id: u64, common: &Common) -> Identity {
    let others = common.members.iter().filter(|id| **id != node_id);
    let members = others.chain([&node_id]).map(|id| (*id, member(*id))).collect();
    Identity { cluster_id: CLUSTER_ID, node_id, members, joined: true, ..Identity::default() }
}

impl Process {
    /// Starts from what the machine has.
    pub(crate) fn start(
        id: u64,
        common: &Common,
        hardware: &Machine,
        mut random: Random,
    ) -> io::Result<Self> {
        let runtime = runtime(&mut random);
        let fatal: Arc<Mutex<Option<String>>> = Arc::default();
        let noted = Arc::clone(&fatal);
        let end: Fatal = Arc::new(move |why: &str| {
            lock(&noted).get_or_insert_with(|| why.to_owned());
        });
        let options = LogOptions { segment_bytes: common.segment_bytes, cache_bytes: 16 * 1024 };
        let files = Arc::new(hardware.log.clone());
        let (mut log, writer) = log_by_hand::open(files, options, Arc::clone(&end))?;
        let vote_at_start = runtime.block_on(log.read_vote())?;
        let files = Arc::new(hardware.snapshots.clone());
        let (state, machine, keeper) = by_hand::open(files, CLUSTER_ID, log.bounds().1, end)?;
        let plan = Plan { id, common, low: Arc::clone(&hardware.low_of), ended: &fatal };
        let parts = (log, state, machine.clone());
        let assembled = runtime.block_on(plan.assemble(parts, &mut random))?;
        let Assembled { service, replicator, local } = assembled;
        Ok(Self {
            runtime,
            service,
            replicator,
            local,
            machine,
            writer,
            keeper,
            vote_at_start,
            fatal,
        })
    }

    /// Lets the node's clock go on by so many milliseconds, and everything happen that is due.
    pub(crate) fn tick(&self, ms: u64) {
        self.runtime.block_on(async { tokio::time::sleep(Duration::from_millis(ms)).await });
    }

    /// The clock went on while nothing happened.
    pub(crate) fn skip(&self, ms: u64) {
        self.runtime.block_on(async { tokio::time::advance(Duration::from_millis(ms)).await });
    }

    /// Offers leadership to another, also to one that is lost just then.
    pub(crate) fn hand_over(&self, to: u64) {
        let replicator = Arc::clone(&self.replicator);
        self.runtime.spawn(async move { replicator.offer(to).await.is_ok() });
    }

    pub(crate) fn handle(&self) -> Handle {
        self.runtime.handle().clone()
    }

    pub(crate) fn serves(&self) -> bool {
        self.replicator.leadership().borrow().serving_here
    }

    /// Proposes something harmless.
    pub(crate) fn propose(&self) {
        let replicator = Arc::clone(&self.replicator);
        self.runtime.spawn(async move { replicator.propose(Command::Advance).await.is_ok() });
    }

    /// Lease time now; only a serving leader has a running clock.
    pub(crate) fn lease_now_us(&self) -> u64 {
        let _inside = self.runtime.enter();
        self.replicator.lease_now().0
    }

    /// Why a peer refused it for good, if one did.
    pub(crate) fn refusal(&self) -> Option<String> {
        self.local.refusal()
    }

    /// Whether a peer told it that it is no member any more.
    pub(crate) fn was_removed(&self) -> bool {
        self.refusal().is_some_and(|why| why.contains("was removed"))
    }

    /// The voters as it knows them, and while they change the old ones, too.
    pub(crate) fn voters(&self) -> Vec<BTreeSet<u64>> {
        let metrics = self.replicator.raft().server_metrics();
        let metrics = metrics.borrow_watched();
        metrics.membership_config.membership().get_joint_config().clone()
    }

    /// Compares a snapshot that is newer than that one with what the log says at its index, and the
    /// machine with it. Answers which is the newest.
    pub(crate) fn compare_snapshot(&self, id: u64, seen: u64, common: &Common) -> u64 {
        let Some(file) = self.machine.snapshots().current() else { return seen };
        let index = file.meta().last_log_id.map_or(0, |id| id.index);
        if index <= seen {
            return seen;
        }
        let mut witness = lock(&common.witness);
        match file.rows().and_then(Iterator::collect::<io::Result<Vec<_>>>) {
            Ok(rows) => witness.compare(id, index, sum_of(rows), "snapshot"),
            Err(error) => witness.complain(format!("snapshot: of node {id}: {error}")),
        }
        witness.look_at_all(id, self.applied_index(), &self.machine);
        common.evidence.reach("a snapshot compared with the log");
        index
    }

    pub(crate) fn applied_index(&self) -> u64 {
        self.machine.with_position(|_, position| position.last_applied.map_or(0, |id| id.index))
    }
}

/// What a node is made of, put together.
struct Assembled {
    service: Arc<Service<RaftReplicator>>,
    replicator: Arc<RaftReplicator>,
    local: Arc<Local>,
}

/// What a node is put together from.
struct Plan<'a> {
    id: u64,
    common: &'a Common,
    low: Arc<AtomicUsize>,
    ended: &'a Arc<Mutex<Option<String>>>,
}

impl Plan<'_> {
    async fn assemble(
        self,
        (log, state, machine): (LogStore, StateMachine, MachineHandle),
        random: &mut Random,
    ) -> io::Result<Assembled> {
        let (id, common) = (self.id, self.common);
        let members: BTreeMap<u64, Member> =
            common.members.iter().map(|id| (*id, member(*id))).collect();
        let addresses = members.iter().map(|(id, it)| (*id, it.peer_address.clone())).collect();
        let local = Local::new(id, addresses, Some(identity(id, common)));
        if let Some(level) = lock(&common.builds).get(&id) {
            local.levels().pretend(*level);
        }
        let peers = Peers::with_connector(Arc::clone(&local), common.net.connector(id));
        let seed = random.next();
        presence::show(&log, Some(machine.snapshots()), &local, seed);
        let synced = log.synced();
        let handlers = Arc::new(Handlers::default());
        let inbound = (Arc::clone(&local), Arc::clone(&handlers));
        tokio::spawn(inbound::listen(common.net.listen(id), inbound.0, inbound.1));
        let network = NetworkFactory(Arc::clone(&peers));
        let every = common.snapshot_log_entries;
        let raft = settings::build((id, seed), TIMING, every, network, (log, state)).await;
        let raft = raft.map_err(io::Error::other)?;
        let (low, evidence) = (self.low, common.evidence.clone());
        let disk_is_low = move || {
            let fault = low.load(Ordering::Relaxed);
            evidence.bite(fault);
            fault != HEALING
        };
        let replicator = RaftReplicator::new(Parts {
            raft: raft.clone(),
            machine: machine.clone(),
            peers,
            cluster_id: CLUSTER_ID,
            node_id: id,
            heartbeat_interval: Duration::from_millis(TIMING.heartbeat_interval_ms),
            election_timeout_min: Duration::from_millis(TIMING.election_timeout_min_ms),
            election_timeout_max: Duration::from_millis(ELECTION_MAX_MS),
            disk_is_low: Box::new(disk_is_low),
            wall_ms,
            observe_commit: Box::new(|_, _| {}),
        });
        let ids = Mutex::new(random.fork());
        let ids = Box::new(move || lock(&ids).next_u128());
        let options = Options::default();
        let service = Service::new(Arc::clone(&replicator), Arc::new(Silent), ids, options);
        wire(id, common, &machine, &service, &replicator, &handlers);
        let _first = handlers.raft.set((raft.clone(), machine.snapshots(), synced));
        settings::run(&raft, random.next()).await;
        if common.members.first() == Some(&id) {
            // Refused when it was done before.
            tokio::spawn(async move { raft.initialize(members).await.is_ok() });
        }
        let (running, ended) = (Arc::clone(&replicator), Arc::clone(self.ended));
        tokio::spawn(async move {
            running.run().await;
            lock(&ended).get_or_insert_with(|| "Raft ended by itself".to_owned());
        });
        let expires = Arc::clone(&service);
        tokio::spawn(async move { expires.expire().await });
        Ok(Assembled { service, replicator, local })
    }
}

fn wire(
    id: u64,
    common: &Common,
    machine: &MachineHandle,
    service: &Arc<Service<RaftReplicator>>,
    replicator: &Arc<RaftReplicator>,
    handlers: &Handlers,
) {
    let upcalls = Arc::clone(service);
    let (witness, looks) = (Arc::clone(&common.witness), machine.clone());
    machine.on_events(Box::new(move |events, outcomes| {
        lock(&witness).applied(id, &looks, &events, outcomes);
        upcalls.applied(events, outcomes);
    }));
    let upcalls = Arc::clone(service);
    let (evidence, forwarded) = (common.evidence.clone(), Arc::clone(&common.forwarded));
    let answer = move |by: Option<String>, call: Call| {
        if lease_of(&call).is_some_and(|lease| !lock(&forwarded).insert(lease)) {
            evidence.reach("a forward that arrived twice");
        }
        Upcalls::call(&*upcalls, by, call)
    };
    let _first = handlers.call.set(Box::new(answer));
    let hears = Arc::clone(replicator);
    let _first = handlers.beacon.set(Box::new(move |beacon| hears.hear(beacon)));
}

/// The claim that a call makes.
fn lease_of(call: &Call) -> Option<LeaseId> {
    match call {
        Call::Propose(Command::Acquire(acquire)) => Some(acquire.lease_id),
        Call::Propose(Command::AcquireMany(many)) => many.claims.first().map(|it| it.lease_id),
        Call::Propose(_)
        | Call::Read(_)
        | Call::Position
        | Call::TransferLeader(_)
        | Call::Members(_)
        | Call::Tokens(_) => None,
    }
}
