//! Clients that take and release exclusive locks with short leases. Some forget to release, so
//! that leases expire under the faults.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use oarlock_client::wire::{AcquireRequest, TtlMs};
use oarlock_client::{Client, ClientError, Options};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::Chance;
use crate::history::{Claim, History};

const CLIENTS: u64 = 8;
const LOCKS: u64 = 4;
const TTL_MS: u64 = 2_000;
const WAIT_MS: u64 = 5_000;

pub(crate) struct Workload {
    stop: Arc<AtomicBool>,
    clients: JoinSet<()>,
}

impl Workload {
    pub(crate) fn start(endpoints: &[String], seed: u64, history: &Arc<History>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let origin = Instant::now();
        let mut clients = JoinSet::new();
        for number in 0..CLIENTS {
            let mut endpoints = endpoints.to_vec();
            let shift = usize::try_from(number).unwrap_or(0) % endpoints.len();
            endpoints.rotate_left(shift);
            let client = Client::new(Options { endpoints, deadline: Duration::from_secs(30) });
            let (stop, history) = (Arc::clone(&stop), Arc::clone(history));
            let mut chance = Chance::new(seed ^ (number + 1) << 32);
            clients.spawn(async move {
                let mut round = 0;
                while !stop.load(Ordering::Relaxed) {
                    round += 1;
                    let request = number << 32 | round;
                    one(&client, request, &mut chance, origin, &history).await;
                }
            });
        }
        Self { stop, clients }
    }

    pub(crate) async fn stop(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        while self.clients.join_next().await.is_some() {}
    }
}

async fn one(
    client: &Client,
    request: u64,
    chance: &mut Chance,
    origin: Instant,
    history: &History,
) {
    let name = format!("jepsen/{}", chance.below(LOCKS));
    let called_at = origin.elapsed();
    let result = client.acquire(&name, body(request)).await;
    let returned_at = origin.elapsed();
    let claim = |token, believed_until| Claim {
        name: name.clone(),
        request,
        called_at,
        returned_at,
        token,
        believed_until,
    };
    let (lease, trust) = match result {
        Ok(granted) => granted,
        Err(ClientError::Unknown(_)) => return history.record(claim(None, returned_at)),
        Err(ClientError::Refused(_) | ClientError::Unreachable(_) | ClientError::Protocol(_)) => {
            return;
        }
    };
    let trusted = trust.left().unwrap_or_default();
    let hold = Duration::from_millis(chance.below(100)).min(trusted);
    tokio::time::sleep(hold).await;
    let forgets = chance.below(10) == 0;
    let believed_until = if forgets { returned_at + trusted } else { origin.elapsed() };
    history.record(claim(Some(lease.token), believed_until.min(returned_at + trusted)));
    if !forgets {
        // Lost releases are fine: the lease ends by its TTL.
        let _lost = client.release(&lease.lease_id).await;
    }
}

fn body(request: u64) -> AcquireRequest {
    AcquireRequest {
        owner: Some(format!("request-{request:x}")),
        ttl_ms: TtlMs::Ms(TTL_MS),
        wait_ms: Some(WAIT_MS),
        ..AcquireRequest::default()
    }
}

/// After healing nothing is stuck.
pub(crate) async fn every_lock_is_acquirable(endpoints: &[String]) -> Result<(), String> {
    let options = Options { endpoints: endpoints.to_vec(), deadline: Duration::from_secs(30) };
    let client = Client::new(options);
    for lock in 0..LOCKS {
        let name = format!("jepsen/{lock}");
        let request = AcquireRequest { wait_ms: Some(30_000), ..body(u64::MAX) };
        let (lease, _) =
            client.acquire(&name, request).await.map_err(|e| format!("{name} is stuck: {e}"))?;
        client.release(&lease.lease_id).await.map_err(|e| format!("{name}: {e}"))?;
    }
    Ok(())
}
