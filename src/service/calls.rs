//! A call from a surface: find the leader, ask it, and decide what a lost answer means (P9).
//!
//! ```text
//!  missed  it certainly did not happen: ask again, wherever the leader is by now
//!  doubt   it may have happened: repeat it if that has no second effect, resume a claim by its
//!          lease id, else answer `Unknown`
//! ```
//!
//! Every call ends by its deadline, and whatever was handed over by then is `Unknown`.

use std::time::Duration;

use oarlock_core::command::{Command, Entry, ForceTarget, LEVEL};
use oarlock_core::ids::LeaseId;
use oarlock_core::outcome::{Outcome, Rejection};
use oarlock_core::planted::{Bug, planted};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::service::error::ServiceError;
use crate::service::gate::Caller;
use crate::service::handle::Service;
use crate::service::members::MembersCall;
use crate::service::replicator::{
    Call, ForwardError, Leadership, NodeId, Replicator, Reply, ReplyBody,
};
use crate::service::spans;
use crate::service::tokens::TokensCall;
use crate::traces::{self, Fact, Step};

/// How long a call may take, not counting the wait it asks for: covers a fail-over.
pub const REQUEST_DEADLINE: Duration = Duration::from_secs(10);
/// A forwarded call is given up here this long after its asker should have.
pub(super) const PEER_SLACK: Duration = Duration::from_secs(5);
/// First pause after a miss; doubles up to [`RETRY_PAUSE_MAX`]. News of a leader cut it short.
const RETRY_PAUSE: Duration = Duration::from_millis(20);
/// Longest pause between two tries.
const RETRY_PAUSE_MAX: Duration = Duration::from_millis(250);

/// When a call must have ended, counted from its arrival.
pub fn deadline_of(call: &Call) -> Duration {
    match call {
        Call::Propose(Command::Acquire(acquire)) => {
            REQUEST_DEADLINE + Duration::from_millis(acquire.wait.ms())
        }
        Call::Propose(Command::AcquireMany(many)) => {
            REQUEST_DEADLINE + Duration::from_millis(many.wait.ms())
        }
        // The wait belongs to the acquire that it resumes, whose deadline the asking node keeps.
        Call::Propose(Command::Attach { .. }) => {
            REQUEST_DEADLINE + Duration::from_millis(oarlock_core::limits::WAIT_MS_MAX)
        }
        Call::Propose(_)
        | Call::Read(_)
        | Call::Position
        | Call::TransferLeader(_)
        | Call::Members(_)
        | Call::Tokens(_) => REQUEST_DEADLINE,
    }
}

/// Why one try brought no reply.
enum Setback {
    /// Certainly not done.
    Missed,
    /// Perhaps done.
    Doubt(String),
    /// Asking again would not help.
    Final(ServiceError),
}

/// What may be done about a call whose fate is not known.
enum Remedy {
    /// A second time has no second effect.
    Repeat,
    /// The claim lives under its lease id, or never came to be.
    Resume(LeaseId),
    /// Only the client can find out.
    Nothing,
}

fn remedy(call: &Call) -> Remedy {
    match call {
        // The next leader would give leadership away as well; a second id would be given.
        // The second time would find the credential that the first one made.
        Call::TransferLeader(_)
        | Call::Members(MembersCall::Invite { .. })
        | Call::Tokens(TokensCall::Create { .. }) => Remedy::Nothing,
        // Other changes of the members end in the same ones, however often they are asked for.
        Call::Read(_) | Call::Position | Call::Members(_) | Call::Tokens(_) => Remedy::Repeat,
        Call::Propose(command) => match command {
            Command::Acquire(acquire) if acquire.request_id.is_none() => {
                Remedy::Resume(acquire.lease_id)
            }
            Command::AcquireMany(many) if many.request_id.is_none() => {
                many.claims.first().map_or(Remedy::Nothing, |first| Remedy::Resume(first.lease_id))
            }
            // A late second time could undo what came between.
            Command::ForceRelease { target: ForceTarget::All, .. }
            | Command::SetValue { .. }
            | Command::DeleteValue { .. }
            | Command::PutRecord { .. } => Remedy::Nothing,
            // A session id is minted once per call, so that a repeat finds the first one's session.
            Command::OpenSession(_)
            | Command::Acquire(_)
            | Command::AcquireMany(_)
            // The new lease id is minted once per call, too.
            | Command::HandOver(_)
            | Command::Advance
            | Command::Attach { .. }
            | Command::Detach { .. }
            | Command::DetachAll
            | Command::Renew { .. }
            | Command::Release { .. }
            | Command::ForceRelease { target: ForceTarget::Token(_), .. }
            | Command::RenewSession { .. }
            | Command::CloseSession { .. } => Remedy::Repeat,
        },
    }
}

/// One call on its way.
struct Journey {
    call: Call,
    /// The credential in whose name it is forwarded.
    by: Option<String>,
    /// A try is under way and may have been handed over.
    in_flight: bool,
    /// An earlier try may have happened.
    in_doubt: bool,
    /// The call now is the resumption of a claim.
    resumes: bool,
}

impl Journey {
    fn new(call: Call, by: Option<String>) -> Self {
        Self { call, by, in_flight: false, in_doubt: false, resumes: false }
    }

    /// Prepares the next try after a doubt; false if there must not be one.
    fn mend(&mut self) -> bool {
        self.in_doubt = true;
        match remedy(&self.call) {
            Remedy::Repeat => true,
            Remedy::Resume(lease_id) => {
                self.call = Call::Propose(Command::Attach { lease_id });
                self.resumes = true;
                true
            }
            Remedy::Nothing => false,
        }
    }

    fn arrived(&self, reply: Reply) -> Result<Reply, ServiceError> {
        let nowhere = ReplyBody::Outcome(Outcome::Rejected(Rejection::LeaseUnknown));
        if self.resumes && reply.body == nowhere {
            return Err(unknown("the leader was lost before it answered"));
        }
        Ok(reply)
    }

    /// What an error means to the caller, given the tries before it.
    fn failed(&self, error: ServiceError) -> ServiceError {
        if self.in_doubt && self.changes() && error.is_not_done() {
            return unknown(&error.to_string());
        }
        error
    }

    /// Whether it leaves something behind when it is done.
    fn changes(&self) -> bool {
        match &self.call {
            Call::Propose(_) | Call::TransferLeader(_) | Call::Members(_) | Call::Tokens(_) => true,
            Call::Read(_) | Call::Position => false,
        }
    }

    fn ran_out(&self) -> ServiceError {
        if self.changes() && (self.in_flight || self.in_doubt) && !planted(Bug::TimeoutIsNotDone) {
            return unknown("no answer within the deadline");
        }
        ServiceError::NoLeader
    }
}

fn unknown(why: &str) -> ServiceError {
    ServiceError::Unknown(why.to_owned())
}

impl<R: Replicator> Service<R> {
    /// The same for nobody in particular, who is refused once credentials are asked for.
    pub async fn call(&self, call: Call, deadline: Duration) -> Result<Reply, ServiceError> {
        self.call_as(&Caller::default(), call, deadline).await
    }

    /// Answers a call of that caller, if it may, wherever the leader is, within the deadline (see
    /// [`deadline_of`]). Dropping the future means that the client is gone. A call that waits ends
    /// with the credential of its caller.
    pub async fn call_as(
        &self,
        caller: &Caller,
        call: Call,
        deadline: Duration,
    ) -> Result<Reply, ServiceError> {
        let telling = self.telling(caller, &call);
        let answer = self.answer_as(caller, call, deadline).await;
        if let Some(telling) = telling {
            telling.end(&answer);
        }
        answer
    }

    async fn answer_as(
        &self,
        caller: &Caller,
        call: Call,
        deadline: Duration,
    ) -> Result<Reply, ServiceError> {
        self.admit(caller, &call)?;
        let is_named = spans::of_call(&call, traces::tell);
        if !waits(&call) {
            let mut reply = self.answer(call, caller.id(), deadline).await?;
            spans::of_reply(&reply, is_named, traces::tell);
            caller.redact(&mut reply);
            return Ok(reply);
        }
        let _counted = caller.count_waiting()?;
        let mut reply = tokio::select! {
            biased;
            reply = self.answer(call, caller.id(), deadline) => reply?,
            () = self.gone(caller) => return Err(ServiceError::Revoked),
        };
        spans::of_reply(&reply, is_named, traces::tell);
        caller.redact(&mut reply);
        Ok(reply)
    }

    async fn answer(
        &self,
        call: Call,
        by: Option<String>,
        deadline: Duration,
    ) -> Result<Reply, ServiceError> {
        if self.is_draining() {
            return Err(ServiceError::ShuttingDown);
        }
        if planted(Bug::FollowerAnswersReads)
            && let Call::Read(query) = &call
        {
            return Ok(self.stale(query).0);
        }
        if planted(Bug::FollowerGrants)
            && let Some(reply) = self.granted_here(&call)
        {
            return Ok(reply);
        }
        let deadline = if planted(Bug::CallsHaveNoDeadline) { deadline * 100 } else { deadline };
        let mut journey = Journey::new(call, by);
        match timeout(deadline, self.pursue(&mut journey)).await {
            Ok(answer) => answer,
            Err(_) => Err(journey.ran_out()),
        }
    }

    /// The answer of a node that decides by its own state while nobody leads; planted only.
    fn granted_here(&self, call: &Call) -> Option<Reply> {
        let Call::Propose(command @ Command::Acquire(_)) = call else { return None };
        let now = self.replicator.lease_now();
        let commands = vec![(now, command.clone())];
        let entry = Entry { level: LEVEL, wall_ms: 0, commands };
        let decided = self.replicator.with_machine(|machine| machine.clone().apply(&entry));
        let outcome = decided.ok()?.outcomes.pop()?;
        let grants =
            matches!(outcome, Outcome::Granted(_)) && self.leadership().leader_id.is_none();
        grants.then_some(Reply { now, body: ReplyBody::Outcome(outcome) })
    }

    async fn pursue(&self, journey: &mut Journey) -> Result<Reply, ServiceError> {
        let mut leadership = self.replicator.leadership();
        let mut pause = RETRY_PAUSE;
        let patience = sleep(REQUEST_DEADLINE);
        tokio::pin!(patience);
        loop {
            let leader = if journey.in_doubt {
                self.leader(&mut leadership).await
            } else {
                // Nothing was handed over yet, so nothing waits: a queue is no reason to be patient.
                tokio::select! {
                    biased;
                    known = self.leader(&mut leadership) => known,
                    () = &mut patience => return Err(ServiceError::NoLeader),
                }
            };
            let Some(leader) = leader else {
                return Err(journey.failed(ServiceError::ShuttingDown));
            };
            journey.in_flight = true;
            let setback = match self.attempt(leader, journey, &mut leadership).await {
                Ok(reply) => return journey.arrived(reply),
                Err(setback) => setback,
            };
            match setback {
                Setback::Missed => journey.in_flight = false,
                Setback::Final(error) => return Err(journey.failed(error)),
                Setback::Doubt(why) => {
                    journey.in_flight = false;
                    if !journey.mend() {
                        return Err(ServiceError::Unknown(why));
                    }
                }
            }
            if self.is_draining() {
                return Err(journey.failed(ServiceError::ShuttingDown));
            }
            // Either news or time: then the next try.
            let _news = timeout(pause, leadership.changed()).await;
            pause = RETRY_PAUSE_MAX.min(pause * 2);
        }
    }

    /// Waits until somebody leads: this node once it serves, or another. `None` when this node
    /// shuts down before that.
    async fn leader(&self, leadership: &mut watch::Receiver<Leadership>) -> Option<NodeId> {
        if let Some(leader) = self.leader_in(&leadership.borrow_and_update()) {
            return Some(leader);
        }
        let mut draining = self.draining.subscribe();
        tokio::select! {
            biased;
            known = leadership.wait_for(|now| self.leader_in(now).is_some()) => {
                known.ok().and_then(|now| self.leader_in(&now))
            }
            _ = draining.wait_for(|draining| *draining) => None,
        }
    }

    fn leader_in(&self, now: &Leadership) -> Option<NodeId> {
        if now.serving_here {
            return Some(self.node_id);
        }
        now.leader_id.filter(|&id| id != self.node_id)
    }

    async fn attempt(
        &self,
        leader: NodeId,
        journey: &Journey,
        leadership: &mut watch::Receiver<Leadership>,
    ) -> Result<Reply, Setback> {
        if leader == self.node_id {
            // What this node knew when the call came may be from before it led.
            self.admit_forwarded(journey.by.as_deref(), &journey.call).map_err(here)?;
            let by = journey.by.as_deref();
            return self.serve_as(by, journey.call.clone()).await.map_err(here);
        }
        let asked = async {
            let span = self.step(Step::Forward);
            span.tell(Fact::Leader(leader));
            let (by, call) = (journey.by.clone(), journey.call.clone());
            let answer = self.replicator.forward(leader, by, call).await;
            spans::of_answer(&answer, |fact| span.tell(fact));
            answer
        };
        if matches!(remedy(&journey.call), Remedy::Nothing) {
            return asked.await.map_err(there);
        }
        // A leader that hangs may never break the connection: when another leads, ask that one.
        let mut draining = self.draining.subscribe();
        tokio::select! {
            biased;
            answer = asked => answer.map_err(there),
            _ = leadership.wait_for(|now| self.leader_in(now).is_some_and(|id| id != leader)) => {
                Err(Setback::Doubt("the leader changed before it answered".to_owned()))
            }
            _ = draining.wait_for(|draining| *draining && waits(&journey.call)) => {
                Err(Setback::Final(ServiceError::Leaving))
            }
        }
    }
}

/// Whether the call may stand in a queue: then a shutdown does not wait for it.
fn waits(call: &Call) -> bool {
    match call {
        Call::Propose(Command::Acquire(acquire)) => acquire.wait.ms() > 0,
        Call::Propose(Command::AcquireMany(many)) => many.wait.ms() > 0,
        Call::Propose(Command::Attach { .. }) => true,
        Call::Propose(_)
        | Call::Read(_)
        | Call::Position
        | Call::TransferLeader(_)
        | Call::Members(_)
        | Call::Tokens(_) => false,
    }
}

/// What an error of this node's own service means for the try.
fn here(error: ServiceError) -> Setback {
    match error {
        ServiceError::NotLeader(_) | ServiceError::NoLeader => Setback::Missed,
        ServiceError::Unknown(why) => Setback::Doubt(why),
        ServiceError::Overloaded(_)
        | ServiceError::ShuttingDown
        | ServiceError::Leaving
        | ServiceError::Unauthenticated(_)
        | ServiceError::Forbidden(_)
        | ServiceError::Revoked
        | ServiceError::OverQuota { .. } => Setback::Final(error),
    }
}

/// What a failed forward means for the try.
fn there(error: ForwardError) -> Setback {
    match error {
        ForwardError::NotSent(_) => Setback::Missed,
        ForwardError::Broken(why) => Setback::Doubt(why),
        ForwardError::Remote(error) => match error {
            // A leader that shuts down hands over: the next one answers.
            ServiceError::NotLeader(_) | ServiceError::NoLeader | ServiceError::ShuttingDown => {
                Setback::Missed
            }
            ServiceError::Leaving => Setback::Doubt(error.to_string()),
            ServiceError::Unknown(why) => Setback::Doubt(why),
            ServiceError::Overloaded(_)
            | ServiceError::Unauthenticated(_)
            | ServiceError::Forbidden(_)
            | ServiceError::Revoked
            | ServiceError::OverQuota { .. } => Setback::Final(error),
        },
    }
}
