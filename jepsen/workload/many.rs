//! Several locks in one request, in whatever order: all or none, and nobody blocks another by
//! holding one while it waits for the next (P1, P8).

use super::Worker;
use crate::history::Ask;

pub(super) async fn run(mut worker: Worker) {
    while worker.goes_on() {
        let mut asks: Vec<Ask> = Vec::new();
        for _ in 0..2 + worker.chance.below(2) {
            let ask = match worker.chance.below(4) {
                0 => worker.locks.permits(&mut worker.chance),
                1 => worker.locks.shared(&mut worker.chance),
                _ => worker.locks.exclusive(&mut worker.chance),
            };
            if asks.iter().all(|other| other.lock != ask.lock) {
                asks.push(ask);
            }
        }
        let wanted = worker.wants(asks);
        let Some(mut held) = worker.acquire(0, &wanted).await else { continue };
        worker.sleep_below(60).await;
        if worker.once_in(4) {
            worker.renew(&mut held).await;
        }
        worker.leaves(held).await;
    }
}
