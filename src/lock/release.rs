//! Renewing and giving back.

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::command::ForceTarget;
use crate::ids::{LeaseId, LockName, Reason};
use crate::image::RowKey;
use crate::machine::Machine;
use crate::outcome::{EndReason, Outcome, Rejection};
use crate::table::LeaseState;

impl Machine {
    /// A renewal never shortens. Renewing a session's lease renews the session: its holder proves
    /// that it lives, and a silent no would be a trap.
    pub(crate) fn renew(&mut self, id: LeaseId) -> Outcome {
        let Some(lease) = self.table.leases.get(&id) else {
            return Outcome::Rejected(self.lease_missing(id));
        };
        if matches!(lease.state, LeaseState::Waiting { .. }) {
            return Outcome::Rejected(Rejection::LeaseWaiting);
        }
        let session_id = lease.session_id();
        let now = self.meta.clock;
        self.table.change_lease(id, |lease| {
            lease.claim();
            let renewed = lease.deadline_from(now);
            if let LeaseState::Held { deadline, renewed_at, .. } = &mut lease.state {
                *deadline = renewed.map(|at| deadline.map_or(at, |old| old.max(at)));
                *renewed_at = now;
            }
        });
        self.touch(RowKey::Lease(id));
        if let Some(session_id) = session_id {
            self.renew_session(session_id);
        }
        match self.grant(id) {
            Some(grant) => Outcome::Renewed(Box::new(grant)),
            None => Outcome::Rejected(self.lease_missing(id)),
        }
    }

    /// Repeatable: a second release of the same lease answers what the first did.
    pub(crate) fn release(&mut self, id: LeaseId) -> Outcome {
        if let Some(ended) = self.end_lease(id, EndReason::Released, None) {
            return Outcome::Released(ended);
        }
        match self.ended_lease(id) {
            Some(ended) if ended.how == EndReason::Released => Outcome::Released(ended.clone()),
            Some(_) | None => Outcome::Rejected(self.lease_missing(id)),
        }
    }

    pub(crate) fn force_release(
        &mut self,
        name: &LockName,
        target: ForceTarget,
        reason: &Reason,
    ) -> Outcome {
        let targets: Vec<LeaseId> = match (self.table.locks.get(name), target) {
            (None, ForceTarget::All | ForceTarget::Token(_)) => Vec::new(),
            (Some(lock), ForceTarget::All) => lock.holders.iter().map(|(_, id)| id).collect(),
            (Some(lock), ForceTarget::Token(token)) => {
                lock.holders.get(token).into_iter().collect()
            }
        };
        let mut ended = Vec::with_capacity(targets.len());
        for id in targets {
            ended.extend(self.end_lease(id, EndReason::Forced, Some(reason)));
        }
        Outcome::ForceReleased(ended)
    }
}
