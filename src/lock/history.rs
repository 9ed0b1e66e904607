//! Who held what, when, and under which token: the newest grants that ended, in one ring of rows.
//!
//! The ring is bounded over all locks, so it costs each operation no more than a push; reading it
//! walks all of it, which is bounded too. It decides nothing.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::cmp::Reverse;

use serde::{Deserialize, Serialize};

use crate::changes::Changes;
use crate::command::Mode;
use crate::ids::{LeaseId, LockName, Metadata, Owner, Reason, Token};
use crate::image::RowKey;
use crate::limits::{Limits, count};
use crate::machine::Machine;
use crate::outcome::EndReason;
use crate::table::{Held, Lease, LeaseState};

/// One grant, from its beginning to its end if that has come. Persisted in chunks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PastGrant {
    /// Of which lock.
    pub name: LockName,
    /// Of this grant.
    pub token: Token,
    /// Who held it.
    pub owner: Owner,
    /// Alone or together with others.
    pub mode: Mode,
    /// As given with the acquire.
    pub metadata: Metadata,
    /// Wall clock of the granting leader, in milliseconds since 1970; for display.
    pub granted_wall_ms: u64,
    /// Between the acquire and the grant, in lease time.
    pub waited_ms: u64,
    /// From the grant to its end or to now, in lease time.
    pub held_ms: u64,
    /// How it ended; `None` while it is held.
    pub end: Option<PastEnd>,
}

/// How a grant ended. Persisted within its grant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PastEnd {
    /// Why.
    pub how: EndReason,
    /// Wall clock of the leader, in milliseconds since 1970; for display.
    pub wall_ms: u64,
    /// Of a force release.
    pub reason: Option<Reason>,
}

/// Grants of one lock, the newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryPage {
    /// At most as many as were asked for.
    pub grants: Vec<PastGrant>,
    /// The last token of this page if there may be more before it.
    pub next: Option<Token>,
}

/// Ended grants in the order of their ends, in chunks that are numbered without gaps; an empty
/// ring starts again at zero.
#[derive(Debug, Clone, Default)]
pub(crate) struct History {
    pub(crate) first: u64,
    pub(crate) chunks: VecDeque<Vec<PastGrant>>,
    pub(crate) len: usize,
}

impl History {
    pub(crate) fn chunk(&self, number: u64) -> Option<&Vec<PastGrant>> {
        let offset = number.checked_sub(self.first)?;
        self.chunks.get(usize::try_from(offset).ok()?)
    }

    fn push(&mut self, grant: PastGrant, limits: &Limits, changes: &mut Changes) {
        while self.len >= limits.history_max.max(1) {
            let Some(oldest) = self.chunks.pop_front() else { break };
            changes.deleted(RowKey::History(self.first));
            self.first = self.first.saturating_add(1);
            self.len = self.len.saturating_sub(oldest.len());
        }
        let full = |chunk: &Vec<PastGrant>| chunk.len() >= limits.answers_per_chunk;
        let fresh = self.chunks.back().is_none_or(full);
        if fresh {
            if self.chunks.is_empty() {
                self.first = 0;
            }
            self.chunks.push_back(Vec::new());
        }
        let number = self.first.saturating_add(count(self.chunks.len()).saturating_sub(1));
        if let Some(chunk) = self.chunks.back_mut() {
            chunk.push(grant);
            self.len = self.len.saturating_add(1);
        }
        if fresh {
            changes.created(RowKey::History(number));
        } else {
            changes.changed(RowKey::History(number));
        }
    }

    fn newest_first(&self) -> impl Iterator<Item = &PastGrant> {
        self.chunks.iter().rev().flat_map(|chunk| chunk.iter().rev())
    }
}

impl Machine {
    /// Records the end of a grant.
    pub(crate) fn record(
        &mut self,
        lease: &Lease,
        held: &Held,
        (how, reason): (EndReason, Option<&Reason>),
        wall_ms: u64,
    ) {
        let end = PastEnd { how, wall_ms, reason: reason.cloned() };
        let grant = self.past_grant(lease, held, Some(end));
        self.history.push(grant, &self.limits, &mut self.changes);
    }

    fn past_grant(&self, lease: &Lease, held: &Held, end: Option<PastEnd>) -> PastGrant {
        PastGrant {
            name: lease.name.clone(),
            token: held.token,
            owner: lease.owner.clone(),
            mode: lease.mode,
            metadata: lease.metadata.clone(),
            granted_wall_ms: held.since_wall_ms,
            waited_ms: held.granted_at.ms_since(lease.acquired_at),
            held_ms: self.clock.ms_since(held.granted_at),
            end,
        }
    }

    fn present_grant(&self, lease_id: LeaseId) -> Option<PastGrant> {
        let lease = self.table.leases.get(&lease_id)?;
        match &lease.state {
            LeaseState::Held(held) => Some(self.past_grant(lease, held, None)),
            LeaseState::Waiting(_) => None,
        }
    }

    /// The lock's grants, the newest first: those that are held, then those that ended and are
    /// remembered. `before` leaves out that token and the ones above it.
    pub fn history(&self, name: &LockName, before: Option<Token>, limit: usize) -> HistoryPage {
        let lock = self.table.locks.get(name);
        let asked = |token: Token| before.is_none_or(|before| token < before);
        // One more than the page holds, to know whether there is more; no more are copied.
        let enough = limit.saturating_add(1);
        let held = lock.into_iter().flat_map(|lock| lock.holders.iter().rev());
        let held = held.filter(|(token, _)| asked(*token)).take(enough);
        let present = held.filter_map(|(_, lease_id)| self.present_grant(lease_id));
        let past = self.history.newest_first();
        let mut past: Vec<&PastGrant> =
            past.filter(|grant| grant.name == *name && asked(grant.token)).collect();
        past.sort_by_key(|grant| Reverse(grant.token));
        let past = past.into_iter().take(enough).cloned();
        let mut grants: Vec<PastGrant> = present.chain(past).collect();
        grants.sort_by_key(|grant| Reverse(grant.token));
        let more = grants.len() > limit;
        grants.truncate(limit);
        let next = if more { grants.last().map(|grant| grant.token) } else { None };
        HistoryPage { grants, next }
    }

    /// The grant that had this token, if it is held or remembered. Costs a walk over the history
    /// and, if the token is not there, over all locks: an index would cost each grant.
    pub fn grant_of_token(&self, token: Token) -> Option<PastGrant> {
        if token > self.token_last {
            return None;
        }
        let past = self.history.newest_first().find(|grant| grant.token == token).cloned();
        past.or_else(|| {
            let mut held = self.table.locks.values().filter_map(|lock| lock.holders.get(token));
            held.next().and_then(|lease_id| self.present_grant(lease_id))
        })
    }
}
