//! Clients in a closed loop, and what they must never meet: a call that fails for good, a token that is
//! not above all that were handed out before it was asked for, and two of them in one lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use oarlock_client::Client;
use oarlock_client::wire::{AcquireRequest, TtlMs};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::arrivals::client;

/// How long a client waits for the lock that several of them take in turn.
const WAIT_MS: u64 = 30_000;

/// Clients that take and release locks.
pub(crate) struct Load {
    common: Arc<Common>,
    clients: JoinSet<Result<Vec<Instant>, String>>,
}

/// What all of them know.
#[derive(Default)]
struct Common {
    stop: AtomicBool,
    /// The highest token that anybody was told of.
    highest: AtomicU64,
    /// Whether one of those who take turns believes to hold their lock.
    inside: AtomicBool,
}

impl Load {
    /// The first so many clients take turns at one lock, each of the others has one of its own.
    pub(crate) fn start(endpoints: &[String], clients: u64, taking_turns: u64) -> Self {
        let common = Arc::new(Common::default());
        let mut set = JoinSet::new();
        for number in 0..clients {
            let (shares, common) = (number < taking_turns, Arc::clone(&common));
            set.spawn(work(client(endpoints, number), number, shares, common));
        }
        Self { common, clients: set }
    }

    /// The moments of all grants, sorted; an error if any call failed for good.
    pub(crate) async fn stop(mut self) -> Result<Vec<Instant>, String> {
        self.common.stop.store(true, Ordering::SeqCst);
        let mut grants = Vec::new();
        while let Some(ended) = self.clients.join_next().await {
            grants.extend(ended.map_err(|error| format!("a client failed: {error}"))??);
        }
        grants.sort_unstable();
        Ok(grants)
    }
}

/// The client repeats a call whose answer was lost under the same request id.
async fn work(
    client: Client,
    number: u64,
    shares: bool,
    common: Arc<Common>,
) -> Result<Vec<Instant>, String> {
    let mut grants = Vec::new();
    let name = if shares { "load/turns".to_owned() } else { format!("load/{number}") };
    while !common.stop.load(Ordering::SeqCst) {
        let request = AcquireRequest {
            owner: Some(format!("load-{number}")),
            ttl_ms: TtlMs::Ms(60_000),
            wait_ms: shares.then_some(WAIT_MS),
            ..AcquireRequest::default()
        };
        let before = common.highest.load(Ordering::SeqCst);
        let taken = client.acquire(&name, request).await;
        let (lease, _) = taken.map_err(|error| format!("an acquire failed: {error}"))?;
        grants.push(Instant::now());
        common.granted(before, lease.token, shares)?;
        if shares {
            common.inside.store(false, Ordering::SeqCst);
        }
        let released = client.release(&lease.lease_id).await;
        released.map_err(|error| format!("a release failed: {error}"))?;
    }
    Ok(grants)
}

impl Common {
    /// `before` is the highest token that was known when this one was asked for.
    fn granted(&self, before: u64, token: u64, shares: bool) -> Result<(), String> {
        if token <= before {
            return Err(format!("token {token} was granted after {before}"));
        }
        self.highest.fetch_max(token, Ordering::SeqCst);
        if shares && self.inside.swap(true, Ordering::SeqCst) {
            return Err(format!("token {token} was granted while another held the lock"));
        }
        Ok(())
    }
}

/// The longest time between two grants in a row of which one lies between the moments; without any
/// grant the whole time. The moments of the grants are sorted.
pub(crate) fn longest_gap(grants: &[Instant], from: Instant, to: Instant) -> Duration {
    let first = grants.partition_point(|at| *at < from);
    let inside = grants[first..].iter().take_while(|at| **at <= to);
    let (mut before, mut longest) = (from, Duration::ZERO);
    for at in inside.chain([&to]) {
        longest = longest.max(at.saturating_duration_since(before));
        before = *at;
    }
    longest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_gap_is_between_grants_and_to_both_ends() {
        let zero = Instant::now();
        let at = |ms| zero + Duration::from_millis(ms);
        let grants = [at(10), at(100), at(150), at(500), at(900)];
        let gap = |from, to| longest_gap(&grants, at(from), at(to)).as_millis();
        assert_eq!(gap(0, 1_000), 400);
        assert_eq!(gap(100, 160), 50);
        assert_eq!(gap(600, 800), 200, "nothing at all");
        assert_eq!(gap(0, 120), 90);
    }

    #[test]
    fn a_token_that_is_not_above_those_before_and_a_second_holder_are_told() {
        let common = Common::default();
        assert_eq!(common.granted(0, 7, false), Ok(()));
        assert_eq!(common.granted(3, 5, false), Ok(()), "5 was not told of when it was asked for");
        assert!(common.granted(7, 7, false).is_err());
        assert_eq!(common.granted(7, 8, true), Ok(()));
        assert!(common.granted(8, 9, true).is_err(), "two in one lock");
    }
}
