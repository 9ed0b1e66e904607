//! E: at the same applied entry every node knows the same of every lock: who holds it and who waits,
//! its value, its newest token, and who held it before, how long, and how that ended (F19). Asked
//! once while some locks are held that nothing ends, and once more when all is released.

use std::time::Duration;

use oarlock_client::wire::{AcquireRequest, History, Lock, Mode, TtlMs};
use oarlock_client::{Client, ClientError, Options};

use crate::cluster::Cluster;

/// Grants of each lock that the nodes must remember alike.
const PAST_SHOWN: u32 = 100;

/// Tries, and the pause between two: what is left of the clients has to end meanwhile.
const TRIES_MAX: usize = 300;
const TRY_PAUSE: Duration = Duration::from_millis(100);

const DEADLINE: Duration = Duration::from_secs(30);
/// Longer than any lease that the clients left.
const WAIT_MS: u64 = 30_000;

/// What one node knows.
#[derive(Debug, PartialEq, Eq)]
struct Knows {
    applied_index: u64,
    /// Nothing was applied while it was asked.
    stood_still: bool,
    /// All names, on all pages.
    names: Vec<String>,
    locks: Vec<Lock>,
    pasts: Vec<History>,
}

impl Cluster {
    /// Whether all nodes come to know the same of these locks, while some are held and thereafter.
    pub(crate) async fn agrees_with_holders(&self, names: &[String]) -> Result<(), String> {
        let options =
            Options { endpoints: self.endpoints(), deadline: DEADLINE, ..Options::default() };
        let client = Client::new(options);
        let mut leases = Vec::new();
        for (at, name) in names.iter().enumerate() {
            leases.extend(hold(&client, name, at).await.map_err(|why| format!("{name}: {why}"))?);
        }
        self.agrees(names).await.map_err(|why| format!("while some are held: {why}"))?;
        for lease in leases {
            client.release(&lease).await.map_err(|why| format!("release what is held: {why}"))?;
        }
        Ok(())
    }

    /// Whether all nodes come to know the same of these locks, and of whether there are others.
    pub(crate) async fn agrees(&self, names: &[String]) -> Result<(), String> {
        let mut why = String::new();
        for _ in 0..TRIES_MAX {
            match self.all_know(names).await {
                Ok(seen) if are_the_same(&seen) => return Ok(()),
                Ok(seen) => why = difference(&seen),
                // One that hung or lost its leader for a moment is asked again.
                Err(error) => why = error.to_string(),
            }
            tokio::time::sleep(TRY_PAUSE).await;
        }
        Err(format!("the nodes do not come to agree: {why}"))
    }

    async fn all_know(&self, names: &[String]) -> Result<Vec<Knows>, ClientError> {
        let mut seen = Vec::new();
        for node in self.members() {
            seen.push(knows(&self.client(node), names).await?);
        }
        Ok(seen)
    }
}

async fn knows(client: &Client, names: &[String]) -> Result<Knows, ClientError> {
    let before = client.cluster().await?.applied_index;
    let (mut found, mut cursor) = (Vec::new(), None);
    loop {
        let page = client.list_stale("", cursor.as_deref()).await?;
        found.extend(page.locks.into_iter().map(|lock| lock.lock));
        cursor = page.cursor;
        if cursor.is_none() {
            break;
        }
    }
    let (mut locks, mut pasts) = (Vec::new(), Vec::new());
    for name in names {
        locks.push(without_times(client.inspect(name, true).await?));
        pasts.push(client.history_stale(name, PAST_SHOWN).await?);
    }
    let applied_index = client.cluster().await?.applied_index;
    let stood_still = before == applied_index;
    Ok(Knows { applied_index, stood_still, names: found, locks, pasts })
}

fn are_the_same(seen: &[Knows]) -> bool {
    seen.iter().all(|known| known.stood_still && known == &seen[0])
}

/// What depends on the moment of the question is taken away.
fn without_times(mut lock: Lock) -> Lock {
    for holder in &mut lock.holders {
        (holder.held_ms, holder.renewed_ms_ago) = (0, 0);
        holder.remaining_ms = holder.remaining_ms.map(|_| 0);
    }
    for waiter in &mut lock.waiters {
        waiter.waiting_ms = 0;
    }
    (lock.staleness_ms, lock.why) = (None, None);
    lock
}

fn difference(seen: &[Knows]) -> String {
    let indexes: Vec<u64> = seen.iter().map(|known| known.applied_index).collect();
    let first = &seen[0];
    let lock = first.locks.iter().find(|lock| !seen.iter().all(|it| it.locks.contains(lock)));
    let past = first.pasts.iter().find(|past| !seen.iter().all(|it| it.pasts.contains(past)));
    format!("applied {indexes:?}, first lock: {lock:?}, first past: {past:?}")
}

/// Takes a lock for ever, every third one alone and with a value, the others together with somebody
/// else; those that are held by permits by two of three.
async fn hold(client: &Client, name: &str, at: usize) -> Result<Vec<String>, ClientError> {
    let request = AcquireRequest {
        owner: Some("who compares".to_owned()),
        ttl_ms: TtlMs::Forever,
        wait_ms: Some(WAIT_MS),
        ..AcquireRequest::default()
    };
    if name.contains("permits") {
        let (mode, permits, limit) = (Some(Mode::Permits), Some(2), Some(3));
        let request = AcquireRequest { mode, permits, limit, ..request };
        return Ok(vec![client.acquire(name, request).await?.0.lease_id]);
    }
    if at.is_multiple_of(3) {
        let lease = client.acquire(name, request).await?.0.lease_id;
        client.set_value(name, &lease, "0").await?;
        return Ok(vec![lease]);
    }
    let request = AcquireRequest { mode: Some(Mode::Shared), ..request };
    let one = client.acquire(name, request.clone()).await?.0.lease_id;
    Ok(vec![one, client.acquire(name, request).await?.0.lease_id])
}
