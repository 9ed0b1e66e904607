//! Locks that are held while others are measured; and what is left behind when all is over.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use oarlock_client::{Client, ClientError};
use tokio::task::JoinSet;

use crate::bench::clients::LOCKS_PER_REQUEST;
use crate::bench::plan::Plan;
use crate::bench::wire::{Connection, Id, Keeper, Place, Trouble};

/// Requests in flight while they are created or removed.
const WORKERS: usize = 16;
/// Locks that one worker creates before it looks around; also those of one session.
const PORTION: u64 = 1_000;
/// Of what is held; a run with all that belongs to it is shorter. If this process is killed, they
/// are free again after that.
const TTL: Duration = Duration::from_hours(2);
/// Tries of one request: a leader may just change.
const TRIES: usize = 5;
const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// How long the last look may take until nothing is left.
const SWEEP_DEADLINE: Duration = Duration::from_mins(1);

/// How far creating or removing is.
#[derive(Default)]
pub(super) struct Count(AtomicU64);

impl Count {
    pub(super) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }

    pub(super) fn one_more(&self) {
        self.0.fetch_add(1, Relaxed);
    }
}

/// What is held.
#[derive(Debug, Default)]
pub(super) struct Live {
    leases: Vec<Id>,
    sessions: Vec<Id>,
}

#[derive(Clone)]
struct Creation {
    prefix: Arc<str>,
    count: u64,
    in_sessions: bool,
    next: Arc<AtomicU64>,
    done: Arc<Count>,
    stop: Arc<AtomicBool>,
}

/// Creates as many as the plan says, or fewer if stopped; with what went wrong, if anything.
pub(super) async fn create(
    plan: &Plan,
    prefix: &Arc<str>,
    done: &Arc<Count>,
    stop: &Arc<AtomicBool>,
) -> (Live, Result<(), String>) {
    let creation = Creation {
        prefix: Arc::clone(prefix),
        count: plan.live_locks,
        in_sessions: plan.live_in_sessions,
        next: Arc::default(),
        done: Arc::clone(done),
        stop: Arc::clone(stop),
    };
    let place = Place::of(plan);
    let mut workers = JoinSet::new();
    for number in 0..WORKERS {
        let at = if plan.leader_only { 0 } else { number };
        let connection = Connection::new(&place, at, plan.deadline);
        workers.spawn(creation.clone().work(connection));
    }
    let (mut all, mut result) = (Live::default(), Ok(()));
    while let Some(worker) = workers.join_next().await {
        let (live, ended) = match worker {
            Ok(ended) => ended,
            Err(error) => (Live::default(), Err(Trouble::Lost(error.to_string()))),
        };
        all.leases.extend(live.leases);
        all.sessions.extend(live.sessions);
        if let Err(trouble) = ended {
            creation.stop_at_the_next_portion();
            result = Err(format!("create live locks: {}", trouble.why()));
        }
    }
    (all, result)
}

impl Creation {
    /// Others shall not go on where one failed.
    fn stop_at_the_next_portion(&self) {
        self.next.store(self.count, Relaxed);
    }

    async fn work(self, mut connection: Connection) -> (Live, Result<(), Trouble>) {
        let mut live = Live::default();
        loop {
            let first = self.next.fetch_add(PORTION, Relaxed);
            if first >= self.count || self.stop.load(Relaxed) {
                return (live, Ok(()));
            }
            let end = self.count.min(first + PORTION);
            if let Err(trouble) = self.portion(&mut connection, &mut live, first..end).await {
                return (live, Err(trouble));
            }
        }
    }

    async fn portion(
        &self,
        connection: &mut Connection,
        live: &mut Live,
        numbers: std::ops::Range<u64>,
    ) -> Result<(), Trouble> {
        let mut keeper = Keeper::Ttl(TTL);
        if self.in_sessions {
            let session = connection.open_session(TTL).await?;
            live.sessions.push(session);
            keeper = Keeper::Session(session);
        }
        let mut first = numbers.start;
        while first < numbers.end && !self.stop.load(Relaxed) {
            let end = numbers.end.min(first + LOCKS_PER_REQUEST);
            let leases = self.request(connection, keeper, first..end).await?;
            if !self.in_sessions {
                live.leases.extend(leases);
            }
            self.done.0.fetch_add(end - first, Relaxed);
            first = end;
        }
        Ok(())
    }

    async fn request(
        &self,
        connection: &mut Connection,
        keeper: Keeper,
        numbers: std::ops::Range<u64>,
    ) -> Result<Vec<Id>, Trouble> {
        let mut last = Trouble::Lost("no try".to_owned());
        for attempt in 0..TRIES {
            // What was lost may be held: its names are left to the last look.
            let name = |number| format!("{}live/{number:07}-{attempt}", self.prefix);
            match connection.acquire_many(numbers.clone().map(name), keeper).await {
                Err(Trouble::Lost(why)) => last = Trouble::Lost(why),
                other => return other,
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
        Err(last)
    }
}

impl Live {
    /// Leases and sessions to be removed one by one.
    pub(super) fn count(&self) -> usize {
        self.leases.len() + self.sessions.len()
    }

    /// Gives all of it back; what fails is left to the last look.
    pub(super) async fn remove(self, plan: &Plan, done: &Arc<Count>) {
        let place = Place::of(plan);
        let (leases, sessions) = (Arc::new(self.leases), Arc::new(self.sessions));
        let mut workers = JoinSet::new();
        for number in 0..WORKERS {
            let at = if plan.leader_only { 0 } else { number };
            let mut connection = Connection::new(&place, at, plan.deadline);
            let (leases, sessions) = (Arc::clone(&leases), Arc::clone(&sessions));
            let done = Arc::clone(done);
            workers.spawn(async move {
                for session in sessions.iter().skip(number).step_by(WORKERS) {
                    let _left_to_the_last_look = connection.close_session(*session).await;
                    done.one_more();
                }
                for lease in leases.iter().skip(number).step_by(WORKERS) {
                    let _left_to_the_last_look = connection.release(*lease).await;
                    done.one_more();
                }
            });
        }
        while workers.join_next().await.is_some() {}
    }
}

/// Takes away what is still held below the prefix: answers were lost, and with them the leases. Says
/// what it could not.
pub(super) async fn sweep(client: &Client, prefix: &str) -> Result<(), String> {
    let began = Instant::now();
    let failed = |error: ClientError| format!("clean up below {prefix}: {error}");
    loop {
        let page = client.list(prefix, 1_000, None).await.map_err(failed)?;
        let Some(first) = page.locks.first() else { return Ok(()) };
        if began.elapsed() > SWEEP_DEADLINE {
            return Err(format!("{} is still there", first.lock));
        }
        for lock in page.locks.iter().filter(|lock| lock.held) {
            // Nobody else knows the prefix, so nobody else holds it.
            let swept = client.force_release(&lock.lock, None, "bench cleans up", Some(0)).await;
            swept.map_err(failed)?;
        }
        if page.locks.iter().all(|lock| !lock.held) {
            // Waiters whose connection is gone leave by themselves.
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }
}
