//! The same request at two nodes at once, as a proxy or an impatient client would: one effect (P7).

use super::Worker;

pub(super) async fn run(mut worker: Worker) {
    while worker.goes_on() {
        let ask = match worker.chance.below(3) {
            0 => worker.locks.permits(&mut worker.chance),
            1 => worker.locks.shared(&mut worker.chance),
            _ => worker.locks.exclusive(&mut worker.chance),
        };
        let mut wanted = worker.wants(vec![ask]);
        wanted.names_request = true;
        let answers = tokio::join!(worker.acquire(0, &wanted), worker.acquire(1, &wanted));
        // Both have the same lease.
        let Some(held) = answers.0.or(answers.1) else { continue };
        worker.sleep_below(40).await;
        if worker.once_in(4) {
            // And once more, while it is held.
            worker.acquire(1, &wanted).await;
        }
        worker.leaves(held).await;
    }
}
