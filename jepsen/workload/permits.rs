//! Permits: some of a few, sometimes all of them, which small requests must not overtake (P1, P8).

use super::Worker;

pub(super) async fn run(mut worker: Worker) {
    while worker.goes_on() {
        let ask = worker.locks.permits(&mut worker.chance);
        let wanted = worker.wants(vec![ask]);
        let Some(mut held) = worker.acquire(0, &wanted).await else { continue };
        worker.sleep_below(150).await;
        if worker.once_in(3) {
            worker.renew(&mut held).await;
        }
        worker.leaves(held).await;
    }
}
