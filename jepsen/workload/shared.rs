//! Readers that hold the exclusive clients' locks together.

use super::Worker;

pub(super) async fn run(mut worker: Worker) {
    while worker.goes_on() {
        let ask = worker.locks.shared(&mut worker.chance);
        let wanted = worker.wants(vec![ask]);
        let Some(held) = worker.acquire(0, &wanted).await else { continue };
        worker.sleep_below(100).await;
        worker.leaves(held).await;
    }
}
