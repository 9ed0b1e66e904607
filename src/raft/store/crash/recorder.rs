//! A directory in memory that writes down every call that changes it, in order, together with what
//! the caller was promised in between.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::raft::store::files::{FileHandle, Files};

/// The files of a directory and their bytes.
pub(super) type Image = BTreeMap<String, Vec<u8>>;

/// One call that changes the disk or makes a change durable. Files are told apart by number,
/// because names move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Call {
    Create {
        file: usize,
        name: String,
    },
    Write {
        file: usize,
        offset: usize,
        bytes: Vec<u8>,
    },
    Sync {
        file: usize,
    },
    Rename {
        file: usize,
        from: String,
        to: String,
    },
    Remove {
        name: String,
    },
    /// Of the names that begin so: a directory below the one that is recorded, or all.
    SyncDir {
        prefix: String,
    },
}

/// How far a script has come, in steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Progress {
    /// The store answered that so many are durable. None before it was open.
    pub(super) acknowledged: Option<usize>,
    /// So many were handed to the store.
    pub(super) submitted: usize,
}

/// Calls, and the progress when each of them was made; the last progress is that of the end.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Trace {
    pub(super) start: Image,
    pub(super) calls: Vec<Call>,
    progress: Vec<Progress>,
    now: Progress,
}

impl Trace {
    /// What was promised when the first `count` calls had been made and the next had not.
    pub(super) fn progress_after(&self, count: usize) -> Progress {
        self.progress.get(count).copied().unwrap_or(self.now)
    }
}

/// The files as a trace of calls leaves them.
#[derive(Debug, Clone, Default)]
pub(super) struct Content {
    pub(super) names: BTreeMap<String, usize>,
    pub(super) files: BTreeMap<usize, Vec<u8>>,
}

impl Content {
    pub(super) fn of(image: &Image) -> Self {
        let names = image.keys().cloned().zip(0..).collect();
        let files = image.values().cloned().enumerate().collect();
        Self { names, files }
    }

    pub(super) fn image(&self) -> Image {
        let bytes = |file: &usize| self.files.get(file).cloned().unwrap_or_default();
        self.names.iter().map(|(name, file)| (name.clone(), bytes(file))).collect()
    }

    pub(super) fn write(&mut self, file: usize, offset: usize, bytes: &[u8]) {
        let content = self.files.entry(file).or_default();
        let end = offset + bytes.len();
        content.resize(content.len().max(end), 0);
        content[offset..end].copy_from_slice(bytes);
    }

    pub(super) fn apply(&mut self, call: &Call) {
        match call {
            Call::Create { file, name } => {
                self.files.entry(*file).or_default();
                self.names.insert(name.clone(), *file);
            }
            Call::Write { file, offset, bytes } => self.write(*file, *offset, bytes),
            Call::Rename { file, from, to } => {
                self.names.remove(from);
                self.names.insert(to.clone(), *file);
            }
            Call::Remove { name } => {
                self.names.remove(name);
            }
            Call::Sync { .. } | Call::SyncDir { .. } => {}
        }
    }
}

#[derive(Default)]
struct State {
    content: Content,
    trace: Trace,
}

impl State {
    fn call(&mut self, call: Call) {
        self.content.apply(&call);
        self.trace.progress.push(self.trace.now);
        self.trace.calls.push(call);
    }

    fn named(&self, name: &str) -> io::Result<usize> {
        let missing = || io::Error::new(io::ErrorKind::NotFound, format!("{name}: no such file"));
        self.content.names.get(name).copied().ok_or_else(missing)
    }
}

/// See the module; clones share one directory.
#[derive(Clone, Default)]
pub(super) struct Recorder(Arc<Mutex<State>>);

impl Recorder {
    pub(super) fn new(start: Image) -> Self {
        let content = Content::of(&start);
        let trace = Trace { start, ..Trace::default() };
        Self(Arc::new(Mutex::new(State { content, trace })))
    }

    /// The process was killed after `count` calls of a trace and the machine was not: everything is
    /// seen, and what was not synced may still be lost. If a sync failed next, it will be: the
    /// system takes the writes it was to save for saved, and no later sync saves them.
    pub(super) fn killed(trace: &Trace, count: usize, sync_failed: bool) -> Self {
        let mut content = Content::of(&trace.start);
        trace.calls[..count].iter().for_each(|call| content.apply(call));
        let failed = trace.calls.get(count).filter(|_| sync_failed);
        let mut calls = Vec::new();
        for call in trace.calls[..count].iter().rev() {
            let synced = |later: &Call| {
                matches!((later, call),
                (Call::Sync { file }, Call::Write { file: written, .. }) if file == written)
            };
            let lost = failed.is_some_and(synced) && !calls.iter().any(synced);
            if !lost {
                calls.push(call.clone());
            }
        }
        calls.reverse();
        let progress = vec![Progress::default(); calls.len()];
        let trace = Trace { start: trace.start.clone(), calls, progress, ..Trace::default() };
        Self(Arc::new(Mutex::new(State { content, trace })))
    }

    pub(super) fn submitted(&self, steps: usize) {
        self.state().trace.now.submitted = steps;
    }

    pub(super) fn acknowledged(&self, steps: usize) {
        self.state().trace.now.acknowledged = Some(steps);
    }

    pub(super) fn trace(&self) -> Trace {
        self.state().trace.clone()
    }

    pub(super) fn image(&self) -> Image {
        self.state().content.image()
    }

    fn sync_names(&self, prefix: &str) {
        self.state().call(Call::SyncDir { prefix: prefix.to_owned() });
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Files for Recorder {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.state().content.names.keys().cloned().collect())
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn FileHandle>> {
        let file = self.state().named(name)?;
        Ok(Arc::new(Handle { recorder: self.clone(), file }))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn FileHandle>> {
        let mut state = self.state();
        if state.content.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let file = state.content.files.len();
        state.content.files.insert(file, Vec::new());
        state.call(Call::Create { file, name: name.to_owned() });
        Ok(Arc::new(Handle { recorder: self.clone(), file }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        let file = state.named(from)?;
        state.call(Call::Rename { file, from: from.to_owned(), to: to.to_owned() });
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        state.named(name)?;
        state.call(Call::Remove { name: name.to_owned() });
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.sync_names("");
        Ok(())
    }
}

/// A directory of its own among those that are recorded together: its names begin with its own.
#[derive(Clone)]
pub(super) struct Folder {
    pub(super) recorder: Recorder,
    pub(super) name: &'static str,
}

impl Folder {
    fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.name)
    }
}

impl Files for Folder {
    fn list(&self) -> io::Result<Vec<String>> {
        let all = self.recorder.list()?;
        let prefix = self.path("");
        Ok(all.iter().filter_map(|name| Some(name.strip_prefix(&prefix)?.to_owned())).collect())
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn FileHandle>> {
        self.recorder.open(&self.path(name))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn FileHandle>> {
        self.recorder.create(&self.path(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.recorder.rename(&self.path(from), &self.path(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.recorder.remove(&self.path(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.recorder.sync_names(&self.path(""));
        Ok(())
    }
}

struct Handle {
    recorder: Recorder,
    file: usize,
}

impl FileHandle for Handle {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        self.recorder.state().call(Call::Write { file: self.file, offset, bytes: bytes.to_vec() });
        Ok(())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let state = self.recorder.state();
        let content = &state.content.files[&self.file];
        let short = || io::Error::new(io::ErrorKind::UnexpectedEof, "read past the end");
        buffer.copy_from_slice(content.get(start..start + buffer.len()).ok_or_else(short)?);
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.recorder.state().content.files[&self.file].len() as u64)
    }

    fn sync(&self) -> io::Result<()> {
        self.recorder.state().call(Call::Sync { file: self.file });
        Ok(())
    }
}
