//! The state machine as openraft sees it. No rule of locks lives here.
//!
//! ```text
//!  apply: entry -> machine (in memory, under the lock) -> events to the sink -> responder
//!                      └ changed rows, marked -> writer thread, at most one batch per interval
//! ```
//! An entry that this build cannot apply ends the process: skipping it would make this node differ
//! from the others. What was half applied is never written to the view.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use oarlock_core::command::Entry;
use oarlock_core::event::Event;
use oarlock_core::image::{Row, RowKey};
use oarlock_core::machine::{Applied, Machine};
use oarlock_core::outcome::Outcome;
use oarlock_core::planted::{Bug, planted};
use oarlock_core::time::LeaseTime;
use openraft::storage::{EntryResponder, RaftStateMachine, Snapshot};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use tokio::sync::{oneshot, watch};

use crate::raft::store::log::Fatal;
use crate::raft::store::snapshot::SnapshotFile;
use crate::raft::store::snapshots::Snapshots;
use crate::raft::store::view::{Changes, Position};
use crate::raft::types::{LogEntry, LogId, Outcomes, SnapshotMeta, StoredMembership, TypeConfig};
use crate::service::observer::Told;

/// Pause before a snapshot that found the disk full is tried again. Until it passes the log only
/// grows, so the reserve must be released meanwhile.
const FULL_DISK_RETRY: Duration = Duration::from_secs(5);

/// Rows that are made in one go, under the lock that apply waits for: some milliseconds of work. On a
/// busy machine seconds pass between two batches of the view, and all rows of that time at once would
/// take as long as an election.
const ROWS_MADE_AT_ONCE: usize = 2_048;

/// Rows that wait for the writer and let it work without pauses: it is slower than what changes.
const ROWS_WAITING_MANY: usize = 65_536;

/// Rows that are made and wait for the writer, some 300 bytes each; when more change meanwhile they stay
/// marks. So high because a snapshot begins with all rows of one moment: what is not made by then is
/// made in one go, and with 1,000,000 new locks that took as long as an election.
const ROWS_MADE_EARLY_MAX: usize = 1 << 20;

/// Hears events and outcomes of each applied entry, in log order, on every node. Must not block.
pub type EventSink = Box<dyn Fn(Vec<Event>, &[Outcome]) + Send + Sync>;

/// Hears of every applied entry by its index, in log order, on every node. Must not block.
pub type EntrySink = Box<dyn Fn(u64, &Told<'_>) + Send + Sync>;

/// What the writer thread is asked to do, in order.
pub(crate) enum Job {
    /// Write these changes, all that were not taken yet, then a snapshot of exactly that position.
    Snapshot { changes: Changes, reply: oneshot::Sender<io::Result<SnapshotFile>> },
    /// Replace view and machine by a snapshot.
    Install { file: SnapshotFile, reply: oneshot::Sender<io::Result<()>> },
}

/// How changes come to the writer while others are busy.
pub(crate) enum Handover {
    /// It is not ready for any.
    None,
    /// Whoever applies next makes their rows.
    Wanted,
    /// They are made, and older than all jobs.
    Made(Changes),
}

pub(crate) struct State {
    pub(crate) machine: Machine,
    pub(crate) position: Position,
    /// Rows that were made before somebody asked, older than those that are marked.
    made_early: BTreeMap<RowKey, Option<Row>>,
    /// Something was applied since changes were last taken.
    pub(crate) dirty: bool,
    pub(crate) handover: Handover,
    pub(crate) jobs: VecDeque<Job>,
    pub(crate) stop: bool,
    /// An apply failed half-way: nothing of it may reach the disk.
    pub(crate) broken: bool,
}

impl State {
    /// What changed since the last call.
    pub(crate) fn take_changes(&mut self) -> Changes {
        self.dirty = false;
        let mut rows = std::mem::take(&mut self.made_early);
        rows.extend(self.machine.take_changes());
        Changes { rows, position: self.position.clone() }
    }

    /// As [`Self::take_changes`], unless so much changed that to make the rows of all of it in one go
    /// would hold up apply: then those of a part of it are made, to be taken later.
    pub(crate) fn take_or_make_some(&mut self) -> Option<Changes> {
        if self.machine.changed_row_count() <= ROWS_MADE_AT_ONCE {
            return Some(self.take_changes());
        }
        self.make_some();
        None
    }

    fn make_some(&mut self) {
        self.made_early.extend(self.machine.take_some_changes(ROWS_MADE_AT_ONCE));
    }

    /// Makes rows while the writer is not ready, so that few are left to be made when it is.
    fn make_early(&mut self) {
        let many = self.machine.changed_row_count() >= ROWS_MADE_AT_ONCE;
        if many && self.made_early.len() < ROWS_MADE_EARLY_MAX {
            self.make_some();
        }
    }

    /// Goes on from a snapshot. What waits to be cut is cut there: older changes would undo it.
    pub(crate) fn replace(&mut self, machine: Machine, position: &Position) {
        if !planted(Bug::InstallKeepsTheState) {
            self.machine = machine;
        }
        self.position = position.clone();
        self.dirty = false;
        self.made_early.clear();
        for job in &mut self.jobs {
            if let Job::Snapshot { changes, .. } = job {
                *changes = Changes { rows: BTreeMap::new(), position: position.clone() };
            }
        }
    }
}

pub(crate) struct Shared {
    state: Mutex<State>,
    /// Wakes the writer.
    pub(crate) wake: Condvar,
    applied: watch::Sender<Option<LogId>>,
    sink: OnceLock<EventSink>,
    entry_sink: OnceLock<EntrySink>,
    fatal: Fatal,
    pub(crate) snapshots: Arc<Snapshots>,
    rebuilt: bool,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl Shared {
    pub(crate) fn new(
        (machine, position): (Machine, Position),
        snapshots: Arc<Snapshots>,
        fatal: Fatal,
        rebuilt: bool,
    ) -> Arc<Self> {
        let applied = watch::Sender::new(position.last_applied);
        let jobs = VecDeque::new();
        let (handover, dirty, stop, broken) = (Handover::None, false, false, false);
        let made_early = BTreeMap::new();
        let state = State { machine, position, made_early, dirty, handover, jobs, stop, broken };
        Arc::new(Self {
            state: Mutex::new(state),
            wake: Condvar::new(),
            applied,
            sink: OnceLock::new(),
            entry_sink: OnceLock::new(),
            fatal,
            snapshots,
            rebuilt,
            writer: Mutex::new(None),
        })
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_writer(&self, thread: JoinHandle<()>) {
        *self.writer.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
    }

    /// Tells the progress of apply.
    pub(crate) fn tell_applied(&self, last_applied: Option<LogId>) {
        self.applied.send_replace(last_applied);
    }

    /// Logs and ends the process; returns only in tests.
    pub(crate) fn fail(&self, why: &str) -> io::Error {
        tracing::error!("this node stops: {why}");
        (self.fatal)(why);
        io::Error::other(why.to_owned())
    }

    fn apply(&self, entry: &LogEntry) -> io::Result<Applied> {
        let mut state = self.lock();
        match apply_to(&mut state, entry) {
            Ok(applied) => {
                let is_first = !std::mem::replace(&mut state.dirty, true);
                let mut made = None;
                match state.handover {
                    Handover::Wanted => made = state.take_or_make_some(),
                    Handover::None | Handover::Made(_) => state.make_early(),
                }
                let is_made = made.is_some();
                if let Some(changes) = made {
                    state.handover = Handover::Made(changes);
                }
                if is_first || is_made {
                    self.wake.notify_all();
                }
                Ok(applied)
            }
            Err(why) => {
                state.broken = true;
                drop(state);
                Err(self.fail(&why))
            }
        }
    }

    /// Fixes what the snapshot holds at this very moment; the writer builds it. All rows that are not
    /// made yet are made in one go.
    fn cut(&self) -> oneshot::Receiver<io::Result<SnapshotFile>> {
        let (reply, heard) = oneshot::channel();
        let mut state = self.lock();
        // A stopped or broken machine answers nothing: the dropped sender says so.
        if !state.stop && !state.broken {
            let changes = state.take_changes();
            state.jobs.push_back(Job::Snapshot { changes, reply });
            self.wake.notify_all();
        }
        heard
    }

    fn install(&self, file: SnapshotFile) -> oneshot::Receiver<io::Result<()>> {
        let (reply, heard) = oneshot::channel();
        let mut state = self.lock();
        if !state.stop && !state.broken {
            state.jobs.push_back(Job::Install { file, reply });
            self.wake.notify_all();
        }
        heard
    }

    /// A pause of the writer between two parts of a write. It ends early at a stop and for a snapshot
    /// that is to be installed, and where changes come faster than they are written there is none.
    pub(crate) fn rest(&self, pause: Duration) {
        let hurried = |state: &mut State| {
            state.stop
                || state.broken
                || state.made_early.len() >= ROWS_WAITING_MANY
                || state.jobs.iter().any(|job| matches!(job, Job::Install { .. }))
        };
        let waited = self.wake.wait_timeout_while(self.lock(), pause, |state| !hurried(state));
        drop(waited);
    }

    fn stop(&self) {
        self.lock().stop = true;
        self.wake.notify_all();
    }
}

/// Applies one entry to the state; the error says what to do.
fn apply_to(state: &mut State, entry: &LogEntry) -> Result<Applied, String> {
    let log_id = entry.log_id;
    if state.broken {
        return Err("an earlier entry could not be applied".to_owned());
    }
    if state.position.last_applied.is_some_and(|last| log_id.index <= last.index) {
        let last = state.position.last_applied;
        return Err(format!("entry {log_id} came after {last:?} was applied; please report this"));
    }
    let mut applied = Applied { outcomes: Vec::new(), events: Vec::new() };
    match &entry.payload {
        EntryPayload::Blank => {}
        EntryPayload::Membership(membership) => {
            state.position.membership = StoredMembership::new(Some(log_id), membership.clone());
        }
        EntryPayload::Normal(proposal) => {
            let by_own = planted(Bug::ReplicaReadsItsClock).then(|| by_own_clock(&proposal.0));
            let entry = by_own.as_ref().unwrap_or(&proposal.0);
            let apply = || state.machine.apply(entry);
            applied = match catch_unwind(AssertUnwindSafe(apply)) {
                Ok(Ok(applied)) => applied,
                Ok(Err(_)) if planted(Bug::UnknownLevelIsSkipped) => Applied::default(),
                Ok(Err(unknown)) => return Err(format!("entry {log_id}: {unknown}")),
                Err(_) => {
                    return Err(format!(
                        "applying entry {log_id} panicked; upgrade this node, and please report \
                         the panic above with its entry"
                    ));
                }
            };
        }
    }
    state.position.last_applied = Some(log_id);
    Ok(applied)
}

fn told<'a>(entry: &'a LogEntry, applied: &'a Applied) -> Told<'a> {
    match &entry.payload {
        EntryPayload::Blank => Told::Nothing,
        EntryPayload::Membership(members) => Told::Members {
            voters: members.voter_ids().collect(),
            learners: members.learner_ids().collect(),
        },
        EntryPayload::Normal(proposal) => Told::Commands(&proposal.0, applied),
    }
}

/// The entry as a replica would take it that judges by its own clock; planted only.
fn by_own_clock(entry: &Entry) -> Entry {
    let mut entry = entry.clone();
    for (at, _) in &mut entry.commands {
        *at = (*at).max(LeaseTime(crate::raft::clock::since_start_us()));
    }
    entry
}

/// A handle for everybody who looks at the machine.
#[derive(Clone)]
pub struct MachineHandle {
    shared: Arc<Shared>,
}

impl MachineHandle {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Looks at the machine. The closure must be short: apply waits for it.
    pub fn with<T>(&self, look: impl FnOnce(&Machine) -> T) -> T {
        look(&self.shared.lock().machine)
    }

    /// The machine and the position it stands at.
    pub fn with_position<T>(&self, look: impl FnOnce(&Machine, &Position) -> T) -> T {
        let state = self.shared.lock();
        look(&state.machine, &state.position)
    }

    /// The newest applied entry; changes after its responder and the event sink were called.
    pub fn applied(&self) -> watch::Receiver<Option<LogId>> {
        self.shared.applied.subscribe()
    }

    /// Says who hears events; once, before Raft runs.
    pub fn on_events(&self, sink: EventSink) {
        let _only_once = self.shared.sink.set(sink);
    }

    /// Says who hears of every entry; once, before Raft runs.
    pub fn on_entries(&self, sink: EntrySink) {
        let _only_once = self.shared.entry_sink.set(sink);
    }

    /// Whether the view on disk was lost or refused at this start and built anew.
    pub fn was_rebuilt(&self) -> bool {
        self.shared.rebuilt
    }

    /// The snapshots of this node, to receive one and to see the newest.
    pub fn snapshots(&self) -> Arc<Snapshots> {
        Arc::clone(&self.shared.snapshots)
    }

    /// Writes what is left to the view, durably, and closes it; blocks. Call it after Raft is shut
    /// down. Not needed for safety: the view is rebuilt or caught up from the log.
    pub fn close(&self) {
        self.shared.stop();
        let thread = self.shared.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the view's writer panicked; the view is checked at the next start");
        }
    }
}

/// The state machine that openraft owns. Dropping it lets the writer finish and stop.
pub struct StateMachine {
    shared: Arc<Shared>,
}

impl StateMachine {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

impl Drop for StateMachine {
    fn drop(&mut self) {
        self.shared.stop();
    }
}

/// Waits for one snapshot of the position at which it was made.
pub struct SnapshotBuilder {
    shared: Arc<Shared>,
    reply: oneshot::Receiver<io::Result<SnapshotFile>>,
}

fn stopping() -> io::Error {
    io::Error::other("the state machine is stopping")
}

fn as_snapshot(file: SnapshotFile) -> SnapshotOf {
    Snapshot { meta: file.meta().clone(), snapshot: file }
}

type SnapshotOf = openraft::type_config::alias::SnapshotOf<TypeConfig, SnapshotFile>;

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> Result<SnapshotOf, io::Error> {
        loop {
            match (&mut self.reply).await.map_err(|_| stopping())? {
                // An error here would end Raft; a full disk must not.
                Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                    tracing::error!(%error, "no room for a snapshot; trying again");
                    tokio::time::sleep(FULL_DISK_RETRY).await;
                    self.reply = self.shared.cut();
                }
                result => return result.map(as_snapshot),
            }
        }
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let state = self.shared.lock();
        Ok((state.position.last_applied, state.position.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            let applied = self.shared.apply(&entry)?;
            if let Some(sink) = self.shared.entry_sink.get() {
                sink(entry.log_id.index, &told(&entry, &applied));
            }
            if let Some(sink) = self.shared.sink.get()
                && !applied.outcomes.is_empty()
            {
                sink(applied.events, &applied.outcomes);
            }
            if let Some(responder) = responder {
                responder.send(Outcomes(applied.outcomes));
            }
            self.shared.tell_applied(Some(entry.log_id));
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        SnapshotBuilder { shared: Arc::clone(&self.shared), reply: self.shared.cut() }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SnapshotFile,
    ) -> Result<(), io::Error> {
        if meta != snapshot.meta() {
            return Err(io::Error::other("the snapshot is not the one that was announced"));
        }
        loop {
            let done = self.shared.install(snapshot.clone()).await.map_err(|_| stopping())?;
            match done {
                Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                    tracing::error!(%error, "no room to install a snapshot; trying again");
                    tokio::time::sleep(FULL_DISK_RETRY).await;
                }
                done => return done,
            }
        }
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<SnapshotOf>, io::Error> {
        Ok(self.shared.snapshots.current().map(as_snapshot))
    }
}

#[cfg(test)]
mod tests {
    use oarlock_core::command::{Command, LEVEL, OpenSession};
    use oarlock_core::ids::{Metadata, Owner, SessionId};
    use oarlock_core::time::Ttl;
    use openraft::entry::RaftEntry;
    use openraft::vote::RaftLeaderId;

    use super::*;
    use crate::raft::types::{CommittedLeaderId, Proposal};

    fn entry(index: u64, commands: Vec<Command>) -> LogEntry {
        let commands = commands.into_iter().map(|command| (LeaseTime(1), command)).collect();
        let payload = Proposal(Entry { level: LEVEL, wall_ms: 0, commands });
        LogEntry::new_normal(LogId::new(CommittedLeaderId::new(1, 1), index), payload)
    }

    fn open(number: u128) -> Command {
        Command::OpenSession(OpenSession {
            session_id: SessionId(number),
            owner: Owner::new("tester").expect("an owner"),
            ttl: Ttl::new(60_000).expect("a ttl"),
            request_id: None,
            metadata: Metadata::default(),
        })
    }

    /// What the view would hold: each row once, none that is gone.
    fn present(changes: Changes) -> Vec<(RowKey, Row)> {
        changes.rows.into_iter().filter_map(|(key, row)| Some((key, row?))).collect()
    }

    #[test]
    fn too_many_rows_for_one_go_are_made_in_several_and_are_of_one_moment() {
        let dir = tempfile::tempdir().expect("directory");
        let snapshots = Snapshots::open(&dir.path().join("snapshots"), 1, None).expect("snapshots");
        let state = (Machine::new(), Position::default());
        let shared = Shared::new(state, Arc::new(snapshots), Arc::new(|_| {}), false);
        let many = 3 * ROWS_MADE_AT_ONCE as u128;
        shared.apply(&entry(1, (0..many).map(open).collect())).expect("applied");
        shared.lock().handover = Handover::Wanted;
        // Each apply makes some, and changes one that may be made already.
        for index in 2..10 {
            let session_id = SessionId(u128::from(index));
            let close = vec![Command::CloseSession { session_id }];
            shared.apply(&entry(index, close)).expect("applied");
            let state = &mut *shared.lock();
            if let Handover::Made(changes) =
                std::mem::replace(&mut state.handover, Handover::Wanted)
            {
                assert!(index > 2, "not in one go");
                assert_eq!(changes.position, state.position);
                assert_eq!(present(changes), state.machine.rows().collect::<Vec<_>>());
                return;
            }
            assert!(state.dirty, "some are left");
        }
        panic!("they were never all made");
    }

    /// Nobody writes the view here: the writer is as slow as can be.
    #[test]
    fn very_many_rows_are_made_by_and_by_and_the_later_ones_count() {
        let dir = tempfile::tempdir().expect("directory");
        let snapshots = Snapshots::open(&dir.path().join("snapshots"), 1, None).expect("snapshots");
        let state = (Machine::new(), Position::default());
        let shared = Shared::new(state, Arc::new(snapshots), Arc::new(|_| {}), false);
        let many = ROWS_MADE_AT_ONCE as u128;
        for index in 0..40 {
            let numbers = u128::from(index) * 64..u128::from(index + 1) * 64;
            shared.apply(&entry(index + 1, numbers.map(open).collect())).expect("applied");
            let marked = shared.lock().machine.changed_row_count();
            assert!(marked < ROWS_MADE_AT_ONCE, "{marked} rows wait for the writer to be ready");
        }
        let made = shared.lock().made_early.len() as u128;
        assert!(made >= many, "{made}");
        // Of one whose row is made already, another row, and none.
        let (renewed, closed) = (SessionId(1), SessionId(2));
        let later = vec![
            Command::RenewSession { session_id: renewed },
            Command::CloseSession { session_id: closed },
        ];
        shared.apply(&entry(41, later)).expect("applied");
        let mut state = shared.lock();
        let changes = state.take_changes();
        assert_eq!(changes.position, state.position);
        assert_eq!(present(changes), state.machine.rows().collect::<Vec<_>>());
        assert!(state.take_changes().rows.is_empty(), "all of them were handed over");
    }
}
