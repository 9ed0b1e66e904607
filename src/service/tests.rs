//! Tests of the use cases: on one node under paused time, and as a follower of scripted leaders.

mod called;
mod doubts;
mod members;
mod quotas;
mod rights;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use oarlock_core::command::{Acquire, Command, ForceTarget, LeaseTerm, Mode};
use oarlock_core::ids::{LeaseId, LockName, Metadata, Owner, Reason, RequestId};
use oarlock_core::machine::Machine;
use oarlock_core::outcome::{EndReason, Grant, Outcome, Rejection};
use oarlock_core::planted;
use oarlock_core::time::{Grace, LeaseTime, LockDelay, Ttl, Wait};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::service::error::ServiceError;
use crate::service::handle::{Options, Service};
use crate::service::members::{MemberChange, MembersRefusal};
use crate::service::observer::Silent;
use crate::service::replicator::{
    Backup, Call, ClusterStatus, ForwardError, Leadership, NodeId, ProposeError, Query, Replicator,
    Reply, ReplyBody, Transfer, Upcalls,
};
use crate::service::solo::Solo;
use crate::service::{REQUEST_DEADLINE, deadline_of};

/// What happens to one forwarded call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    NotSent,
    /// Lost on its way there.
    BrokenBefore,
    /// Done, and the answer lost.
    BrokenAfter,
    Hangs,
}

/// A follower whose forwards meet scripted fates, and after those arrive.
struct Follower {
    near: Arc<Solo>,
    far: Arc<Service<Solo>>,
    fates: Mutex<VecDeque<Fate>>,
    sent: Mutex<Vec<(NodeId, Call)>>,
    by: Mutex<Vec<Option<String>>>,
}

impl Follower {
    fn sent(&self) -> Vec<(NodeId, Call)> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Replicator for Follower {
    async fn propose(&self, command: Command) -> Result<Outcome, ProposeError> {
        self.near.propose(command).await
    }

    fn propose_detached(&self, command: Command) {
        self.near.propose_detached(command);
    }

    async fn read_barrier(&self) -> Result<(), ProposeError> {
        self.near.read_barrier().await
    }

    async fn transfer_leader(&self, to: Option<NodeId>) -> Result<Transfer, ProposeError> {
        self.near.transfer_leader(to).await
    }

    async fn change_members(
        &self,
        change: MemberChange,
    ) -> Result<Result<(), MembersRefusal>, ProposeError> {
        self.near.change_members(change).await
    }

    async fn backup(&self, applied_index: u64) -> Result<Backup, ProposeError> {
        self.near.backup(applied_index).await
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.near.leadership()
    }

    fn with_machine<T>(&self, look: impl FnOnce(&Machine) -> T) -> T {
        self.near.with_machine(look)
    }

    fn lease_now(&self) -> LeaseTime {
        self.near.lease_now()
    }

    async fn forward(
        &self,
        to: NodeId,
        by: Option<String>,
        call: Call,
    ) -> Result<Reply, ForwardError> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner).push((to, call.clone()));
        self.by.lock().unwrap_or_else(PoisonError::into_inner).push(by.clone());
        let fate = self.fates.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        match fate {
            Some(Fate::NotSent) => Err(ForwardError::NotSent("refused".to_owned())),
            Some(Fate::BrokenBefore) => Err(ForwardError::Broken("reset".to_owned())),
            Some(Fate::BrokenAfter) => {
                let _lost = self.far.call_of_peer(by, call).await;
                Err(ForwardError::Broken("reset".to_owned()))
            }
            Some(Fate::Hangs) => std::future::pending().await,
            None => self.far.call_of_peer(by, call).await.map_err(ForwardError::Remote),
        }
    }

    fn status(&self) -> ClusterStatus {
        self.near.status()
    }

    fn staleness(&self) -> Option<Duration> {
        None
    }
}

impl Service<Solo> {
    async fn call_of_peer(&self, by: Option<String>, call: Call) -> Result<Reply, ServiceError> {
        Upcalls::call(self, by, call).await
    }
}

fn counting_ids() -> Box<dyn Fn() -> u128 + Send + Sync> {
    let next = std::sync::atomic::AtomicU64::new(1);
    Box::new(move || u128::from(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)))
}

fn leader_with(options: Options) -> (Arc<Solo>, Arc<Service<Solo>>) {
    planted::choose(std::env::var(planted::VARIABLE).ok()).expect("a planted bug");
    let solo = Solo::new();
    let service = Service::new(Arc::clone(&solo), Arc::new(Silent), counting_ids(), options);
    let as_upcalls: Arc<dyn Upcalls> = service.clone();
    let upcalls: Weak<dyn Upcalls> = Arc::downgrade(&as_upcalls);
    solo.attach(upcalls);
    let expiring = Arc::clone(&service);
    tokio::spawn(async move { expiring.expire().await });
    (solo, service)
}

fn leader() -> (Arc<Solo>, Arc<Service<Solo>>) {
    leader_with(Options::default())
}

fn leads(id: NodeId, term: u64) -> Leadership {
    Leadership { leader_id: Some(id), term, serving_here: false }
}

fn serves(term: u64) -> Leadership {
    Leadership { leader_id: Some(1), term, serving_here: true }
}

struct Pair {
    far_solo: Arc<Solo>,
    far: Arc<Service<Solo>>,
    follower: Arc<Follower>,
    near: Arc<Service<Follower>>,
}

fn follower_of(fates: &[Fate]) -> Pair {
    let (far_solo, far) = leader();
    let near = Solo::new();
    near.set_leadership(leads(2, 1));
    let follower = Arc::new(Follower {
        near,
        far: Arc::clone(&far),
        fates: Mutex::new(fates.iter().copied().collect()),
        sent: Mutex::default(),
        by: Mutex::default(),
    });
    let options = Options::default();
    let near = Service::new(Arc::clone(&follower), Arc::new(Silent), counting_ids(), options);
    Pair { far_solo, far, follower, near }
}

fn name() -> LockName {
    LockName::new("deploy").expect("a name")
}

fn acquire(id: u128, wait_ms: u64, request: Option<u128>) -> Call {
    acquire_for(30_000, id, wait_ms, request)
}

fn acquire_for(ttl_ms: u64, id: u128, wait_ms: u64, request: Option<u128>) -> Call {
    Call::Propose(Command::Acquire(Acquire {
        lease_id: LeaseId(id),
        name: name(),
        owner: Owner::new("me").expect("an owner"),
        mode: Mode::Exclusive,
        term: LeaseTerm::Ttl(Ttl::new(ttl_ms).expect("a TTL")),
        wait: Wait::new(wait_ms).expect("a wait"),
        grace: Grace::new(2_000).expect("a grace"),
        request_id: request.map(RequestId),
        metadata: Metadata::default(),
        lock_delay: LockDelay::new(0).expect("a lock-delay"),
    }))
}

fn release(id: u128) -> Command {
    Command::Release { lease_id: LeaseId(id) }
}

async fn ask<R: Replicator>(service: &Service<R>, call: Call) -> Result<Outcome, ServiceError> {
    let deadline = deadline_of(&call);
    match service.call(call, deadline).await?.body {
        ReplyBody::Outcome(outcome) => Ok(outcome),
        other => panic!("not an outcome: {other:?}"),
    }
}

async fn granted<R: Replicator>(service: &Service<R>, call: Call) -> Grant {
    match ask(service, call).await {
        Ok(Outcome::Granted(grant)) => *grant,
        other => panic!("not granted: {other:?}"),
    }
}

fn start<R: Replicator>(
    service: &Arc<Service<R>>,
    call: Call,
) -> JoinHandle<Result<Outcome, ServiceError>> {
    let service = Arc::clone(service);
    tokio::spawn(async move { ask(&service, call).await })
}

/// Lets every task run until it waits; takes a millisecond of paused time.
async fn settle() {
    sleep(Duration::from_millis(1)).await;
}

fn queue_length(solo: &Solo) -> u64 {
    solo.with_machine(|machine| machine.lock(&name(), 0, 0).queue_length)
}

fn token(outcome: &Result<Outcome, ServiceError>) -> u64 {
    match outcome {
        Ok(Outcome::Granted(grant)) => grant.token.0,
        other => panic!("not granted: {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_waiter_is_granted_when_the_holder_releases() {
    let (solo, service) = leader();
    granted(&service, acquire(101, 0, None)).await;
    let waiter = start(&service, acquire(102, 60_000, None));
    settle().await;
    assert!(!waiter.is_finished());
    solo.apply(release(101)).expect("a release");
    assert_eq!(token(&waiter.await.expect("no panic")), 2);
}

#[tokio::test(start_paused = true)]
async fn a_dead_holders_lock_goes_to_the_next_within_the_bound() {
    let (_solo, service) = leader();
    granted(&service, acquire(101, 0, None)).await;
    let began = Instant::now();
    let grant = granted(&service, acquire(102, 60_000, None)).await;
    assert_eq!(grant.token.0, 2);
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(30) && took < Duration::from_millis(30_200), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn the_shortest_lease_ends_in_time_though_nothing_else_happens() {
    let (solo, service) = leader();
    let held = || solo.with_machine(|machine| machine.totals().leases_held);
    for id in [101, 102] {
        sleep(Duration::from_millis(700)).await;
        granted(&service, acquire_for(100, id, 0, None)).await;
        sleep(Duration::from_millis(99)).await;
        assert_eq!(held(), 1);
        sleep(Duration::from_millis(21)).await;
        assert_eq!(held(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_runs_out_says_so_after_the_waiter_is_removed() {
    let (solo, service) = leader();
    granted(&service, acquire(101, 0, None)).await;
    match ask(&service, acquire(102, 1_000, None)).await {
        Ok(Outcome::Rejected(Rejection::LeaseGone(ended))) => {
            assert_eq!(ended.how, EndReason::WaitTimeout);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(queue_length(&solo), 0);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_went_away_leaves_the_queue_after_its_grace() {
    let (solo, service) = leader();
    granted(&service, acquire(101, 0, None)).await;
    let waiter = start(&service, acquire(102, 60_000, None));
    settle().await;
    waiter.abort();
    settle().await;
    assert_eq!(queue_length(&solo), 1);
    sleep(Duration::from_millis(1_900)).await;
    assert_eq!(queue_length(&solo), 1);
    sleep(Duration::from_millis(1_200)).await;
    assert_eq!(queue_length(&solo), 0);
}

#[tokio::test(start_paused = true)]
async fn a_repeat_keeps_the_place_when_the_first_connection_ends() {
    let (solo, service) = leader();
    granted(&service, acquire(101, 0, None)).await;
    let first = start(&service, acquire(102, 60_000, Some(7)));
    settle().await;
    let second = start(&service, acquire(103, 60_000, Some(7)));
    settle().await;
    first.abort();
    sleep(Duration::from_secs(10)).await;
    assert_eq!(queue_length(&solo), 1);
    solo.apply(release(101)).expect("a release");
    let grant = second.await.expect("no panic");
    assert_eq!(token(&grant), 2);
}

#[tokio::test(start_paused = true)]
async fn both_connections_of_one_request_hear_of_one_grant() {
    let (solo, service) = leader();
    granted(&service, acquire(101, 0, None)).await;
    let first = start(&service, acquire(102, 60_000, Some(7)));
    settle().await;
    let second = start(&service, acquire(103, 60_000, Some(7)));
    settle().await;
    solo.apply(release(101)).expect("a release");
    assert_eq!(token(&first.await.expect("no panic")), 2);
    assert_eq!(token(&second.await.expect("no panic")), 2);
}

#[tokio::test(start_paused = true)]
async fn a_waiter_thought_gone_attaches_before_it_is_told() {
    let (solo, service) = leader();
    granted(&service, acquire(101, 0, None)).await;
    let waiter = start(&service, acquire(102, 60_000, None));
    settle().await;
    solo.apply(Command::DetachAll).expect("a detach");
    solo.apply(release(101)).expect("a release");
    match waiter.await.expect("no panic") {
        Ok(Outcome::Granted(grant)) => {
            let left = grant.deadline.expect("a deadline").ms_since(solo.lease_now());
            assert!(left > 29_000, "it holds for its TTL, not for its grace: {left}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn more_waiting_calls_than_the_bound_are_refused_as_not_done() {
    let (solo, service) = leader_with(Options { waiting_calls_max: 1, ..Options::default() });
    granted(&service, acquire(101, 0, None)).await;
    let _waiter = start(&service, acquire(102, 60_000, None));
    settle().await;
    match ask(&service, acquire(103, 60_000, None)).await {
        Err(error @ ServiceError::Overloaded(_)) => assert!(error.is_not_done()),
        other => panic!("{other:?}"),
    }
    assert_eq!(queue_length(&solo), 1);
}

#[tokio::test(start_paused = true)]
async fn draining_answers_waiters_so_that_they_resume_elsewhere() {
    let (solo, service) = leader();
    granted(&service, acquire(101, 0, None)).await;
    let waiter = start(&service, acquire(102, 60_000, Some(7)));
    settle().await;
    service.drain();
    assert_eq!(waiter.await.expect("no panic"), Err(ServiceError::Leaving));
    assert_eq!(queue_length(&solo), 1, "its place is kept for its grace");
    let refused = ask(&service, acquire(103, 0, None)).await;
    assert_eq!(refused, Err(ServiceError::ShuttingDown));
}

#[tokio::test(start_paused = true)]
async fn a_forward_that_left_nothing_is_sent_again() {
    let pair = follower_of(&[Fate::NotSent, Fate::NotSent]);
    assert_eq!(granted(&pair.near, acquire(101, 0, None)).await.token.0, 1);
    assert_eq!(pair.follower.sent().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_broken_forward_with_a_request_id_is_repeated_to_one_token() {
    let pair = follower_of(&[Fate::BrokenAfter, Fate::BrokenBefore]);
    assert_eq!(granted(&pair.near, acquire(101, 0, Some(7))).await.token.0, 1);
}

#[tokio::test(start_paused = true)]
async fn a_broken_forward_without_a_request_id_is_resumed_by_its_lease_id() {
    let pair = follower_of(&[Fate::BrokenAfter]);
    assert_eq!(granted(&pair.near, acquire(101, 0, None)).await.token.0, 1);
    let attach = Call::Propose(Command::Attach { lease_id: LeaseId(101) });
    assert_eq!(pair.follower.sent()[1], (2, attach));
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_cannot_be_found_again_is_unknown() {
    let pair = follower_of(&[Fate::BrokenBefore]);
    let answer = ask(&pair.near, acquire(101, 0, None)).await;
    assert!(matches!(answer, Err(ServiceError::Unknown(_))), "{answer:?}");
}

#[tokio::test(start_paused = true)]
async fn a_force_release_of_all_is_never_repeated_by_itself() {
    let pair = follower_of(&[Fate::BrokenAfter]);
    let command = Command::ForceRelease {
        name: name(),
        target: ForceTarget::All,
        lock_delay: None,
        reason: Reason::new("stuck").expect("a reason"),
    };
    let answer = ask(&pair.near, Call::Propose(command)).await;
    assert!(matches!(answer, Err(ServiceError::Unknown(_))), "{answer:?}");
    assert_eq!(pair.follower.sent().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn renewals_and_releases_are_repeated_after_a_doubt() {
    let pair = follower_of(&[]);
    granted(&pair.near, acquire(101, 0, None)).await;
    pair.follower.fates.lock().expect("no panic").push_back(Fate::BrokenAfter);
    let renew = Command::Renew { lease_id: LeaseId(101) };
    let renewed = ask(&pair.near, Call::Propose(renew)).await;
    assert!(matches!(renewed, Ok(Outcome::Renewed(_))), "{renewed:?}");
    pair.follower.fates.lock().expect("no panic").push_back(Fate::BrokenAfter);
    let released = ask(&pair.near, Call::Propose(release(101))).await;
    assert!(matches!(released, Ok(Outcome::Released(_))), "{released:?}");
}

#[tokio::test(start_paused = true)]
async fn without_a_leader_nothing_is_done_by_the_deadline() {
    let pair = follower_of(&[]);
    pair.follower.near.set_leadership(Leadership::default());
    let began = Instant::now();
    let answer = ask(&pair.near, acquire(101, 0, None)).await;
    assert_eq!(answer, Err(ServiceError::NoLeader));
    assert_eq!(began.elapsed().as_secs(), REQUEST_DEADLINE.as_secs());
}

#[tokio::test(start_paused = true)]
async fn a_leader_lost_before_anything_was_sent_leaves_nothing_done() {
    let pair = follower_of(&[Fate::NotSent]);
    let call = start(&pair.near, acquire(101, 0, None));
    settle().await;
    pair.follower.near.set_leadership(Leadership::default());
    assert_eq!(call.await.expect("no panic"), Err(ServiceError::NoLeader));
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_does_not_wait_for_a_leader() {
    let pair = follower_of(&[]);
    pair.follower.near.set_leadership(Leadership::default());
    let call = start(&pair.near, acquire(101, 0, None));
    settle().await;
    pair.near.drain();
    settle().await;
    assert!(call.is_finished());
    assert_eq!(call.await.expect("no panic"), Err(ServiceError::ShuttingDown));
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_hangs_leaves_the_outcome_unknown_and_a_read_not_done() {
    let pair = follower_of(&[Fate::Hangs, Fate::Hangs]);
    let began = Instant::now();
    let answer = ask(&pair.near, acquire(101, 0, Some(7))).await;
    assert!(matches!(answer, Err(ServiceError::Unknown(_))), "{answer:?}");
    assert_eq!(began.elapsed().as_secs(), REQUEST_DEADLINE.as_secs());
    let read = Call::Read(Query::Lock { name: name(), waiters_max: 1 });
    let answer = pair.near.call(read, REQUEST_DEADLINE).await;
    assert_eq!(answer, Err(ServiceError::NoLeader));
}

#[tokio::test(start_paused = true)]
async fn a_hanging_leader_is_left_for_the_one_that_replaced_it() {
    let pair = follower_of(&[Fate::Hangs]);
    let call = start(&pair.near, acquire(101, 0, Some(7)));
    settle().await;
    pair.follower.near.set_leadership(leads(3, 2));
    assert_eq!(token(&call.await.expect("no panic")), 1);
    assert_eq!(pair.follower.sent()[1].0, 3);
}

#[tokio::test(start_paused = true)]
async fn a_waiter_whose_leader_was_lost_is_resumed_in_its_place() {
    let pair = follower_of(&[]);
    granted(&pair.near, acquire(101, 0, None)).await;
    let waiter = start(&pair.near, acquire(102, 60_000, None));
    settle().await;
    assert_eq!(queue_length(&pair.far_solo), 1);
    pair.far_solo.set_leadership(Leadership { leader_id: None, term: 2, serving_here: false });
    sleep(Duration::from_millis(500)).await;
    assert!(!waiter.is_finished());
    pair.far_solo.set_leadership(serves(3));
    pair.far_solo.apply(Command::DetachAll).expect("a detach");
    sleep(Duration::from_millis(500)).await;
    pair.far_solo.apply(release(101)).expect("a release");
    assert_eq!(token(&waiter.await.expect("no panic")), 2);
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_drains_hands_its_waiters_to_the_next() {
    let pair = follower_of(&[]);
    granted(&pair.near, acquire(101, 0, None)).await;
    let waiter = start(&pair.near, acquire(102, 60_000, None));
    settle().await;
    pair.far.drain();
    sleep(Duration::from_secs(1)).await;
    assert!(!waiter.is_finished());
    let attach = Call::Propose(Command::Attach { lease_id: LeaseId(102) });
    assert!(pair.follower.sent().contains(&(2, attach)));
}

#[tokio::test(start_paused = true)]
async fn a_stale_read_says_that_its_age_is_unknown() {
    let pair = follower_of(&[]);
    let (reply, age) = pair.near.stale(&Query::Lock { name: name(), waiters_max: 0 });
    assert_eq!(age, None);
    assert!(matches!(reply.body, ReplyBody::Lock(_)));
}

#[tokio::test(start_paused = true)]
async fn a_fence_goes_by_the_log_as_every_other_read_does() {
    // Nobody lets time pass in the log, as when a leader is about to lose its majority.
    let (solo, ids) = (Solo::new(), counting_ids());
    let service = Service::new(Arc::clone(&solo), Arc::new(Silent), ids, Options::default());
    let grant = granted(&service, acquire_for(100, 101, 0, None)).await;
    sleep(Duration::from_millis(150)).await;
    let fence = || Call::Read(Query::Fence { name: name(), token: grant.token });
    let answered = |reply: Reply| match reply.body {
        ReplyBody::Fence(held) => held.is_some(),
        other => panic!("not a fence: {other:?}"),
    };
    // The next leader's clock begins where the log stands, so the lease may live on.
    let due = service.call(fence(), REQUEST_DEADLINE).await.expect("an answer");
    assert!(answered(due), "due, and not ended");
    solo.apply(Command::Advance).expect("the end");
    let ended = service.call(fence(), REQUEST_DEADLINE).await.expect("an answer");
    assert!(!answered(ended));
}
