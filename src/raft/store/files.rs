//! The file layer under the log, small enough to be replaced: everything that decides durability
//! is one of these calls, so a test can fail or crash at each of them.
//!
//! The real one is [`Disk`]. [`memory::MemoryFiles`] keeps what is synced apart from what is not.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One open file.
pub trait FileHandle: Send + Sync {
    /// Writes all bytes at the offset.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Fills the buffer from the offset; an end of file before that is an error.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()>;
    /// Bytes of the file.
    fn size(&self) -> io::Result<u64>;
    /// Makes all written data durable.
    fn sync(&self) -> io::Result<()>;
}

/// One directory of files.
pub trait Files: Send + Sync {
    /// Names in the directory, sorted.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Opens an existing file for reading and writing.
    fn open(&self, name: &str) -> io::Result<Arc<dyn FileHandle>>;
    /// Creates a file of `size` zero bytes, durable with its name. It must not exist.
    fn create(&self, name: &str, size: u64) -> io::Result<Arc<dyn FileHandle>>;
    /// Removes a file; durable with the next [`Files::sync_dir`].
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes names durable.
    fn sync_dir(&self) -> io::Result<()>;
}

/// Files of a real directory.
pub struct Disk {
    dir: PathBuf,
}

impl Disk {
    /// Opens the directory, creating it if need be.
    pub fn open(dir: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        if let Some(parent) = dir.parent() {
            File::open(parent)?.sync_all()?;
        }
        Ok(Self { dir: dir.to_owned() })
    }
}

impl FileHandle for File {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(bytes, offset)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}

impl Files for Disk {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.dir)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn FileHandle>> {
        let file = OpenOptions::new().read(true).write(true).open(self.dir.join(name))?;
        Ok(Arc::new(file))
    }

    fn create(&self, name: &str, size: u64) -> io::Result<Arc<dyn FileHandle>> {
        let path = self.dir.join(name);
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        // Real zeros, not a hole: a later sync then has no blocks to allocate.
        let zeros = vec![0; 1 << 20];
        let mut offset = 0;
        while offset < size {
            let part = (size - offset).min(zeros.len() as u64);
            file.write_all_at(&zeros[..usize::try_from(part).unwrap_or(0)], offset)?;
            offset += part;
        }
        file.sync_all()?;
        self.sync_dir()?;
        Ok(Arc::new(file))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.dir.join(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        File::open(&self.dir)?.sync_all()
    }
}

/// The lock of a data directory; released when dropped, also by a crash.
pub struct DirectoryLock {
    _file: File,
}

impl DirectoryLock {
    /// Takes the lock, or says that another process has it.
    pub fn take(dir: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let file =
            OpenOptions::new().create(true).truncate(false).write(true).open(dir.join("LOCK"))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(std::fs::TryLockError::WouldBlock) => Err(io::Error::other(format!(
                "another oarlock process uses {}; stop it first, or give this node a directory of its own",
                dir.display()
            ))),
            Err(std::fs::TryLockError::Error(error)) => Err(error),
        }
    }
}

/// Writes a whole small file so that a crash leaves the old or the new one: temporary file, sync,
/// rename, sync of the directory.
pub fn replace_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    {
        let file = File::create(&temporary)?;
        file.write_all_at(bytes, 0)?;
        file.sync_all()?;
    }
    std::fs::rename(&temporary, path)?;
    match path.parent() {
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
pub mod memory {
    //! Files in memory that a test can crash.

    use std::collections::BTreeMap;
    use std::sync::{Arc, Mutex};

    use super::{FileHandle, Files, io};

    #[derive(Default)]
    struct Content {
        synced: Vec<u8>,
        unsynced: Vec<(u64, Vec<u8>)>,
    }

    impl Content {
        fn now(&self) -> Vec<u8> {
            let mut bytes = self.synced.clone();
            for (offset, part) in &self.unsynced {
                write(&mut bytes, *offset, part);
            }
            bytes
        }
    }

    fn write(bytes: &mut Vec<u8>, offset: u64, part: &[u8]) {
        let start = usize::try_from(offset).expect("test files are small");
        if bytes.len() < start + part.len() {
            bytes.resize(start + part.len(), 0);
        }
        bytes[start..start + part.len()].copy_from_slice(part);
    }

    #[derive(Default)]
    struct State {
        files: BTreeMap<String, Content>,
        operations_left: Option<usize>,
    }

    impl State {
        fn operate(&mut self) -> io::Result<()> {
            match &mut self.operations_left {
                Some(0) => Err(io::Error::other("the disk is gone")),
                Some(left) => {
                    *left -= 1;
                    Ok(())
                }
                None => Ok(()),
            }
        }
    }

    /// A directory in memory.
    #[derive(Clone, Default)]
    pub struct MemoryFiles(Arc<Mutex<State>>);

    struct Handle(MemoryFiles, String);

    impl MemoryFiles {
        /// Every operation after the next `count` fails.
        pub fn fail_after(&self, count: usize) {
            self.0.lock().expect("lock").operations_left = Some(count);
        }

        /// What a crash leaves: synced data, and of the unsynced writes the first `bytes` bytes.
        pub fn crash(&self, mut bytes: usize) -> Self {
            let state = self.0.lock().expect("lock");
            let mut files = BTreeMap::new();
            for (name, content) in &state.files {
                let mut synced = content.synced.clone();
                for (offset, part) in &content.unsynced {
                    let kept = part.len().min(bytes);
                    bytes -= kept;
                    write(&mut synced, *offset, &part[..kept]);
                }
                files.insert(name.clone(), Content { synced, unsynced: Vec::new() });
            }
            Self(Arc::new(Mutex::new(State { files, operations_left: None })))
        }

        /// Changes the bytes of a file behind everybody's back.
        pub fn damage(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
            let mut state = self.0.lock().expect("lock");
            let content = state.files.get_mut(name).expect("the file exists");
            content.synced = content.now();
            content.unsynced.clear();
            change(&mut content.synced);
        }
    }

    impl FileHandle for Handle {
        fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
            let mut state = self.0.0.lock().expect("lock");
            state.operate()?;
            let content = state.files.get_mut(&self.1).ok_or(io::ErrorKind::NotFound)?;
            content.unsynced.push((offset, bytes.to_vec()));
            Ok(())
        }

        fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
            let state = self.0.0.lock().expect("lock");
            let now = state.files.get(&self.1).ok_or(io::ErrorKind::NotFound)?.now();
            let start = usize::try_from(offset).expect("test files are small");
            let part = now.get(start..start + bytes.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
            bytes.copy_from_slice(part);
            Ok(())
        }

        fn size(&self) -> io::Result<u64> {
            let state = self.0.0.lock().expect("lock");
            Ok(state.files.get(&self.1).ok_or(io::ErrorKind::NotFound)?.now().len() as u64)
        }

        fn sync(&self) -> io::Result<()> {
            let mut state = self.0.0.lock().expect("lock");
            state.operate()?;
            let content = state.files.get_mut(&self.1).ok_or(io::ErrorKind::NotFound)?;
            content.synced = content.now();
            content.unsynced.clear();
            Ok(())
        }
    }

    impl Files for MemoryFiles {
        fn list(&self) -> io::Result<Vec<String>> {
            Ok(self.0.lock().expect("lock").files.keys().cloned().collect())
        }

        fn open(&self, name: &str) -> io::Result<Arc<dyn FileHandle>> {
            if !self.0.lock().expect("lock").files.contains_key(name) {
                return Err(io::ErrorKind::NotFound.into());
            }
            Ok(Arc::new(Handle(self.clone(), name.to_owned())))
        }

        fn create(&self, name: &str, size: u64) -> io::Result<Arc<dyn FileHandle>> {
            let mut state = self.0.lock().expect("lock");
            state.operate()?;
            let synced = vec![0; usize::try_from(size).expect("test files are small")];
            state.files.insert(name.to_owned(), Content { synced, unsynced: Vec::new() });
            drop(state);
            self.open(name)
        }

        fn remove(&self, name: &str) -> io::Result<()> {
            let mut state = self.0.lock().expect("lock");
            state.operate()?;
            state.files.remove(name).map(|_| ()).ok_or(io::ErrorKind::NotFound.into())
        }

        fn sync_dir(&self) -> io::Result<()> {
            self.0.lock().expect("lock").operate()
        }
    }
}
