//! A snapshot is refused, or it is the one that was written.

use std::sync::Arc;

use oarlock::raft::store::codec;
use oarlock::raft::store::files::Files;
use oarlock::raft::store::snapshot::{Header, SnapshotFile, SnapshotWriter};
use oarlock_core::image::{Row, RowKey};
use oarlock_core::machine::Machine;

use crate::files::Memory;

const CLUSTER: u128 = 7;
const NAME: &str = "snapshot";

fn rows() -> Vec<(RowKey, Row)> {
    let mut machine = Machine::new();
    let entry = super::codec::seeds().swap_remove(0);
    machine.apply(&codec::decode(&entry).expect("an entry")).expect("a level that it knows");
    machine.rows().collect()
}

pub(crate) fn run(data: &[u8]) {
    let files = Memory::with(NAME, data.to_vec());
    let opened = match SnapshotFile::open(&*files, NAME, CLUSTER) {
        Ok(opened) => opened,
        Err(refused) => return assert!(refused.to_string().len() > 5, "{refused}"),
    };
    let read: Vec<(RowKey, Row)> =
        opened.rows().expect("its rows").map(|row| row.expect("a row")).collect();
    assert_eq!(read, rows(), "something else was read");
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let memory = Arc::new(Memory::default());
    let files: Arc<dyn Files> = Arc::clone(&memory) as _;
    let rows = rows();
    let header = Header::new(CLUSTER, openraft::SnapshotMeta::default(), rows.len() as u64);
    let mut writer = SnapshotWriter::create(&files, NAME.to_owned(), header).expect("a writer");
    for (key, row) in &rows {
        writer.push(&codec::encode(key), &codec::encode(row)).expect("a row");
    }
    let sum = writer.row_sum();
    let finished = writer.finish(sum).expect("a snapshot");
    let bytes = memory.bytes(NAME);
    drop(finished);
    vec![bytes]
}
