//! What is said about claims that stand in the log while their calls come and go.

use std::sync::MutexGuard;

use oarlock_core::limits::EXPIRIES_PER_ADVANCE_MAX;
use oarlock_core::query::LeaseView;

use super::*;

type Upon = Box<dyn Fn(&Command) + Send + Sync>;

/// A leader that refuses, loses or swallows what a script says, and applies the rest.
pub(super) struct Scripted {
    solo: Arc<Solo>,
    /// One for each proposal: `None` applies it, an error is answered instead, `Hangs` never is.
    script: Mutex<VecDeque<Option<Upset>>>,
    on_detached: Mutex<Option<Upon>>,
    detached: Mutex<Vec<Command>>,
    advances: Mutex<Advances>,
}

/// The proposals that let time pass.
#[derive(Default)]
struct Advances {
    all: usize,
    under_way: usize,
    most_under_way: usize,
}

pub(super) enum Upset {
    Answers(ProposeError),
    Hangs,
    /// Applied, and answered after this time.
    Late(Duration),
    /// Applied after this time.
    Delayed(Duration),
}

impl Scripted {
    pub(super) fn new(script: Vec<Option<Upset>>) -> (Arc<Self>, Arc<Service<Self>>) {
        Self::with(script, Options::default())
    }

    fn with(script: Vec<Option<Upset>>, options: Options) -> (Arc<Self>, Arc<Service<Self>>) {
        let (replicator, service) = Self::timeless(script, options);
        let expiring = Arc::clone(&service);
        tokio::spawn(async move { expiring.expire().await });
        (replicator, service)
    }

    /// Nothing ends by itself.
    fn timeless(script: Vec<Option<Upset>>, options: Options) -> (Arc<Self>, Arc<Service<Self>>) {
        let replicator = Arc::new(Self {
            solo: Solo::new(),
            script: Mutex::new(script.into()),
            on_detached: Mutex::default(),
            detached: Mutex::default(),
            advances: Mutex::default(),
        });
        let near = Arc::clone(&replicator);
        let service = Service::new(near, Arc::new(Silent), counting_ids(), options);
        let as_upcalls: Arc<dyn Upcalls> = service.clone();
        let upcalls: Weak<dyn Upcalls> = Arc::downgrade(&as_upcalls);
        replicator.solo.attach(upcalls);
        (replicator, service)
    }

    fn next(&self) -> Option<Upset> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner).pop_front().flatten()
    }

    fn advances(&self) -> MutexGuard<'_, Advances> {
        self.advances.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets time pass once whoever else is ready has had a turn.
    async fn advance(&self) -> Result<Outcome, ProposeError> {
        {
            let mut advances = self.advances();
            advances.all += 1;
            advances.under_way += 1;
            advances.most_under_way = advances.most_under_way.max(advances.under_way);
        }
        tokio::task::yield_now().await;
        self.advances().under_way -= 1;
        self.solo.propose(Command::Advance).await
    }

    /// What becomes of the next proposal.
    pub(super) fn then(&self, upset: Upset) {
        self.script.lock().unwrap_or_else(PoisonError::into_inner).push_back(Some(upset));
    }

    fn detached(&self) -> Vec<Command> {
        self.detached.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Replicator for Scripted {
    async fn propose(&self, command: Command) -> Result<Outcome, ProposeError> {
        if matches!(command, Command::Advance) {
            return self.advance().await;
        }
        match self.next() {
            None => self.solo.propose(command).await,
            Some(Upset::Answers(error)) => Err(error),
            Some(Upset::Hangs) => std::future::pending().await,
            Some(Upset::Delayed(time)) => {
                sleep(time).await;
                self.solo.propose(command).await
            }
            Some(Upset::Late(time)) => {
                let outcome = self.solo.propose(command).await;
                sleep(time).await;
                outcome
            }
        }
    }

    fn propose_detached(&self, command: Command) {
        self.detached.lock().unwrap_or_else(PoisonError::into_inner).push(command.clone());
        if let Some(upon) = &*self.on_detached.lock().unwrap_or_else(PoisonError::into_inner) {
            upon(&command);
        }
        self.solo.propose_detached(command);
    }

    async fn read_barrier(&self) -> Result<(), ProposeError> {
        self.solo.read_barrier().await
    }

    async fn transfer_leader(&self, to: Option<NodeId>) -> Result<Transfer, ProposeError> {
        self.solo.transfer_leader(to).await
    }

    async fn change_members(
        &self,
        change: MemberChange,
    ) -> Result<Result<(), MembersRefusal>, ProposeError> {
        self.solo.change_members(change).await
    }

    async fn backup(&self, applied_index: u64) -> Result<Backup, ProposeError> {
        self.solo.backup(applied_index).await
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.solo.leadership()
    }

    fn with_machine<T>(&self, look: impl FnOnce(&Machine) -> T) -> T {
        self.solo.with_machine(look)
    }

    fn lease_now(&self) -> LeaseTime {
        self.solo.lease_now()
    }

    async fn forward(
        &self,
        _to: NodeId,
        _by: Option<String>,
        _call: Call,
    ) -> Result<Reply, ForwardError> {
        Err(ForwardError::NotSent("it leads itself".to_owned()))
    }

    fn status(&self) -> ClusterStatus {
        self.solo.status()
    }

    fn staleness(&self) -> Option<Duration> {
        None
    }
}

#[tokio::test(start_paused = true)]
async fn what_stands_in_the_queue_is_never_answered_as_not_done() {
    let refused = Upset::Answers(ProposeError::NotDone("too many commands wait"));
    // The holder, the waiter, its repeat and the repeat's attach, which is refused.
    let (replicator, service) = Scripted::new(vec![None, None, None, Some(refused)]);
    granted(&service, acquire(101, 0, None)).await;
    let _first = start(&service, acquire(102, 60_000, Some(7)));
    settle().await;
    let repeat = service.serve(acquire(103, 60_000, Some(7))).await;
    assert!(matches!(repeat, Err(ServiceError::Unknown(_))), "{repeat:?}");
    assert_eq!(queue_length(&replicator.solo), 1);
}

#[tokio::test(start_paused = true)]
async fn a_repeat_that_finds_no_seat_denies_nothing_that_stands() {
    let options = Options { waiting_calls_max: 2, ..Options::default() };
    let (replicator, service) = Scripted::with(vec![], options);
    granted(&service, acquire(101, 0, None)).await;
    let first = start(&service, acquire(102, 60_000, Some(7)));
    settle().await;
    first.abort();
    settle().await;
    let _other = start(&service, acquire(103, 60_000, None));
    settle().await;
    // The last seat is its own until it learns under which lease id it waits; then that is full.
    let repeat = start(&service, acquire(104, 60_000, Some(7)));
    settle().await;
    assert!(!repeat.is_finished(), "its own seat is free by then");
    let late = service.serve(acquire(105, 60_000, Some(7))).await;
    assert!(matches!(late, Err(ServiceError::Overloaded(_))), "{late:?}");
    assert_eq!(queue_length(&replicator.solo), 2);
}

#[tokio::test(start_paused = true)]
async fn a_detach_has_not_the_last_word_over_a_new_connection() {
    let (replicator, service) = Scripted::new(vec![]);
    granted(&service, acquire(101, 0, None)).await;
    let first = start(&service, acquire(102, 60_000, Some(7)));
    settle().await;
    // Another connection sits down in the moment in which the first one's end is reported.
    let sits = Arc::clone(&service);
    let sits: Upon = Box::new(move |command| {
        if matches!(command, Command::Detach { .. }) {
            let seat = sits.waiting.take(sits.replicator.as_ref(), LeaseId(102), 10);
            std::mem::forget(seat);
        }
    });
    *replicator.on_detached.lock().expect("no panic") = Some(sits);
    first.abort();
    settle().await;
    let lease_id = LeaseId(102);
    let said = [Command::Detach { lease_id }, Command::Attach { lease_id }];
    assert_eq!(replicator.detached(), said);
    sleep(Duration::from_secs(10)).await;
    assert_eq!(queue_length(&replicator.solo), 1, "it was attached last");
}

#[tokio::test(start_paused = true)]
async fn a_repeat_dropped_in_flight_leaves_the_grace_running() {
    // The holder, the waiter, its repeat; the repeat's attach never arrives.
    let (replicator, service) = Scripted::new(vec![None, None, None, Some(Upset::Hangs)]);
    granted(&service, acquire(101, 0, None)).await;
    let first = start(&service, acquire(102, 60_000, Some(7)));
    settle().await;
    first.abort();
    sleep(Duration::from_millis(1_500)).await;
    let repeat = start(&service, acquire(103, 60_000, Some(7)));
    settle().await;
    repeat.abort();
    sleep(Duration::from_millis(3_600)).await;
    assert_eq!(queue_length(&replicator.solo), 0);
}

#[tokio::test(start_paused = true)]
async fn without_a_leader_a_long_wait_is_no_reason_to_hang() {
    let pair = follower_of(&[]);
    pair.follower.near.set_leadership(Leadership::default());
    let began = Instant::now();
    let answer = ask(&pair.near, acquire(101, 600_000, None)).await;
    assert_eq!(answer, Err(ServiceError::NoLeader));
    assert_eq!(began.elapsed().as_secs(), REQUEST_DEADLINE.as_secs());
}

#[tokio::test(start_paused = true)]
async fn a_repeat_by_the_node_itself_does_not_prolong_the_wait() {
    let pair = follower_of(&[]);
    granted(&pair.near, acquire(101, 0, None)).await;
    let began = Instant::now();
    let waiter = start(&pair.near, acquire(102, 5_000, Some(7)));
    sleep(Duration::from_secs(3)).await;
    pair.follower.near.set_leadership(leads(3, 2));
    match waiter.await.expect("no panic") {
        Ok(Outcome::Rejected(Rejection::LeaseGone(ended))) => {
            assert_eq!(ended.how, EndReason::WaitTimeout);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(began.elapsed().as_secs(), 5);
    assert_eq!(pair.follower.sent().last().map(|(to, _)| *to), Some(3));
}

#[tokio::test(start_paused = true)]
async fn a_grant_that_comes_too_late_is_over_in_the_log_before_anybody_is_told() {
    let late = Upset::Late(Duration::from_mins(2));
    let (replicator, service) = Scripted::timeless(vec![Some(late)], Options::default());
    let reply = service.serve(acquire(101, 0, None)).await.expect("answered");
    let ReplyBody::Outcome(Outcome::Rejected(Rejection::LeaseGone(ended))) = reply.body else {
        panic!("{reply:?}");
    };
    assert_eq!(ended.how, EndReason::Expired);
    let known = replicator.solo.with_machine(|machine| machine.lease(ended.lease_id));
    assert_eq!(known, LeaseView::Ended(ended));
}

#[tokio::test(start_paused = true)]
async fn many_answers_that_come_too_late_wait_for_one_end_after_the_other() {
    let count = EXPIRIES_PER_ADVANCE_MAX + 36;
    let late = || Some(Upset::Late(Duration::from_secs(1)));
    let script = (0..count).map(|_| late()).collect();
    let (replicator, service) = Scripted::timeless(script, Options::default());
    let acquire_own = |id: usize| {
        // Over when it is answered, which is within the deadline of a call.
        let Call::Propose(Command::Acquire(mut acquire)) = acquire_for(100, id as u128, 0, None)
        else {
            panic!("an acquire")
        };
        acquire.name = LockName::new(&format!("own/{id}")).expect("a name");
        start(&service, Call::Propose(Command::Acquire(acquire)))
    };
    let calls: Vec<_> = (1..=count).map(acquire_own).collect();
    for call in calls {
        let answer = call.await.expect("no panic");
        let over = matches!(&answer, Ok(Outcome::Rejected(Rejection::LeaseGone(ended)))
            if ended.how == EndReason::Expired);
        assert!(over, "{answer:?}");
    }
    let advances = replicator.advances();
    assert_eq!(
        (advances.all, advances.most_under_way),
        (2, 1),
        "as many ends as fit into one each"
    );
}
