//! A directory in memory, for decoders that read files.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use oarlock::raft::store::files::{FileHandle, Files};

type Bytes = Arc<Mutex<Vec<u8>>>;

/// Forgets nothing and syncs at once.
#[derive(Default)]
pub(crate) struct Memory(Mutex<BTreeMap<String, Bytes>>);

struct Handle(Bytes);

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn position(offset: u64) -> usize {
    usize::try_from(offset).expect("files are small")
}

impl Memory {
    pub(crate) fn with(name: &str, bytes: Vec<u8>) -> Arc<Self> {
        let files = Self::default();
        locked(&files.0).insert(name.to_owned(), Arc::new(Mutex::new(bytes)));
        Arc::new(files)
    }

    pub(crate) fn bytes(&self, name: &str) -> Vec<u8> {
        locked(&self.0).get(name).map(|bytes| locked(bytes).clone()).unwrap_or_default()
    }

    fn find(&self, name: &str) -> io::Result<Bytes> {
        locked(&self.0).get(name).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl FileHandle for Handle {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut file = locked(&self.0);
        let end = position(offset) + bytes.len();
        if file.len() < end {
            file.resize(end, 0);
        }
        file[position(offset)..end].copy_from_slice(bytes);
        Ok(())
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let file = locked(&self.0);
        let part = file.get(position(offset)..position(offset) + bytes.len());
        bytes.copy_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(locked(&self.0).len() as u64)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

impl Files for Memory {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(locked(&self.0).keys().cloned().collect())
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn FileHandle>> {
        Ok(Arc::new(Handle(self.find(name)?)))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn FileHandle>> {
        let bytes = Bytes::default();
        locked(&self.0).insert(name.to_owned(), Arc::clone(&bytes));
        Ok(Arc::new(Handle(bytes)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let bytes = self.find(from)?;
        let mut files = locked(&self.0);
        files.remove(from);
        files.insert(to.to_owned(), bytes);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        locked(&self.0).remove(name).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn sync_dir(&self) -> io::Result<()> {
        Ok(())
    }
}
