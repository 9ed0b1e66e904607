//! The disk reserve: room that is taken in advance and given back when the disk is full, so that
//! releases, snapshots and log entries that free room still pass.
//!
//! The caller checks at intervals of its own; nothing here runs by itself. While the state is
//! [`DiskState::Low`] the leader refuses new grants. Work resumes by itself: once there is room for
//! the reserve and as much again, it is taken again.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// Default size: seconds of log at full speed, and a snapshot of a usual cluster.
pub const RESERVE_BYTES_DEFAULT: u64 = 64 * 1024 * 1024;

const FILE_NAME: &str = "reserve";
const BLOCK_BYTES: usize = 1024 * 1024;

/// Whether there is room for more than what must pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskState {
    /// The reserve is in place and at least as much is free besides.
    Enough,
    /// Take nothing new.
    Low,
}

/// Measures the bytes free on the file system of a path.
type Probe = Box<dyn Fn(&Path) -> io::Result<u64> + Send + Sync>;

/// The reserve of one data directory.
pub struct DiskReserve {
    path: PathBuf,
    bytes: u64,
    in_place: AtomicBool,
    low: AtomicBool,
    free: Probe,
}

impl DiskReserve {
    /// Takes the reserve, or finds it taken. A disk too full for it is not an error: the node
    /// starts low.
    pub fn open(dir: &Path, bytes: u64) -> io::Result<Self> {
        Self::open_with(dir, bytes, Box::new(free_bytes))
    }

    fn open_with(dir: &Path, bytes: u64, free: Probe) -> io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let path = dir.join(FILE_NAME);
        let in_place = std::fs::metadata(&path).is_ok_and(|found| found.len() == bytes);
        let (in_place, low) = (AtomicBool::new(in_place), AtomicBool::new(false));
        let reserve = Self { path, bytes, in_place, low, free };
        reserve.check()?;
        Ok(reserve)
    }

    /// The state at the last check; costs nothing.
    pub fn state(&self) -> DiskState {
        if self.low.load(Ordering::Acquire) { DiskState::Low } else { DiskState::Enough }
    }

    /// Looks at the disk, takes the reserve again if there is room. Blocks for a write of the
    /// whole reserve when it does.
    pub fn check(&self) -> io::Result<DiskState> {
        if !self.in_place.load(Ordering::Acquire)
            && self.free_now()? >= self.bytes.saturating_mul(2)
        {
            match self.take() {
                Ok(()) => self.in_place.store(true, Ordering::Release),
                Err(error) if error.kind() == io::ErrorKind::StorageFull => self.give_back()?,
                Err(error) => return Err(error),
            }
        }
        let low = !self.in_place.load(Ordering::Acquire) || self.free_now()? < self.bytes;
        if self.low.swap(low, Ordering::AcqRel) != low {
            if low {
                tracing::error!(
                    reserve_bytes = self.bytes,
                    "the disk is nearly full: no new locks are granted before there is room"
                );
            } else {
                tracing::info!("the disk has room again");
            }
        }
        Ok(self.state())
    }

    /// Gives the room back, because a write that must pass found the disk full.
    pub fn release(&self) -> io::Result<()> {
        self.low.store(true, Ordering::Release);
        if self.in_place.swap(false, Ordering::AcqRel) {
            tracing::error!(reserve_bytes = self.bytes, "the disk is full: the reserve is in use");
        }
        self.give_back()
    }

    fn give_back(&self) -> io::Result<()> {
        match OpenOptions::new().write(true).open(&self.path) {
            Ok(file) => {
                file.set_len(0)?;
                file.sync_all()
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn take(&self) -> io::Result<()> {
        let file = OpenOptions::new().create(true).truncate(true).write(true).open(&self.path)?;
        // Written, not only allocated: a sparse file reserves nothing.
        let zeros = vec![0; BLOCK_BYTES];
        let mut offset = 0;
        while offset < self.bytes {
            let part = (self.bytes - offset).min(BLOCK_BYTES as u64);
            file.write_all_at(&zeros[..usize::try_from(part).unwrap_or(BLOCK_BYTES)], offset)?;
            offset += part;
        }
        file.sync_all()?;
        self.path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
    }

    fn free_now(&self) -> io::Result<u64> {
        (self.free)(self.path.parent().unwrap_or(Path::new(".")))
    }
}

fn free_bytes(path: &Path) -> io::Result<u64> {
    let found = rustix::fs::statvfs(path)?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicU64;

    use super::*;

    #[test]
    fn the_reserve_is_taken_released_and_taken_again() {
        let dir = tempfile::tempdir().expect("directory");
        let free = Arc::new(AtomicU64::new(1 << 30));
        let probe = Arc::clone(&free);
        let open = || {
            let probe = Arc::clone(&probe);
            DiskReserve::open_with(
                dir.path(),
                3 << 20,
                Box::new(move |_| Ok(probe.load(Ordering::Relaxed))),
            )
            .expect("open")
        };
        let reserve = open();
        let size = || std::fs::metadata(dir.path().join(FILE_NAME)).expect("file").len();
        assert_eq!((reserve.state(), size()), (DiskState::Enough, 3 << 20));

        free.store(2 << 20, Ordering::Relaxed);
        assert_eq!(reserve.check().expect("check"), DiskState::Low);
        reserve.release().expect("release");
        assert_eq!((reserve.state(), size()), (DiskState::Low, 0));
        free.store(5 << 20, Ordering::Relaxed);
        assert_eq!(reserve.check().expect("check"), DiskState::Low, "not room enough to retake it");
        assert_eq!(open().state(), DiskState::Low, "a start without room is a start");
        free.store(6 << 20, Ordering::Relaxed);
        assert_eq!(reserve.check().expect("check"), DiskState::Enough);
        assert_eq!(size(), 3 << 20);
    }

    #[test]
    fn the_real_disk_answers() {
        let dir = tempfile::tempdir().expect("directory");
        assert!(free_bytes(dir.path()).expect("statvfs") > 0);
    }
}
