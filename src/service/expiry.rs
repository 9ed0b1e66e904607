//! Lets time pass in the log: proposes `Advance` when something falls due (P4), and at least every
//! second while anything is pending; every minute while a token has an expiry. One task, on every
//! node; it works only while its node serves as leader, and sleeps otherwise.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use oarlock_core::command::Command;
use oarlock_core::machine::Machine;
use oarlock_core::planted::{Bug, planted};
use oarlock_core::time::LeaseTime;
use tokio::sync::Notify;

use crate::service::handle::Service;
use crate::service::replicator::Replicator;

/// How often the clock is logged while anything is pending and nothing else moves it.
const ADVANCE_EVERY: Duration = Duration::from_secs(1);
/// The same while nothing is pending but that a token runs out some day: a change of leaders forgets
/// no more than this of its life, and an idle cluster writes so seldom.
const ADVANCE_FOR_TOKENS_EVERY: Duration = Duration::from_mins(1);
/// Pause between a call to look and looking: a busy queue costs one look per pause.
const LOOK_PAUSE: Duration = Duration::from_millis(10);
/// Shortest sleep.
const SLEEP_MIN: Duration = Duration::from_millis(1);
/// Shortest sleep while the lease clock stands still, so that this loop does not spin until the
/// node knows that it leads no more.
const STILL_SLEEP_MIN: Duration = Duration::from_millis(20);
/// Pause after a refused `Advance`.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Wakes the task when something falls due earlier than it sleeps for.
#[derive(Debug)]
pub(super) struct Alarm {
    rung: Notify,
    /// Lease time, in microseconds, until which the task sleeps.
    sleeps_until: AtomicU64,
}

impl Default for Alarm {
    fn default() -> Self {
        Self { rung: Notify::new(), sleeps_until: AtomicU64::new(u64::MAX) }
    }
}

impl Alarm {
    /// Something falls due at this moment.
    pub(super) fn due_at(&self, at: Option<LeaseTime>) {
        if at.is_some_and(|at| at.0 < self.sleeps_until.load(Ordering::Acquire)) {
            self.rung.notify_one();
        }
    }

    /// Something falls due, and the event does not say when.
    pub(super) fn look(&self) {
        self.rung.notify_one();
    }
}

impl<R: Replicator> Service<R> {
    /// Runs until the future is dropped. What else a leader owes, the ends of removals, goes along.
    pub async fn expire(&self) {
        let mut leadership = self.replicator.leadership();
        loop {
            let serving = leadership.wait_for(|now| now.serving_here).await.map(|now| now.term);
            let Ok(term) = serving else { return };
            self.observer.leadership_began();
            tokio::select! {
                biased;
                _ = leadership.wait_for(|now| !now.serving_here || now.term != term) => {}
                () = self.expire_while_serving() => {}
                () = self.finish_removals() => {}
            }
            if planted(Bug::TimersEndWithLeadership) {
                return;
            }
        }
    }

    async fn expire_while_serving(&self) {
        let mut looked_at = None;
        loop {
            // From here on every event rings, so that none slips in between looking and sleeping.
            self.alarm.sleeps_until.store(u64::MAX, Ordering::Release);
            let (due, pending, applied) = self.replicator.with_machine(|machine: &Machine| {
                (machine.next_due(), machine.has_pending(), machine.now())
            });
            // Followers know no other time than that of the last entry, and let nobody in by it whose
            // token ran out.
            self.refresh_gate();
            let ends = self.gate.next_expiry(applied);
            let due = due.into_iter().chain(ends).min();
            let every =
                if pending { Some(ADVANCE_EVERY) } else { ends.map(|_| ADVANCE_FOR_TOKENS_EVERY) };
            let now = self.replicator.lease_now();
            let idle = Duration::from_millis(now.ms_since(applied));
            let late_ms = if planted(Bug::DueEndsLate) { 400 } else { 0 };
            if due.is_some_and(|due| due.plus_ms(late_ms) <= now)
                || every.is_some_and(|every| idle >= every)
            {
                assert!(!planted(Bug::ExpiryPanics) || due.is_none(), "a planted panic");
                // The outcome says nothing; what expired comes as events.
                if self.replicator.propose(Command::Advance).await.is_err() {
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                continue;
            }
            let still = looked_at.replace(now) == Some(now);
            let least = if still { STILL_SLEEP_MIN } else { SLEEP_MIN };
            let tick = every.map(|every| every.saturating_sub(idle));
            self.sleep(due, tick, now, least).await;
        }
    }

    /// Sleeps until the next deadline or tick, whichever is first, or until the alarm.
    async fn sleep(
        &self,
        due: Option<LeaseTime>,
        tick: Option<Duration>,
        now: LeaseTime,
        least: Duration,
    ) {
        let until_due = due.map(|due| Duration::from_micros(due.0.saturating_sub(now.0)));
        let pause = match (until_due, tick) {
            (Some(due), Some(tick)) => Some(due.min(tick)),
            (Some(only), None) | (None, Some(only)) => Some(only),
            (None, None) => None,
        };
        self.alarm.sleeps_until.store(due.map_or(u64::MAX, |due| due.0), Ordering::Release);
        let Some(pause) = pause else {
            self.alarm.rung.notified().await;
            return;
        };
        tokio::select! {
            biased;
            () = tokio::time::sleep(pause.max(least)) => {}
            () = self.alarm.rung.notified() => {
                tokio::time::sleep(LOOK_PAUSE.min(pause)).await;
            }
        }
    }
}
