//! The clients: what each does in a turn, and what it keeps from turn to turn.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::bench::plan::{KEPT_TTL, Plan, Until, Workload};
use crate::bench::schedule::{Pacer, Schedule};
use crate::bench::tally::{Tally, Timed, micros};
use crate::bench::wire::{Connection, Id, Keeper, Terms, Trouble};

/// Before the next try of a client that met an error: a dead node refuses in no time.
const PAUSE: Duration = Duration::from_millis(5);
/// Names that each client uses by turns.
const NAMES_PER_CLIENT: u64 = 64;
/// Clients of the mixed workload that share a lock.
const CLIENTS_PER_SHARED_LOCK: usize = 8;
/// How long a client stands in the queue of a lock that others share.
const WAIT: Duration = Duration::from_mins(1);
/// Of a lock that is released at once; if its release is lost, others wait that long.
const SHARED_TTL: Duration = Duration::from_secs(10);
const PAIR_TTL: Duration = Duration::from_mins(1);
/// Locks that one request may take together.
pub(super) const LOCKS_PER_REQUEST: u64 = 64;

/// What all clients of a run share.
pub(super) struct Run {
    pub(super) workload: Workload,
    pub(super) tally: Tally,
    pub(super) end: Option<Instant>,
    /// Operations that may still begin, if their number is what ends the run.
    left: Option<AtomicU64>,
    /// When the last release was called, in microseconds since the start.
    released_us: AtomicU64,
    pub(super) pacer: Option<Pacer>,
    pub(super) stop: Arc<AtomicBool>,
}

impl Run {
    /// Begins now, with the warm-up.
    pub(super) fn new(plan: &Plan, stop: &Arc<AtomicBool>) -> Self {
        let origin = Instant::now();
        let start = origin + plan.warmup;
        let (end, operations) = match plan.until {
            Until::Elapsed(duration) => (Some(start + duration), None),
            Until::Operations(count) => (None, Some(count)),
        };
        let pacer =
            plan.rate_per_s.map(|per_s| Pacer::new(Schedule { origin, per_s }, operations, end));
        Self {
            workload: plan.workload,
            tally: Tally::new(start),
            end,
            left: operations.filter(|_| pacer.is_none()).map(AtomicU64::new),
            released_us: AtomicU64::new(0),
            pacer,
            stop: Arc::clone(stop),
        }
    }

    /// When the next operation is meant to begin, or `None` when the run is over.
    async fn turn(&self) -> Option<Instant> {
        if let Some(pacer) = &self.pacer {
            return pacer.turn().await;
        }
        let take = |left: &AtomicU64| {
            let one_less = |left: u64| left.checked_sub(1);
            left.fetch_update(Relaxed, Relaxed, one_less).is_ok()
        };
        let now = Instant::now();
        let goes_on = !self.stop.load(Relaxed) && self.end.is_none_or(|end| now < end);
        (goes_on && self.left.as_ref().is_none_or(take)).then_some(now)
    }

    /// In a closed loop what was answered after the end belongs to no second; at a fixed rate all
    /// that was meant to begin before the end counts, however late it was answered.
    fn counts(&self, meant: Instant, answered: Instant) -> bool {
        let ended = self.pacer.is_none() && self.end.is_some_and(|end| answered >= end);
        meant >= self.tally.start && !ended
    }
}

/// One client with its connection.
pub(super) struct Client {
    number: usize,
    connection: Connection,
    /// Names of this run begin with it.
    prefix: Arc<str>,
    /// Part of its names; another one whenever it lost track of what it held.
    generation: u64,
    round: u64,
    /// What it holds from turn to turn.
    kept_lease: Option<Id>,
    kept_sessions: Vec<Id>,
}

impl Client {
    pub(super) fn new(number: usize, connection: Connection, prefix: &Arc<str>) -> Self {
        let prefix = Arc::clone(prefix);
        Self {
            number,
            connection,
            prefix,
            generation: 0,
            round: 0,
            kept_lease: None,
            kept_sessions: Vec::new(),
        }
    }

    /// Takes what it renews later.
    pub(super) async fn prepare(&mut self, plan: &Plan) -> Result<(), Trouble> {
        let clients = usize::from(plan.clients);
        let (sessions, leases) = match plan.workload {
            Workload::RenewSessions => {
                let all = (self.number..plan.sessions as usize).step_by(clients).count();
                (all, u64::from(plan.leases_per_session))
            }
            Workload::Mixed => (1, 8),
            Workload::Pairs
            | Workload::Contended
            | Workload::Renew
            | Workload::Failover
            | Workload::Names
            | Workload::Idle => (0, 0),
        };
        for session in 0..sessions {
            let id = self.connection.open_session(KEPT_TTL).await?;
            self.kept_sessions.push(id);
            for first in (0..leases).step_by(usize::try_from(LOCKS_PER_REQUEST).unwrap_or(1)) {
                let numbers = first..leases.min(first + LOCKS_PER_REQUEST);
                let (prefix, client) = (&self.prefix, self.number);
                let names = numbers.map(|n| format!("{prefix}session/{client}/{session}/{n}"));
                self.connection.acquire_many(names, Keeper::Session(id)).await?;
            }
        }
        if matches!(plan.workload, Workload::Renew | Workload::Mixed) {
            self.take_kept_lease().await?;
        }
        // The connection is made before anything is measured.
        self.connection.read(&format!("{}none", self.prefix)).await
    }

    /// Gives back what it renewed.
    pub(super) async fn finish(&mut self) {
        if let Some(lease) = self.kept_lease.take() {
            let _ends_by_its_ttl_else = self.connection.release(lease).await;
        }
        for session in std::mem::take(&mut self.kept_sessions) {
            let _ends_by_its_ttl_else = self.connection.close_session(session).await;
        }
    }

    /// Works to the end of the run; tells how many operations counted.
    pub(super) async fn work(&mut self, run: &Run) -> u64 {
        let mut operations = 0;
        while let Some(meant) = run.turn().await {
            self.round += 1;
            match self.operation(run, meant).await {
                Ok(succeeded) => {
                    operations += u64::from(run.counts(meant, succeeded));
                    run.tally.done.fetch_add(1, Relaxed);
                }
                Err(trouble) => {
                    run.tally.error(trouble.why());
                    self.generation += 1;
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
        operations
    }

    /// When it succeeded; a pair with its first half.
    async fn operation(&mut self, run: &Run, meant: Instant) -> Result<Instant, Trouble> {
        match run.workload {
            Workload::Pairs | Workload::Failover => self.pair_of_its_own(run, meant).await,
            Workload::Names => {
                let name = format!("{}new/{}/{}", self.prefix, self.number, self.round);
                self.pair(run, meant, &name).await
            }
            Workload::Contended => {
                let name = format!("{}shared", self.prefix);
                self.shared_pair(run, meant, &name).await
            }
            Workload::Renew => self.renew(run, meant).await,
            Workload::RenewSessions => self.renew_session(run, meant).await,
            Workload::Mixed => self.mixed(run, meant).await,
            Workload::Idle => Ok(meant),
        }
    }

    /// Of ten turns five are pairs, two renew a lease, one a session, one reads, and one is a pair
    /// on a lock that others want too. Clients begin at different ones.
    async fn mixed(&mut self, run: &Run, meant: Instant) -> Result<Instant, Trouble> {
        match (self.round + self.number as u64) % 10 {
            0 | 5 => self.renew(run, meant).await,
            3 => self.renew_session(run, meant).await,
            7 => {
                let name = format!("{}own/{}/0", self.prefix, self.number);
                self.connection.read(&name).await?;
                Ok(succeeded(run, meant, Timed::Read))
            }
            9 => {
                let place = self.number / CLIENTS_PER_SHARED_LOCK;
                let name = format!("{}shared/{place}", self.prefix);
                self.shared_pair(run, meant, &name).await
            }
            _ => self.pair_of_its_own(run, meant).await,
        }
    }

    async fn pair_of_its_own(&mut self, run: &Run, meant: Instant) -> Result<Instant, Trouble> {
        let (generation, number) = (self.generation, self.round % NAMES_PER_CLIENT);
        let name = format!("{}own/{}/{generation}-{number}", self.prefix, self.number);
        self.pair(run, meant, &name).await
    }

    async fn pair(&mut self, run: &Run, meant: Instant, name: &str) -> Result<Instant, Trouble> {
        let terms = Terms { ttl: PAIR_TTL, wait: Duration::ZERO };
        let lease = self.connection.acquire(name, self.number, terms).await?;
        let acquired = succeeded(run, meant, Timed::Acquire);
        self.release(run, meant, (lease, acquired)).await
    }

    async fn shared_pair(
        &mut self,
        run: &Run,
        meant: Instant,
        name: &str,
    ) -> Result<Instant, Trouble> {
        let terms = Terms { ttl: SHARED_TTL, wait: WAIT };
        let lease = self.connection.acquire(name, self.number, terms).await?;
        let acquired = succeeded(run, meant, Timed::Acquire);
        let since_start = |at: Instant| micros(at.saturating_duration_since(run.tally.start));
        let released_us = run.released_us.swap(since_start(Instant::now()), Relaxed);
        if run.workload == Workload::Contended && run.counts(meant, acquired) && released_us > 0 {
            let gap_us = since_start(acquired).saturating_sub(released_us);
            run.tally.time(Timed::HandOver, Duration::from_micros(gap_us));
        }
        self.release(run, meant, (lease, acquired)).await
    }

    async fn release(
        &mut self,
        run: &Run,
        meant: Instant,
        (lease, acquired): (Id, Instant),
    ) -> Result<Instant, Trouble> {
        let called = Instant::now();
        self.connection.release(lease).await?;
        if run.counts(meant, acquired) {
            run.tally.time(Timed::Release, called.elapsed());
        }
        Ok(acquired)
    }

    async fn renew(&mut self, run: &Run, meant: Instant) -> Result<Instant, Trouble> {
        let lease = match self.kept_lease {
            Some(lease) => lease,
            None => self.take_kept_lease().await?,
        };
        let renewed = self.connection.renew(lease).await;
        if matches!(renewed, Err(Trouble::Refused(_))) {
            // It ended. The next turn takes another.
            self.kept_lease = None;
        }
        renewed.map(|()| succeeded(run, meant, Timed::Renew))
    }

    async fn take_kept_lease(&mut self) -> Result<Id, Trouble> {
        let name = format!("{}kept/{}/{}", self.prefix, self.number, self.generation);
        let terms = Terms { ttl: KEPT_TTL, wait: Duration::ZERO };
        let lease = self.connection.acquire(&name, self.number, terms).await?;
        self.kept_lease = Some(lease);
        Ok(lease)
    }

    async fn renew_session(&mut self, run: &Run, meant: Instant) -> Result<Instant, Trouble> {
        let place = usize::try_from(self.round).unwrap_or(0) % self.kept_sessions.len().max(1);
        let Some(session) = self.kept_sessions.get(place) else { return Ok(meant) };
        self.connection.renew_session(*session).await?;
        Ok(succeeded(run, meant, Timed::RenewSession))
    }
}

/// What the operation is about has succeeded just now.
fn succeeded(run: &Run, meant: Instant, what: Timed) -> Instant {
    let now = Instant::now();
    run.tally.success(now);
    if run.counts(meant, now) {
        run.tally.time(what, now.saturating_duration_since(meant));
    }
    now
}
