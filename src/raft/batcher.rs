//! Turns many commands into few log entries.
//!
//! A command is stamped with lease time when it arrives and queued. Commands that arrive while
//! entries are in flight share the next one; when nothing is in flight nothing waits but renewals,
//! for a few milliseconds after an entry. Stamps belong to one leadership: what is still queued when
//! it ends is answered *not done* and dropped, never proposed under the next one. The same becomes of
//! what waits when the leader has lost touch with a majority: its callers need not wait for their
//! deadlines to learn that nothing happened.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use oarlock_core::command::{Command, Entry};
use oarlock_core::limits::COMMANDS_PER_ENTRY_MAX;
use oarlock_core::outcome::Outcome;
use oarlock_core::planted::{Bug, planted};
use oarlock_core::time::LeaseTime;
use openraft::errors::ClientWriteError;
use openraft::raft::ClientWriteResult;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use crate::raft::clock::{self, LeaseClock};
use crate::raft::size::{ENTRY_BYTES_MAX, command_bytes};
use crate::raft::types::{Callback, CommittedLeaderId, Outcomes, Proposal, RaftHandle, TypeConfig};
use crate::service::replicator::ProposeError;

/// Entries in flight at once. One would idle the disk while the followers' answers travel.
const ENTRIES_IN_FLIGHT_MAX: usize = 3;

/// Commands that a further entry must carry while others are in flight. Each entry costs all nodes
/// together some 400 us of CPU, whatever it carries, so small ones would eat what the overlap
/// gains; what is less than this waits for the entry in flight, which is under way already.
const FURTHER_ENTRY_COMMANDS_MIN: usize = 32;

/// Turns that the other tasks get before an entry goes out. Requests that have arrived already then
/// join it instead of making an entry of their own; when nothing else is ready a turn takes no time.
const GATHER_TURNS: usize = 4;

/// Shortest time between two entries of which the later carries nothing but a few renewals. A renewal
/// counts from its arrival, so a lease loses nothing, and little else hangs on its answer; ten thousand
/// sessions would otherwise make an entry of each.
const RENEWALS_APART: Duration = Duration::from_millis(5);

/// Commands waiting for an entry. At 30,000 a second this is several seconds of backlog: what
/// comes later is better refused than delayed past its deadline.
const QUEUED_COMMANDS_MAX: usize = 100_000;

/// Their encoded size; a bound for those that carry much.
const QUEUED_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Where entries go.
pub(crate) trait EntryLog {
    /// Hands an entry over, to be proposed under that leadership only. False once nothing can be
    /// proposed any more; then the callback was dropped.
    fn write(
        &self,
        leader: CommittedLeaderId,
        entry: Entry,
        landed: Callback<ClientWriteResult<TypeConfig>>,
    ) -> impl Future<Output = bool> + Send;
}

impl EntryLog for RaftHandle {
    async fn write(
        &self,
        leader: CommittedLeaderId,
        entry: Entry,
        landed: Callback<ClientWriteResult<TypeConfig>>,
    ) -> bool {
        Self::write(self, Proposal(entry)).with_leader(leader).responder(landed).await.is_ok()
    }
}

type ReplySender = oneshot::Sender<Result<Outcome, ProposeError>>;

struct Item {
    at: LeaseTime,
    command: Command,
    bytes: usize,
    reply: Option<ReplySender>,
}

impl Item {
    fn is_renewal(&self) -> bool {
        matches!(self.command, Command::Renew { .. } | Command::RenewSession { .. })
    }
}

struct Inbox {
    clock: LeaseClock,
    leader: Option<CommittedLeaderId>,
    /// Whether the leadership's first command is applied, so that others may follow.
    open: bool,
    items: VecDeque<Item>,
    /// Of all items.
    bytes: usize,
    in_flight: usize,
    /// When the last entry went out.
    flown_at: Option<Instant>,
    /// Of the log as this leadership found it and wrote on; it never falls.
    level: u16,
}

impl Inbox {
    /// After which time what waits may go out as an entry; `None` if that is not a matter of time.
    fn flies_after(&self) -> Option<Duration> {
        let many = self.items.len() >= FURTHER_ENTRY_COMMANDS_MIN;
        match self.in_flight {
            0 if self.items.is_empty() => None,
            0 if many || !self.items.iter().all(Item::is_renewal) => Some(Duration::ZERO),
            0 => Some(self.flown_at.map_or(Duration::ZERO, |at| {
                RENEWALS_APART.saturating_sub(clock::now().saturating_duration_since(at))
            })),
            ENTRIES_IN_FLIGHT_MAX.. => None,
            _ => many.then_some(Duration::ZERO),
        }
    }

    fn push(&mut self, item: Item) {
        self.bytes += item.bytes;
        self.items.push_back(item);
    }

    /// What the next entry carries: the front of the queue, within the bounds of an entry.
    fn take_entry(&mut self) -> VecDeque<Item> {
        let mut bytes = 0;
        let fits = |item: &&Item| {
            bytes += item.bytes;
            bytes <= ENTRY_BYTES_MAX
        };
        let count = self.items.iter().take(COMMANDS_PER_ENTRY_MAX).take_while(fits).count().max(1);
        let later = self.items.split_off(count.min(self.items.len()));
        let taken = std::mem::replace(&mut self.items, later);
        self.bytes -= taken.iter().map(|item| item.bytes).sum::<usize>();
        taken
    }
}

/// The queue in front of the log.
pub(crate) struct Batcher {
    inbox: Mutex<Inbox>,
    wake: Notify,
    counts_until: Box<dyn Fn() -> Instant + Send + Sync>,
    level: Box<dyn Fn() -> u16 + Send + Sync>,
    wall_ms: fn() -> u64,
    observe: Box<dyn Fn(Duration, usize) + Send + Sync>,
}

impl Batcher {
    /// `counts_until` tells until when the leader's last quorum acknowledgement is good, `level` what
    /// all members know, `wall_ms` dates entries for display, and `observe` hears the commit latency
    /// and the number of commands of each entry.
    pub(crate) fn new(
        clock: LeaseClock,
        counts_until: Box<dyn Fn() -> Instant + Send + Sync>,
        level: Box<dyn Fn() -> u16 + Send + Sync>,
        wall_ms: fn() -> u64,
        observe: Box<dyn Fn(Duration, usize) + Send + Sync>,
    ) -> Arc<Self> {
        let items = VecDeque::new();
        let inbox = Inbox {
            clock,
            leader: None,
            open: false,
            items,
            bytes: 0,
            in_flight: 0,
            flown_at: None,
            level: 0,
        };
        let (inbox, wake) = (Mutex::new(inbox), Notify::new());
        Arc::new(Self { inbox, wake, counts_until, level, wall_ms, observe })
    }

    // The standard mutex: held for a few instructions and never across an await. Its data stays
    // consistent at every point where a panic could poison it.
    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a leadership: the clock starts at `base`, the log has that `level`, and `DetachAll` is
    /// proposed alone. Others may follow once the returned receiver heard its outcome and [`Self::open`] was called: a
    /// detach that came after a new waiter's attach would cut off somebody who is connected.
    pub(crate) fn begin(
        &self,
        leader: CommittedLeaderId,
        base: LeaseTime,
        level: u16,
    ) -> oneshot::Receiver<Result<Outcome, ProposeError>> {
        let (reply, heard) = oneshot::channel();
        let until = (self.counts_until)();
        let mut inbox = self.inbox();
        debug_assert!(inbox.items.is_empty(), "the former leadership was ended");
        inbox.leader = Some(leader);
        inbox.level = level;
        inbox.clock.start(base, clock::now(), until);
        let (command, reply) = (Command::DetachAll, Some(reply));
        inbox.push(Item { at: base, bytes: command_bytes(&command), command, reply });
        drop(inbox);
        self.wake.notify_one();
        heard
    }

    /// The first command of `leader` is applied: commands are taken from now on.
    pub(crate) fn open(&self, leader: CommittedLeaderId) {
        let mut inbox = self.inbox();
        inbox.open = inbox.leader == Some(leader);
    }

    /// Ends a leadership: what waits for an entry is answered not done.
    pub(crate) fn end(&self) {
        let mut inbox = self.inbox();
        inbox.leader = None;
        inbox.open = false;
        inbox.clock.stop();
        inbox.bytes = 0;
        let dropped = std::mem::take(&mut inbox.items);
        drop(inbox);
        for item in dropped {
            tell(item.reply, Err(ProposeError::NotLeader(None)));
        }
    }

    /// Answers what waits for an entry *not done* once the leader has lost touch with a majority:
    /// the entries in flight may stay there for as long as that lasts. What nobody waits for stays.
    pub(crate) fn refuse_if_cut_off(&self) {
        if clock::now() <= (self.counts_until)() {
            return;
        }
        let mut inbox = self.inbox();
        let waiting = std::mem::take(&mut inbox.items);
        let (refused, kept): (VecDeque<_>, VecDeque<_>) =
            waiting.into_iter().partition(|item| item.reply.is_some());
        inbox.bytes = kept.iter().map(|item| item.bytes).sum();
        inbox.items = kept;
        drop(inbox);
        for item in refused {
            tell(item.reply, Err(ProposeError::NotLeader(None)));
        }
    }

    /// Lease time now, or `None` if this node does not stamp.
    pub(crate) fn lease_now(&self) -> Option<LeaseTime> {
        let until = (self.counts_until)();
        self.inbox().clock.read(clock::now(), until)
    }

    /// Stamps and queues a command; `reply` hears its outcome.
    pub(crate) fn submit(
        &self,
        command: Command,
        reply: Option<ReplySender>,
    ) -> Result<(), ProposeError> {
        let (until, bytes) = ((self.counts_until)(), command_bytes(&command));
        let mut inbox = self.inbox();
        let at = match inbox.clock.read(clock::now(), until) {
            Some(_) if inbox.open && planted(Bug::WallClockStamps) => {
                LeaseTime((self.wall_ms)().saturating_mul(1_000))
            }
            Some(at) if inbox.open => at,
            Some(_) | None => return Err(ProposeError::NotLeader(None)),
        };
        // A detach is bounded by the calls that wait here, and losing it would keep a dead waiter. An
        // advance is one at a time, and without it nothing makes room.
        let bounded = !matches!(command, Command::Detach { .. } | Command::Advance);
        let full = inbox.items.len() >= QUEUED_COMMANDS_MAX
            || inbox.bytes.saturating_add(bytes) > QUEUED_BYTES_MAX;
        if bounded && full {
            return Err(ProposeError::NotDone("too many commands wait for the log"));
        }
        inbox.push(Item { at, command, bytes, reply });
        let after = inbox.flies_after();
        let is_first = inbox.items.len() == 1;
        drop(inbox);
        if after.is_some_and(|after| after.is_zero() || is_first) {
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Writes entries until the log takes none; the owner drops or aborts it at shutdown.
    pub(crate) async fn run(self: Arc<Self>, log: impl EntryLog) {
        loop {
            let (leader, items) = match self.take() {
                Ok(taken) => taken,
                Err(within) => {
                    self.woken(within).await;
                    continue;
                }
            };
            let (commands, replies): (Vec<_>, Vec<_>) =
                items.into_iter().map(|item| ((item.at, item.command), item.reply)).unzip();
            let (level, wall_ms) = (self.level_of_next(), (self.wall_ms)());
            let entry = Entry { level, wall_ms, commands };
            let flight = Flight { batcher: Arc::clone(&self), replies, since: clock::now() };
            let callback = Callback::new(move |result| flight.land(result));
            if !log.write(leader, entry, callback).await {
                // Who was in the entry knows by the dropped callback; who waits must learn it.
                self.end();
                return;
            }
        }
    }

    /// Sleeps until something may have changed, or for that time.
    async fn woken(&self, within: Option<Duration>) {
        let notified = self.wake.notified();
        match within {
            None => notified.await,
            Some(within) => {
                let _either = tokio::time::timeout(within, notified).await;
            }
        }
        for _ in 0..GATHER_TURNS {
            tokio::task::yield_now().await;
        }
    }

    /// What all members know, and no less than what the log has already. A new one, which has no
    /// level yet, does not rise.
    fn level_of_next(&self) -> u16 {
        let known_to_all = (self.level)();
        let mut inbox = self.inbox();
        let from = inbox.level;
        if known_to_all > from && from > 0 {
            tracing::info!(
                from,
                to = known_to_all,
                "all members know a higher level: the log rises"
            );
        }
        inbox.level = inbox.level.max(known_to_all);
        inbox.level
    }

    /// The next entry, or after which time there is one; `None` if that is not a matter of time.
    fn take(&self) -> Result<(CommittedLeaderId, VecDeque<Item>), Option<Duration>> {
        let mut inbox = self.inbox();
        let leader = inbox.leader.ok_or(None)?;
        match inbox.flies_after() {
            Some(Duration::ZERO) => {}
            later => return Err(later),
        }
        inbox.in_flight += 1;
        inbox.flown_at = Some(clock::now());
        Ok((leader, inbox.take_entry()))
    }
}

/// One entry on its way, and whom to tell. Dropped without a result it lets the callers learn
/// that the outcome is unknown.
struct Flight {
    batcher: Arc<Batcher>,
    replies: Vec<Option<ReplySender>>,
    since: Instant,
}

impl Flight {
    fn land(mut self, result: ClientWriteResult<TypeConfig>) {
        let replies = std::mem::take(&mut self.replies);
        match result {
            Ok(response) => {
                let Outcomes(outcomes) = response.data;
                (self.batcher.observe)(clock::now() - self.since, outcomes.len());
                assert_eq!(outcomes.len(), replies.len(), "one outcome per command");
                for (outcome, reply) in outcomes.into_iter().zip(replies) {
                    tell(reply, Ok(outcome));
                }
            }
            Err(error) => {
                let error = propose_error(&error);
                for reply in replies {
                    tell(reply, Err(error.clone()));
                }
            }
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.batcher.inbox().in_flight -= 1;
        self.batcher.wake.notify_one();
    }
}

fn tell(reply: Option<ReplySender>, result: Result<Outcome, ProposeError>) {
    if let Some(reply) = reply {
        let _caller_may_be_gone = reply.send(result);
    }
}

fn propose_error(error: &ClientWriteError<TypeConfig>) -> ProposeError {
    match error {
        // From the proposal itself: nothing was appended.
        ClientWriteError::ForwardToLeader(forward) => ProposeError::NotLeader(forward.leader_id),
        ClientWriteError::ChangeMembershipError(_) | ClientWriteError::PreconditionFailed(_) => {
            ProposeError::NotDone("the membership refused the proposal")
        }
        ClientWriteError::LogEntryDiscarded(_) if planted(Bug::DiscardedIsNotDone) => {
            ProposeError::NotDone("the leader changed")
        }
        ClientWriteError::LogEntryDiscarded(_) => {
            ProposeError::Unknown("the leader changed while the entry was in flight")
        }
    }
}

#[cfg(test)]
mod tests;
