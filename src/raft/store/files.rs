//! The file layer under the log and the snapshots, small enough to be replaced: everything that
//! decides durability is one of these calls, so a test can fail or crash at each of them.
//!
//! The real one is [`Disk`]. `memory::MemoryFiles`, for tests, keeps what is synced apart from what is not.

#[cfg(test)]
pub mod memory;

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
    /// Creates an empty file, which must not exist; its name is durable with the next
    /// [`Files::sync_dir`].
    fn create(&self, name: &str) -> io::Result<Arc<dyn FileHandle>>;
    /// Gives a file another name, in place of the one that had it; durable with the next
    /// [`Files::sync_dir`].
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file; durable with the next [`Files::sync_dir`].
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes names durable.
    fn sync_dir(&self) -> io::Result<()>;
}

/// Creates a file of `size` zero bytes, durable with its name. It must not exist.
pub fn preallocate(files: &dyn Files, name: &str, size: u64) -> io::Result<Arc<dyn FileHandle>> {
    let file = files.create(name)?;
    // Real zeros, not a hole: a later sync then has no blocks to allocate.
    let zeros = vec![0; usize::try_from(size.min(1 << 20)).unwrap_or(0)];
    let mut offset = 0;
    while offset < size {
        let part = (size - offset).min(zeros.len() as u64);
        file.write_at(&zeros[..usize::try_from(part).unwrap_or(0)], offset)?;
        offset += part;
    }
    file.sync()?;
    files.sync_dir()?;
    Ok(file)
}

/// Files of a real directory.
pub struct Disk {
    dir: PathBuf,
}

impl Disk {
    /// Opens the directory, creating it if need be.
    pub fn open(dir: &Path) -> io::Result<Self> {
        create_dir(dir)?;
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

    fn create(&self, name: &str) -> io::Result<Arc<dyn FileHandle>> {
        let path = self.dir.join(name);
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        Ok(Arc::new(file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.dir.join(from), self.dir.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.dir.join(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        File::open(&self.dir)?.sync_all()
    }
}

/// Creates a directory, and those above it that are missing, so that their names are durable: what
/// is synced inside would be lost with the name of any of them.
pub fn create_dir(dir: &Path) -> io::Result<()> {
    let parents = unsynced_parents(dir);
    std::fs::create_dir_all(dir)?;
    parents.iter().try_for_each(|parent| match File::open(parent) {
        Ok(parent) => parent.sync_all(),
        // Somebody else's directory, and so was the making of ours.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        Err(error) => Err(error),
    })
}

/// The directories whose entries must be synced once `dir` is created: the parent of each that is
/// missing, and that of `dir`, which an earlier process may have created and not synced.
fn unsynced_parents(dir: &Path) -> Vec<PathBuf> {
    let mut parents = Vec::new();
    for child in dir.ancestors() {
        let Some(parent) = child.parent() else { break };
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        parents.push(parent.to_owned());
        if parent.exists() {
            break;
        }
    }
    parents
}

/// The files of a real directory, as a node keeps them: on its disk.
pub fn on_disk(dir: &Path) -> io::Result<Arc<dyn Files>> {
    #[cfg(feature = "proof")]
    if let Some(faulty) = crate::raft::faults::disk(dir)? {
        return Ok(faulty);
    }
    Ok(Arc::new(Disk::open(dir)?))
}

/// The lock of a data directory; released when dropped, also by a crash.
pub struct DirectoryLock {
    _file: File,
}

impl DirectoryLock {
    /// Takes the lock, or says that another process has it.
    pub fn take(dir: &Path) -> io::Result<Self> {
        create_dir(dir)?;
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
mod tests {
    use super::*;

    #[test]
    fn the_name_of_every_directory_on_the_way_is_synced() {
        let base = tempfile::tempdir().expect("directory");
        let at = |path: &str| base.path().join(path);
        assert_eq!(unsynced_parents(&at("a/b/c")), [at("a/b"), at("a"), base.path().into()]);
        create_dir(&at("a/b/c")).expect("it is created");
        assert_eq!(unsynced_parents(&at("a/b/c")), [at("a/b")], "an earlier process may not have");
        assert_eq!(unsynced_parents(Path::new("a-relative-one")), [Path::new(".")]);
    }
}
