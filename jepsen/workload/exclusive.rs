//! Exclusive locks: holders write to the guarded resource as long as they believe, some renew, some
//! forget to release, some only try.

use super::calls::{Held, Term, Wanted};
use super::{WAIT_MS, Worker};
use crate::history::Ask;

pub(super) async fn run(mut worker: Worker) {
    while worker.goes_on() {
        let ask = worker.locks.exclusive(&mut worker.chance);
        let wanted = worker.wants(vec![ask]);
        let Some(mut held) = worker.acquire(0, &wanted).await else { continue };
        for _ in 0..worker.chance.below(4) {
            worker.sleep_below(60).await;
            if held.believes() {
                worker.write(&held);
            }
            if worker.once_in(3) {
                worker.renew(&mut held).await;
            }
        }
        worker.leaves(held).await;
    }
}

impl Worker {
    /// A request for these, waiting for them three times out of four, under a TTL of its own.
    pub(super) fn wants(&mut self, asks: Vec<Ask>) -> Wanted {
        let wait_ms = if self.once_in(4) { 0 } else { WAIT_MS };
        Wanted {
            request: self.next_number(),
            asks,
            wait_ms,
            term: Term::TtlMs(self.some_ttl_ms()),
            names_request: false,
        }
    }

    /// Releases, or forgets to: then the leases end by their TTL.
    pub(super) async fn leaves(&mut self, held: Held) {
        if self.once_in(6) {
            self.history.left();
            return;
        }
        self.release(held).await;
    }
}
