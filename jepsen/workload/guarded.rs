//! A guarded resource and clients that are late: they are held up for longer than their lease, as by
//! a pause of the process, and write all the same. The resource refuses them by their token, the
//! fence says that it is stale, and a late release does no harm to whoever holds by then.

use std::time::Duration;

use super::Worker;

pub(super) async fn run(mut worker: Worker) {
    while worker.goes_on() {
        let ask = worker.locks.exclusive(&mut worker.chance);
        let wanted = worker.wants(vec![ask]);
        let Some(held) = worker.acquire(0, &wanted).await else { continue };
        let Some(lease) = held.leases.first().cloned() else { continue };
        worker.fence(&lease).await;
        worker.write(&held);
        if worker.once_in(3) {
            worker.history.left();
            let late = Duration::from_millis(worker.chance.below(400));
            tokio::time::sleep(held.trust.left().unwrap_or_default() + late).await;
            worker.fence(&lease).await;
            worker.write(&held);
        }
        worker.release(held).await;
    }
}
