//! Checks every invariant that `lib.rs` numbers; for tests and simulations, where it runs after
//! each step. Its cost grows with the state.

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::acquire::own_deadline;
use crate::command::Mode;
use crate::deadlines::Due;
use crate::ids::{LeaseId, LockName};
use crate::limits::count;
use crate::machine::Machine;
use crate::requests::{EndLog, LogKind, Subject};
use crate::table::{Group, Lease, LeaseState, Lock, Pool};

fn ensure(holds: bool, broken: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(broken()) }
}

impl Machine {
    /// Every invariant of the state; the error names the first that is broken.
    pub fn check(&self) -> Result<(), String> {
        for (name, lock) in &self.table.locks {
            self.check_lock(name, lock).map_err(|broken| format!("lock {name}: {broken}"))?;
        }
        for (lease_id, lease) in &self.table.leases {
            self.check_lease(*lease_id, lease)
                .map_err(|broken| format!("lease {lease_id:?} of {}: {broken}", lease.name))?;
        }
        self.check_sessions()?;
        self.check_counts()?;
        self.check_records()?;
        self.check_memory()
    }

    /// Invariants 2 to 5 and 13.
    fn check_lock(&self, name: &LockName, lock: &Lock) -> Result<(), String> {
        let holder_count = lock.holders.len();
        ensure(!lock.is_idle(), || "is free but kept".to_string())?;
        self.check_together(lock)?;
        for (token, lease_id) in lock.holders.iter() {
            let lease = self.table.leases.get(&lease_id);
            let lease = lease.ok_or_else(|| format!("holder {lease_id:?} has no lease"))?;
            ensure(lease.name == *name && lease.token() == Some(token), || {
                format!("holder {lease_id:?} has another lock or token")
            })?;
            ensure(Some(token) <= lock.last_token && token <= self.token_last, || {
                format!("token {} is above the newest (P2)", token.0)
            })?;
        }
        for (ticket, lease_id) in lock.queue.iter() {
            let state = self.table.leases.get(&lease_id).map(|lease| &lease.state);
            let waits = match state {
                Some(LeaseState::Waiting(waiting)) => waiting.ticket == ticket,
                Some(LeaseState::Held(_)) | None => false,
            };
            ensure(waits, || format!("{lease_id:?} is queued but does not wait"))?;
        }
        ensure(lock.queue.is_sound(), || "its queue keeps an empty block".to_string())?;
        let grantable = self.table.grantable(name, self.limits.holders_max);
        let needed =
            grantable.and_then(|id| self.table.group(id)).map_or(1, |all| count(all.len()));
        ensure(grantable.is_none() || self.tokens_left() < needed, || {
            "the next in line could hold but waits (P4, P8)".to_string()
        })?;
        ensure(lock.queue.len() <= self.limits.queue_length_max, || "queue too long".to_string())?;
        ensure(holder_count <= self.limits.holders_max, || "too many holders".to_string())?;
        if let Some(closed_until) = lock.closed_until {
            let due = Due::Lock(name.clone());
            ensure(self.deadlines.contains(closed_until, due), || {
                "its lock-delay is not indexed".to_string()
            })?;
        }
        if let Some(value) = &lock.value {
            ensure(Some(value.token) <= lock.last_token, || {
                "its value is of no grant of its own".to_string()
            })?;
        }
        ensure(lock.revision <= self.revision, || "revision from the future".to_string())
    }

    /// Invariants 1 and 12.
    fn check_together(&self, lock: &Lock) -> Result<(), String> {
        let mode = |lease_id: LeaseId| self.table.leases.get(&lease_id).map(|lease| lease.mode);
        let held: Vec<Mode> = lock.holders.iter().filter_map(|(_, id)| mode(id)).collect();
        let waiting = lock.queue.iter().filter_map(|(_, id)| mode(id));
        let mut pool = Pool { limit: 0, claims: 0 };
        for mode in held.iter().copied().chain(waiting) {
            if let Mode::Permits(permits) = mode {
                ensure(pool.claims == 0 || pool.limit == permits.limit(), || {
                    "permits of two limits".to_string()
                })?;
                pool = Pool { limit: permits.limit(), claims: pool.claims.saturating_add(1) };
            }
        }
        ensure(lock.pool == (pool.claims > 0).then_some(pool), || "its pool is wrong".to_string())?;
        let permits: u64 = held
            .iter()
            .map(|mode| match mode {
                Mode::Exclusive | Mode::Shared => 0,
                Mode::Permits(permits) => u64::from(permits.count()),
            })
            .sum();
        let alone = held.len() == 1;
        let shared = held.iter().all(|mode| *mode == Mode::Shared);
        let within = held.iter().all(|mode| matches!(mode, Mode::Permits(_)))
            && permits <= u64::from(pool.limit);
        ensure(held.is_empty() || alone || shared || within, || {
            format!("{} holders that cannot hold together (P1)", held.len())
        })?;
        ensure(permits == u64::from(lock.holders.permits()), || "permits miscounted".to_string())
    }

    /// Invariants 4 and 6 to 8, from the lease's side.
    fn check_lease(&self, lease_id: LeaseId, lease: &Lease) -> Result<(), String> {
        let lock = self.table.locks.get(&lease.name).ok_or_else(|| "has no lock".to_string())?;
        match &lease.state {
            LeaseState::Waiting(waiting) => {
                ensure(lock.queue.get(waiting.ticket) == Some(lease_id), || {
                    "waits but is not queued".to_string()
                })?;
                let member = matches!(lease.group, Some(Group::Member(_)));
                let attached = self.table.attached.contains(&lease_id);
                ensure(attached == (waiting.grace_until.is_none() && !member), || {
                    "attachment is not indexed".to_string()
                })?;
                self.check_group(lease_id, lease)?;
            }
            LeaseState::Held(held) => {
                let first = lock.holders.get(held.token);
                let shares = self.table.shares.get(&held.token);
                let shares = shares.is_some_and(|shares| shares.contains(&lease_id));
                ensure(
                    if shares { first < Some(lease_id) } else { first == Some(lease_id) },
                    || "is held but is no holder".to_string(),
                )?;
                ensure(
                    (lease.session_id().is_some() || lease.acquired_at <= held.granted_at)
                        && held.granted_at <= held.renewed_at
                        && held.renewed_at <= self.clock,
                    || "its stamps are out of order".to_string(),
                )?;
                let promised = own_deadline(lease.term, held.renewed_at);
                ensure(held.expires_at >= promised, || {
                    "it would end before its TTL (P3)".to_string()
                })?;
            }
        }
        if let Some(deadline) = lease.deadline() {
            ensure(self.deadlines.contains(deadline, Due::Lease(lease_id)), || {
                "its deadline is not indexed".to_string()
            })?;
        }
        if let Some(session_id) = lease.session_id() {
            let opened = self.sessions.open.get(&session_id);
            ensure(opened.is_some_and(|opened| opened.leases.contains(&lease_id)), || {
                "its session does not know it".to_string()
            })?;
        }
        if let Some(request_id) = lease.request_id {
            let known = self.memory.requests.get(&request_id);
            ensure(known == Some(&Subject::Lease(lease_id)), || {
                "its request id is not known (P7)".to_string()
            })?;
        }
        Ok(())
    }

    /// Invariant 14: what waits together waits in every queue, and its first lease stands for it.
    fn check_group(&self, lease_id: LeaseId, lease: &Lease) -> Result<(), String> {
        let Some(group) = &lease.group else { return Ok(()) };
        let all = self.table.group(lease_id);
        let all = all.ok_or_else(|| format!("waits with nobody: {group:?}"))?;
        ensure(all.contains(&lease_id), || "is no member of its group".to_string())?;
        let waits = |id: &LeaseId| {
            self.table.leases.get(id).is_some_and(|member| {
                member.token().is_none() && member.session_id() == lease.session_id()
            })
        };
        ensure(all.iter().all(waits), || "waits, but not all of its group do".to_string())
    }

    /// Invariant 6, from the session's side.
    fn check_sessions(&self) -> Result<(), String> {
        for (session_id, opened) in &self.sessions.open {
            let due = Due::Session(*session_id);
            ensure(self.deadlines.contains(opened.session.deadline, due), || {
                format!("session {session_id:?}: its deadline is not indexed")
            })?;
            let promised = opened.session.renewed_at.plus_ms(opened.session.ttl.ms());
            ensure(opened.session.deadline >= promised, || {
                format!("session {session_id:?}: it would end before its TTL (P3)")
            })?;
            for lease_id in &opened.leases {
                let lease = self.table.leases.get(lease_id);
                let joined = lease.and_then(|lease| lease.session_id());
                ensure(joined == Some(*session_id), || {
                    format!("session {session_id:?}: {lease_id:?} is not its lease")
                })?;
            }
            if let Some(request_id) = opened.session.request_id {
                let known = self.memory.requests.get(&request_id);
                ensure(known == Some(&Subject::Session(*session_id)), || {
                    format!("session {session_id:?}: its request id is not known (P7)")
                })?;
            }
        }
        Ok(())
    }

    /// Indexes hold nothing but what the other checks found there, and bounds are kept.
    fn check_counts(&self) -> Result<(), String> {
        let leases = self.table.leases.values();
        let dated = leases.clone().filter(|lease| lease.deadline().is_some()).count();
        let closed = self.table.locks.values().filter(|lock| lock.closed_until.is_some()).count();
        ensure(self.closed_count == closed, || "closed locks miscounted".to_string())?;
        let deadlines = dated.saturating_add(self.sessions.open.len()).saturating_add(closed);
        ensure(self.deadlines.len() == deadlines, || "a deadline of nobody".to_string())?;
        let waiting = leases.clone().filter(|lease| lease.token().is_none()).count();
        ensure(self.table.waiting_count == waiting, || "waiters miscounted".to_string())?;
        let queued: usize = self.table.locks.values().map(|lock| lock.queue.len()).sum();
        ensure(queued == waiting, || "a waiter stands in two queues".to_string())?;
        ensure(self.table.attached.len() <= waiting, || "an attached nobody".to_string())?;
        let live = leases.filter(|lease| lease.request_id.is_some()).count();
        let sessions = self.sessions.open.values();
        let opened = sessions.filter(|opened| opened.session.request_id.is_some()).count();
        let known = live.saturating_add(opened).saturating_add(self.memory.answers.len);
        ensure(self.memory.requests.len() == known, || "a request id of nobody".to_string())?;
        let places = self.table.leases.len().saturating_add(closed);
        ensure(places <= self.limits.leases_max, || {
            "too many leases and closed locks".to_string()
        })?;
        ensure(self.sessions.open.len() <= self.limits.sessions_max, || {
            "too many sessions".to_string()
        })?;
        let shares: usize = self.table.shares.values().map(BTreeSet::len).sum();
        let holders: usize = self.table.locks.values().map(|lock| lock.holders.len()).sum();
        let held = self.table.leases.len().saturating_sub(waiting);
        ensure(holders.saturating_add(shares) == held, || "a share of nobody".to_string())?;
        let values = self.table.locks.values().filter(|lock| lock.value.is_some()).count();
        ensure(values == self.value_count && values <= self.limits.values_max, || {
            "values miscounted".to_string()
        })?;
        ensure(self.memory.requests.len() <= self.limits.answers_max, || {
            "too many request ids".to_string()
        })?;
        let most = self.sessions.open.values().map(|opened| opened.leases.len()).max();
        ensure(most.unwrap_or(0) <= self.limits.leases_per_session_max, || {
            "too many leases in a session".to_string()
        })?;
        ensure(self.recent_fits(), || "too many recent ends".to_string())?;
        ensure(self.token_last.0 <= self.limits.token_max, || "a token too large".to_string())
    }

    /// Invariants 10 and 16.
    fn check_records(&self) -> Result<(), String> {
        let kept = &self.records.kept;
        ensure(kept.len() <= self.limits.records_max, || "too many records".to_string())?;
        let mut revisions = BTreeSet::new();
        for (key, record) in kept {
            ensure(record.revision <= self.records.revision, || {
                format!("the record {key} has a revision that was never given")
            })?;
            ensure(revisions.insert(record.revision), || {
                format!("the record {key} has the revision of another")
            })?;
        }
        Ok(())
    }

    fn recent_fits(&self) -> bool {
        self.memory.recent.len <= self.limits.recent_ends_max.max(1)
    }

    /// Invariants 9 and 10.
    fn check_memory(&self) -> Result<(), String> {
        self.check_log(LogKind::Answers, &self.memory.answers)?;
        self.check_log(LogKind::Recent, &self.memory.recent)?;
        let past: usize = self.history.chunks.iter().map(Vec::len).sum();
        ensure(past == self.history.len && past <= self.limits.history_max.max(1), || {
            "history miscounted".to_string()
        })?;
        let remembered = self.memory.answers.len.saturating_add(self.memory.recent.len);
        ensure(self.memory.ended.len() == remembered, || "an end of nobody".to_string())
    }

    fn check_log(&self, kind: LogKind, log: &EndLog) -> Result<(), String> {
        let full = self.limits.answers_per_chunk.max(1);
        let mut newest = None;
        let mut len = 0_usize;
        for (index, chunk) in log.chunks.iter().enumerate() {
            let last = index.saturating_add(1) == log.chunks.len();
            ensure(
                chunk.len() == full || (last && !chunk.is_empty() && chunk.len() < full),
                || format!("chunk {index} of {kind:?} has {} ends", chunk.len()),
            )?;
            len = len.saturating_add(chunk.len());
            for answer in chunk {
                let subject = answer.subject();
                ensure(self.memory.answer(subject) == Some(answer), || {
                    format!("the end of {subject:?} is not indexed")
                })?;
                ensure(!self.lives(subject), || format!("{subject:?} ended but lives"))?;
                ensure(
                    newest <= Some(answer.ended_at()) && answer.ended_at() <= self.clock,
                    || format!("the end of {subject:?} is out of order"),
                )?;
                newest = Some(answer.ended_at());
                let request = answer.request_id;
                ensure(request.is_some() == (kind == LogKind::Answers), || {
                    format!("the end of {subject:?} is in the wrong log")
                })?;
                ensure(
                    request.is_none() || self.memory.by_request(request) == Some(subject),
                    || format!("the request id of {subject:?} is not known (P7)"),
                )?;
            }
        }
        ensure(len == log.len, || format!("{kind:?} miscounted"))
    }
}
