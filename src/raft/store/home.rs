//! The directories of the view: one is current, damaged ones are set aside.
//!
//! ```text
//!  CURRENT        names the view in use; replaced atomically
//!  state-<n>/     a view
//!  state.bad-<n>/ a view that could not be trusted
//! ```
//! A crash while a new view is built leaves a directory that `CURRENT` does not name; it was never
//! used and goes at the next start.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use crate::raft::store::{codec, files};

const KIND: u8 = 0x43;
const SEED: u32 = 0x4355_5252;
const VIEW: &str = "state-";
const BAD: &str = "state.bad-";
/// Views set aside that are kept; the oldest goes, with a warning, when another one comes.
const BAD_KEPT: usize = 3;

/// Where the views lie.
pub(crate) struct Home {
    dir: PathBuf,
}

impl Home {
    /// Opens the directory, creating it if need be.
    pub(crate) fn open(dir: &Path) -> io::Result<Self> {
        files::create_dir(dir)?;
        Ok(Self { dir: dir.to_owned() })
    }

    /// The view that `CURRENT` names, if both are there; the others are put out of the way.
    pub(crate) fn current(&self) -> io::Result<Option<PathBuf>> {
        let named = self.read_pointer()?;
        let found = named.filter(|name| self.dir.join(name).is_dir());
        for number in self.numbers(VIEW)? {
            let name = format!("{VIEW}{number}");
            match &found {
                Some(current) if *current == name => {}
                Some(_) => {
                    tracing::info!(name, "removing a view that an earlier run left unused");
                    std::fs::remove_dir_all(self.dir.join(name))?;
                }
                None => {
                    self.set_aside(&self.dir.join(name), "no valid CURRENT file names it")?;
                }
            }
        }
        Ok(found.map(|name| self.dir.join(name)))
    }

    /// Whether a view was ever set aside and is still kept.
    pub(crate) fn has_bad(&self) -> io::Result<bool> {
        Ok(!self.numbers(BAD)?.is_empty())
    }

    /// A name for a new view.
    pub(crate) fn fresh(&self) -> io::Result<PathBuf> {
        let number = self.numbers(VIEW)?.last().copied().unwrap_or(0) + 1;
        Ok(self.dir.join(format!("{VIEW}{number}")))
    }

    /// Makes a view the current one, durably.
    pub(crate) fn switch(&self, path: &Path) -> io::Result<()> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let mut bytes = Vec::new();
        codec::frame(KIND, SEED, &mut bytes, |out| out.extend_from_slice(name.as_bytes()));
        files::replace_file(&self.dir.join("CURRENT"), &bytes)
    }

    /// Moves a view that cannot be trusted out of the way and keeps it.
    pub(crate) fn set_aside(&self, path: &Path, why: &str) -> io::Result<()> {
        let kept = self.numbers(BAD)?;
        let to = self.dir.join(format!("{BAD}{}", kept.last().copied().unwrap_or(0) + 1));
        tracing::error!(from = %path.display(), to = %to.display(), why,
            "the view of the state cannot be trusted; it is set aside and built anew");
        std::fs::rename(path, to)?;
        for number in kept.iter().rev().skip(BAD_KEPT - 1) {
            let old = self.dir.join(format!("{BAD}{number}"));
            tracing::warn!(path = %old.display(), "removing the oldest view that was set aside");
            std::fs::remove_dir_all(old)?;
        }
        File::open(&self.dir)?.sync_all()
    }

    fn read_pointer(&self) -> io::Result<Option<String>> {
        let bytes = match std::fs::read(self.dir.join("CURRENT")) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        match codec::parse(&bytes, SEED) {
            Ok(frame) if frame.kind == KIND && frame.bytes == bytes.len() => {
                let name = String::from_utf8_lossy(frame.payload).into_owned();
                Ok(number(&name, VIEW).map(|_| name))
            }
            Ok(_) => Ok(None),
            Err(error) => {
                tracing::error!(%error, "the CURRENT file is damaged");
                Ok(None)
            }
        }
    }

    /// The numbers in use behind a prefix, in order.
    fn numbers(&self, prefix: &str) -> io::Result<Vec<u64>> {
        let mut numbers = Vec::new();
        for entry in std::fs::read_dir(&self.dir)? {
            numbers.extend(number(&entry?.file_name().to_string_lossy(), prefix));
        }
        numbers.sort_unstable();
        Ok(numbers)
    }
}

fn number(name: &str, prefix: &str) -> Option<u64> {
    name.strip_prefix(prefix)?.parse().ok()
}
