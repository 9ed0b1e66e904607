//! P3: a lease never ends before its TTL, counted from the moment its client sent what was last
//! acknowledged, less one percent; and of a time in which no majority worked together at most one
//! leader lease is counted. Nor is anybody told earlier that it is gone, unless it was ended otherwise:
//! who asks late may learn that before the log says so. (That it ends soon enough is for `late` to
//! see.)

use std::collections::{BTreeMap, BTreeSet};

use oarlock_core::ids::{LeaseId, SessionId};

use super::{Answer, Entry, Invariant, Told};
use crate::node::ELECTION_MAX_MS;

/// Of ticks: the simulation moves by whole milliseconds.
const SLACK_MS: u64 = 3;

/// Counted from a moment, so long.
#[derive(Clone, Copy)]
struct Promise {
    from_ms: u64,
    ttl_ms: u64,
}

#[derive(Default)]
pub(super) struct Expiry {
    leases: BTreeMap<LeaseId, Promise>,
    sessions: BTreeMap<SessionId, Promise>,
    of_session: BTreeMap<LeaseId, SessionId>,
    outages: Vec<(u64, u64)>,
    /// In the log.
    ended: BTreeSet<LeaseId>,
}

impl Expiry {
    /// Simulated time that the lease clock may have counted, at the most.
    fn counted(&self, from: u64, upto: u64) -> u64 {
        let lost = self.outages.iter().map(|(begin, end)| {
            // Of an outage the end of the last lease may count, and nothing after it.
            let begin = begin + ELECTION_MAX_MS + 10;
            (*end).min(upto).saturating_sub(begin.max(from))
        });
        (upto - from).saturating_sub(lost.sum())
    }

    fn judge(&self, what: &str, promise: Promise, at_ms: u64) -> Result<(), String> {
        let counted = self.counted(promise.from_ms, at_ms);
        if counted + SLACK_MS < promise.ttl_ms * 99 / 100 {
            return Err(format!(
                "{what} ended after {counted} of {} ms, kept at {} ms",
                promise.ttl_ms, promise.from_ms
            ));
        }
        Ok(())
    }
}

impl Invariant for Expiry {
    fn name(&self) -> &'static str {
        "expiry"
    }

    fn applied(&mut self, entry: &Entry<'_>) -> Result<(), String> {
        self.ended.extend(entry.ends().map(|ended| ended.lease_id));
        for ended in entry.expiries() {
            let session = self.of_session.get(&ended.lease_id);
            let promise = session.and_then(|id| self.sessions.get(id));
            if let Some(promise) = promise.or_else(|| self.leases.get(&ended.lease_id)) {
                self.judge(&format!("{:?}", ended.lease_id), *promise, entry.at_ms)?;
            }
        }
        Ok(())
    }

    fn answered(&mut self, answer: &Answer) -> Result<(), String> {
        let from_ms = answer.asked_at;
        match &answer.what {
            Told::Granted { grants, first_asked_at, .. } => {
                for grant in grants {
                    if let Some(session) = grant.session_id {
                        self.of_session.insert(grant.lease_id, session);
                    } else if let Some(ttl_ms) = grant.ttl_ms {
                        // The wait is lease time, too, by a clock that may run fast.
                        let from_ms = first_asked_at + grant.waited_ms * 99 / 100;
                        let promise = Promise { from_ms, ttl_ms };
                        self.leases.entry(grant.lease_id).or_insert(promise);
                    }
                }
            }
            // A lease that shares the grant of its session ends without an event.
            Told::Gone { lease_id }
                if !self.ended.contains(lease_id) && !self.of_session.contains_key(lease_id) =>
            {
                if let Some(promise) = self.leases.get(lease_id) {
                    let what = format!("{lease_id:?}, which its client was told,");
                    return self.judge(&what, *promise, answer.answered_at);
                }
            }
            Told::Renewed { lease_id, ttl_ms } => {
                let renewed = Promise { from_ms, ttl_ms: *ttl_ms };
                let promise = self.leases.entry(*lease_id).or_insert(renewed);
                promise.from_ms = promise.from_ms.max(from_ms);
            }
            Told::Session { session_id, ttl_ms } => {
                let kept = Promise { from_ms, ttl_ms: *ttl_ms };
                let promise = self.sessions.entry(*session_id).or_insert(kept);
                promise.from_ms = promise.from_ms.max(from_ms);
            }
            _ => {}
        }
        Ok(())
    }

    fn outage(&mut self, from_ms: u64, upto_ms: u64) {
        match self.outages.last_mut() {
            Some((begin, end)) if *begin == from_ms => *end = upto_ms,
            Some(_) | None => self.outages.push((from_ms, upto_ms)),
        }
    }
}
