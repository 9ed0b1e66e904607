//! When operations begin: at once (closed loop), or at a fixed rate (open loop).
//!
//! At a fixed rate operation `k` is *meant* to begin `k / rate` after the start, whatever became of
//! those before it, and its latency counts from that moment. A system that stalls for a second thus
//! shows all the operations that had to wait meanwhile; a closed loop would show one slow answer
//! for each client and call the rest fast (coordinated omission).
//!
//! One thread, woken by a timer of the kernel because those of tokio are a millisecond coarse,
//! admits what is due; whichever client is free takes it. What nobody took by the end is told.

use std::fs::File;
use std::io::{self, Read as _};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::sync::Semaphore;

/// Shortest sleep: what falls due meanwhile is admitted together. At less, a high rate spends more
/// on waking up than on the requests.
const SLEEP_MIN: Duration = Duration::from_micros(50);
/// Longest sleep, after which it looks whether the run was stopped.
const SLEEP_MAX: Duration = Duration::from_millis(100);

/// When the operations of a fixed rate are meant to begin.
#[derive(Debug, Clone, Copy)]
pub(super) struct Schedule {
    /// The first one.
    pub(super) origin: Instant,
    pub(super) per_s: u32,
}

impl Schedule {
    pub(super) fn intended(&self, number: u64) -> Instant {
        let nanos = u128::from(number) * 1_000_000_000 / u128::from(self.per_s.max(1));
        self.origin + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// How many are meant to have begun by then.
    pub(super) fn due_by(&self, moment: Instant) -> u64 {
        let Some(since) = moment.checked_duration_since(self.origin) else { return 0 };
        // Rounded up to the nanosecond that `intended` rounds down to.
        let due = (since.as_nanos() + 1) * u128::from(self.per_s);
        u64::try_from(due.div_ceil(1_000_000_000)).unwrap_or(u64::MAX)
    }
}

/// Admits operations when they are due.
pub(super) struct Pacer {
    pub(super) schedule: Schedule,
    admitted: Semaphore,
    taken: AtomicU64,
    /// Operations of the whole run, if their number is bounded.
    total: Option<u64>,
    end: Option<Instant>,
}

impl Pacer {
    pub(super) fn new(schedule: Schedule, total: Option<u64>, end: Option<Instant>) -> Self {
        Self { schedule, admitted: Semaphore::new(0), taken: AtomicU64::new(0), total, end }
    }

    /// Waits for the next operation that is due; when it was meant to begin, or `None` at the end.
    pub(super) async fn turn(&self) -> Option<Instant> {
        self.admitted.acquire().await.ok()?.forget();
        let number = self.taken.fetch_add(1, Relaxed);
        let is_one = self.total.is_none_or(|total| number < total);
        is_one.then(|| self.schedule.intended(number))
    }

    /// Admits what is due until the end; blocks its thread.
    pub(super) fn run(&self, stop: &AtomicBool) -> io::Result<()> {
        let mut timer = Timer::new()?;
        let mut admitted = 0;
        while !stop.load(Relaxed) {
            let now = Instant::now();
            if self.end.is_some_and(|end| now >= end) {
                break;
            }
            let due = self.schedule.due_by(now).min(self.total.unwrap_or(u64::MAX));
            let more = usize::try_from(due - admitted).unwrap_or(usize::MAX);
            self.admitted.add_permits(more.min(Semaphore::MAX_PERMITS / 2));
            admitted = due;
            if self.total.is_some_and(|total| self.taken.load(Relaxed) >= total) {
                break;
            }
            let next = self.schedule.intended(due).saturating_duration_since(now);
            timer.wait(next.clamp(SLEEP_MIN, SLEEP_MAX))?;
        }
        // Wakes who waits; what was admitted and not taken stays undone.
        self.admitted.close();
        Ok(())
    }

    /// When those were meant to begin that nobody began by then.
    pub(super) fn missed(&self, end: Instant) -> impl Iterator<Item = Instant> {
        let due = self.schedule.due_by(end).min(self.total.unwrap_or(u64::MAX));
        let begins = (self.taken.load(Relaxed)..due).map(|number| self.schedule.intended(number));
        begins.take_while(move |intended| *intended < end)
    }
}

/// A timer of the kernel. It blocks its thread, which has nothing else to do.
struct Timer(File);

impl Timer {
    fn new() -> io::Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC)?;
        Ok(Self(File::from(timer)))
    }

    fn wait(&mut self, time: Duration) -> io::Result<()> {
        let never = Timespec { tv_sec: 0, tv_nsec: 0 };
        let after = Timespec {
            tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: time.subsec_nanos().into(),
        };
        let once = Itimerspec { it_interval: never, it_value: after };
        timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &once)?;
        let mut expirations = [0; 8];
        self.0.read_exact(&mut expirations)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn schedule(per_s: u32) -> Schedule {
        Schedule { origin: Instant::now(), per_s }
    }

    #[test]
    fn what_is_due_by_a_moment_are_those_that_were_meant_to_begin_by_then() {
        for per_s in [1, 3, 7, 1_000, 199_999] {
            let schedule = schedule(per_s);
            for number in [0, 1, 2, 1_000, 123_457] {
                let intended = schedule.intended(number);
                assert_eq!(schedule.due_by(intended), number + 1, "at {per_s} a second");
                let before = intended.checked_sub(Duration::from_nanos(1)).expect("earlier");
                assert_eq!(schedule.due_by(before), number, "just before, at {per_s} a second");
            }
        }
    }

    #[test]
    fn the_schedule_keeps_its_rate_for_ever() {
        let schedule = schedule(30_000);
        let hour = schedule.intended(30_000 * 3_600) - schedule.origin;
        assert_eq!(hour, Duration::from_hours(1));
    }

    #[tokio::test]
    async fn a_stall_delays_nothing_but_the_answers() {
        let pacer = Pacer::new(schedule(1_000), None, None);
        pacer.admitted.add_permits(3);
        let turns = [pacer.turn().await, pacer.turn().await, pacer.turn().await];
        let meant = turns.map(|turn| turn.expect("it is due") - pacer.schedule.origin);
        assert_eq!(meant, [0, 1, 2].map(Duration::from_millis), "taken at once, meant apart");
    }

    #[tokio::test]
    async fn what_nobody_took_is_told_with_its_time() {
        let pacer = Pacer::new(schedule(10), None, None);
        pacer.admitted.add_permits(1);
        assert!(pacer.turn().await.is_some());
        let end = pacer.schedule.origin + Duration::from_millis(350);
        let missed: Vec<Instant> = pacer.missed(end).collect();
        assert_eq!(missed, [1, 2, 3].map(|number| pacer.schedule.intended(number)));
    }

    #[tokio::test]
    async fn a_bounded_run_admits_its_number_and_ends_everybody() {
        let pacer = Arc::new(Pacer::new(schedule(100_000), Some(50), None));
        let clients: Vec<_> = (0..4)
            .map(|_| {
                let pacer = Arc::clone(&pacer);
                tokio::spawn(async move {
                    let mut count = 0;
                    while pacer.turn().await.is_some() {
                        count += 1;
                    }
                    count
                })
            })
            .collect();
        let pacing = Arc::clone(&pacer);
        let running = tokio::task::spawn_blocking(move || pacing.run(&AtomicBool::default()));
        running.await.expect("it ends").expect("a timer");
        let mut count = 0;
        for client in clients {
            count += client.await.expect("it ends");
        }
        assert_eq!(count, 50);
        assert_eq!(pacer.missed(Instant::now() + Duration::from_hours(1)).count(), 0);
    }
}
