//! After the work: every lock can be taken, and nothing is left of it.

use std::time::Duration;

use oarlock_client::wire::{AcquireRequest, TtlMs};
use oarlock_client::{Client, ClientError, Options};

use super::Plan;

/// Longer than any lease of ours lives, and than an election takes.
const WAIT_MS: u64 = 30_000;
const DEADLINE: Duration = Duration::from_secs(30);
const TRIES: usize = 3;

/// Why the locks could not be taken.
#[derive(Debug)]
pub enum Stuck {
    /// Somebody is in the way: nothing may stay that nobody holds.
    Held(String),
    /// No answer came.
    Unreachable(String),
}

impl std::fmt::Display for Stuck {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Self::Held(why) | Self::Unreachable(why)) = self;
        f.write_str(why)
    }
}

/// Takes each lock, deletes the value that it carries, and releases it.
pub async fn every_lock_is_acquirable(plan: &Plan) -> Result<(), Stuck> {
    let options = Options {
        endpoints: plan.endpoints.clone(),
        deadline: DEADLINE,
        identity: plan.identity.clone(),
    };
    let client = Client::new(options);
    for name in plan.locks.names() {
        clear(&client, &name).await?;
    }
    Ok(())
}

/// Tries again when the cluster was away for so long that the lease ended meanwhile.
async fn clear(client: &Client, name: &str) -> Result<(), Stuck> {
    let mut why = String::new();
    for _ in 0..TRIES {
        match take_and_release(client, name).await {
            Ok(()) => return Ok(()),
            Err(ClientError::Refused(problem)) if is_held(&problem.kind) => {
                return Err(Stuck::Held(format!("{name} is stuck: {}", problem.detail)));
            }
            Err(error) => why = format!("{name}: {error}"),
        }
    }
    Err(Stuck::Unreachable(why))
}

/// Nobody of ours holds anything any more: whoever is in the way is there wrongly.
fn is_held(kind: &str) -> bool {
    kind == "wait-timeout" || kind == "lock-held"
}

async fn take_and_release(client: &Client, name: &str) -> Result<(), ClientError> {
    let request = AcquireRequest {
        owner: Some("who clears up".to_owned()),
        ttl_ms: TtlMs::Ms(10_000),
        wait_ms: Some(WAIT_MS),
        ..AcquireRequest::default()
    };
    let (lease, _) = client.acquire(name, request).await?;
    client.delete_value(name, &lease.lease_id).await?;
    client.release(&lease.lease_id).await.map(drop)
}
