//! The log against openraft's own suite, crashes at every operation, and damage.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use oarlock_core::command::{Command, Entry as CoreEntry};
use oarlock_core::time::LeaseTime;
use openraft::EntryPayload;
use openraft::impls::leader_id_adv::LeaderId;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::type_config::TypeConfigExt;
use openraft::vote::RaftLeaderId;

use super::*;
use crate::raft::store::files::memory::MemoryFiles;
use crate::raft::store::files::{DirectoryLock, Disk};
use crate::raft::store::machine::StateMachine;
use crate::raft::store::snapshot::Snapshots;
use crate::raft::store::view::View;
use crate::raft::types::Proposal;

const SEGMENT_BYTES: u64 = 8 * 1024;

fn options() -> LogOptions {
    LogOptions { segment_bytes: SEGMENT_BYTES, cache_bytes: 2048 }
}

fn open(files: &MemoryFiles) -> io::Result<LogStore> {
    let files: Arc<dyn Files> = Arc::new(files.clone());
    LogStore::open(files, options(), Box::new(|_, _| {}), Arc::new(|_| {}))
}

fn leader(term: u64) -> <LeaderId<u64, u64> as RaftLeaderId>::Committed {
    LeaderId { term, node_id: 1 }.to_committed()
}

fn id(term: u64, index: u64) -> LogId {
    LogId::new(leader(term), index)
}

fn entry(term: u64, index: u64) -> LogEntry {
    let commands = vec![(LeaseTime(index), Command::Advance); 3];
    let proposal = Proposal(CoreEntry { level: 1, wall_ms: index, commands });
    LogEntry { log_id: id(term, index), payload: EntryPayload::Normal(proposal) }
}

async fn append(log: &mut LogStore, entries: Vec<LogEntry>) -> io::Result<()> {
    let (reply, flushed) = TypeConfig::oneshot();
    log.append(entries, IOFlushed::signal(reply)).await?;
    flushed.await.unwrap_or_else(|_| Err(io::Error::other("the writer is gone")))
}

fn indexes(log: &LogStore) -> Vec<(u64, u64)> {
    let entries = log.entries(..).expect("entries can be read");
    entries.iter().map(|entry| (entry.log_id.leader_id.term, entry.log_id.index)).collect()
}

struct RealStore;

impl StoreBuilder<TypeConfig, LogStore, StateMachine, tempfile::TempDir> for RealStore {
    async fn build(
        &self,
    ) -> Result<(tempfile::TempDir, LogStore, StateMachine), openraft::StorageError<TypeConfig>>
    {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let files: Arc<dyn Files> = Arc::new(Disk::open(&dir.path().join("log")).expect("disk"));
        let log = LogStore::open(files, options(), Box::new(|_, _| {}), Arc::new(|_| {}));
        let snapshots =
            Arc::new(Snapshots::open(&dir.path().join("snapshots")).expect("snapshots"));
        let view = View::open(&dir.path().join("state"), 1 << 20, &snapshots, |_| Ok(true));
        let (view, loaded) = view.expect("a view");
        let machine =
            StateMachine::new(loaded, view, snapshots, Arc::new(|_| {})).expect("a machine");
        Ok((dir, log.expect("a log"), machine))
    }
}

#[tokio::test]
async fn the_suite_of_openraft_passes_on_the_real_store() {
    Suite::test_all(RealStore).await.expect("the suite passes");
}

#[tokio::test]
async fn everything_is_read_back_after_a_restart_also_what_left_the_cache() {
    let files = MemoryFiles::default();
    let mut log = open(&files).expect("a new log opens");
    log.save_vote(&Vote::new_committed(1, 1)).await.expect("saved");
    for index in 0..200 {
        append(&mut log, vec![entry(1, index)]).await.expect("appended");
    }
    log.truncate_after(Some(id(1, 149))).await.expect("truncated");
    append(&mut log, (150..160).map(|index| entry(2, index)).collect()).await.expect("appended");
    let expected: Vec<_> = (0..150).map(|i| (1, i)).chain((150..160).map(|i| (2, i))).collect();
    assert_eq!(indexes(&log), expected);
    let again = open(&files).expect("it opens again");
    assert_eq!(indexes(&again), expected);
    assert_eq!(again.shared.state().vote, Some(Vote::new_committed(1, 1)));
}

#[tokio::test]
async fn purging_removes_segments_and_keeps_vote_and_rest() {
    let files = MemoryFiles::default();
    let mut log = open(&files).expect("a new log opens");
    log.save_vote(&Vote::new_committed(3, 1)).await.expect("saved");
    for index in 0..400 {
        append(&mut log, vec![entry(3, index)]).await.expect("appended");
    }
    let before = files.list().expect("listed").len();
    log.purge(id(3, 380)).await.expect("purged");
    append(&mut log, vec![entry(3, 400)]).await.expect("appended");
    assert!(files.list().expect("listed").len() < before);
    let again = open(&files).expect("it opens again");
    assert_eq!(again.bounds(), (Some(id(3, 400)), Some(id(3, 380))));
    assert_eq!(indexes(&again), (381..=400).map(|index| (3, index)).collect::<Vec<_>>());
    assert_eq!(again.shared.state().vote, Some(Vote::new_committed(3, 1)));
    assert!(again.has(id(3, 380)).expect("known") && !again.has(id(3, 100)).expect("known"));
}

/// Runs a trace of votes, appends, truncations and purges on files that fail after `count`
/// operations; answers what was acknowledged by then.
async fn trace(files: &MemoryFiles) -> (Option<Vote>, Vec<(u64, u64)>) {
    let mut acknowledged = (None, Vec::new());
    let Ok(mut log) = open(files) else { return acknowledged };
    for term in 1..5_u64 {
        let vote = Vote::new_committed(term, 1);
        if log.save_vote(&vote).await.is_err() {
            return acknowledged;
        }
        acknowledged.0 = Some(vote);
        let from = acknowledged.1.len() as u64;
        if from > 4 {
            if log.truncate_after(Some(id(term - 1, from - 1))).await.is_err() {
                return acknowledged;
            }
        }
        for index in from..from + 30 {
            if append(&mut log, vec![entry(term, index)]).await.is_err() {
                return acknowledged;
            }
            acknowledged.1.push((term, index));
        }
    }
    acknowledged
}

#[tokio::test]
async fn a_crash_at_every_operation_loses_nothing_acknowledged() {
    let mut crashes = 0;
    for count in 0..400 {
        let files = MemoryFiles::default();
        files.fail_after(count);
        let acknowledged = trace(&files).await;
        for survives in [0, 1, 30, 512, usize::MAX] {
            let log = open(&files.crash(survives)).expect("a crash is not damage");
            assert!(log.shared.state().vote >= acknowledged.0, "operation {count}");
            let found = indexes(&log);
            assert_eq!(
                found[..acknowledged.1.len().min(found.len())],
                acknowledged.1[..],
                "operation {count}"
            );
            crashes += 1;
        }
    }
    assert!(crashes > 1000);
}

#[tokio::test]
async fn a_torn_tail_is_dropped_and_never_comes_back() {
    let files = MemoryFiles::default();
    let mut log = open(&files).expect("a new log opens");
    log.save_vote(&Vote::new_committed(1, 1)).await.expect("saved");
    append(&mut log, vec![entry(1, 0)]).await.expect("appended");
    append(&mut log, vec![entry(1, 1), entry(1, 2)]).await.expect("appended");
    let place = log.shared.state().locations[&1];
    drop(log);
    // The last group was torn in its first record; its second is whole.
    files.damage("log-0000000000000001.seg", |bytes| {
        bytes[usize::try_from(place.offset).expect("small") + 8] ^= 1;
    });
    let mut log = open(&files).expect("a torn tail is dropped");
    assert_eq!(indexes(&log), [(1, 0)]);
    append(&mut log, vec![entry(2, 1)]).await.expect("appended");
    assert_eq!(indexes(&open(&files).expect("it opens")), [(1, 0), (2, 1)]);
}

#[tokio::test]
async fn damage_before_the_tail_is_refused_and_left_untouched() {
    let files = MemoryFiles::default();
    let mut log = open(&files).expect("a new log opens");
    log.save_vote(&Vote::new_committed(1, 1)).await.expect("saved");
    for index in 0..5 {
        append(&mut log, vec![entry(1, index)]).await.expect("appended");
    }
    let place = log.shared.state().locations[&2];
    let name = "log-0000000000000001.seg";
    files.damage(name, |bytes| bytes[usize::try_from(place.offset).expect("small") + 9] ^= 4);
    let refusal = open(&files).err().expect("damage is refused").to_string();
    assert!(refusal.contains(name) && refusal.contains("rebuild this node"), "{refusal}");
    assert!(open(&files).is_err(), "and again: nothing was cut away");
}

#[tokio::test]
async fn a_missing_segment_or_vote_is_refused() {
    let files = MemoryFiles::default();
    let mut log = open(&files).expect("a new log opens");
    append(&mut log, vec![entry(1, 0)]).await.expect("appended");
    assert!(open(&files).err().expect("no vote").to_string().contains("no vote"));
    log.save_vote(&Vote::new_committed(1, 1)).await.expect("saved");
    for index in 1..900 {
        append(&mut log, vec![entry(1, index)]).await.expect("appended");
    }
    files.remove("log-0000000000000002.seg").expect("removed");
    assert!(open(&files).err().expect("a gap").to_string().contains("missing"));
}

#[tokio::test]
async fn the_first_failed_sync_is_final() {
    let files = MemoryFiles::default();
    let calls = Arc::new(AtomicUsize::new(0));
    let told = Arc::new(Mutex::new(String::new()));
    let (count, text) = (Arc::clone(&calls), Arc::clone(&told));
    let fatal: Fatal = Arc::new(move |why| {
        count.fetch_add(1, Ordering::SeqCst);
        why.clone_into(&mut text.lock().expect("lock"));
    });
    let store: Arc<dyn Files> = Arc::new(files.clone());
    let mut log = LogStore::open(store, options(), Box::new(|_, _| {}), fatal).expect("opens");
    log.save_vote(&Vote::new_committed(1, 1)).await.expect("saved");
    files.fail_after(1);
    assert!(append(&mut log, vec![entry(1, 0)]).await.is_err());
    assert!(append(&mut log, vec![entry(1, 1)]).await.is_err(), "nothing is tried again");
    while calls.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    assert!(told.lock().expect("lock").contains("write the log"));
}

#[test]
fn a_second_process_on_the_directory_is_refused() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let _first = DirectoryLock::take(dir.path()).expect("free");
    let refusal = DirectoryLock::take(dir.path()).err().expect("taken").to_string();
    assert!(refusal.contains("another oarlock process"), "{refusal}");
}
