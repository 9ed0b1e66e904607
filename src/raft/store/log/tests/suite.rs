//! openraft's own conformance suite on the real store, on a real directory.

use std::sync::{Arc as Shared, Mutex};

use futures_util::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::type_config::alias::SnapshotOf;
use openraft::{EntryPayload, RaftSnapshotBuilder, StorageError};

use super::*;
use crate::raft::store::files::Disk;
use crate::raft::types::{Outcomes, SnapshotMeta, StoredMembership};

/// The least that the suite takes for a state machine.
#[derive(Clone, Default)]
struct Machine(Shared<Mutex<Applied>>);

#[derive(Default)]
struct Applied {
    last: Option<LogId>,
    membership: StoredMembership,
    snapshot: Option<SnapshotMeta>,
}

impl RaftSnapshotBuilder<TypeConfig> for Machine {
    type SnapshotData = ();

    async fn build_snapshot(&mut self) -> io::Result<SnapshotOf<TypeConfig, ()>> {
        let mut applied = self.0.lock().unwrap();
        let meta =
            SnapshotMeta { last_log_id: applied.last, last_membership: applied.membership.clone() };
        applied.snapshot = Some(meta.clone());
        Ok(SnapshotOf::<TypeConfig, ()> { meta, snapshot: () })
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = ();
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let applied = self.0.lock().unwrap();
        Ok((applied.last, applied.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            {
                let mut applied = self.0.lock().unwrap();
                applied.last = Some(entry.log_id);
                if let EntryPayload::Membership(membership) = entry.payload {
                    applied.membership = StoredMembership::new(applied.last, membership);
                }
            }
            if let Some(responder) = responder {
                responder.send(Outcomes::default());
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, (): ()) -> io::Result<()> {
        let mut applied = self.0.lock().unwrap();
        applied.last = meta.last_log_id;
        applied.membership = meta.last_membership.clone();
        applied.snapshot = Some(meta.clone());
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<SnapshotOf<TypeConfig, ()>>> {
        let snapshot = self.0.lock().unwrap().snapshot.clone();
        Ok(snapshot.map(|meta| SnapshotOf::<TypeConfig, ()> { meta, snapshot: () }))
    }
}

struct Builder(LogOptions);

impl StoreBuilder<TypeConfig, LogStore, Machine, tempfile::TempDir> for Builder {
    async fn build(
        &self,
    ) -> Result<(tempfile::TempDir, LogStore, Machine), StorageError<TypeConfig>> {
        let directory = tempfile::tempdir().unwrap();
        let files = Disk::open(&directory.path().join("log")).unwrap();
        let store =
            LogStore::open(Arc::new(files), self.0, Box::new(|_, _| {}), Arc::new(|_| {})).unwrap();
        Ok((directory, store, Machine::default()))
    }
}

fn run_suite(options: LogOptions) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(Suite::test_all(Builder(options))).unwrap();
}

#[test]
fn the_store_passes_the_suite_of_openraft() {
    run_suite(LogOptions { segment_bytes: 64 * 1024, ..LogOptions::default() });
}

#[test]
fn the_store_passes_the_suite_with_tiny_segments_and_no_cache() {
    run_suite(LogOptions { segment_bytes: 512, cache_bytes: 0 });
}
