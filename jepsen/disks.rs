//! A small disk for each node, which can be filled: a file system in memory, mounted where only this
//! run sees it. Needs root.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Of one disk: the reserve, some segments and views, and as much again.
const SIZE: &str = "size=96m";

const BLOCK_BYTES: usize = 64 * 1024;

#[derive(Debug)]
pub(crate) struct Disks(Vec<PathBuf>);

impl Disks {
    /// Mounts one at the directory of each node.
    pub(crate) fn mount(dir: &Path, nodes: usize) -> Result<Self, String> {
        let mut disks = Self(Vec::new());
        for node in 0..nodes {
            let at = dir.join(format!("node{node}"));
            fs::create_dir_all(&at).map_err(|error| format!("{}: {error}", at.display()))?;
            let mut mount = Command::new("mount");
            let mount = mount.args(["-t", "tmpfs", "-o", SIZE, "oarlock-jepsen"]).arg(&at);
            let status = mount.status().map_err(|error| format!("run mount: {error}"))?;
            if !status.success() {
                return Err(format!("mount a disk at {}: {status}", at.display()));
            }
            disks.0.push(at);
        }
        Ok(disks)
    }

    fn filler(&self, node: usize) -> PathBuf {
        self.0[node].join("filler")
    }

    /// Fills the disk of a node until so many bytes are free.
    pub(crate) fn fill(&self, node: usize, leave_bytes: u64) -> Result<(), String> {
        let fill = || {
            let mut file = File::options().create(true).append(true).open(self.filler(node))?;
            for block in [vec![1; BLOCK_BYTES], vec![1; 512]] {
                loop {
                    match file.write(&block) {
                        Ok(_) => {}
                        Err(error) if error.kind() == io::ErrorKind::StorageFull => break,
                        Err(error) => return Err(error),
                    }
                }
            }
            file.set_len(file.metadata()?.len().saturating_sub(leave_bytes))
        };
        fill().map_err(|error| format!("fill the disk of node {node}: {error}"))
    }

    /// Gives the room back.
    pub(crate) fn free(&self, node: usize) -> Result<(), String> {
        fs::remove_file(self.filler(node))
            .map_err(|error| format!("free the disk of node {node}: {error}"))
    }
}

impl Drop for Disks {
    fn drop(&mut self) {
        for at in &self.0 {
            let _ends_with_the_run = Command::new("umount").arg("-l").arg(at).status();
        }
    }
}
