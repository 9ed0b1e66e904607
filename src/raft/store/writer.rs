//! The thread behind apply that keeps the view and makes snapshots.
//!
//! It sleeps until something is applied, then writes at most one batch per interval. A snapshot is
//! read from the view while nothing else writes to it; what is applied meanwhile is gathered, row
//! by row with the latest value, and written afterwards. Apply never waits for the disk.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use oarlock_core::image::{Row, RowKey};
use oarlock_core::machine::Machine;

use crate::raft::store::home::Home;
use crate::raft::store::machine::{Handover, Job, Shared};
use crate::raft::store::snapshot::SnapshotFile;
use crate::raft::store::view::{Changes, Position, View, ViewError, ViewOptions};
use crate::raft::types::SnapshotMeta;

/// First and longest pause between attempts to replace a view that cannot be written.
const REPLACE_PAUSE_MIN: Duration = Duration::from_millis(200);
const REPLACE_PAUSE_MAX: Duration = Duration::from_secs(30);
/// Attempts that fail for another reason than a full disk before the node gives up.
const REPLACE_ATTEMPTS_MAX: u32 = 5;

/// A batch, or a part of a long one, is followed by a pause of this many times as long, so that the
/// view leaves two thirds of a core to others, and the disk between its bursts: a log's sync waits
/// for all that anybody has written to the device.
const PAUSE_PER_PART: u32 = 2;
/// Longest such pause, where the part took long because others were busy.
const PAUSE_MAX: Duration = Duration::from_millis(50);

/// Owns the view.
pub(crate) struct Writer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) view: Option<View>,
    pub(crate) home: Home,
    pub(crate) options: ViewOptions,
    /// Shortest time between two batches.
    pub(crate) interval: Duration,
}

enum Work {
    Changes(Changes),
    Job(Job),
    Stop(Option<Changes>),
}

/// Changes gathered while a snapshot is read.
#[derive(Default)]
struct Gathered {
    rows: BTreeMap<RowKey, Option<Row>>,
    position: Option<Position>,
}

/// How much less of a busy core this thread gets than those that answer callers; see `nice(2)`.
/// Nobody waits for the view, and what waits for it longer is written in fewer batches.
#[cfg(target_os = "linux")]
const NICENESS: i32 = 10;

/// How long the writer lets the next apply make the rows of what changed. Made here they would be
/// made under the machine's lock by a thread that others are preferred to, and apply would wait.
const HANDED_OVER_WITHIN: Duration = Duration::from_millis(20);
/// Pause of the writer between two goes at rows that are too many for one.
const BETWEEN_GOES: Duration = Duration::from_millis(1);

impl Writer {
    /// Works until it is told to stop.
    pub(crate) fn run(mut self) {
        // On Linux that is this thread alone. Without it the view is only written more eagerly.
        #[cfg(target_os = "linux")]
        if let Err(error) = rustix::process::setpriority_process(None, NICENESS) {
            tracing::warn!(%error, "the view's writer cannot yield to others");
        }
        let mut not_before = None;
        loop {
            match self.next(not_before) {
                Work::Changes(changes) => {
                    let begun = Instant::now();
                    let pause = self.write(&changes);
                    not_before = Some((Instant::now() + pause).max(begun + self.interval));
                }
                Work::Job(Job::Snapshot { changes, reply }) => {
                    let _pause = self.write(&changes);
                    let result = self.snapshot_or_replace();
                    // Nobody waits any more: the snapshot counts all the same.
                    let _unheard = reply.send(result);
                }
                Work::Job(Job::Install { file, reply }) => {
                    let result = self.install(&file);
                    let _unheard = reply.send(result);
                }
                Work::Stop(changes) => {
                    if let Some(changes) = changes {
                        let _pause = self.write(&changes);
                    }
                    if let Some(view) = self.view.take() {
                        if let Err(error) = view.sync() {
                            tracing::warn!(%error, "the view was not synced at the end");
                        }
                        view.close();
                    }
                    return;
                }
            }
        }
    }

    fn next(&self, not_before: Option<Instant>) -> Work {
        let mut state = self.shared.lock();
        let mut asked_at = None;
        loop {
            let handover = std::mem::replace(&mut state.handover, Handover::None);
            if state.broken {
                state.jobs.clear();
                return Work::Stop(None);
            }
            if let Handover::Made(changes) = handover {
                return Work::Changes(changes);
            }
            if let Some(job) = state.jobs.pop_front() {
                return Work::Job(job);
            }
            if state.stop {
                return Work::Stop(Some(state.take_changes()));
            }
            let wait = not_before
                .map_or(Duration::ZERO, |at| at.saturating_duration_since(Instant::now()));
            let mut pause = wait;
            if wait.is_zero() {
                let asked = asked_at.get_or_insert_with(Instant::now);
                pause = HANDED_OVER_WITHIN.saturating_sub(asked.elapsed());
                if state.dirty && pause.is_zero() {
                    if let Some(changes) = state.take_or_make_some() {
                        return Work::Changes(changes);
                    }
                    // Who waits to apply goes first, and helps.
                    pause = BETWEEN_GOES;
                }
                state.handover = Handover::Wanted;
            }
            let wake = &self.shared.wake;
            state = if state.dirty {
                wake.wait_timeout(state, pause).unwrap_or_else(std::sync::PoisonError::into_inner).0
            } else {
                asked_at = None;
                wake.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner)
            };
        }
    }

    /// Writes changes, or replaces the view by the machine's present image if it cannot be written.
    /// Returns how long others shall have the machine for themselves now.
    fn write(&mut self, changes: &Changes) -> Duration {
        let mut begun = Instant::now();
        let pause = |begun: Instant| (PAUSE_PER_PART * begun.elapsed()).min(PAUSE_MAX);
        let shared = &self.shared;
        let between = || {
            shared.rest(pause(begun));
            begun = Instant::now();
        };
        let written = self.view.as_mut().map(|view| view.write(changes, between));
        if let Some(Err(error)) = &written {
            tracing::error!(%error, "the view cannot be written");
        }
        if !matches!(written, Some(Ok(()))) {
            self.replace();
        }
        pause(begun)
    }

    /// Builds a new view from the machine. Until it succeeds there is none; the log is the truth.
    fn replace(&mut self) {
        let mut pause = REPLACE_PAUSE_MIN;
        let mut attempts = 0;
        loop {
            match self.try_replace() {
                Ok(()) => return tracing::info!("the view was built anew from memory"),
                Err(error) if error.is_full => {
                    tracing::error!(%error, "no room for the view; trying again");
                }
                Err(error) => {
                    attempts += 1;
                    if attempts == REPLACE_ATTEMPTS_MAX {
                        self.shared.lock().broken = true;
                        self.shared.fail(&format!(
                            "the view of the state cannot be written ({error}); check the disk"
                        ));
                        return;
                    }
                    tracing::error!(%error, "the view cannot be built; trying again");
                }
            }
            let deadline = Instant::now() + pause;
            pause = (pause * 2).min(REPLACE_PAUSE_MAX);
            let mut state = self.shared.lock();
            while let Some(left) = deadline.checked_duration_since(Instant::now()) {
                // Jobs wait for a view; only a stop ends the pause.
                if state.stop || state.broken {
                    return;
                }
                state = self
                    .shared
                    .wake
                    .wait_timeout(state, left)
                    .unwrap_or_else(std::sync::PoisonError::into_inner)
                    .0;
            }
        }
    }

    fn try_replace(&mut self) -> Result<(), ViewError> {
        let old = self.view.take().map(|view| {
            let path = view.path().to_owned();
            view.close();
            path
        });
        let path = self.home.fresh()?;
        let (image, position) = {
            let state = &mut *self.shared.lock();
            if state.broken {
                return Err("the machine is broken".to_owned().into());
            }
            state.take_changes();
            for job in &mut state.jobs {
                if let Job::Snapshot { changes, .. } = job {
                    // The image below holds them; written later they would undo newer ones.
                    *changes = Changes { rows: BTreeMap::new(), position: state.position.clone() };
                }
            }
            (state.machine.rows().collect::<Vec<_>>(), state.position.clone())
        };
        let built = View::build(&path, self.options, image.into_iter().map(Ok), &position);
        let view = match built {
            Ok(view) => view,
            Err(error) => {
                remove_unused(&path);
                return Err(error);
            }
        };
        self.home.switch(&path)?;
        self.view = Some(view);
        if let Some(old) = old {
            self.home.set_aside(&old, "it could not be written")?;
        }
        Ok(())
    }

    /// A snapshot; a view that turns out damaged on the way is replaced first.
    fn snapshot_or_replace(&mut self) -> io::Result<SnapshotFile> {
        let result = self.snapshot();
        match &result {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                tracing::error!(%error, "the view is damaged");
                self.replace();
                self.snapshot()
            }
            _ => result,
        }
    }

    /// A snapshot of the view as it is.
    fn snapshot(&mut self) -> io::Result<SnapshotFile> {
        let Some(view) = &self.view else {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "there is no view"));
        };
        let position = view.position().clone();
        let current = self.shared.snapshots.current();
        if let Some(current) = current
            && position.last_applied.is_some()
            && current.meta().last_log_id == position.last_applied
        {
            return Ok(current);
        }
        let begun = Instant::now();
        let meta = SnapshotMeta {
            last_log_id: position.last_applied,
            last_membership: position.membership.clone(),
        };
        let mut file = self.shared.snapshots.begin(meta, view.row_count())?;
        let mut gathered = Gathered::default();
        let mut gathered_at = begun;
        let walked = view.for_each_row(|key, value| {
            if file.push(key, value)? && gathered_at.elapsed() >= self.interval {
                gathered_at = Instant::now();
                self.gather(&mut gathered);
            }
            Ok(())
        });
        let row_sum = view.row_sum();
        let done = walked.and_then(|()| file.finish(row_sum));
        if let Some(position) = gathered.position.take() {
            let _pause = self.write(&Changes { rows: gathered.rows, position });
        }
        let file = done?;
        self.shared.snapshots.put(&file)?;
        let (rows, bytes) = (file.row_count(), file.bytes());
        let took_ms = begun.elapsed().as_millis();
        tracing::info!(position = ?position.last_applied, rows, bytes, took_ms, "snapshot written");
        Ok(file)
    }

    /// Takes changes out of the machine without writing them. Not past a cut that waits in the
    /// queue: it holds older ones.
    fn gather(&self, gathered: &mut Gathered) {
        let changes = {
            let mut state = self.shared.lock();
            if !state.dirty || state.broken || !state.jobs.is_empty() {
                return;
            }
            state.take_changes()
        };
        gathered.rows.extend(changes.rows);
        gathered.position = Some(changes.position);
    }

    /// Puts a snapshot in the place of everything: first a complete new view, then the pointer to
    /// it, then the machine.
    fn install(&mut self, file: &SnapshotFile) -> io::Result<()> {
        self.shared.snapshots.put(file)?;
        let (machine, position) = load(file)?;
        let path = self.home.fresh()?;
        let view = match build_from(&path, self.options, file) {
            Ok(view) => view,
            Err(error) => {
                remove_unused(&path);
                return Err(error.into());
            }
        };
        self.home.switch(&path)?;
        let old = self.view.replace(view);
        self.shared.lock().replace(machine, &position);
        self.shared.tell_applied(position.last_applied);
        tracing::info!(position = ?position.last_applied, rows = file.row_count(), "snapshot installed");
        if let Some(old) = old {
            let path = old.path().to_owned();
            old.close();
            remove_unused(&path);
        }
        Ok(())
    }
}

/// The machine in a snapshot.
pub(crate) fn load(file: &SnapshotFile) -> io::Result<(Machine, Position)> {
    let rows = file.rows()?.collect::<io::Result<Vec<_>>>()?;
    let machine = Machine::from_rows(rows).map_err(|bad| {
        let text = format!("the snapshot's rows are no state: {}", bad.0);
        io::Error::new(io::ErrorKind::InvalidData, text)
    })?;
    Ok((machine, position_of(file)))
}

fn position_of(file: &SnapshotFile) -> Position {
    let meta = file.meta();
    Position { last_applied: meta.last_log_id, membership: meta.last_membership.clone() }
}

/// A new view with the rows of a snapshot.
pub(crate) fn build_from(
    path: &std::path::Path,
    options: ViewOptions,
    file: &SnapshotFile,
) -> Result<View, ViewError> {
    let view = View::build(path, options, file.rows()?, &position_of(file))?;
    if view.row_sum() != file.row_sum() || view.row_count() != file.row_count() {
        return Err("the view differs from the snapshot it was built from".to_owned().into());
    }
    Ok(view)
}

/// Removes a view that `CURRENT` does not name; what is left of it goes at the next start.
pub(crate) fn remove_unused(path: &std::path::Path) {
    if let Err(error) = std::fs::remove_dir_all(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(%error, path = %path.display(), "an unused view could not be removed");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use futures_util::{FutureExt, stream};
    use oarlock_core::command::{Command, Entry, LEVEL, OpenSession};
    use oarlock_core::ids::{Metadata, Owner, SessionId};
    use oarlock_core::time::{LeaseTime, Ttl};
    use openraft::EntryPayload;
    use openraft::storage::RaftStateMachine;
    use openraft::vote::RaftLeaderId;

    use super::*;
    use crate::raft::store::machine::StateMachine;
    use crate::raft::store::snapshots::Snapshots;
    use crate::raft::types::{CommittedLeaderId, LogEntry, LogId, Proposal};

    /// Opens sessions of these numbers.
    fn opens(numbers: std::ops::RangeInclusive<u128>) -> Entry {
        let open = |number: u128| {
            let open = OpenSession {
                session_id: SessionId(number),
                owner: Owner::new("tester").expect("an owner"),
                ttl: Ttl::new(60_000).expect("a ttl"),
                request_id: None,
                metadata: Metadata::default(),
            };
            (LeaseTime(1), Command::OpenSession(open))
        };
        Entry { level: LEVEL, wall_ms: 0, commands: numbers.map(open).collect() }
    }

    fn machine() -> Machine {
        let mut machine = Machine::new();
        machine.apply(&opens(1..=9)).expect("a known level");
        machine
    }

    /// A writer whose view is to be prepared by the test, and what it reported as fatal.
    fn writer(dir: &std::path::Path) -> (Writer, Arc<Mutex<Vec<String>>>) {
        let failures = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&failures);
        let fatal = Arc::new(move |why: &str| heard.lock().expect("lock").push(why.to_owned()));
        let snapshots = Snapshots::open(&dir.join("snapshots"), 1, None).expect("snapshots");
        let state = (machine(), Position::default());
        let shared = Shared::new(state, Arc::new(snapshots), fatal, false);
        let home = Home::open(&dir.join("state")).expect("home");
        let options = ViewOptions { cluster_id: 1, cache_bytes: 1 << 20 };
        let interval = Duration::from_millis(1);
        (Writer { shared, view: None, home, options, interval }, failures)
    }

    fn image(machine: &Machine) -> Vec<(RowKey, Row)> {
        machine.rows().collect()
    }

    #[test]
    fn a_view_that_lost_a_row_does_not_reach_a_snapshot() {
        let dir = tempfile::tempdir().expect("directory");
        let (mut writer, failures) = writer(dir.path());
        let path = writer.home.fresh().expect("name");
        let rows = image(&machine()).into_iter().map(Ok);
        let view = View::build(&path, writer.options, rows, &Position::default()).expect("build");
        view.damage();
        writer.view = Some(view);
        let file = writer.snapshot_or_replace().expect("a snapshot");
        assert_eq!(image(&load(&file).expect("a state").0), image(&machine()));
        assert!(dir.path().join("state/state.bad-1").is_dir(), "the damaged view is kept");
        assert!(failures.lock().expect("lock").is_empty());
    }

    #[test]
    fn changes_that_could_not_be_written_are_in_the_next_view() {
        let dir = tempfile::tempdir().expect("directory");
        let (mut writer, _failures) = writer(dir.path());
        let changes = writer.shared.lock().take_changes();
        drop(changes);
        let _pause = writer.write(&Changes::default());
        let view = writer.view.take().expect("a view");
        let path = view.path().to_owned();
        view.close();
        let (_view, found, _) = View::load(&path, writer.options).expect("load");
        assert_eq!(image(&found), image(&machine()));
        assert_eq!(writer.home.current().expect("pointer"), Some(path));
    }

    #[test]
    fn a_disk_that_takes_no_view_at_all_ends_the_process() {
        let dir = tempfile::tempdir().expect("directory");
        let (mut writer, failures) = writer(dir.path());
        std::fs::remove_dir_all(dir.path().join("state")).expect("remove");
        std::fs::write(dir.path().join("state"), b"a file where the directory was").expect("write");
        let _pause = writer.write(&Changes::default());
        assert_eq!(failures.lock().expect("lock").len(), 1);
        assert!(writer.shared.lock().broken);
    }

    /// A writer that has taken all changes so far, and what applies more.
    fn writer_without_changes(dir: &std::path::Path) -> (Writer, StateMachine) {
        let (writer, _failures) = writer(dir);
        drop(writer.shared.lock().take_changes());
        let machine = StateMachine::new(Arc::clone(&writer.shared));
        (writer, machine)
    }

    /// Applies the entry of that index, which opens a session.
    fn apply(machine: &mut StateMachine, index: u64) {
        apply_opens(machine, index, u128::from(100 + index)..=u128::from(100 + index));
    }

    fn apply_opens(machine: &mut StateMachine, index: u64, ids: std::ops::RangeInclusive<u128>) {
        let log_id = LogId::new(CommittedLeaderId::new(1, 1), index);
        let proposal = Proposal(opens(ids));
        let entry = LogEntry { log_id, payload: EntryPayload::Normal(proposal) };
        let entries = stream::iter([Ok((entry, None))]);
        machine.apply(entries).now_or_never().expect("it waits for nothing").expect("applied");
    }

    fn is_wanted(writer: &Writer) -> bool {
        matches!(writer.shared.lock().handover, Handover::Wanted)
    }

    fn changes(work: Work) -> (usize, Option<u64>) {
        let Work::Changes(changes) = work else { panic!("other work") };
        (changes.rows.len(), changes.position.last_applied.map(|id| id.index))
    }

    #[test]
    fn whoever_applies_next_makes_the_rows_that_the_writer_wants() {
        let dir = tempfile::tempdir().expect("directory");
        let (writer, mut machine) = writer_without_changes(dir.path());
        writer.shared.lock().handover = Handover::Wanted;
        apply(&mut machine, 1);
        {
            let state = writer.shared.lock();
            let Handover::Made(made) = &state.handover else { panic!("no rows were made") };
            assert!(!made.rows.is_empty() && !state.dirty);
        }
        // It is not asked twice for one batch, and what it made comes first, before any job.
        apply(&mut machine, 2);
        let _cut = machine.get_snapshot_builder().now_or_never().expect("it waits for nothing");
        let (rows, at) = changes(writer.next(None));
        assert!(rows > 0);
        assert_eq!(at, Some(1), "the second one stays for the next batch");
        assert!(matches!(writer.next(None), Work::Job(Job::Snapshot { .. })));
    }

    #[test]
    fn a_writer_with_nothing_to_do_wants_the_rows_of_whoever_applies_next() {
        let dir = tempfile::tempdir().expect("directory");
        let (writer, mut machine) = writer_without_changes(dir.path());
        let until = Instant::now() + Duration::from_secs(20);
        let (wanted, (rows, at)) = std::thread::scope(|scope| {
            let next = scope.spawn(|| changes(writer.next(None)));
            while !is_wanted(&writer) && Instant::now() < until {
                std::thread::yield_now();
            }
            let wanted = is_wanted(&writer);
            // It ends the wait in any case.
            apply(&mut machine, 1);
            (wanted, next.join().expect("no panic"))
        });
        assert!(wanted && rows > 0);
        assert_eq!(at, Some(1));
    }

    #[test]
    fn rows_that_nobody_makes_in_time_are_made_by_the_writer() {
        let dir = tempfile::tempdir().expect("directory");
        let (writer, mut machine) = writer_without_changes(dir.path());
        apply(&mut machine, 1);
        assert!(writer.shared.lock().dirty, "nobody wanted its rows");
        let begun = Instant::now();
        let (rows, at) = changes(writer.next(None));
        assert!(begun.elapsed() >= HANDED_OVER_WITHIN, "it let others do it first");
        assert!(rows > 0 && !is_wanted(&writer));
        assert_eq!(at, Some(1));
    }

    #[test]
    fn very_many_rows_that_nobody_makes_are_made_by_the_writer_in_several_goes() {
        let dir = tempfile::tempdir().expect("directory");
        let (writer, mut machine) = writer_without_changes(dir.path());
        apply_opens(&mut machine, 1, 1_000..=11_000);
        let left = writer.shared.lock().machine.changed_row_count();
        assert!(writer.shared.lock().take_or_make_some().is_none(), "too many for one go: {left}");
        let (rows, at) = changes(writer.next(None));
        assert!(rows > 10_000, "{rows}");
        assert_eq!(at, Some(1));
        assert_eq!(writer.shared.lock().machine.changed_row_count(), 0);
    }

    #[test]
    fn a_rest_holds_no_apply_up_and_ends_at_a_stop() {
        let dir = tempfile::tempdir().expect("directory");
        let (writer, mut machine) = writer_without_changes(dir.path());
        let shared = &writer.shared;
        std::thread::scope(|scope| {
            let rest = scope.spawn(|| shared.rest(Duration::from_hours(1)));
            apply(&mut machine, 1);
            assert!(!rest.is_finished(), "an apply is no reason to hurry");
            shared.lock().stop = true;
            shared.wake.notify_all();
            rest.join().expect("no panic");
        });
        shared.rest(Duration::from_hours(1));
    }
}
