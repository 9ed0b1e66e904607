//! Queue order: a few clients that nearly always stand in one queue, and look at it while others
//! wait, so that the history shows who stood before whom (P8).

use super::{WAIT_MS, Worker};

pub(super) async fn run(mut worker: Worker) {
    while worker.goes_on() {
        let ask = worker.locks.queue(&mut worker.chance);
        let lock = ask.lock.clone();
        worker.look(1, &lock).await;
        let mut wanted = worker.wants(vec![ask]);
        wanted.wait_ms = WAIT_MS;
        let Some(held) = worker.acquire(0, &wanted).await else { continue };
        worker.sleep_below(30).await;
        // While it holds, the others stand in the queue.
        worker.look(1, &lock).await;
        if worker.once_in(16) {
            worker.history.left();
        } else {
            worker.release(held).await;
        }
    }
}
