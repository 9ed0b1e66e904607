//! Clients at work: one file for each kind, all at once on the same few locks, with leases of one to
//! five seconds. Some forget to release or come back too late, so that leases expire by the hundred.

mod calls;
mod exclusive;
mod guarded;
mod locks;
mod looks;
mod many;
mod order;
mod pace;
mod permits;
mod repeats;
mod resource;
mod sessions;
mod shared;
mod tidy_up;
mod values;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use oarlock_client::{Client, Identity, Options};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use self::pace::Pace;
use self::resource::Resource;
use crate::chance::Chance;
use crate::history::History;

pub use self::locks::Locks;
pub use self::tidy_up::{Stuck, every_lock_is_acquirable};

/// Of a call of an impatient client; shorter than most elections.
const IMPATIENT: Duration = Duration::from_millis(800);

/// How long a client that waits waits.
const WAIT_MS: u64 = 5_000;

/// What every sixteen clients do; fewer take the first of these.
const KINDS: [Kind; 16] = [
    Kind::Exclusive,
    Kind::Permits,
    Kind::Order,
    Kind::Looks,
    Kind::Many,
    Kind::Sessions,
    Kind::Guarded,
    Kind::Shared,
    Kind::Repeats,
    Kind::Values,
    Kind::Order,
    Kind::Exclusive,
    Kind::Permits,
    Kind::Many,
    Kind::Order,
    Kind::Exclusive,
];

#[derive(Debug, Clone, Copy)]
enum Kind {
    Exclusive,
    Shared,
    Permits,
    Sessions,
    Order,
    Many,
    Guarded,
    Values,
    Repeats,
    Looks,
}

/// Who works on what.
#[derive(Debug, Clone)]
pub struct Plan {
    pub endpoints: Vec<String>,
    /// Who asks.
    pub identity: Identity,
    pub locks: Locks,
    pub clients: u16,
    /// Calls in a second, of all clients together.
    pub rate: Option<u32>,
    /// What the clients do next depends on it, and so do their request ids: two runs on one cluster
    /// must not have the same.
    pub seed: u64,
    /// Of each call, not counting its wait.
    pub deadline: Duration,
}

impl Plan {
    /// Clients that are held back by nothing, for a cluster of one's own.
    pub fn of_tests(endpoints: &[String], seed: u64) -> Self {
        Self {
            endpoints: endpoints.to_vec(),
            identity: Identity::default(),
            locks: Locks::new("jepsen/", 24),
            clients: 24,
            rate: None,
            seed,
            deadline: Duration::from_secs(30),
        }
    }
}

pub struct Workload {
    stop: Arc<AtomicBool>,
    clients: JoinSet<()>,
    origin: Instant,
    history: Arc<History>,
}

/// What each client works with.
struct Worker {
    clients: Vec<Client>,
    locks: Locks,
    chance: Chance,
    origin: Instant,
    history: Arc<History>,
    resource: Arc<Resource>,
    pace: Option<Arc<Pace>>,
    stop: Arc<AtomicBool>,
    seed: u64,
    number: u64,
    /// Numbers given to requests, sessions and values.
    given: AtomicU64,
}

impl Worker {
    fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// A number that no other request, session or value has, and never zero.
    fn next_number(&self) -> u64 {
        (self.number + 1) << 32 | self.given.fetch_add(1, Ordering::Relaxed)
    }

    fn some_ttl_ms(&mut self) -> u64 {
        1_000 + 500 * self.chance.below(9)
    }

    /// One of so many, once in a while.
    fn once_in(&mut self, count: u64) -> bool {
        self.chance.below(count) == 0
    }

    async fn sleep_below(&mut self, ms: u64) {
        let pause = Duration::from_millis(self.chance.below(ms));
        tokio::time::sleep(pause).await;
    }

    /// Waits for a slot, if the rate of calls is bounded.
    async fn turn(&self) {
        if let Some(pace) = &self.pace {
            sleep_until(pace.slot()).await;
        }
    }

    /// Counts a call that must not wait, such as a release.
    fn count(&self) {
        if let Some(pace) = &self.pace {
            let _taken = pace.slot();
        }
    }
}

impl Workload {
    pub fn start(plan: &Plan, history: &Arc<History>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let resource = Arc::new(Resource::default());
        let pace = plan.rate.map(|rate| Arc::new(Pace::new(rate)));
        let origin = Instant::now();
        let mut clients = JoinSet::new();
        for number in 0..u64::from(plan.clients) {
            let worker = Worker {
                clients: clients_of(plan, number),
                locks: plan.locks.clone(),
                chance: Chance::new(plan.seed ^ (number + 1) << 32),
                origin,
                history: Arc::clone(history),
                resource: Arc::clone(&resource),
                pace: pace.clone(),
                stop: Arc::clone(&stop),
                seed: plan.seed,
                number,
                given: AtomicU64::new(1),
            };
            let kind = KINDS[usize::try_from(number).unwrap_or(0) % KINDS.len()];
            clients.spawn(work(kind, worker));
        }
        Self { stop, clients, origin, history: Arc::clone(history) }
    }

    /// On the clock of the history.
    pub fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    /// Lets every client finish what it does.
    pub async fn stop(mut self, patience: Duration) -> Result<(), String> {
        self.stop.store(true, Ordering::Relaxed);
        self.history.stops(self.now());
        let ends = async {
            while let Some(ended) = self.clients.join_next().await {
                ended.map_err(|error| format!("a client of the harness failed: {error}"))?;
            }
            Ok(())
        };
        let late = |_| Err(format!("a client did not end within {patience:?}"));
        timeout(patience, ends).await.unwrap_or_else(late)
    }
}

async fn work(kind: Kind, worker: Worker) {
    match kind {
        Kind::Exclusive => exclusive::run(worker).await,
        Kind::Shared => shared::run(worker).await,
        Kind::Permits => permits::run(worker).await,
        Kind::Sessions => sessions::run(worker).await,
        Kind::Order => order::run(worker).await,
        Kind::Many => many::run(worker).await,
        Kind::Guarded => guarded::run(worker).await,
        Kind::Values => values::run(worker).await,
        Kind::Repeats => repeats::run(worker).await,
        Kind::Looks => looks::run(worker).await,
    }
}

/// Two clients that begin at different nodes. Every third pair is impatient: it gives up where the
/// others ask again until they know, and so leaves calls of unknown outcome behind.
fn clients_of(plan: &Plan, number: u64) -> Vec<Client> {
    let is_impatient = number % 3 == 2;
    let deadline = if is_impatient { plan.deadline.min(IMPATIENT) } else { plan.deadline };
    let first = usize::try_from(number).unwrap_or(0);
    (first..first + 2)
        .map(|shift| {
            let mut endpoints = plan.endpoints.clone();
            let shift = shift % endpoints.len().max(1);
            endpoints.rotate_left(shift);
            let identity = plan.identity.clone();
            Client::new(Options { endpoints, deadline, identity })
        })
        .collect()
}
