//! Re-acquire: a session that holds a lock may take it again in the same mode, at once, past the
//! queue and in spite of a lock-delay. It gets a lease of its own on the same grant and token; the
//! grant ends with its last lease, and only that end is told, recorded, and lets others in.
//!
//! Permits are not taken again: each request for permits is a grant of its own.

use crate::command::{Acquire, LeaseTerm, Mode};
use crate::ids::{LeaseId, Token};
use crate::machine::Machine;
use crate::outcome::Outcome;
use crate::table::{Held, LeaseState};

impl Machine {
    /// The lease by which the asking session holds this lock in this mode already.
    pub(crate) fn held_already(&self, acquire: &Acquire) -> Option<LeaseId> {
        let LeaseTerm::Session(session_id) = acquire.term else { return None };
        match acquire.mode {
            Mode::Exclusive | Mode::Shared => {}
            Mode::Permits(_) => return None,
        }
        let holders = &self.table.locks.get(&acquire.name)?.holders;
        let holds = |lease_id: &LeaseId| {
            self.table.leases.get(lease_id).is_some_and(|lease| {
                lease.session_id() == Some(session_id)
                    && lease.token().is_some()
                    && lease.name == acquire.name
                    && lease.mode == acquire.mode
            })
        };
        // Both ways find the lowest id: it is the one that stands among the holders.
        let leases = &self.sessions.open.get(&session_id)?.leases;
        if holders.len() < leases.len() {
            holders.iter().map(|(_, lease_id)| lease_id).filter(holds).min()
        } else if holders.is_empty() {
            None
        } else {
            leases.iter().copied().find(holds)
        }
    }

    /// Enters one more lease of the grant that `first` holds.
    pub(crate) fn share_grant(
        &mut self,
        acquire: &Acquire,
        fingerprint: u64,
        first: LeaseId,
    ) -> Outcome {
        let held = match self.table.leases.get(&first).map(|lease| &lease.state) {
            Some(LeaseState::Held(held)) => held.clone(),
            Some(LeaseState::Waiting(_)) | None => return self.gone(first),
        };
        let state = LeaseState::Held(Held { renewed_at: self.clock, claim_until: None, ..held });
        self.enter(acquire, fingerprint, state);
        self.grant(acquire.lease_id).map_or(Outcome::Done, Outcome::Granted)
    }

    /// The leases by which the grant with this token is held, `first` among the holders.
    pub(crate) fn leases_of_grant(
        &self,
        token: Token,
        first: LeaseId,
    ) -> impl Iterator<Item = LeaseId> {
        let shares = self.table.shares.get(&token).into_iter().flatten().copied();
        core::iter::once(first).chain(shares)
    }
}
