//! Readers that hold the exclusive clients' locks together.

use std::time::Duration;

use super::{Worker, acquire, body};
use crate::history::Mode;

pub(super) async fn run(mut worker: Worker) {
    while worker.goes_on() {
        let (name, request, ttl_ms) =
            (worker.some_lock(), worker.next_request(), worker.some_ttl_ms());
        let request_body = body(request, Mode::Shared, ttl_ms);
        let asked = (request, Mode::Shared);
        let answer = acquire(&worker, worker.client(), &name, asked, request_body).await;
        let Some(answer) = answer else { continue };
        let mut claim = answer.claim;
        let Some((lease_id, _)) = answer.held else {
            worker.history.claim(claim);
            continue;
        };
        tokio::time::sleep(Duration::from_millis(worker.chance.below(100))).await;
        claim.releases(worker.now());
        worker.history.claim(claim);
        let _lost = worker.client().release(&lease_id).await;
    }
}
