//! Values: a holder writes what its successor and everybody else reads, and some writers come late.

use std::time::Duration;

use super::Worker;

pub(super) async fn run(mut worker: Worker) {
    while worker.goes_on() {
        let ask = worker.locks.exclusive(&mut worker.chance);
        let lock = ask.lock.clone();
        let wanted = worker.wants(vec![ask]);
        let Some(held) = worker.acquire(0, &wanted).await else {
            worker.get_value(1, &lock).await;
            continue;
        };
        for _ in 0..=worker.chance.below(2) {
            worker.set_value(&held, worker.next_number()).await;
            worker.get_value(1, &lock).await;
        }
        if worker.once_in(8) {
            worker.history.left();
            let late = Duration::from_millis(worker.chance.below(200));
            tokio::time::sleep(held.trust.left().unwrap_or_default() + late).await;
            worker.set_value(&held, worker.next_number()).await;
        }
        worker.release(held).await;
    }
}
