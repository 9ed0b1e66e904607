//! The same request at two nodes at once, as a proxy or an impatient client would: one effect (P7).

use super::{Worker, acquire, body};
use crate::history::Mode;

pub(super) async fn run(mut worker: Worker) {
    while worker.goes_on() {
        let (name, request, ttl_ms) =
            (worker.some_lock(), worker.next_request(), worker.some_ttl_ms());
        let ask = |client| {
            let mut body = body(request, Mode::Exclusive, ttl_ms);
            body.request_id = Some(format!("00000000-0000-4000-8000-{request:012x}"));
            acquire(&worker, client, &name, (request, Mode::Exclusive), body)
        };
        let answers = tokio::join!(ask(&worker.clients[0]), ask(&worker.clients[1]));
        let mut lease = None;
        let released_at = Some(worker.now());
        for answer in [answers.0, answers.1].into_iter().flatten() {
            let mut claim = answer.claim;
            // The repeat's call may be the later one; only the first counts for expiry and
            // belief, and which that was only the cluster knows.
            claim.expires_from = claim.returned_at;
            claim.believed_until = claim.returned_at;
            if let Some((lease_id, _)) = answer.held {
                claim.released_at = released_at;
                lease = Some(lease_id);
            }
            worker.history.claim(claim);
        }
        if let Some(lease_id) = lease {
            let _lost = worker.client().release(&lease_id).await;
        }
    }
}
