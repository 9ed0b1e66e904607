//! A directory in memory that can lose power, for tests.
//!
//! It keeps what was synced apart from what was not, for contents and for names, so that
//! [`MemoryFiles::crash`] can answer with a disk that a power loss might have left behind. It can
//! fail any one call, or that call and all after it. It is not meant for production: nothing in it
//! is durable.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{FileHandle, Files};

/// In a crash each sector holds either the old or the new bytes. Real ones are larger; small ones
/// tear the small records of tests in more ways.
const SECTOR_BYTES: usize = 64;

/// What of the unsynced data outlives a crash.
#[derive(Debug, Clone, Copy)]
pub enum Survival {
    /// Only what was synced.
    Synced,
    /// Everything, as after a killed process.
    Everything,
    /// This many bytes of each file's unsynced writes, in the order they were made.
    Prefix(usize),
    /// Each unsynced sector and each unsynced name by the toss of a coin.
    Sectors(u64),
}

/// Which calls fail. Calls that change something are counted, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    Only(u64),
    From(u64),
}

/// See the module; clones share one disk.
#[derive(Clone)]
pub struct MemoryFiles {
    disk: Arc<Mutex<Disk>>,
}

struct Disk {
    names: BTreeMap<String, u64>,
    names_synced: BTreeMap<String, u64>,
    contents: BTreeMap<u64, Content>,
    next_id: u64,
    operation_count: u64,
    fault: Fault,
}

#[derive(Clone, Default)]
struct Content {
    live: Vec<u8>,
    synced: Vec<u8>,
    pending: Vec<Change>,
}

#[derive(Clone)]
struct Change {
    offset: usize,
    bytes: Vec<u8>,
}

impl Change {
    fn apply(&self, file: &mut Vec<u8>, bytes_max: usize) {
        let kept = &self.bytes[..self.bytes.len().min(bytes_max)];
        let end = self.offset + kept.len();
        if file.len() < end {
            file.resize(end, 0);
        }
        file[self.offset..end].copy_from_slice(kept);
    }
}

impl Default for MemoryFiles {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryFiles {
    pub fn new() -> Self {
        Self::from_parts(BTreeMap::new(), BTreeMap::new(), 1)
    }

    fn from_parts(
        names: BTreeMap<String, u64>,
        contents: BTreeMap<u64, Content>,
        next_id: u64,
    ) -> Self {
        let disk = Disk {
            names_synced: names.clone(),
            names,
            contents,
            next_id,
            operation_count: 0,
            fault: Fault::None,
        };
        Self { disk: Arc::new(Mutex::new(disk)) }
    }

    /// Fails the `nth` changing call from now on (the first is 1), and only that one.
    pub fn fail_only(&self, nth: u64) {
        let mut disk = self.disk();
        disk.fault = Fault::Only(disk.operation_count + nth);
    }

    /// Fails the `nth` changing call from now on and all after it: the power is gone. A write that
    /// fails so may still have reached the disk.
    pub fn fail_from(&self, nth: u64) {
        let mut disk = self.disk();
        disk.fault = Fault::From(disk.operation_count + nth);
    }

    /// How many changing calls there were.
    pub fn operation_count(&self) -> u64 {
        self.disk().operation_count
    }

    /// The disk as a crash at this moment might leave it. `self` stays as it is.
    #[must_use]
    pub fn crash(&self, survival: Survival) -> Self {
        let disk = self.disk();
        let mut random = Random(match survival {
            Survival::Sectors(seed) => seed,
            Survival::Synced | Survival::Everything | Survival::Prefix(_) => 0,
        });
        let mut names = match survival {
            Survival::Everything => disk.names.clone(),
            Survival::Synced | Survival::Prefix(_) | Survival::Sectors(_) => {
                disk.names_synced.clone()
            }
        };
        if let Survival::Sectors(_) = survival {
            // Each name by itself: a directory may forget one removal and remember the next.
            for name in disk.names.keys().chain(disk.names_synced.keys()) {
                if disk.names.get(name) != disk.names_synced.get(name) && random.coin() {
                    match disk.names.get(name) {
                        Some(id) => names.insert(name.clone(), *id),
                        None => names.remove(name),
                    };
                }
            }
        }
        let contents = disk
            .contents
            .iter()
            .map(|(id, content)| {
                let bytes = content.after_crash(survival, &mut random);
                (*id, Content { live: bytes.clone(), synced: bytes, pending: Vec::new() })
            })
            .collect();
        Self::from_parts(names, contents, disk.next_id)
    }

    /// No call fails from now on: the same disk under a new process.
    pub fn heal(&self) {
        self.disk().fault = Fault::None;
    }

    /// Changes the bytes of a file behind everybody's back.
    pub fn damage(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut disk = self.disk();
        let id = disk.names[name];
        let content = disk.content(id);
        content.pending.clear();
        change(&mut content.live);
        content.synced = content.live.clone();
    }

    /// All files and their bytes, to see that nothing changed.
    pub fn image(&self) -> BTreeMap<String, Vec<u8>> {
        let disk = self.disk();
        let file = |id: &u64| disk.contents.get(id).map(|file| file.live.clone());
        disk.names.iter().filter_map(|(name, id)| Some((name.clone(), file(id)?))).collect()
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Content {
    fn after_crash(&self, survival: Survival, random: &mut Random) -> Vec<u8> {
        let mut bytes = self.synced.clone();
        match survival {
            Survival::Synced => {}
            Survival::Everything => bytes.clone_from(&self.live),
            Survival::Prefix(prefix_bytes) => {
                let mut left = prefix_bytes;
                for change in &self.pending {
                    change.apply(&mut bytes, left);
                    left -= left.min(change.bytes.len());
                }
            }
            Survival::Sectors(_) => {
                for start in (0..self.live.len()).step_by(SECTOR_BYTES) {
                    let end = self.live.len().min(start + SECTOR_BYTES);
                    if random.coin() {
                        bytes.resize(bytes.len().max(end), 0);
                        bytes[start..end].copy_from_slice(&self.live[start..end]);
                    }
                }
            }
        }
        bytes
    }
}

/// A small generator (splitmix64): the same seed gives the same crash.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.number() % bound as u64).unwrap_or(0)
    }

    fn coin(&mut self) -> bool {
        self.number() & 1 == 1
    }
}

fn injected() -> io::Error {
    io::Error::other("injected fault")
}

fn not_found(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{name}: no such file"))
}

impl Disk {
    fn count_operation(&mut self) -> io::Result<()> {
        self.operation_count += 1;
        let fails = match self.fault {
            Fault::None => false,
            Fault::Only(nth) => self.operation_count == nth,
            Fault::From(nth) => self.operation_count >= nth,
        };
        if fails { Err(injected()) } else { Ok(()) }
    }

    fn content(&mut self, id: u64) -> &mut Content {
        self.contents.entry(id).or_default()
    }
}

impl Files for MemoryFiles {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.disk().names.keys().cloned().collect())
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn FileHandle>> {
        let id = *self.disk().names.get(name).ok_or_else(|| not_found(name))?;
        Ok(Arc::new(MemoryFile { files: self.clone(), id }))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn FileHandle>> {
        let mut disk = self.disk();
        if disk.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        // Also when it fails: the caller cannot know how much of it happened.
        let outcome = disk.count_operation();
        let id = disk.next_id;
        disk.next_id += 1;
        disk.contents.insert(id, Content::default());
        disk.names.insert(name.into(), id);
        outcome?;
        Ok(Arc::new(MemoryFile { files: self.clone(), id }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut disk = self.disk();
        disk.count_operation()?;
        let id = disk.names.remove(from).ok_or_else(|| not_found(from))?;
        disk.names.insert(to.into(), id);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut disk = self.disk();
        disk.count_operation()?;
        disk.names.remove(name).map(|_| ()).ok_or_else(|| not_found(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut disk = self.disk();
        disk.count_operation()?;
        disk.names_synced = disk.names.clone();
        Ok(())
    }
}

struct MemoryFile {
    files: MemoryFiles,
    id: u64,
}

impl MemoryFile {
    fn change(&self, change: Change) -> io::Result<()> {
        let mut disk = self.files.disk();
        let outcome = disk.count_operation();
        let content = disk.content(self.id);
        // Also when it fails: the caller cannot know how much of it happened.
        change.apply(&mut content.live, usize::MAX);
        content.pending.push(change);
        outcome
    }
}

impl FileHandle for MemoryFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.files.disk().content(self.id).live.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let mut disk = self.files.disk();
        let live = &disk.content(self.id).live;
        let Some(bytes) = start.checked_add(buffer.len()).and_then(|end| live.get(start..end))
        else {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "read past the end"));
        };
        buffer.copy_from_slice(bytes);
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        self.change(Change { offset, bytes: bytes.to_vec() })
    }

    fn sync(&self) -> io::Result<()> {
        let mut disk = self.files.disk();
        disk.count_operation()?;
        let content = disk.content(self.id);
        for change in std::mem::take(&mut content.pending) {
            change.apply(&mut content.synced, usize::MAX);
        }
        Ok(())
    }
}
