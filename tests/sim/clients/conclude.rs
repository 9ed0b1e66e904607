//! What a client may conclude from a reply.

use oarlock::service::replicator::{Reply, ReplyBody};
use oarlock_core::ids::LeaseId;
use oarlock_core::outcome::{Outcome, Rejection};

use super::work::Request;
use crate::invariants::Told;

pub(super) fn outcome(reply: &Reply) -> Option<&Outcome> {
    match &reply.body {
        ReplyBody::Outcome(outcome) => Some(outcome),
        _ => None,
    }
}

pub(super) fn conclude_claim(request: &Request, reply: &Reply) -> Told {
    let grants = match outcome(reply) {
        Some(Outcome::Granted(grant)) => vec![grant.as_ref().clone()],
        Some(Outcome::GrantedMany(grants)) => grants.clone(),
        Some(Outcome::Rejected(Rejection::LeaseGone(ended))) => {
            return Told::Gone { lease_id: ended.lease_id };
        }
        other => return Told::Refused(format!("{other:?}")),
    };
    let (label, first_asked_at) = (request.label.clone(), request.first_asked_at);
    Told::Granted { label, first_asked_at, repeats: request.repeats, grants }
}

pub(super) fn conclude_release(lease_id: LeaseId, reply: &Reply) -> Told {
    match outcome(reply) {
        Some(Outcome::Released(_)) => Told::Released { lease_id },
        other => conclude_refusal(lease_id, other),
    }
}

pub(super) fn conclude_refusal(lease_id: LeaseId, outcome: Option<&Outcome>) -> Told {
    match outcome {
        Some(Outcome::Rejected(Rejection::LeaseGone(_) | Rejection::LeaseUnknown)) => {
            Told::Gone { lease_id }
        }
        other => Told::Refused(format!("{other:?}")),
    }
}
