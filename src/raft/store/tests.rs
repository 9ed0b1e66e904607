//! The state machine against its disk: what a node starts from after every kind of loss.

mod golden;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::stream;
use oarlock_core::command::{Acquire, Command, Entry, LEVEL, LeaseTerm, Mode};
use oarlock_core::ids::{LeaseId, LockName, Metadata, Owner, RequestId};
use oarlock_core::image::{Row, RowKey};
use oarlock_core::machine::Machine;
use oarlock_core::planted;
use oarlock_core::time::{Grace, LeaseTime, LockDelay, Ttl, Wait};
use openraft::storage::{RaftStateMachine, Snapshot};
use openraft::vote::RaftLeaderId;
use openraft::{EntryPayload, RaftSnapshotBuilder};

use crate::raft::store::codec;
use crate::raft::store::files::Disk;
use crate::raft::store::machine::{MachineHandle, StateMachine};
use crate::raft::store::snapshot::SnapshotFile;
use crate::raft::store::snapshots::Snapshots;
use crate::raft::store::start::{self, LogFacts, Options};
use crate::raft::store::view::{Changes, Position, View, ViewOptions, open_unlocked};
use crate::raft::types::{CommittedLeaderId, LogEntry, LogId, Proposal, SnapshotMeta};

const CLUSTER: u128 = 11 << 77;

fn id(index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(1 + index / 100, 1), index)
}

/// Each entry opens a lease, renews or releases an older one, and lets some expire.
fn core_entry(index: u64) -> Entry {
    let at = LeaseTime(index * 40_000);
    let mode = if index.is_multiple_of(3) { Mode::Shared } else { Mode::Exclusive };
    let acquire = Acquire {
        lease_id: LeaseId(u128::from(index) << 64 | 5),
        name: LockName::new(&format!("lock/{}", index % 37)).expect("a name"),
        owner: Owner::new("tester").expect("an owner"),
        mode,
        term: LeaseTerm::Ttl(Ttl::new(2_000).expect("a ttl")),
        wait: Wait::new(1_000).expect("a wait"),
        grace: Grace::new(500).expect("a grace"),
        request_id: index.is_multiple_of(2).then(|| RequestId(u128::from(index))),
        metadata: Metadata::default(),
        lock_delay: LockDelay::new(0).expect("a lock-delay"),
    };
    let old = |back: u64| LeaseId(u128::from(index.saturating_sub(back)) << 64 | 5);
    let commands = vec![
        (at, Command::Acquire(acquire)),
        (at, Command::Renew { lease_id: old(7) }),
        (at, Command::Release { lease_id: old(11) }),
    ];
    Entry { level: LEVEL, wall_ms: index, commands }
}

fn log_entry(index: u64) -> LogEntry {
    LogEntry { log_id: id(index), payload: EntryPayload::Normal(Proposal(core_entry(index))) }
}

/// What a machine is after the entries up to `last`.
fn model(last: u64) -> Machine {
    let mut machine = Machine::new();
    for index in 1..=last {
        machine.apply(&core_entry(index)).expect("a known level");
    }
    machine
}

fn image(machine: &Machine) -> Vec<(RowKey, Row)> {
    machine.rows().collect()
}

struct Node {
    machine: StateMachine,
    handle: MachineHandle,
    failures: Arc<Mutex<Vec<String>>>,
}

/// A node's store over a log that holds the entries in `first..=last`.
fn try_open(dir: &Path, first: u64, last: u64) -> io::Result<Node> {
    let failures = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&failures);
    let fatal = Arc::new(move |why: &str| heard.lock().expect("lock").push(why.to_owned()));
    let options = Options {
        batch_interval: Duration::from_millis(1),
        ..Options::new(dir.to_owned(), CLUSTER)
    };
    let has = |asked: LogId| Ok((first..=last).contains(&asked.index) && asked == id(asked.index));
    let last_purged = (first > 1).then(|| id(first - 1));
    let snapshots = start::open_snapshots(&options, last_purged)?;
    let facts = LogFacts { has: &has, last_purged };
    let (machine, handle) = start::open(&options, snapshots, &facts, fatal)?;
    Ok(Node { machine, handle, failures })
}

fn open(dir: &Path, first: u64, last: u64) -> Node {
    try_open(dir, first, last).expect("open")
}

impl Node {
    async fn apply(&mut self, indexes: impl Iterator<Item = u64> + Send) {
        let entries = indexes.map(|index| Ok((log_entry(index), None)));
        self.machine.apply(stream::iter(entries)).await.expect("apply");
    }

    async fn snapshot(&mut self) -> SnapshotFile {
        let mut builder = self.machine.get_snapshot_builder().await;
        builder.build_snapshot().await.expect("build").snapshot
    }

    fn applied(&self) -> Option<u64> {
        self.handle.with_position(|_, position| position.last_applied.map(|id| id.index))
    }

    fn image(&self) -> Vec<(RowKey, Row)> {
        self.handle.with(image)
    }

    fn close(self) {
        self.handle.close();
    }
}

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("directory")
}

/// The sled directory in use.
fn view_of(dir: &Path) -> PathBuf {
    let mut views = names(&dir.join("state"), "state-");
    assert_eq!(views.len(), 1, "{views:?}");
    dir.join("state").join(views.remove(0))
}

fn names(dir: &Path, prefix: &str) -> Vec<String> {
    let entries = std::fs::read_dir(dir).expect("list");
    let all = entries.map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned());
    let mut names: Vec<_> = all.filter(|name| name.starts_with(prefix)).collect();
    names.sort();
    names
}

fn snapshot_path(dir: &Path, index: u64) -> PathBuf {
    dir.join("snapshots").join(format!("snapshot-{}-{index}.osnap", 1 + index / 100))
}

#[tokio::test]
async fn a_restart_finds_the_machine_as_it_was() {
    let dir = directory();
    let mut node = open(dir.path(), 1, 300);
    for begin in (0..300).step_by(20) {
        node.apply(begin + 1..=begin + 20).await;
        assert_eq!(node.handle.applied().borrow().map(|id| id.index), Some(begin + 20));
    }
    assert_eq!(node.image(), image(&model(300)));
    node.close();
    let node = open(dir.path(), 1, 300);
    assert!(!node.handle.was_rebuilt());
    assert_eq!((node.applied(), node.image()), (Some(300), image(&model(300))));
}

#[tokio::test]
async fn entries_without_commands_move_the_position_and_the_membership() {
    let dir = directory();
    let mut node = open(dir.path(), 1, 2);
    let members = openraft::Membership::new_with_defaults(vec![[1, 2].into()], []);
    let entries = [
        LogEntry { log_id: id(1), payload: EntryPayload::Membership(members) },
        LogEntry { log_id: id(2), payload: EntryPayload::Blank },
    ];
    let entries = entries.into_iter().map(|entry| Ok((entry, None)));
    node.machine.apply(stream::iter(entries)).await.expect("apply");
    node.close();
    let mut node = open(dir.path(), 1, 2);
    let (applied, membership) = node.machine.applied_state().await.expect("state");
    assert_eq!((applied, *membership.log_id()), (Some(id(2)), Some(id(1))));
}

#[test]
fn the_view_is_whole_at_every_batch_boundary() {
    planted::choose(std::env::var(planted::VARIABLE).ok()).expect("a planted bug");
    let dir = directory();
    let path = dir.path().join("view");
    let options = ViewOptions { cluster_id: CLUSTER, cache_bytes: 1 << 20 };
    let start = Position::default();
    let mut view = View::build(&path, options, std::iter::empty(), &start).expect("build");
    let mut machine = Machine::new();
    for index in 1..=40 {
        machine.apply(&core_entry(index)).expect("a known level");
        let position = Position { last_applied: Some(id(index)), ..Position::default() };
        let rows = machine.take_changes().into_iter().collect();
        view.write(&Changes { rows, position }, || ()).expect("write");
        if index % 4 == 0 {
            view.close();
            let (loaded, found, position) = View::load(&path, options).expect("load");
            assert_eq!(position.last_applied, Some(id(index)));
            assert_eq!(image(&found), image(&machine));
            assert_eq!(loaded.row_count(), image(&machine).len() as u64);
            view = loaded;
        }
    }
}

/// The rows of an image and the position it stands at.
fn all_rows(machine: &Machine, index: u64) -> Changes {
    let rows = image(machine).into_iter().map(|(key, row)| (key, Some(row))).collect();
    Changes { rows, position: Position { last_applied: Some(id(index)), ..Position::default() } }
}

#[test]
fn a_write_of_very_many_rows_is_whole_or_refused() {
    let dir = directory();
    let path = dir.path().join("view");
    let options = ViewOptions { cluster_id: CLUSTER, cache_bytes: 1 << 20 };
    let mut machine = Machine::new();
    for index in 1..=2_000 {
        let mut entry = core_entry(index);
        entry.commands.iter_mut().for_each(|(at, command)| {
            *at = LeaseTime(1);
            if let Command::Acquire(acquire) = command {
                acquire.name = LockName::new(&format!("lock/{index}")).expect("a name");
            }
        });
        entry.commands.truncate(1);
        machine.apply(&entry).expect("a known level");
    }
    let changes = all_rows(&machine, 2_000);
    assert!(changes.rows.len() > 4_000, "several parts");
    let start = Position::default();
    let mut view = View::build(&path, options, std::iter::empty(), &start).expect("build");
    let mut pauses = 0;
    view.write(&changes, || pauses += 1).expect("write");
    assert_eq!(pauses, (changes.rows.len() - 1) / 512, "one after each part but the last");
    view.close();
    let (mut view, found, position) = View::load(&path, options).expect("load");
    assert_eq!(position, changes.position);
    assert_eq!(image(&found), image(&machine));
    // What it has already: nothing but the mark tells that more was to come.
    view.write_part(changes.rows.iter().take(10)).expect("write");
    view.close();
    let refused = View::load(&path, options).err().expect("an unfinished view");
    assert!(refused.is_unfinished, "{refused}");
}

#[tokio::test]
async fn a_view_whose_last_write_was_cut_off_is_rebuilt_and_not_kept_as_damaged() {
    let dir = directory();
    let mut node = open(dir.path(), 1, 120);
    node.apply(1..=90).await;
    node.snapshot().await;
    node.apply(91..=120).await;
    node.close();
    let options = ViewOptions { cluster_id: CLUSTER, cache_bytes: 1 << 20 };
    let (mut view, machine, _) = View::load(&view_of(dir.path()), options).expect("load");
    view.write_part(all_rows(&machine, 120).rows.iter().take(10)).expect("write");
    view.close();
    let mut node = open(dir.path(), 1, 120);
    assert!(node.handle.was_rebuilt());
    assert_eq!((node.applied(), node.image()), (Some(90), image(&model(90))));
    assert!(names(&dir.path().join("state"), "state.bad-").is_empty());
    node.apply(91..=120).await;
    node.close();
    let node = open(dir.path(), 1, 120);
    assert_eq!((node.applied(), node.image()), (Some(120), image(&model(120))));
}

#[tokio::test]
async fn a_deleted_view_is_rebuilt_from_the_snapshot() {
    let dir = directory();
    let mut node = open(dir.path(), 1, 120);
    node.apply(1..=90).await;
    node.snapshot().await;
    node.apply(91..=120).await;
    node.close();
    std::fs::remove_dir_all(view_of(dir.path())).expect("remove");
    let mut node = open(dir.path(), 50, 120);
    assert!(node.handle.was_rebuilt());
    assert_eq!((node.applied(), node.image()), (Some(90), image(&model(90))));
    node.apply(91..=120).await;
    assert_eq!(node.image(), image(&model(120)));
}

#[tokio::test]
async fn a_view_of_garbage_is_set_aside_and_rebuilt() {
    let dir = directory();
    let mut node = open(dir.path(), 1, 60);
    node.apply(1..=60).await;
    node.snapshot().await;
    node.close();
    for round in 1..=5 {
        let view = view_of(dir.path());
        for name in names(&view, "") {
            if view.join(&name).is_file() {
                std::fs::write(view.join(name), vec![0x5a; 100_000 * round]).expect("write");
            }
        }
        let node = open(dir.path(), 1, 60);
        assert!(node.handle.was_rebuilt());
        assert_eq!(node.image(), image(&model(60)));
        node.close();
    }
    let kept = names(&dir.path().join("state"), "state.bad-");
    assert_eq!(kept, ["state.bad-3", "state.bad-4", "state.bad-5"], "three are kept");
}

#[tokio::test]
async fn one_changed_row_is_noticed() {
    let dir = directory();
    let mut node = open(dir.path(), 1, 60);
    node.apply(1..=60).await;
    node.snapshot().await;
    node.close();
    let db = open_unlocked(&sled::Config::new().path(view_of(dir.path()))).expect("sled");
    let (key, value) = db.scan_prefix(b"r").nth(9).expect("a row").expect("readable");
    let mut value = value.to_vec();
    *value.last_mut().expect("not empty") ^= 1;
    db.insert(key, value).expect("insert");
    db.flush().expect("flush");
    drop(db);
    let node = open(dir.path(), 1, 60);
    assert!(node.handle.was_rebuilt());
    assert_eq!(node.image(), image(&model(60)));
    assert_eq!(names(&dir.path().join("state"), "state.bad-").len(), 1);
}

#[tokio::test]
async fn a_view_ahead_of_the_log_or_of_another_cluster_is_not_trusted() {
    let dir = directory();
    let mut node = open(dir.path(), 1, 60);
    node.apply(1..=50).await;
    node.snapshot().await;
    node.apply(51..=60).await;
    node.close();
    let node = open(dir.path(), 1, 55);
    assert!(node.handle.was_rebuilt());
    assert_eq!((node.applied(), node.image()), (Some(50), image(&model(50))));
    node.close();
    let options = Options::new(dir.path().to_owned(), CLUSTER + 1);
    let facts = LogFacts { has: &|_| Ok(true), last_purged: None };
    let snapshots = start::open_snapshots(&options, None).expect("snapshots");
    let (_machine, handle) =
        start::open(&options, snapshots, &facts, Arc::new(|_| {})).expect("open");
    assert!(handle.was_rebuilt());
    assert!(handle.snapshots().current().is_none(), "the snapshot is another cluster's too");
    assert_eq!(handle.with(image), image(&Machine::new()));
}

#[tokio::test]
async fn a_node_that_lost_view_and_snapshots_refuses_to_guess() {
    let dir = directory();
    let mut node = open(dir.path(), 1, 60);
    node.apply(1..=50).await;
    node.snapshot().await;
    node.close();
    std::fs::remove_dir_all(dir.path().join("state")).expect("remove");
    let path = snapshot_path(dir.path(), 50);
    let mut bytes = std::fs::read(&path).expect("read");
    bytes[100] ^= 4;
    std::fs::write(&path, bytes).expect("write");
    let Err(error) = try_open(dir.path(), 40, 60) else { panic!("it must refuse") };
    assert!(error.to_string().contains("rejoin it"), "{error}");
    assert_eq!(names(&dir.path().join("snapshots"), "snapshot-1-50.osnap.bad").len(), 1);
    // With the whole log it starts again from nothing.
    assert_eq!(open(dir.path(), 1, 60).applied(), None);
}

#[tokio::test]
async fn a_damaged_snapshot_gives_way_to_the_one_before() {
    let dir = directory();
    let mut node = open(dir.path(), 1, 300);
    for last in [40_u64, 80, 120] {
        node.apply(last - 39..=last).await;
        assert_eq!(node.snapshot().await.meta().last_log_id, Some(id(last)));
    }
    let found = names(&dir.path().join("snapshots"), "");
    assert_eq!(found, ["snapshot-1-80.osnap", "snapshot-2-120.osnap"], "two are kept");
    node.close();
    std::fs::remove_dir_all(dir.path().join("state")).expect("remove");
    let path = snapshot_path(dir.path(), 120);
    let bytes = std::fs::read(&path).expect("read");
    std::fs::write(&path, &bytes[..bytes.len() - 1]).expect("write");
    let mut node = open(dir.path(), 81, 300);
    assert_eq!((node.applied(), node.image()), (Some(80), image(&model(80))));
    node.apply(81..=120).await;
    assert_eq!(node.snapshot().await.meta().last_log_id, Some(id(120)));
}

#[tokio::test]
async fn a_snapshot_that_leaves_a_gap_to_the_log_does_not_count() {
    let dir = directory();
    let mut node = open(dir.path(), 1, 120);
    node.apply(1..=40).await;
    node.snapshot().await;
    node.apply(41..=120).await;
    node.close();
    // The newest one, at 100, is gone; the log begins at 101, and the view is good.
    let node = open(dir.path(), 101, 120);
    assert_eq!(node.applied(), Some(120));
    assert!(node.handle.snapshots().current().is_none(), "openraft must build a new one");
}

#[tokio::test]
async fn every_damaged_byte_and_every_short_file_is_refused() {
    let dir = directory();
    let mut node = open(dir.path(), 1, 30);
    node.apply(1..=30).await;
    let file = node.snapshot().await;
    let good = std::fs::read(snapshot_path(dir.path(), 30)).expect("read");
    assert_eq!(good.len() as u64, file.bytes());
    let path = dir.path().join("copy");
    let files = Disk::open(dir.path()).expect("directory");
    let check = |bytes: &[u8]| {
        std::fs::write(&path, bytes).expect("write");
        SnapshotFile::open(&files, "copy", CLUSTER)
    };
    assert_eq!(check(&good).expect("good").meta(), file.meta());
    let edges = (0..200).chain(good.len() - 200..good.len());
    for at in edges.chain((200..good.len() - 200).step_by(97)) {
        let mut bad = good.clone();
        bad[at] ^= 1 << (at % 8);
        assert!(check(&bad).is_err(), "byte {at}");
        assert!(check(&good[..at]).is_err(), "{at} bytes");
    }
    assert!(check(&[&good[..], b"x"].concat()).is_err(), "a longer file");
    assert!(SnapshotFile::open(&files, "copy", CLUSTER + 1).is_err(), "another cluster");
}

#[tokio::test]
async fn a_received_snapshot_replaces_everything_at_once() {
    let (from, to) = (directory(), directory());
    let mut leader = open(from.path(), 1, 250);
    leader.apply(1..=250).await;
    let sent = leader.snapshot().await;
    let mut node = open(to.path(), 1, 20);
    node.apply(1..=20).await;
    let before = view_of(to.path());

    let snapshots = node.handle.snapshots();
    let mut other = snapshots.receive().expect("receive");
    other.write(b"another sender, another file").expect("write");
    let mut incoming = snapshots.receive().expect("receive");
    while incoming.bytes() < sent.bytes() {
        let left = usize::try_from(sent.bytes() - incoming.bytes()).expect("small");
        let mut part = vec![0; left.min(1_000)];
        sent.read_at(&mut part, incoming.bytes()).expect("read");
        incoming.write(&part).expect("write");
    }
    assert!(other.finish().is_err(), "what does not verify is not a snapshot");
    let file = incoming.finish().expect("verified");
    let meta = file.meta().clone();
    node.machine.install_snapshot(&meta, file).await.expect("install");
    assert_eq!((node.applied(), node.image()), (Some(250), image(&model(250))));
    assert!(!before.exists(), "the old view is gone");
    let Some(Snapshot { meta: current, .. }) =
        node.machine.get_current_snapshot().await.expect("current")
    else {
        panic!("there is a snapshot")
    };
    assert_eq!(current, meta);
    node.apply(251..=260).await;
    node.close();
    assert!(names(&to.path().join("snapshots"), "receiving").is_empty());
    // The log restarts behind the snapshot.
    let node = open(to.path(), 251, 260);
    assert!(!node.handle.was_rebuilt());
    assert_eq!((node.applied(), node.image()), (Some(260), image(&model(260))));
}

#[tokio::test]
async fn a_crash_before_the_switch_leaves_the_old_view() {
    let dir = directory();
    let mut node = open(dir.path(), 1, 30);
    node.apply(1..=30).await;
    node.close();
    // As a crash in the middle of an install leaves it: a view that CURRENT does not name.
    std::fs::create_dir(dir.path().join("state/state-7")).expect("create");
    std::fs::write(dir.path().join("state/state-7/db"), b"half").expect("write");
    let node = open(dir.path(), 1, 30);
    assert!(!node.handle.was_rebuilt());
    assert_eq!(node.image(), image(&model(30)));
    assert!(view_of(dir.path()).ends_with("state-1"));
}

#[tokio::test]
async fn a_snapshot_taken_while_applies_go_on_is_the_state_at_its_position() {
    let dir = directory();
    let mut node = open(dir.path(), 1, 2_000);
    for cut in [400_u64, 900] {
        let from = node.applied().unwrap_or(0);
        node.apply(from + 1..=cut).await;
        let mut builder = node.machine.get_snapshot_builder().await;
        let building = tokio::spawn(async move { builder.build_snapshot().await });
        for index in cut + 1..=cut + 300 {
            node.apply(index..=index).await;
        }
        let file = building.await.expect("task").expect("build").snapshot;
        assert_eq!(file.meta().last_log_id, Some(id(cut)));
        let rows: io::Result<Vec<_>> = file.rows().expect("rows").collect();
        let found = Machine::from_rows(rows.expect("readable")).expect("a state");
        assert_eq!(image(&found), image(&model(cut)));
    }
    let last = node.applied().expect("applied");
    node.close();
    let node = open(dir.path(), 1, 2_000);
    assert_eq!((node.applied(), node.image()), (Some(last), image(&model(last))));
}

#[tokio::test]
async fn a_view_that_turns_out_damaged_does_not_reach_a_snapshot() {
    let dir = directory();
    let options = ViewOptions { cluster_id: CLUSTER, cache_bytes: 1 << 20 };
    let path = dir.path().join("view");
    let rows = image(&model(50)).into_iter().map(Ok);
    let view = View::build(&path, options, rows, &Position::default()).expect("build");
    let snapshots = Snapshots::open(&dir.path().join("snapshots"), CLUSTER, None).expect("open");
    let mut file = snapshots.begin(SnapshotMeta::default(), view.row_count()).expect("begin");
    let mut skipped = false;
    view.for_each_row(|key, value| {
        if std::mem::replace(&mut skipped, true) {
            file.push(key, value).map(|_| ())
        } else {
            Ok(())
        }
    })
    .expect("rows");
    assert!(file.finish(view.row_sum()).is_err(), "a row is missing");
    assert!(names(&dir.path().join("snapshots"), "").is_empty(), "nothing is left of it");
}

#[tokio::test]
async fn an_entry_of_an_unknown_level_ends_the_process() {
    planted::choose(std::env::var(planted::VARIABLE).ok()).expect("a planted bug");
    let dir = directory();
    let mut node = open(dir.path(), 1, 20);
    node.apply(1..=10).await;
    let core = Entry { level: LEVEL + 1, ..core_entry(11) };
    let entry = LogEntry { log_id: id(11), payload: EntryPayload::Normal(Proposal(core)) };
    let applied = node.machine.apply(stream::iter([Ok((entry, None))])).await;
    assert!(applied.is_err());
    let failures = node.failures.lock().expect("lock").clone();
    assert!(failures[0].contains("upgrade this node"), "{failures:?}");
    assert_eq!((node.applied(), node.image()), (Some(10), image(&model(10))));
    node.close();
    let node = open(dir.path(), 1, 20);
    assert!(node.applied() <= Some(10), "nothing of the entry reached the disk");
}

#[tokio::test]
async fn an_entry_that_was_applied_before_ends_the_process() {
    let dir = directory();
    let mut node = open(dir.path(), 1, 20);
    node.apply(1..=10).await;
    let again = node.machine.apply(stream::iter([Ok((log_entry(10), None))])).await;
    assert!(again.is_err());
    assert_eq!(node.failures.lock().expect("lock").len(), 1);
}

#[tokio::test]
async fn events_are_heard_in_order() {
    let dir = directory();
    let mut node = open(dir.path(), 1, 50);
    let revisions = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&revisions);
    node.handle.on_events(Box::new(move |events, outcomes| {
        assert_eq!(outcomes.len(), 3);
        heard.lock().expect("lock").extend(events.iter().map(|event| event.revision));
    }));
    node.apply(1..=50).await;
    let revisions = revisions.lock().expect("lock");
    assert!(revisions.len() > 50 && revisions.is_sorted());
}

#[test]
fn a_row_key_and_its_bytes_are_one_to_one() {
    let rows = image(&model(100));
    for (key, row) in rows {
        let bytes = codec::encode(&key);
        assert_eq!(codec::decode::<RowKey>(&bytes), Ok(key));
        assert_eq!(codec::decode::<Row>(&codec::encode(&row)), Ok(row));
    }
}
