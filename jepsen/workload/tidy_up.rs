//! After the work: every lock can be taken, and nothing is left of it.

use std::time::Duration;

use oarlock_client::wire::{AcquireRequest, TtlMs};
use oarlock_client::{Client, ClientError, Options};

use super::Plan;

/// Longer than any lease of ours lives, and than an election takes.
const WAIT_MS: u64 = 30_000;
const DEADLINE: Duration = Duration::from_secs(30);

/// Why the locks could not be taken.
#[derive(Debug)]
pub enum Stuck {
    /// The cluster answered, and it was no: nothing may stay that nobody holds.
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
    let options = Options { endpoints: plan.endpoints.clone(), deadline: DEADLINE };
    let client = Client::new(options);
    for name in plan.locks.names() {
        clear(&client, &name).await.map_err(|error| match error {
            ClientError::Refused(_) => Stuck::Held(format!("{name} is stuck: {error}")),
            ClientError::Unreachable(_) | ClientError::Unknown(_) | ClientError::Protocol(_) => {
                Stuck::Unreachable(format!("{name}: {error}"))
            }
        })?;
    }
    Ok(())
}

async fn clear(client: &Client, name: &str) -> Result<(), ClientError> {
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
