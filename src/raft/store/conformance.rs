//! openraft's own suite over the real log and the real state machine.

use std::sync::Arc;

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};

use crate::raft::store::files::Disk;
use crate::raft::store::log::{LogOptions, LogStore};
use crate::raft::store::machine::StateMachine;
use crate::raft::store::start::{self, LogFacts, Options};
use crate::raft::types::TypeConfig;

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, StateMachine, tempfile::TempDir> for Builder {
    async fn build(
        &self,
    ) -> Result<(tempfile::TempDir, LogStore, StateMachine), StorageError<TypeConfig>> {
        let dir = tempfile::tempdir().expect("directory");
        let files = Arc::new(Disk::open(&dir.path().join("log")).expect("directory"));
        let options = LogOptions { segment_bytes: 1 << 16, ..LogOptions::default() };
        let fatal = Arc::new(|why: &str| panic!("{why}"));
        let log = LogStore::open(files, options, Box::new(|_, _| {}), fatal).expect("log");
        let options = Options::new(dir.path().to_owned(), 1);
        let last_purged = log.bounds().1;
        let snapshots = start::open_snapshots(&options, last_purged).expect("snapshots");
        let facts = LogFacts { has: &|id| log.has(id), last_purged };
        let fatal = Arc::new(|why: &str| panic!("{why}"));
        let (machine, _handle) = start::open(&options, snapshots, &facts, fatal).expect("state");
        Ok((dir, log, machine))
    }
}

#[test]
fn openraft_finds_what_it_expects_of_a_store() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("runtime");
    runtime.block_on(Suite::test_all(Builder)).expect("conforming");
}
