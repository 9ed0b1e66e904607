//! Linearizable reads at every node.

use std::time::Duration;

use super::Worker;
use crate::history::Look;

pub(super) async fn run(mut worker: Worker) {
    while worker.goes_on() {
        let name = worker.some_lock();
        let which = usize::try_from(worker.chance.below(2)).unwrap_or(0);
        let called_at = worker.now();
        if let Ok(lock) = worker.clients[which].inspect(&name, false).await {
            let returned_at = worker.now();
            let token_ceiling = lock.token_ceiling;
            worker.history.look(Look { called_at, returned_at, token_ceiling });
        }
        tokio::time::sleep(Duration::from_millis(5 + worker.chance.below(20))).await;
    }
}
