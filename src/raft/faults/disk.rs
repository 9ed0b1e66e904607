//! A disk that loses what was not synced when its process is killed, whose syncs fail, hang or take
//! long, and that can be full.
//!
//! ```text
//!  write   -> memory of this process; by chance some sectors go to the real file early
//!  sync    -> all of the file to the real one, and a real sync
//!  create  -> log.unnamed/<n>; the name comes with the sync of the directory, or by chance early
//! ```
//! A kill -9 then is a power cut: the next process finds what was synced, and of the rest what had
//! reached the disk early, torn at the sectors.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::raft::faults::control::{Control, Sync};
use crate::raft::store::files::{Disk, FileHandle, Files};

/// What a disk writes at once or not at all.
const SECTOR: usize = 512;

/// Pause between two looks whether a sync is still held.
const HELD_PAUSE: Duration = Duration::from_millis(10);

/// Directory of files whose names are not synced.
const UNNAMED: &str = "unnamed";

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits, as a disk that does not answer makes a thread wait.
fn wait(how_long: Duration) {
    let (never, condition) = (Mutex::new(()), Condvar::new());
    let guard = lock(&never);
    let _nobody_wakes_it = condition.wait_timeout_while(guard, how_long, |()| true);
}

/// Lets a sync work, wait or fail as ordered.
fn sync_as_ordered(control: &Control) -> io::Result<()> {
    let mut held = false;
    loop {
        match control.orders().sync {
            Sync::Works => return Ok(()),
            Sync::Takes(how_long) => {
                control.note(|evidence| evidence.syncs_slowed += 1);
                wait(how_long);
                return Ok(());
            }
            Sync::Fails => {
                control.note_last(|evidence| evidence.syncs_failed += 1);
                return Err(io::Error::other("the disk was ordered to fail (EIO)"));
            }
            Sync::Holds => {
                if !std::mem::replace(&mut held, true) {
                    control.note(|evidence| evidence.syncs_held += 1);
                }
                wait(HELD_PAUSE);
            }
        }
    }
}

fn refuse_if_full(control: &Control) -> io::Result<()> {
    if control.orders().full {
        control.note_last(|evidence| evidence.writes_refused += 1);
        return Err(io::ErrorKind::StorageFull.into());
    }
    Ok(())
}

/// A change of names that is not synced.
enum Change {
    Create { aside: PathBuf, name: String },
    Rename { from: String, to: String },
    Remove { name: String },
}

/// What the process sees, and what of it the disk does not have.
#[derive(Default)]
struct Names {
    /// All names, as the process sees them.
    seen: BTreeSet<String>,
    /// Files opened or created by this process: what was written to them may be nowhere else.
    files: BTreeMap<String, Arc<FaultyFile>>,
    unsynced: Vec<Change>,
    created: u64,
}

/// Files of a real directory on a disk that obeys.
pub(super) struct FaultyDisk {
    real: Disk,
    dir: PathBuf,
    aside: PathBuf,
    control: &'static Control,
    names: Mutex<Names>,
}

impl FaultyDisk {
    /// Opens the directory. What an earlier process left without a name is lost.
    pub(super) fn open(dir: &Path, control: &'static Control) -> io::Result<Self> {
        let real = Disk::open(dir)?;
        let aside = dir.with_extension(UNNAMED);
        match std::fs::remove_dir_all(&aside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => std::fs::create_dir(&aside)?,
        }
        let seen = real.list()?.into_iter().collect();
        let names = Mutex::new(Names { seen, ..Names::default() });
        Ok(Self { real, dir: dir.to_owned(), aside, control, names })
    }

    /// Notes a change of names; by chance the disk has it and those before it at once.
    fn change(&self, names: &mut Names, change: Change) -> io::Result<()> {
        names.unsynced.push(change);
        let early = self.control.orders().early;
        if early == u8::MAX || self.control.chance() < early { self.settle(names) } else { Ok(()) }
    }

    /// The real directory gets all changes of names, in order.
    fn settle(&self, names: &mut Names) -> io::Result<()> {
        for change in names.unsynced.drain(..) {
            match change {
                Change::Create { aside, name } => std::fs::rename(aside, self.dir.join(name))?,
                Change::Rename { from, to } => self.real.rename(&from, &to)?,
                Change::Remove { name } => self.real.remove(&name)?,
            }
        }
        Ok(())
    }
}

impl Files for FaultyDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(lock(&self.names).seen.iter().cloned().collect())
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn FileHandle>> {
        let mut names = lock(&self.names);
        if let Some(file) = names.files.get(name) {
            return Ok(Arc::<FaultyFile>::clone(file));
        }
        if !names.seen.contains(name) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let real = OpenOptions::new().read(true).write(true).open(self.dir.join(name))?;
        let file = Arc::new(FaultyFile::new(real, self.control)?);
        names.files.insert(name.to_owned(), Arc::clone(&file));
        Ok(file)
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn FileHandle>> {
        refuse_if_full(self.control)?;
        let mut names = lock(&self.names);
        if names.seen.contains(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        names.created += 1;
        let aside = self.aside.join(names.created.to_string());
        let real = OpenOptions::new().read(true).write(true).create_new(true).open(&aside)?;
        let file = Arc::new(FaultyFile::new(real, self.control)?);
        names.seen.insert(name.to_owned());
        names.files.insert(name.to_owned(), Arc::clone(&file));
        self.change(&mut names, Change::Create { aside, name: name.to_owned() })?;
        Ok(file)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut names = lock(&self.names);
        if !names.seen.remove(from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        names.seen.insert(to.to_owned());
        // The one that had the name before is no longer to be found by it.
        names.files.remove(to);
        if let Some(file) = names.files.remove(from) {
            names.files.insert(to.to_owned(), file);
        }
        self.change(&mut names, Change::Rename { from: from.to_owned(), to: to.to_owned() })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut names = lock(&self.names);
        if !names.seen.remove(name) {
            return Err(io::ErrorKind::NotFound.into());
        }
        names.files.remove(name);
        self.change(&mut names, Change::Remove { name: name.to_owned() })
    }

    fn sync_dir(&self) -> io::Result<()> {
        sync_as_ordered(self.control)?;
        self.settle(&mut lock(&self.names))?;
        self.real.sync_dir()
    }
}

/// Parts of a file that are in memory only, in the order in which they were written.
#[derive(Default)]
struct Unsynced {
    parts: Vec<(u64, Vec<u8>)>,
    /// Bytes of the file as the process sees it.
    size: u64,
}

/// One open file on a disk that obeys.
struct FaultyFile {
    real: File,
    control: &'static Control,
    unsynced: Mutex<Unsynced>,
}

impl FaultyFile {
    fn new(real: File, control: &'static Control) -> io::Result<Self> {
        let size = real.metadata()?.len();
        Ok(Self { real, control, unsynced: Mutex::new(Unsynced { parts: Vec::new(), size }) })
    }

    fn forget(&self, parts: &[(u64, Vec<u8>)]) {
        let bytes: u64 = parts.iter().map(|(_, bytes)| bytes.len() as u64).sum();
        self.control.note(|evidence| {
            evidence.unsynced_bytes = evidence.unsynced_bytes.saturating_sub(bytes);
        });
    }
}

/// The pieces of a write that lie in one sector each.
fn sectors(bytes: &[u8], offset: u64) -> impl Iterator<Item = (u64, &[u8])> {
    let inside = usize::try_from(offset % SECTOR as u64).unwrap_or(0);
    let (first, rest) = bytes.split_at(bytes.len().min(SECTOR - inside));
    let after = offset + first.len() as u64;
    let rest = rest.chunks(SECTOR).zip(0_u64..);
    let rest = rest.map(move |(piece, number)| (after + number * SECTOR as u64, piece));
    std::iter::once((offset, first)).chain(rest)
}

impl FileHandle for FaultyFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        refuse_if_full(self.control)?;
        let early = self.control.orders().early;
        let mut unsynced = lock(&self.unsynced);
        unsynced.size = unsynced.size.max(offset + bytes.len() as u64);
        if early == u8::MAX {
            return self.real.write_all_at(bytes, offset);
        }
        // Kept as a whole, sectors that are on the disk early included: the sync writes all.
        unsynced.parts.push((offset, bytes.to_owned()));
        self.control.note(|evidence| evidence.unsynced_bytes += bytes.len() as u64);
        if early > 0 {
            for (at, piece) in sectors(bytes, offset) {
                if self.control.chance() < early {
                    self.real.write_all_at(piece, at)?;
                }
            }
        }
        Ok(())
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let unsynced = lock(&self.unsynced);
        let end = offset + bytes.len() as u64;
        if end > unsynced.size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes.fill(0);
        let mut filled = 0;
        while filled < bytes.len() {
            match FileExt::read_at(&self.real, &mut bytes[filled..], offset + filled as u64)? {
                0 => break,
                read => filled += read,
            }
        }
        for (at, part) in &unsynced.parts {
            let (from, to) = (offset.max(*at), end.min(at + part.len() as u64));
            if from < to {
                let within = |position: u64, start| usize::try_from(position - start).unwrap_or(0);
                bytes[within(from, offset)..within(to, offset)]
                    .copy_from_slice(&part[within(from, *at)..within(to, *at)]);
            }
        }
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(lock(&self.unsynced).size)
    }

    fn sync(&self) -> io::Result<()> {
        let ordered = sync_as_ordered(self.control);
        let mut unsynced = lock(&self.unsynced);
        let parts = std::mem::take(&mut unsynced.parts);
        self.forget(&parts);
        ordered?;
        for (at, part) in &parts {
            self.real.write_all_at(part, *at)?;
        }
        drop(unsynced);
        self.real.sync_data()
    }
}

impl Drop for FaultyFile {
    fn drop(&mut self) {
        self.forget(&lock(&self.unsynced).parts);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Machine {
        dir: tempfile::TempDir,
        control: &'static Control,
    }

    impl Machine {
        /// A disk of its own, with these orders.
        fn with(orders: &str) -> Self {
            let dir = tempfile::tempdir().expect("directory");
            let path = dir.path().join("node.faults");
            std::fs::write(&path, orders).expect("orders");
            let control = Box::leak(Box::new(Control::open(&path).expect("control")));
            Self { dir, control }
        }

        /// The disk as the next process finds it.
        fn start(&self) -> FaultyDisk {
            FaultyDisk::open(&self.dir.path().join("log"), self.control).expect("open")
        }
    }

    fn read(disk: &FaultyDisk, name: &str) -> Vec<u8> {
        let file = disk.open(name).expect("open");
        let mut bytes = vec![0; usize::try_from(file.size().expect("size")).expect("small")];
        file.read_at(&mut bytes, 0).expect("read");
        bytes
    }

    #[test]
    fn a_killed_process_leaves_what_it_synced_and_no_more() {
        let machine = Machine::with("unsynced = memory\n");
        let disk = machine.start();
        let file = disk.create("a").expect("create");
        file.write_at(b"kept", 0).expect("write");
        file.sync().expect("sync");
        assert!(machine.start().list().expect("list").is_empty(), "its name is not synced");

        let disk = machine.start();
        let file = disk.create("a").expect("create");
        file.write_at(b"kept", 0).expect("write");
        file.sync().expect("sync");
        disk.sync_dir().expect("sync");
        file.write_at(b"lost", 2).expect("write");
        disk.create("b").expect("create");
        disk.rename("a", "c").expect("rename");
        assert_eq!(disk.list().expect("list"), ["b", "c"]);
        assert_eq!(read(&disk, "c"), b"kelost", "the process sees what it wrote");
        let next = machine.start();
        assert_eq!(next.list().expect("list"), ["a"]);
        assert_eq!(read(&next, "a"), b"kept");
    }

    #[test]
    fn of_a_write_that_was_not_synced_some_sectors_are_there_and_some_are_not() {
        let machine = Machine::with("unsynced = sectors\n");
        let disk = machine.start();
        let file = disk.create("a").expect("create");
        disk.sync_dir().expect("sync");
        let size = 64 * SECTOR;
        file.write_at(&vec![1; size], 7).expect("write");
        let found = read(&machine.start(), "a");
        let ones: usize = found.iter().map(|byte| usize::from(*byte)).sum();
        assert!(0 < ones && ones < size, "{ones} of {size}");
        file.sync().expect("sync");
        assert_eq!(read(&machine.start(), "a")[7..], vec![1; size]);
    }

    #[test]
    fn a_failed_sync_loses_its_bytes_and_a_full_disk_takes_none() {
        let machine = Machine::with("unsynced = memory\n");
        let disk = machine.start();
        let file = disk.create("a").expect("create");
        disk.sync_dir().expect("sync");
        file.write_at(b"lost", 0).expect("write");
        let orders = |text: &str, as_wanted: &dyn Fn() -> bool| {
            std::fs::write(machine.dir.path().join("node.faults"), text).expect("orders");
            (0..1000).find(|_| {
                wait(HELD_PAUSE);
                as_wanted()
            });
        };
        orders("unsynced = memory\nsync = fails\n", &|| {
            machine.control.orders().sync == Sync::Fails
        });
        assert!(file.sync().is_err());
        orders("unsynced = memory\ndisk = full\n", &|| machine.control.orders().full);
        file.sync().expect("it works again, with nothing to write");
        assert!(read(&machine.start(), "a").is_empty());
        let error = file.write_at(b"more", 0).expect_err("full");
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert!(disk.create("b").is_err());
    }
}
