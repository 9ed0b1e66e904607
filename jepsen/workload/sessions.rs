//! Sessions: a lease lives as long as its session, which is renewed for a while and then left.

use std::time::Duration;

use oarlock_client::wire::{AcquireRequest, SessionRequest, TtlMs};

use super::{Worker, acquire, body};
use crate::history::Mode;

pub(super) async fn run(mut worker: Worker) {
    while worker.goes_on() {
        let ttl_ms = worker.some_ttl_ms();
        let open = SessionRequest {
            owner: format!("session of {}", worker.number),
            ttl_ms,
            request_id: None,
            metadata: None,
        };
        let opened_at = worker.now();
        let Ok(session) = worker.client().open_session(open).await else { continue };
        // From the last renewal that was heard of, which may be the opening.
        let mut lives_until = opened_at + guaranteed(ttl_ms);
        for _ in 0..=worker.chance.below(3) {
            hold(&mut worker, &session.session_id, lives_until).await;
            let called_at = worker.now();
            match worker.client().renew_session(&session.session_id).await {
                Ok(_) => lives_until = called_at + guaranteed(ttl_ms),
                Err(_) => break,
            }
        }
        if worker.chance.below(2) == 0 {
            let _lost = worker.client().close_session(&session.session_id).await;
        }
    }
}

/// What a client may believe of a TTL.
fn guaranteed(ttl_ms: u64) -> Duration {
    Duration::from_millis(ttl_ms - ttl_ms / 100).saturating_sub(Duration::from_millis(50))
}

/// Takes one lock under the session and gives it back while the session is believed to live.
async fn hold(worker: &mut Worker, session_id: &str, lives_until: Duration) {
    let (name, request) = (worker.some_lock(), worker.next_request());
    let request_body = AcquireRequest {
        ttl_ms: TtlMs::Absent,
        session_id: Some(session_id.to_owned()),
        wait_ms: Some(500),
        ..body(request, Mode::Exclusive, 0)
    };
    let asked = (request, Mode::Exclusive);
    let Some(answer) = acquire(worker, worker.client(), &name, asked, request_body).await else {
        return;
    };
    let mut claim = answer.claim;
    let Some((lease_id, _)) = answer.held else { return worker.history.claim(claim) };
    // A session may end with its TTL even if the lease came late in it.
    claim.expires_from = lives_until;
    let pause = Duration::from_millis(worker.chance.below(80));
    tokio::time::sleep(pause.min(lives_until.saturating_sub(worker.now()))).await;
    claim.releases(worker.now());
    worker.history.claim(claim);
    let _lost = worker.client().release(&lease_id).await;
}
