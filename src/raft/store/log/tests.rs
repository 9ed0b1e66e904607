//! The log against openraft's own suite, crashes at every operation, and damage.

mod crashes;
mod damage;
mod full;
mod golden;
mod suite;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use oarlock_core::command::{Command, Entry as CoreEntry};
use oarlock_core::time::LeaseTime;
use openraft::entry::RaftEntry;
use openraft::storage::RaftLogStorage;
use openraft::vote::{RaftLeaderId, RaftLeaderIdExt, RaftVote};
use openraft::{RaftLogReader, RaftTypeConfig};

use super::*;
use crate::raft::store::files::memory::{self, MemoryFiles};
use crate::raft::types::Proposal;

type LeaderId = <TypeConfig as RaftTypeConfig>::LeaderId;

/// Small segments, so that every test rolls; a small cache, so that most reads come from disk.
const SMALL: LogOptions = LogOptions { segment_bytes: 512, cache_bytes: 300 };

fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(LeaderId::new_committed(term, 1), index)
}

fn blank(term: u64, index: u64) -> LogEntry {
    LogEntry::new_blank(log_id(term, index))
}

fn vote(term: u64) -> Vote {
    Vote::from_leader_id(LeaderId::new(term, 1), true)
}

/// Runs a future on the spot; nothing here needs a runtime.
fn now<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(future)
}

fn try_open(files: &MemoryFiles, options: LogOptions) -> io::Result<LogStore> {
    LogStore::open(Arc::new(files.clone()), options, Box::new(|_, _| {}), Arc::new(|_| {}))
}

fn open(files: &MemoryFiles) -> LogStore {
    try_open(files, SMALL).unwrap()
}

/// Appends and waits until it is durable.
fn append(store: &LogStore, entries: Vec<LogEntry>) -> io::Result<()> {
    let (sender, receiver) = oneshot::channel();
    store.shared.submit_entries(entries, Done::Caller(sender))?;
    now(receiver).unwrap()
}

fn append_range(store: &LogStore, term: u64, indexes: std::ops::RangeInclusive<u64>) {
    for index in indexes {
        append(store, vec![blank(term, index)]).unwrap();
    }
}

fn save_vote(store: &LogStore, term: u64) -> io::Result<()> {
    now(store.clone().save_vote(&vote(term)))
}

fn ids(store: &LogStore) -> Vec<LogId> {
    store.entries(.., usize::MAX).unwrap().into_iter().map(|entry| entry.log_id).collect()
}

#[test]
fn entries_vote_and_committed_survive_a_restart() {
    let files = MemoryFiles::new();
    let mut store = open(&files);
    save_vote(&store, 3).unwrap();
    append_range(&store, 3, 0..=40);
    now(store.save_committed(Some(log_id(3, 39)))).unwrap();
    drop(store);
    let mut store = open(&files);
    assert_eq!(now(store.read_vote()).unwrap(), Some(vote(3)));
    assert_eq!(now(store.read_committed()).unwrap(), Some(log_id(3, 39)));
    assert_eq!(ids(&store), (0..=40).map(|index| log_id(3, index)).collect::<Vec<_>>());
    assert!(store.has(log_id(3, 17)).unwrap());
    assert!(!store.has(log_id(2, 17)).unwrap());
}

#[test]
fn evicted_entries_are_read_back_from_their_segment() {
    let files = MemoryFiles::new();
    let mut store = open(&files);
    save_vote(&store, 1).unwrap();
    append_range(&store, 1, 0..=99);
    let sizes = store.sizes();
    assert!(sizes.cached_bytes <= SMALL.cache_bytes, "{sizes:?}");
    assert!(sizes.segments > 3, "{sizes:?}");
    assert_eq!(ids(&store).len(), 100);
    assert_eq!(now(store.try_get_log_entries(5..=6)).unwrap(), [blank(1, 5), blank(1, 6)]);
    let commands = vec![(LeaseTime(7), Command::Advance); 3];
    let proposal = Proposal(CoreEntry { level: 1, wall_ms: 9, commands });
    let entry = LogEntry::new_normal(log_id(1, 100), proposal);
    append(&store, vec![entry.clone()]).unwrap();
    append_range(&store, 1, 101..=150);
    assert_eq!(now(store.try_get_log_entries(100..101)).unwrap(), [entry]);
}

#[test]
fn the_cache_is_bounded_by_the_memory_that_entries_take() {
    let files = MemoryFiles::new();
    let store = try_open(&files, LogOptions { segment_bytes: 1 << 20, cache_bytes: 1 << 20 });
    let store = store.unwrap();
    save_vote(&store, 1).unwrap();
    let commands = vec![(LeaseTime(7), Command::Advance); 1000];
    let least = size_of_val(commands.as_slice());
    let proposal = Proposal(CoreEntry { level: 1, wall_ms: 9, commands });
    append(&store, vec![LogEntry::new_normal(log_id(1, 0), proposal.clone())]).unwrap();
    let each = store.sizes().cached_bytes;
    assert!((least..2 * least).contains(&each), "{each} bytes for {least}");
    for index in 1..=20 {
        append(&store, vec![LogEntry::new_normal(log_id(1, index), proposal.clone())]).unwrap();
    }
    let sizes = store.sizes();
    assert!(sizes.cached_bytes <= 1 << 20 && sizes.cached_bytes > (1 << 20) - each, "{sizes:?}");
    assert_eq!(ids(&store).len(), 21);
    drop(store);
    let options = LogOptions { segment_bytes: 1 << 20, cache_bytes: 1 << 20 };
    assert_eq!(try_open(&files, options).unwrap().sizes(), sizes, "also after a restart");
}

#[test]
fn a_read_in_progress_outlives_the_purge_of_its_segment() {
    let files = MemoryFiles::new();
    let mut store = open(&files);
    save_vote(&store, 1).unwrap();
    append_range(&store, 1, 0..=99);
    let file = store.shared.state().segments[&1].clone();
    let Some(Found::Disk(place)) = store.shared.state().table.find(0, 1, 1).pop() else {
        panic!("entry 0 is still in memory");
    };
    now(store.purge(log_id(1, 90))).unwrap();
    save_vote(&store, 2).unwrap();
    append_range(&store, 2, 100..=100);
    assert!(!files.image().contains_key(&segment_name(1)));
    assert_eq!(Source::Disk(Some(file), place).read().unwrap(), blank(1, 0));
}

#[test]
fn a_purge_deletes_whole_segments_and_the_log_opens_again() {
    let files = MemoryFiles::new();
    let mut store = open(&files);
    save_vote(&store, 1).unwrap();
    append_range(&store, 1, 0..=99);
    let before = store.sizes().segments;
    now(store.purge(log_id(1, 80))).unwrap();
    append_range(&store, 1, 100..=101);
    drop(store);
    let store = open(&files);
    let after = store.sizes().segments;
    assert!(after + 3 <= before && files.image().len() == after, "{after} of {before} segments");
    assert_eq!(store.bounds(), (Some(log_id(1, 101)), Some(log_id(1, 80))));
    assert_eq!(ids(&store), (81..=101).map(|index| log_id(1, index)).collect::<Vec<_>>());
    drop(store);
    // Beyond the end, as after a snapshot from the leader: nothing is left, and the next follows.
    let mut store = open(&files);
    now(store.purge(log_id(2, 500))).unwrap();
    append_range(&store, 2, 501..=502);
    drop(store);
    let store = open(&files);
    assert_eq!(ids(&store), [log_id(2, 501), log_id(2, 502)]);
}

#[test]
fn a_truncated_entry_never_comes_back() {
    let files = MemoryFiles::new();
    let mut store = open(&files);
    save_vote(&store, 1).unwrap();
    append_range(&store, 1, 0..=30);
    now(store.truncate_after(Some(log_id(1, 9)))).unwrap();
    append_range(&store, 2, 10..=12);
    let expected: Vec<LogId> =
        (0..=9).map(|index| log_id(1, index)).chain((10..=12).map(|i| log_id(2, i))).collect();
    assert_eq!(ids(&store), expected);
    drop(store);
    assert_eq!(ids(&open(&files)), expected);
}

#[test]
fn an_entry_larger_than_a_segment_gets_one_of_its_own() {
    let files = MemoryFiles::new();
    let store = open(&files);
    save_vote(&store, 1).unwrap();
    append_range(&store, 1, 0..=20);
    let members = (1..=200).map(|id| (id, crate::raft::types::Member::default())).collect();
    let nodes: std::collections::BTreeMap<u64, _> = members;
    let large = openraft::Membership::new_with_defaults(
        vec![nodes.keys().copied().collect()],
        nodes.keys().copied(),
    );
    append(&store, vec![LogEntry::new_membership(log_id(1, 21), large)]).unwrap();
    append_range(&store, 1, 22..=60);
    drop(store);
    let largest = files.image().into_values().map(|bytes| bytes.len()).max().unwrap();
    assert!(largest as u64 > 2 * SMALL.segment_bytes, "{largest}");
    assert_eq!(ids(&open(&files)).len(), 61);
}

#[test]
fn an_entry_that_would_leave_a_hole_is_refused_and_leaves_no_trace() {
    let files = MemoryFiles::new();
    let store = open(&files);
    save_vote(&store, 1).unwrap();
    append_range(&store, 1, 0..=3);
    let error = append(&store, vec![blank(1, 4), blank(1, 6)]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    append_range(&store, 1, 4..=5);
    drop(store);
    assert_eq!(ids(&open(&files)).len(), 6);
}

#[test]
fn many_appends_share_one_sync() {
    let files = MemoryFiles::new();
    let syncs = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&syncs);
    let observe = Box::new(move |_, _| {
        counter.fetch_add(1, Ordering::SeqCst);
    });
    let store =
        LogStore::open(Arc::new(files), LogOptions::default(), observe, Arc::new(|_| {})).unwrap();
    save_vote(&store, 1).unwrap();
    let before = syncs.load(Ordering::SeqCst);
    append(&store, (0..500).map(|index| blank(1, index)).collect()).unwrap();
    assert_eq!(syncs.load(Ordering::SeqCst), before + 1);
}

/// Whether the first segment ends in a witness, which an idle writer leaves last of all.
fn ends_in_witness(files: &MemoryFiles) -> bool {
    let image = files.image();
    let segment = image.values().next().expect("a segment");
    let (mut offset, mut is_witness) = (0, false);
    while let Ok(record) = record::read(segment, 1, offset) {
        offset += record.bytes;
        is_witness = matches!(record.content, record::Content::Witness);
    }
    is_witness
}

#[test]
fn the_first_error_is_final_and_ends_the_process() {
    for nth in 1..=2 {
        let files = MemoryFiles::new();
        let ended = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&ended);
        let fatal: Fatal = Arc::new(move |_| {
            counter.fetch_add(1, Ordering::SeqCst);
        });
        let options = LogOptions::default();
        let store =
            LogStore::open(Arc::new(files.clone()), options, Box::new(|_, _| {}), fatal).unwrap();
        save_vote(&store, 1).unwrap();
        append_range(&store, 1, 0..=3);
        // Until it is idle, so that the write (1) and its sync (2) are the next calls.
        while files.crash(memory::Survival::Synced).image().len() < 2 || !ends_in_witness(&files) {
            std::thread::yield_now();
        }
        files.fail_only(nth);
        assert!(append(&store, vec![blank(1, 4)]).is_err(), "call {nth}");
        assert!(append(&store, vec![blank(1, 5)]).is_err(), "call {nth}: no second try");
        assert!(save_vote(&store, 2).is_err());
        drop(store);
        assert_eq!(ended.load(Ordering::SeqCst), 1);
        assert_eq!(ids(&open(&files.crash(memory::Survival::Synced))).len(), 4);
    }
}

#[test]
fn a_second_process_is_kept_out_of_the_directory() {
    use crate::raft::store::files::DirectoryLock;
    let directory = tempfile::tempdir().unwrap();
    let lock = DirectoryLock::take(directory.path()).unwrap();
    let error = DirectoryLock::take(directory.path()).err().unwrap();
    assert!(error.to_string().contains("another oarlock process"), "{error}");
    drop(lock);
    DirectoryLock::take(directory.path()).unwrap();
}

#[tokio::test]
async fn the_end_of_a_log_is_durably_gone_when_its_cut_is_answered() {
    use futures_util::FutureExt;
    let files = MemoryFiles::new();
    let fatal: Fatal = Arc::new(|why: &str| panic!("{why}"));
    let (store, mut disk) =
        by_hand::open(Arc::new(files.clone()), LogOptions::default(), fatal).expect("a log");
    let mut log = store.clone();
    store.shared.submit(Record::vote(vote(1)), Done::Nobody).expect("queued");
    let entries = (0..=5).map(|index| blank(1, index)).collect();
    store.shared.submit_entries(entries, Done::Nobody).expect("queued");
    assert!(disk.begin());
    disk.finish();
    let last = blank(1, 3).log_id;
    let mut cut = std::pin::pin!(log.truncate_after(Some(last)));
    assert!(cut.as_mut().now_or_never().is_none(), "nothing is on the disk yet");
    assert!(disk.begin(), "the cut waits for the disk");
    disk.finish();
    cut.await.expect("it is answered");
    assert_eq!(ids(&open(&files.crash(memory::Survival::Synced))).len(), 4);
}
