//! Exclusive locks: holders write to the guarded resource as long as they believe, some renew,
//! some forget to release.

use std::time::Duration;

use oarlock_client::Trust;

use super::{Worker, acquire, body};
use crate::history::{Claim, Mode, Stranded};

pub(super) async fn run(mut worker: Worker) {
    while worker.goes_on() {
        one(&mut worker).await;
    }
}

async fn one(worker: &mut Worker) {
    let (name, request, ttl_ms) = (worker.some_lock(), worker.next_request(), worker.some_ttl_ms());
    let request_body = body(request, Mode::Exclusive, ttl_ms);
    let asked = (request, Mode::Exclusive);
    let Some(answer) = acquire(worker, worker.client(), &name, asked, request_body).await else {
        return;
    };
    let mut claim = answer.claim;
    let Some((lease_id, mut trust)) = answer.held else { return worker.history.claim(claim) };
    for _ in 0..worker.chance.below(4) {
        let pause = Duration::from_millis(worker.chance.below(60));
        tokio::time::sleep(pause).await;
        write(worker, &claim, &trust);
        if worker.chance.below(3) == 0 {
            let called_at = worker.now();
            if let Ok((lease, renewed)) = worker.client().renew(&lease_id).await {
                trust = renewed;
                claim.believes(worker.now(), trust.left());
                let ttl_ms = lease.ttl_ms.unwrap_or(0);
                claim.expires_from = called_at + Duration::from_millis(ttl_ms - ttl_ms / 100);
            }
        }
    }
    if worker.chance.below(4) == 0 {
        // Forgotten: the lease ends by its TTL.
        return worker.history.claim(claim);
    }
    claim.releases(worker.now());
    worker.history.claim(claim);
    // A lost release is fine: the lease ends by its TTL.
    let _lost = worker.client().release(&lease_id).await;
}

/// Writes if the client still believes; a refusal then is a violation.
fn write(worker: &Worker, claim: &Claim, trust: &Trust) {
    let believes = || trust.left().is_none_or(|left| !left.is_zero());
    let Some(token) = claim.token else { return };
    if !believes() {
        return;
    }
    if let Err(highest) = worker.resource.write(&claim.name, token) {
        // Asked again: the belief may have ended between the two.
        if believes() {
            let at = worker.now();
            worker.history.stranded(Stranded { name: claim.name.clone(), token, highest, at });
        }
    }
}
