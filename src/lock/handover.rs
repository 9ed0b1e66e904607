//! Hand-over: the holder gives its lock to somebody else, without a gap and with a new token. The
//! queue is not asked: whoever holds decides who goes on with its work.

use crate::acquire::own_deadline;
use crate::command::{Acquire, HandOver, LeaseTerm};
use crate::ids::SessionId;
use crate::machine::{Machine, Step};
use crate::outcome::{EndReason, Outcome, Rejection};
use crate::requests::hand_over_fingerprint;
use crate::table::{Held, Lease, LeaseState};
use crate::time::Wait;

impl Machine {
    pub(crate) fn hand_over(&mut self, hand_over: &HandOver, step: &mut Step) -> Outcome {
        let fingerprint = hand_over_fingerprint(hand_over);
        let ids = (hand_over.request_id, hand_over.new_lease_id);
        if let Some(outcome) = self.repeat(ids, fingerprint) {
            return outcome;
        }
        let Some(lease) = self.table.leases.get(&hand_over.lease_id) else {
            return self.gone(hand_over.lease_id);
        };
        let held = match &lease.state {
            LeaseState::Waiting(_) => return Outcome::Rejected(Rejection::LeaseWaiting),
            LeaseState::Held(held) => held,
        };
        if self.table.shares.contains_key(&held.token) {
            return Outcome::Rejected(Rejection::GrantShared);
        }
        let successor = successor(lease, hand_over);
        if let Err(rejection) = self.may_take_over(hand_over, lease.session_id(), &successor) {
            return Outcome::Rejected(rejection);
        }
        let Some(token) = self.next_token() else {
            return Outcome::Rejected(Rejection::TokensExhausted);
        };
        self.end_lease(hand_over.lease_id, EndReason::HandedOver, None, step);
        let held = Held {
            token,
            granted_at: self.clock,
            since_wall_ms: step.wall_ms,
            renewed_at: self.clock,
            expires_at: own_deadline(successor.term, self.clock),
            claim_until: None,
        };
        self.enter(&successor, fingerprint, LeaseState::Held(held));
        match self.grant(successor.lease_id) {
            Some(grant) => {
                self.announce_grant(grant.clone(), (true, false, false), step);
                Outcome::Granted(grant)
            }
            None => Outcome::Done,
        }
    }

    fn may_take_over(
        &self,
        hand_over: &HandOver,
        giver: Option<SessionId>,
        successor: &Acquire,
    ) -> Result<(), Rejection> {
        self.may_remember(hand_over.request_id)?;
        if let LeaseTerm::Session(session_id) = hand_over.term {
            self.known_session(session_id)?;
            // Within one session the new lease takes the place of the old one.
            self.session_has_room(session_id, usize::from(giver != Some(session_id)))?;
            self.no_deadlock_after(hand_over.lease_id, session_id, successor)?;
        }
        Ok(())
    }
}

/// What the new lease would have asked for.
fn successor(lease: &Lease, hand_over: &HandOver) -> Acquire {
    Acquire {
        lease_id: hand_over.new_lease_id,
        name: lease.name.clone(),
        owner: hand_over.owner.clone(),
        mode: lease.mode,
        term: hand_over.term,
        wait: Wait::NONE,
        grace: lease.grace,
        request_id: hand_over.request_id,
        metadata: hand_over.metadata.clone(),
        lock_delay: lease.lock_delay,
    }
}
