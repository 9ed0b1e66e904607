//! Circles of waits in the naive model: for each pair of claims it asks anew whether one must go for
//! the other, and walks the sessions breadth first.

use oarlock_core::command::{Acquire, LeaseTerm, Mode};
use oarlock_core::ids::{LeaseId, LockName, Owner, SessionId};
use oarlock_core::outcome::CycleStep;

use super::{Claim, Naive};

/// Whether a claim of mode `wanted` cannot be met while one of mode `there` holds, even if all
/// others went.
fn excludes(there: Mode, wanted: Mode) -> bool {
    match (there, wanted) {
        (Mode::Shared, Mode::Shared) => false,
        (Mode::Permits(there), Mode::Permits(wanted)) => {
            there.limit() - there.count() < wanted.count()
        }
        _ => true,
    }
}

struct Hop {
    session: SessionId,
    path: Vec<CycleStep>,
}

struct Wish {
    session: SessionId,
    owner: Owner,
    name: LockName,
    mode: Mode,
    /// The claim itself, if it waits already.
    claim: Option<LeaseId>,
}

impl Naive {
    pub(super) fn circle(&self, claims: &[Acquire]) -> Option<Vec<CycleStep>> {
        let LeaseTerm::Session(session) = claims[0].term else { return None };
        let wishes = claims.iter().map(|claim| Wish {
            session,
            owner: claim.owner.clone(),
            name: claim.name.clone(),
            mode: claim.mode,
            claim: None,
        });
        self.walk(session, wishes.collect(), None)
    }

    pub(super) fn circle_after(
        &self,
        lease: LeaseId,
        heir: SessionId,
        owner: &Owner,
    ) -> Option<Vec<CycleStep>> {
        self.walk(heir, self.wishes(heir), Some((lease, heir, owner)))
    }

    fn wishes(&self, session: SessionId) -> Vec<Wish> {
        let mut waiting: Vec<&Claim> = self
            .claims
            .iter()
            .filter(|claim| claim.session_id() == Some(session) && claim.holding().is_none())
            .collect();
        waiting.sort_by_key(|claim| claim.asked.lease_id);
        let wish = |claim: &Claim| Wish {
            session,
            owner: claim.asked.owner.clone(),
            name: claim.asked.name.clone(),
            mode: claim.asked.mode,
            claim: Some(claim.asked.lease_id),
        };
        waiting.into_iter().map(wish).collect()
    }

    fn walk(
        &self,
        target: SessionId,
        first: Vec<Wish>,
        heir: Option<(LeaseId, SessionId, &Owner)>,
    ) -> Option<Vec<CycleStep>> {
        let mut hops: Vec<Hop> = Vec::new();
        let mut next = 0;
        let mut wishes = first;
        let mut path: Vec<CycleStep> = Vec::new();
        loop {
            for wish in &wishes {
                for there in self.obstacles(wish) {
                    let heir = heir.filter(|(lease, _, _)| *lease == there.asked.lease_id);
                    let session = heir.map_or(there.session_id(), |(_, session, _)| Some(session));
                    let Some(session) = session else { continue };
                    if session == wish.session && there.holding().is_none() {
                        continue;
                    }
                    let mut path = path.clone();
                    path.push(CycleStep {
                        owner: wish.owner.clone(),
                        waits_for: wish.name.clone(),
                        held_by: heir.map_or(&there.asked.owner, |(_, _, owner)| owner).clone(),
                    });
                    if session == target {
                        return Some(path);
                    }
                    if hops.iter().all(|hop| hop.session != session) {
                        hops.push(Hop { session, path });
                    }
                }
            }
            let hop = hops.get(next)?;
            next += 1;
            path.clone_from(&hop.path);
            wishes = self.wishes(hop.session);
        }
    }

    /// Holders in token order, then waiters in queue order, who must go.
    fn obstacles<'a>(&'a self, wish: &'a Wish) -> Vec<&'a Claim> {
        let queue: Vec<&Claim> = self
            .queue_of(&wish.name)
            .take_while(|claim| Some(claim.asked.lease_id) != wish.claim)
            .collect();
        let mut holders: Vec<&Claim> = self.holders_of(&wish.name).collect();
        holders.sort_by_key(|claim| claim.holding().expect("a holder").token);
        let in_way = |there: &Claim, after: &[&Claim]| {
            let wanted = after.iter().map(|claim| claim.asked.mode).chain([wish.mode]);
            wanted.into_iter().any(|wanted| excludes(there.asked.mode, wanted))
        };
        let holders = holders.into_iter().filter(|there| in_way(there, &queue));
        let waiters = queue
            .iter()
            .enumerate()
            .filter(|(index, there)| !there.group.is_empty() || in_way(there, &queue[index + 1..]));
        holders.chain(waiters.map(|(_, there)| *there)).collect()
    }
}
