//! One lock as a sequential object with a clock, for the search.
//!
//! A lease may expire by itself from some moment on. So the state carries the earliest moment at
//! which all that took effect so far could have; a grant that needs room moves it on to when the
//! leases in its way may have ended, and a call whose answer came before that moment cannot take
//! effect any more. Earlier is never worse, so this choice loses no order.

use std::time::Duration;

use super::steps::{History, Step, Timed};
use crate::checker::fits;

/// The state of one lock.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct State {
    clock: Duration,
    /// In the order of their claims.
    holders: Vec<Holder>,
    last_token: u64,
    value: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Holder {
    /// Index in the history's claims.
    claim: usize,
    expires_from: Duration,
    /// Calls to come that need it to be there: while there are some, it has not left.
    needed: usize,
}

impl State {
    /// Whether the same hold and the value is the same. A call that left it at that would have done
    /// no better later: a renewal counts wherever it stands, since nobody leaves before it.
    pub(super) fn is_as(&self, other: &Self) -> bool {
        let claims = |state: &Self| state.holders.iter().map(|it| it.claim).collect::<Vec<_>>();
        claims(self) == claims(other)
            && self.last_token == other.last_token
            && self.value == other.value
    }

    /// The state once the call has taken effect, or `None` if it cannot.
    pub(super) fn after(&self, timed: &Timed, history: &History<'_>) -> Option<Self> {
        let mut after = self.clone();
        after.clock = after.clock.max(timed.called_at);
        let possible = match &timed.step {
            Step::Grant { claim } => after.grant(*claim, history),
            Step::Hold { claim, lives_until } => after.hold(*claim, *lives_until),
            Step::End { claim, is_first } => after.end(*claim, *is_first),
            Step::Gone { claim } => after.leave(history, |holder| holder.claim == *claim),
            Step::See { holders, complete } => after.see(holders, *complete, history),
            Step::Set { claim, value, needed } => after.set(*claim, *value, *needed),
            Step::Get { value } => after.value == *value,
        };
        let in_time = timed.returned_at.is_none_or(|returned_at| after.clock <= returned_at);
        (possible && in_time).then_some(after)
    }

    fn grant(&mut self, claim: usize, history: &History<'_>) -> bool {
        let asked = &history.claims[claim];
        if asked.token <= self.last_token {
            return false;
        }
        // Those who may have left by now have, since nobody needs them; then those who may soonest.
        let clock = self.clock;
        let may_leave = |holder: &Holder| {
            (holder.needed == 0).then(|| history.leaves_from(holder.claim, holder.expires_from))
        };
        self.holders.retain(|holder| may_leave(holder).is_none_or(|from| from > clock));
        let modes = |holders: &[Holder]| -> Vec<_> {
            holders.iter().map(|holder| history.claims[holder.claim].mode).collect()
        };
        while !fits(asked.mode, modes(&self.holders).into_iter()) {
            let leaving = self.holders.iter().enumerate();
            let leaving = leaving.filter_map(|(at, holder)| Some((may_leave(holder)?, at)));
            let Some((from, at)) = leaving.min() else { return false };
            self.clock = self.clock.max(from);
            self.holders.remove(at);
        }
        self.last_token = asked.token;
        let holder =
            Holder { claim, expires_from: asked.granted_until, needed: history.needed[claim] };
        let at = self.holders.partition_point(|other| other.claim < claim);
        self.holders.insert(at, holder);
        true
    }

    fn hold(&mut self, claim: usize, lives_until: Option<Duration>) -> bool {
        let Some(holder) = self.needs(claim) else { return false };
        holder.expires_from = holder.expires_from.max(lives_until.unwrap_or_default());
        true
    }

    fn end(&mut self, claim: usize, is_first: bool) -> bool {
        if is_first && self.needs(claim).is_none() {
            return false;
        }
        self.holders.retain(|holder| holder.claim != claim);
        true
    }

    fn see(&mut self, seen: &[usize], complete: bool, history: &History<'_>) -> bool {
        seen.iter().all(|claim| self.needs(*claim).is_some())
            && (!complete || self.leave(history, |holder| !seen.contains(&holder.claim)))
    }

    fn set(&mut self, claim: usize, value: u64, needed: bool) -> bool {
        let holds = if needed {
            self.needs(claim).is_some()
        } else {
            self.holders.iter().any(|holder| holder.claim == claim)
        };
        self.value = Some(value);
        holds
    }

    /// A holder that must be there, for a call that was counted as needing it.
    fn needs(&mut self, claim: usize) -> Option<&mut Holder> {
        let holder = self.holders.iter_mut().find(|holder| holder.claim == claim)?;
        holder.needed = holder.needed.saturating_sub(1);
        Some(holder)
    }

    /// These are there no more: they have expired by themselves, which moves the clock on.
    fn leave(&mut self, history: &History<'_>, whom: impl Fn(&Holder) -> bool) -> bool {
        let mut clock = self.clock;
        let mut needed = false;
        self.holders.retain(|holder| {
            if !whom(holder) {
                return true;
            }
            needed |= holder.needed > 0;
            clock = clock.max(history.leaves_from(holder.claim, holder.expires_from));
            false
        });
        self.clock = clock;
        !needed
    }
}
