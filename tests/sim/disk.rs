//! A disk in memory that loses what was not synced, tears what was being written, fills up, and can
//! lose its power at any call. It keeps what is synced apart from what is not, for contents and for
//! names. Every changing call goes into the trace.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use oarlock::raft::store::files::{FileHandle, Files};

use crate::evidence::{Evidence, FaultId};
use crate::random::Random;
use crate::trace::{Trace, hash, lock};

/// In a power loss each of these holds the old or the new bytes.
const SECTOR_BYTES: usize = 512;

/// What of the unsynced data outlives the end of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Survival {
    /// All of it: the process died, the machine did not. The next process reads what is still not
    /// synced, and a later power cut takes it.
    Everything,
    /// Nothing.
    Synced,
    /// Each sector and each name by the toss of a coin.
    Torn(u64),
}

#[derive(Debug, Clone, Default)]
struct Content {
    live: Vec<u8>,
    synced: Vec<u8>,
}

#[derive(Default)]
struct State {
    names: BTreeMap<String, u64>,
    names_synced: BTreeMap<String, u64>,
    contents: BTreeMap<u64, Content>,
    next_id: u64,
    full: Option<FaultId>,
    renamed: u64,
    /// Changing calls until the power fails.
    power_left: Option<u64>,
}

/// One directory. Clones share it.
#[derive(Clone)]
pub(crate) struct SimDisk {
    id: u64,
    trace: Trace,
    evidence: Evidence,
    state: Arc<Mutex<State>>,
}

fn not_found(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{name}: no such file"))
}

impl SimDisk {
    pub(crate) fn new(id: u64, trace: Trace, evidence: Evidence) -> Self {
        Self { id, trace, evidence, state: Arc::default() }
    }

    fn refuse_if_full(&self, state: &State) -> io::Result<()> {
        let Some(fault) = state.full else { return Ok(()) };
        self.evidence.bite(fault);
        Err(io::ErrorKind::StorageFull.into())
    }

    /// The power fails after so many more changing calls.
    pub(crate) fn fail_after(&self, calls: u64) {
        lock(&self.state).power_left = Some(calls);
    }

    /// No room for new blocks from now on, or again room.
    pub(crate) fn set_full(&self, full: bool, fault: FaultId) {
        lock(&self.state).full = full.then_some(fault);
    }

    /// Files that got their final name.
    pub(crate) fn renamed(&self) -> u64 {
        lock(&self.state).renamed
    }

    /// What is there at the next start. Whether anything unsynced was lost.
    pub(crate) fn crash(&self, survival: Survival) -> bool {
        let state = &mut *lock(&self.state);
        state.power_left = None;
        if survival == Survival::Everything {
            return false;
        }
        let before = state.names.clone();
        let mut random = Random::new(match survival {
            Survival::Torn(seed) => seed,
            Survival::Everything | Survival::Synced => 0,
        });
        let mut names = state.names_synced.clone();
        if let Survival::Torn(_) = survival {
            for name in state.names.keys().chain(state.names_synced.keys()) {
                if state.names.get(name) != state.names_synced.get(name) && random.per_mille(500) {
                    match state.names.get(name) {
                        Some(id) => names.insert(name.clone(), *id),
                        None => names.remove(name),
                    };
                }
            }
        }
        let mut lost = names != before;
        for content in state.contents.values_mut() {
            lost |= content.crash(survival, &mut random);
        }
        state.contents.retain(|id, _| names.values().any(|named| named == id));
        state.names.clone_from(&names);
        state.names_synced = names;
        if lost {
            self.evidence.reach("an unsynced write lost");
        }
        lost
    }

    fn change<T>(
        &self,
        what: &str,
        carried: u64,
        change: impl FnOnce(&mut State) -> io::Result<T>,
    ) -> io::Result<T> {
        self.trace.note(what, &[self.id], carried);
        let mut state = lock(&self.state);
        match &mut state.power_left {
            Some(0) => return Err(io::Error::other("the power is gone")),
            Some(left) => *left -= 1,
            None => {}
        }
        change(&mut state)
    }
}

impl Content {
    /// Whether anything was lost.
    fn crash(&mut self, survival: Survival, random: &mut Random) -> bool {
        let before = (self.live != self.synced).then(|| self.live.clone());
        match survival {
            Survival::Everything => {}
            Survival::Synced => self.live.clone_from(&self.synced),
            Survival::Torn(_) => {
                let mut left = self.synced.clone();
                for start in (0..self.live.len()).step_by(SECTOR_BYTES) {
                    let end = self.live.len().min(start + SECTOR_BYTES);
                    let same = left.get(start..end) == self.live.get(start..end);
                    if !same && random.per_mille(500) {
                        left.resize(left.len().max(end), 0);
                        left[start..end].copy_from_slice(&self.live[start..end]);
                    }
                }
                self.live = left;
            }
        }
        self.synced.clone_from(&self.live);
        before.is_some_and(|before| before != self.live)
    }
}

impl Files for SimDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(lock(&self.state).names.keys().cloned().collect())
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn FileHandle>> {
        let id = *lock(&self.state).names.get(name).ok_or_else(|| not_found(name))?;
        Ok(Arc::new(SimFile { disk: self.clone(), id }))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn FileHandle>> {
        let id = self.change("create", hash(name.as_bytes()), |state| {
            self.refuse_if_full(state)?;
            if state.names.contains_key(name) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            state.next_id += 1;
            let id = state.next_id;
            state.contents.insert(id, Content::default());
            state.names.insert(name.to_owned(), id);
            Ok(id)
        })?;
        Ok(Arc::new(SimFile { disk: self.clone(), id }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.change("rename", hash(to.as_bytes()), |state| {
            state.renamed += 1;
            let id = state.names.remove(from).ok_or_else(|| not_found(from))?;
            state.names.insert(to.to_owned(), id);
            Ok(())
        })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.change("remove", hash(name.as_bytes()), |state| {
            state.names.remove(name).map(|_| ()).ok_or_else(|| not_found(name))
        })
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.change("sync names", 0, |state| {
            state.names_synced = state.names.clone();
            Ok(())
        })
    }
}

struct SimFile {
    disk: SimDisk,
    id: u64,
}

fn content(state: &mut State, id: u64) -> io::Result<&mut Content> {
    state.contents.get_mut(&id).ok_or_else(|| io::Error::other("a file of a former process"))
}

impl FileHandle for SimFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        self.disk.change("write", hash(bytes) ^ offset, |state| {
            let end = start + bytes.len();
            if end > content(state, self.id)?.live.len() {
                self.disk.refuse_if_full(state)?;
            }
            let live = &mut content(state, self.id)?.live;
            live.resize(live.len().max(end), 0);
            live[start..end].copy_from_slice(bytes);
            Ok(())
        })
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let mut state = lock(&self.disk.state);
        let live = &content(&mut state, self.id)?.live;
        let found = live.get(start..start + bytes.len());
        bytes.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(content(&mut lock(&self.disk.state), self.id)?.live.len() as u64)
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.change("sync", self.id, |state| {
            let content = content(state, self.id)?;
            content.synced.clone_from(&content.live);
            Ok(())
        })
    }
}
