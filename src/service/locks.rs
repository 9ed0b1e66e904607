//! The leader's side of a call: propose, and for an acquire that has to queue, wait.

use oarlock_core::command::Command;
use oarlock_core::ids::{LeaseId, LockName};
use oarlock_core::outcome::{EndReason, Ended, Grant, Outcome, Rejection};
use oarlock_core::planted::{Bug, planted};
use oarlock_core::query::LeaseView;
use tokio::sync::watch;

use crate::service::error::ServiceError;
use crate::service::handle::Service;
use crate::service::replicator::{Call, Leadership, ProposeError, Replicator, Reply, ReplyBody};
use crate::service::spans;
use crate::service::waiting::{Seat, Wake};
use crate::traces::{Fact, Step};

/// Why a wait is over.
enum Over {
    Woken(Wake),
    LeaderLost,
    Draining,
}

impl Over {
    fn word(&self) -> &'static str {
        match self {
            Self::Woken(Wake::Granted(_)) => "granted",
            Self::Woken(Wake::Ended(_)) => "ended",
            Self::Woken(Wake::AttachFirst) => "attach",
            Self::LeaderLost => "leader-lost",
            Self::Draining => "draining",
        }
    }
}

impl From<ProposeError> for ServiceError {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::NotDone(why) => Self::Overloaded(why.to_owned()),
            ProposeError::NotLeader(leader) => Self::NotLeader(leader),
            ProposeError::Unknown(why) => Self::Unknown(why.to_owned()),
        }
    }
}

impl<R: Replicator> Service<R> {
    /// Answers a call here, as leader. Dropping the future means that the caller is gone.
    pub(super) async fn serve(&self, call: Call) -> Result<Reply, ServiceError> {
        if self.is_draining() {
            return Err(ServiceError::ShuttingDown);
        }
        let leadership = self.leadership();
        if !leadership.serving_here {
            return Err(ServiceError::NotLeader(leadership.leader_id));
        }
        match call {
            Call::Read(query) => self.read(query).await,
            Call::Position => self.position().await,
            Call::TransferLeader(to) => self.transfer_leader(to).await,
            Call::Members(call) => self.members(call).await,
            Call::Tokens(call) => self.tokens(call).await,
            Call::Propose(Command::Acquire(acquire)) => {
                let seated = (acquire.wait.ms() > 0).then_some(acquire.lease_id);
                self.claim(Command::Acquire(acquire), seated).await
            }
            Call::Propose(Command::AcquireMany(many)) => {
                let first = many.claims.first().filter(|_| many.wait.ms() > 0);
                let seated = first.map(|claim| claim.lease_id);
                self.claim(Command::AcquireMany(many), seated).await
            }
            Call::Propose(Command::Attach { lease_id }) => {
                self.claim(Command::Attach { lease_id }, Some(lease_id)).await
            }
            Call::Propose(command) => {
                let outcome = match self.propose(command).await? {
                    Outcome::Renewed(_) if planted(Bug::LivingIsGone) => {
                        Outcome::Rejected(Rejection::LeaseUnknown)
                    }
                    outcome => outcome,
                };
                self.reply(outcome).await
            }
        }
    }

    async fn propose(&self, command: Command) -> Result<Outcome, ProposeError> {
        let span = self.step(Step::Propose);
        let is_named = spans::of_command(&command, |fact| span.tell(fact));
        let outcome = self.replicator.propose(command).await;
        spans::of_proposal(&outcome, is_named, |fact| span.tell(fact));
        let outcome = outcome?;
        self.observer.outcome(&outcome);
        Ok(outcome)
    }

    /// Proposes for a request; once that stands in the queue, no failure of ours means that nothing
    /// was done (P9).
    async fn propose_for(&self, command: Command, stands: bool) -> Result<Outcome, ServiceError> {
        let outcome = self.propose(command).await;
        if stands { outcome.map_err(|error| in_doubt(&error)) } else { Ok(outcome?) }
    }

    /// Proposes a claim on a lock and waits until it is granted or over. The seat is taken before
    /// the proposal, because the event that ends the wait may come before its outcome.
    async fn claim(
        &self,
        mut command: Command,
        seated: Option<LeaseId>,
    ) -> Result<Reply, ServiceError> {
        let mut leadership = self.replicator.leadership();
        let term = leadership.borrow_and_update().term;
        let mut seat = match seated {
            Some(lease_id) => Some(self.seat(lease_id)?),
            None => None,
        };
        let lock = name_of(&command);
        let mut estimate_ms = None;
        let mut stands = false;
        loop {
            let queued = match self.propose_for(command, stands).await? {
                Outcome::Queued(queued) => queued,
                // The first lease stands for all.
                Outcome::QueuedMany(mut places) if !places.is_empty() => places.swap_remove(0),
                outcome => {
                    seat.into_iter().for_each(Seat::settle);
                    return self.reply(outcome).await;
                }
            };
            stands = true;
            let lease_id = queued.lease_id;
            if let Some(name) = &lock {
                let before = || self.estimate_here_ms(name, queued.position);
                estimate_ms = estimate_ms.or_else(before);
            }
            let mut sitting = match seat.take() {
                Some(sitting) if sitting.lease_id() == lease_id => sitting,
                // A repeat of a request that waits under its first lease id. An event of it may
                // have passed before this seat was taken, and the first connection's end may have
                // detached it: attaching once more answers both.
                other => {
                    other.into_iter().for_each(Seat::settle);
                    seat = Some(self.seat_of_queued(lease_id)?);
                    command = Command::Attach { lease_id };
                    continue;
                }
            };
            let place = (lock.as_ref(), queued.position);
            match self.wait(&mut sitting, place, &mut leadership, term).await {
                Over::Woken(Wake::Granted(grant)) => {
                    sitting.settle();
                    if let Some(estimate_ms) = estimate_ms {
                        self.observer.estimated(estimate_ms, grant.waited_ms);
                    }
                    return self.reply(Outcome::Granted(grant)).await;
                }
                Over::Woken(Wake::Ended(ended)) => {
                    sitting.settle();
                    let gone = Outcome::Rejected(Rejection::LeaseGone(ended));
                    self.observer.outcome(&gone);
                    return self.reply(gone).await;
                }
                Over::Woken(Wake::AttachFirst) => {
                    sitting.sit_again();
                    seat = Some(sitting);
                    command = Command::Attach { lease_id };
                }
                Over::LeaderLost => {
                    sitting.settle();
                    return Err(lost("the leader was lost while the request waited"));
                }
                Over::Draining => return Err(ServiceError::Leaving),
            }
        }
    }

    fn seat(&self, lease_id: LeaseId) -> Result<Seat<'_, R>, ServiceError> {
        let seats_max = self.options.waiting_calls_max;
        self.waiting.take(self.replicator.as_ref(), lease_id, seats_max).ok_or_else(|| {
            ServiceError::Overloaded(format!("{seats_max} calls wait on this node already"))
        })
    }

    /// A seat for a request that stands in the queue already, which a refusal must not deny.
    fn seat_of_queued(&self, lease_id: LeaseId) -> Result<Seat<'_, R>, ServiceError> {
        self.seat(lease_id).map_err(|_full| {
            self.replicator.propose_detached(Command::Detach { lease_id });
            lost("the request waits, but too many calls wait on this node")
        })
    }

    async fn wait(
        &self,
        seat: &mut Seat<'_, R>,
        (lock, position): (Option<&LockName>, u64),
        leadership: &mut watch::Receiver<Leadership>,
        term: u64,
    ) -> Over {
        let span = self.step(Step::Wait);
        span.tell(Fact::Position(position));
        if let Some(name) = lock {
            span.tell(Fact::Lock(name));
        }
        let mut draining = self.draining.subscribe();
        let over = tokio::select! {
            biased;
            wake = seat.woken() => wake.map_or(Over::LeaderLost, Over::Woken),
            _ = leadership.wait_for(|now| !now.serving_here || now.term != term) => Over::LeaderLost,
            _ = draining.wait_for(|draining| *draining) => Over::Draining,
        };
        span.tell(Fact::Outcome(over.word()));
        over
    }

    /// Dates an outcome, and never hands out a lease that is dead by now.
    async fn reply(&self, outcome: Outcome) -> Result<Reply, ServiceError> {
        let gone = |ended| Outcome::Rejected(Rejection::LeaseGone(ended));
        let outcome = match outcome {
            Outcome::Granted(grant) => match self.living(*grant).await? {
                Ok(grant) => Outcome::Granted(Box::new(grant)),
                Err(ended) => gone(ended),
            },
            Outcome::GrantedMany(grants) => {
                let all = self.all_living(grants).await?;
                all.map_or_else(gone, Outcome::GrantedMany)
            }
            outcome => outcome,
        };
        Ok(Reply { now: self.replicator.lease_now(), body: ReplyBody::Outcome(outcome) })
    }

    /// Grants of several locks; one that is over makes the whole answer that.
    async fn all_living(
        &self,
        mut grants: Vec<Grant>,
    ) -> Result<Result<Vec<Grant>, Ended>, ServiceError> {
        for grant in &mut grants {
            match self.living(grant.clone()).await? {
                Ok(fresh) => *grant = fresh,
                Err(ended) => return Ok(Err(ended)),
            }
        }
        Ok(Ok(grants))
    }

    /// A grant whose deadline passed on its way here may have been renewed since; otherwise the log
    /// is asked to end it before anybody is told so, because until then others see it held. One after
    /// the other asks: each advance may end what several wait for.
    async fn living(&self, grant: Grant) -> Result<Result<Grant, Ended>, ServiceError> {
        let mut turn = None;
        loop {
            let now = self.replicator.lease_now();
            let lives = |grant: &Grant| grant.deadline.is_none_or(|at| at > now);
            if lives(&grant) {
                return Ok(Ok(grant));
            }
            match self.replicator.with_machine(|machine| machine.lease(grant.lease_id)) {
                LeaseView::Held(fresh) if lives(&fresh) => return Ok(Ok(fresh)),
                LeaseView::Ended(ended) => return Ok(Err(ended)),
                LeaseView::Held(_) if turn.is_none() => {
                    let free = self.advance_turn.acquire().await;
                    turn = Some(free.map_err(|_| ServiceError::ShuttingDown)?);
                }
                LeaseView::Held(_) => {
                    let ends = self.propose(Command::Advance).await;
                    ends.map_err(|error| in_doubt(&error))?;
                }
                // Forgotten since: it was over long ago.
                LeaseView::Waiting { .. } | LeaseView::Unknown => {
                    return Ok(Err(Ended {
                        lease_id: grant.lease_id,
                        name: grant.name,
                        token: Some(grant.token),
                        how: EndReason::Expired,
                        ended_at: grant.deadline.unwrap_or(now),
                    }));
                }
            }
        }
    }
}

fn in_doubt(error: &ProposeError) -> ServiceError {
    lost(match error {
        ProposeError::NotDone(why) | ProposeError::Unknown(why) => why,
        ProposeError::NotLeader(_) => "the leader was lost while the request waited",
    })
}

fn name_of(command: &Command) -> Option<LockName> {
    if let Command::Acquire(acquire) = command { Some(acquire.name.clone()) } else { None }
}

fn lost(why: &str) -> ServiceError {
    ServiceError::Unknown(why.to_owned())
}
