//! A segment of the log is refused, or what it gives is a beginning of what was written; and a log
//! that opens goes on.

use std::sync::{Arc, OnceLock};

use oarlock::raft::store::log::{LogOptions, LogStore};
use oarlock::raft::types::{LogEntry, LogId, Vote};
use openraft::RaftLogReader as _;
use openraft::entry::RaftEntry as _;
use openraft::impls::leader_id_adv::LeaderId;
use openraft::storage::{RaftLogStorage as _, RaftLogStorageExt as _};
use openraft::vote::{RaftLeaderId as _, RaftVote as _};

use crate::files::Memory;

const SEGMENT: &str = "log-0000000000000001.seg";
const SEGMENT_BYTES: u64 = 2048;
const WRITTEN: u64 = 12;

fn open(files: &Arc<Memory>) -> std::io::Result<LogStore> {
    let options = LogOptions { segment_bytes: SEGMENT_BYTES, ..LogOptions::default() };
    let fatal = Arc::new(|why: &str| panic!("the log gave up: {why}"));
    LogStore::open(Arc::clone(files) as _, options, Box::new(|_, _| {}), fatal)
}

fn entry(term: u64, index: u64) -> LogEntry {
    let leader = LeaderId::new(term, 1).to_committed();
    LogEntry::new_blank(LogId::new(leader, index))
}

fn now<T>(future: impl Future<Output = T>) -> T {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.build().expect("a runtime").block_on(future)
}

/// No entry is durable before the vote of its term.
fn vote(store: &mut LogStore, term: u64) {
    let vote = Vote::from_leader_id(LeaderId::new(term, 1), true);
    now(store.save_vote(&vote)).expect("a vote");
}

fn entries(store: &mut LogStore) -> Vec<LogEntry> {
    now(store.try_get_log_entries(..)).expect("what is there can be read")
}

pub(crate) fn run(data: &[u8]) {
    let mut segment = data.to_vec();
    segment.resize(usize::try_from(SEGMENT_BYTES).unwrap_or(0), 0);
    let files = Memory::with(SEGMENT, segment.clone());
    let mut store = match open(&files) {
        Ok(store) => store,
        Err(refused) => {
            assert!(refused.to_string().len() > 20, "{refused}");
            assert_eq!(files.bytes(SEGMENT), segment, "a refused log was changed");
            return;
        }
    };
    let found = entries(&mut store);
    for (entry, index) in found.iter().zip(0..) {
        assert_eq!(*entry, self::entry(1, index), "something else was read");
    }
    let next = found.len() as u64;
    vote(&mut store, 2);
    now(store.blocking_append([entry(2, next)])).expect("it goes on");
    drop(store);
    let again = entries(&mut open(&files).expect("it opens again"));
    assert_eq!(again.len() as u64, next + 1);
}

/// A segment with some entries.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    static SEED: OnceLock<Vec<u8>> = OnceLock::new();
    let written = || {
        let files = Arc::new(Memory::default());
        let mut store = open(&files).expect("a new log");
        vote(&mut store, 1);
        for index in 0..WRITTEN {
            now(store.blocking_append([entry(1, index)])).expect("it is written");
        }
        drop(store);
        let mut bytes = files.bytes(SEGMENT);
        bytes.truncate(bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1));
        bytes
    };
    vec![SEED.get_or_init(written).clone()]
}
