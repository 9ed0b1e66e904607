//! A disk that is full for a moment.

use std::sync::atomic::AtomicBool;

use super::*;
use crate::raft::store::files::Files;

/// When it is full the next file cannot be made, and an empty one is left; then there is room again.
struct Fillable {
    files: MemoryFiles,
    full: AtomicBool,
}

impl Files for Fillable {
    fn list(&self) -> io::Result<Vec<String>> {
        self.files.list()
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn FileHandle>> {
        self.files.open(name)
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn FileHandle>> {
        let file = self.files.create(name)?;
        if self.full.swap(false, Ordering::SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(file)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.files.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.files.remove(name)
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.files.sync_dir()
    }
}

#[test]
fn a_segment_that_could_not_be_prepared_is_made_once_there_is_room() {
    let files = Arc::new(Fillable { files: MemoryFiles::new(), full: AtomicBool::new(false) });
    let fatal: Fatal = Arc::new(|why| panic!("the log gave up: {why}"));
    // Large enough for any record here: a segment made to measure needs its room at once.
    let options = LogOptions { segment_bytes: 8192, ..SMALL };
    let store =
        LogStore::open(Arc::clone(&files) as _, options, Box::new(|_, _| {}), fatal).unwrap();
    save_vote(&store, 1).unwrap();
    files.full.store(true, Ordering::SeqCst);
    for first in (0..1000).step_by(10) {
        append_range(&store, 1, first..=first + 9);
    }
    assert!(!files.full.load(Ordering::SeqCst), "a segment could not be made");
    drop(store);
    assert_eq!(ids(&open(&files.files)).len(), 1000);
}
