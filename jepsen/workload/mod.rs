//! Clients under faults: one file for each kind, all at once on the same few locks, with leases
//! of one to three seconds. Some forget to release, so that leases expire under the faults.

mod exclusive;
mod looks;
mod repeats;
mod resource;
mod sessions;
mod shared;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use oarlock_client::wire::{self, AcquireRequest, TtlMs};
use oarlock_client::{Client, ClientError, Options, Trust};
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::resource::Resource;
use crate::Chance;
use crate::history::{Claim, History, Mode};

/// Clients of each kind.
const EXCLUSIVE: u64 = 6;
const SHARED: u64 = 3;
const SESSIONS: u64 = 3;
const REPEATS: u64 = 2;
const LOOKS: u64 = 2;

const LOCKS: u64 = 10;
const WAIT_MS: u64 = 5_000;

fn name(lock: u64) -> String {
    format!("jepsen/{lock}")
}

/// The locks that all clients work on.
pub(crate) fn names() -> impl Iterator<Item = String> {
    (0..LOCKS).map(name)
}

pub(crate) struct Workload {
    stop: Arc<AtomicBool>,
    clients: JoinSet<()>,
}

/// What each client works with.
struct Worker {
    clients: Vec<Client>,
    chance: Chance,
    origin: Instant,
    history: Arc<History>,
    resource: Arc<Resource>,
    stop: Arc<AtomicBool>,
    number: u64,
    round: u64,
}

impl Worker {
    fn client(&self) -> &Client {
        &self.clients[0]
    }

    fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// A number that no other request has.
    fn next_request(&mut self) -> u64 {
        self.round += 1;
        self.number << 32 | self.round
    }

    fn some_lock(&mut self) -> String {
        name(self.chance.below(LOCKS))
    }

    fn some_ttl_ms(&mut self) -> u64 {
        1_000 + 500 * self.chance.below(5)
    }
}

impl Workload {
    pub(crate) fn start(endpoints: &[String], seed: u64, history: &Arc<History>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let resource = Arc::new(Resource::default());
        let origin = Instant::now();
        let mut clients = JoinSet::new();
        for number in 0..EXCLUSIVE + SHARED + SESSIONS + REPEATS + LOOKS {
            let worker = Worker {
                clients: clients_of(endpoints, number),
                chance: Chance::new(seed ^ (number + 1) << 32),
                origin,
                history: Arc::clone(history),
                resource: Arc::clone(&resource),
                stop: Arc::clone(&stop),
                number,
                round: 0,
            };
            let mut kind = number;
            let mut is = |count: u64| {
                let yes = kind < count;
                kind = kind.wrapping_sub(count);
                yes
            };
            if is(EXCLUSIVE) {
                clients.spawn(exclusive::run(worker));
            } else if is(SHARED) {
                clients.spawn(shared::run(worker));
            } else if is(SESSIONS) {
                clients.spawn(sessions::run(worker));
            } else if is(REPEATS) {
                clients.spawn(repeats::run(worker));
            } else {
                clients.spawn(looks::run(worker));
            }
        }
        Self { stop, clients }
    }

    /// Lets every client finish what it does.
    pub(crate) async fn stop(mut self) -> Result<(), String> {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.clients.join_next().await {
            ended.map_err(|error| format!("a client of the harness failed: {error}"))?;
        }
        Ok(())
    }
}

/// Two clients that begin at different nodes.
fn clients_of(endpoints: &[String], number: u64) -> Vec<Client> {
    let first = usize::try_from(number).unwrap_or(0);
    (first..first + 2)
        .map(|shift| {
            let mut endpoints = endpoints.to_vec();
            let shift = shift % endpoints.len();
            endpoints.rotate_left(shift);
            Client::new(Options { endpoints, deadline: Duration::from_secs(30) })
        })
        .collect()
}

fn body(request: u64, mode: Mode, ttl_ms: u64) -> AcquireRequest {
    let mode = match mode {
        Mode::Exclusive => wire::Mode::Exclusive,
        Mode::Shared => wire::Mode::Shared,
    };
    AcquireRequest {
        owner: Some(format!("request-{request:x}")),
        ttl_ms: TtlMs::Ms(ttl_ms),
        mode: Some(mode),
        wait_ms: Some(WAIT_MS),
        // The client makes an id of its own, and then knows when it was first used.
        request_id: None,
        ..AcquireRequest::default()
    }
}

/// What a client knows after its acquire returned.
struct Answer {
    claim: Claim,
    /// The lease id and for how long to believe, if it was granted.
    held: Option<(String, Trust)>,
}

/// Acquires; `None` after a definite refusal, which proves nothing.
async fn acquire(
    worker: &Worker,
    client: &Client,
    name: &str,
    (request, mode): (u64, Mode),
    body: AcquireRequest,
) -> Option<Answer> {
    let ttl_ms = if let TtlMs::Ms(ms) = body.ttl_ms { ms } else { 0 };
    let called_at = worker.now();
    let result = client.acquire(name, body).await;
    let returned_at = worker.now();
    let claim = |token, waited_ms: u64| Claim {
        name: name.to_owned(),
        mode,
        request,
        called_at,
        returned_at,
        token,
        believed_until: returned_at,
        released_at: None,
        expires_from: called_at + Duration::from_millis(waited_ms + ttl_ms - ttl_ms / 100),
    };
    match result {
        Ok((lease, trust)) => {
            let mut claim = claim(Some(lease.token), lease.waited_ms);
            claim.believes(worker.now(), trust.left());
            Some(Answer { claim, held: Some((lease.lease_id, trust)) })
        }
        Err(ClientError::Unknown(_)) => Some(Answer { claim: claim(None, 0), held: None }),
        Err(ClientError::Refused(_) | ClientError::Unreachable(_) | ClientError::Protocol(_)) => {
            None
        }
    }
}

/// After healing nothing is stuck.
pub(crate) async fn every_lock_is_acquirable(endpoints: &[String]) -> Result<(), String> {
    let options = Options { endpoints: endpoints.to_vec(), deadline: Duration::from_secs(30) };
    let client = Client::new(options);
    for lock in 0..LOCKS {
        let name = name(lock);
        let last = (1 << 47) + lock;
        let request =
            AcquireRequest { wait_ms: Some(30_000), ..body(last, Mode::Exclusive, 1_000) };
        let (lease, _) =
            client.acquire(&name, request).await.map_err(|e| format!("{name} is stuck: {e}"))?;
        client.release(&lease.lease_id).await.map_err(|e| format!("{name}: {e}"))?;
    }
    Ok(())
}
