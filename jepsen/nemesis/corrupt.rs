//! One bit of a log flips where nothing is written any more. The node must refuse to start and say
//! why; until members can be replaced, the way back is the byte as it was.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use oarlock_jepsen::chance::Chance;

use super::{refuses_to_start, someone};
use crate::cluster::Cluster;

const FLIPPED: u8 = 0x10;

/// A bit that flipped.
pub(crate) struct Flip {
    segment: PathBuf,
    at: u64,
    logged: usize,
}

pub(super) async fn begin(
    cluster: &mut Cluster,
    chance: &mut Chance,
) -> Result<(String, usize, Flip), String> {
    let (whom, targets) = someone(cluster, chance, "leader", 1).await;
    let node = targets[0];
    cluster.kill(node).await?;
    let log = cluster.data(node).join("log");
    let segment = oldest_segment(&log).map_err(|error| format!("{}: {error}", log.display()))?;
    let at = used_bytes(&segment).map_err(|error| format!("{}: {error}", segment.display()))? / 2;
    let flip = Flip { segment, at, logged: cluster.log_length(node) };
    flip.flip()?;
    cluster.may_end(node, true);
    cluster.launch_if_down(node)?;
    Ok((format!("bit of the log of {whom} flipped"), node, flip))
}

pub(super) async fn end(cluster: &mut Cluster, node: usize, flip: &Flip) -> Result<(), String> {
    refuses_to_start(cluster, node, flip.logged, &["damaged", "new id"]).await?;
    flip.flip()?;
    cluster.launch_if_down(node)?;
    cluster.may_end(node, false);
    Ok(())
}

impl Flip {
    /// Twice is as it was.
    fn flip(&self) -> Result<(), String> {
        let flip = || {
            let file = File::options().read(true).write(true).open(&self.segment)?;
            let mut byte = [0];
            file.read_exact_at(&mut byte, self.at)?;
            file.write_all_at(&[byte[0] ^ FLIPPED], self.at)
        };
        flip().map_err(|error: io::Error| format!("flip {}: {error}", self.segment.display()))
    }
}

fn oldest_segment(log: &Path) -> io::Result<PathBuf> {
    let entries: io::Result<Vec<_>> = fs::read_dir(log)?.collect();
    let segments = entries?.into_iter().map(|entry| entry.path());
    let oldest = segments.filter(|path| path.extension().is_some_and(|end| end == "seg")).min();
    oldest.ok_or_else(|| io::ErrorKind::NotFound.into())
}

fn used_bytes(segment: &Path) -> io::Result<u64> {
    let bytes = fs::read(segment)?;
    Ok(bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0) as u64)
}
