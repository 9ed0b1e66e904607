//! Why a lock cannot be had: the same object in refusals, inspections and the events of a wait.

use oarlock_client::stream::{Cause, Why};
use oarlock_core::outcome::{Contention, HOLDERS_SHOWN_MAX};
use oarlock_core::query::LockView;
use oarlock_core::time::LeaseTime;

use super::routes::App;
use super::translate;
use crate::service::replicator::Replicator;

/// What an inspection knows, cut down to what a refusal says.
pub(super) fn contention(view: &LockView) -> Contention {
    Contention {
        name: view.name.clone(),
        holders: view.holders.iter().take(HOLDERS_SHOWN_MAX).cloned().collect(),
        holder_count: view.holder_count,
        queue_length: view.queue_length,
        closed_until: view.closed_until,
    }
}

/// The reason as the log knows it; the estimate is this node's own.
pub(super) fn of(contention: &Contention, ahead: u64, now: LeaseTime) -> Why {
    let cause = match (contention.closed_until, contention.holder_count, contention.queue_length) {
        (Some(_), _, _) => Cause::LockDelay,
        (None, 0, 0) => Cause::Free,
        (None, 0, _) => Cause::Queue,
        (None, _, _) => Cause::Held,
    };
    let text = match cause {
        Cause::Free => "nobody holds it, nobody waits".to_owned(),
        Cause::Held | Cause::Queue | Cause::LockDelay => translate::in_the_way(contention, now),
    };
    Why {
        cause,
        text,
        holders: contention.holders.iter().map(|it| translate::holder(it, now)).collect(),
        ahead,
        reopens_in_ms: translate::remaining(contention.closed_until, now),
        estimate_ms: None,
    }
}

impl<R: Replicator> App<R> {
    /// With the wait of whoever has so many waiters ahead.
    pub(super) fn why(&self, contention: &Contention, ahead: u64, now: LeaseTime) -> Why {
        let position = ahead.saturating_add(1);
        let first = contention.holders.first();
        let busy = contention.holder_count > 0 || contention.queue_length > 0;
        let estimate = self.service.estimate_ms(&contention.name, first, position, now);
        // Nobody is served before the lock reopens.
        let closed_ms = translate::remaining(contention.closed_until, now).unwrap_or(0);
        let estimate_ms = estimate.filter(|_| busy).map(|ms| ms.max(closed_ms));
        Why { estimate_ms, ..of(contention, ahead, now) }
    }
}
