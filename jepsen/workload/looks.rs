//! Linearizable reads at every node, of locks and of their values.

use super::Worker;

pub(super) async fn run(mut worker: Worker) {
    while worker.goes_on() {
        let lock = worker.locks.any(&mut worker.chance);
        let which = usize::from(worker.once_in(2));
        if worker.once_in(4) {
            worker.get_value(which, &lock).await;
        } else {
            worker.look(which, &lock).await;
        }
        worker.sleep_below(25).await;
    }
}
