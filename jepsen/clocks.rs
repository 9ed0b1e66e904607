//! Clocks that are hours apart, one for each node: time namespaces of this machine's kernel. A node
//! that took another's moment for one of its own would expire everything, or nothing (F1).
//!
//! Needs root, `unshare` and `nsenter`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Between the monotonic clocks of one node and the next: five hours.
const APART_S: u64 = 5 * 3600;

/// The time namespaces, while their files are there.
#[derive(Debug)]
pub(crate) struct Clocks(PathBuf);

fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("run {command:?}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

/// Whole seconds of an uptime.
fn uptime_s(text: &str) -> Option<u64> {
    text.split('.').next()?.parse().ok()
}

impl Clocks {
    /// Sets the clocks; `dir` keeps the files that stand for them.
    pub(crate) fn set_apart(dir: &Path, nodes: usize) -> Result<Self, String> {
        let clocks = Self(dir.to_owned());
        for node in 0..nodes {
            let file = clocks.file(node);
            fs::write(&file, "").map_err(|error| format!("{}: {error}", file.display()))?;
            let ahead = (APART_S * node as u64).to_string();
            run(Command::new("unshare").arg(format!("--time={}", file.display())).args([
                "--monotonic",
                &ahead,
                "--boottime",
                &ahead,
                "true",
            ]))?;
            clocks.is_ahead(node)?;
        }
        Ok(clocks)
    }

    /// A clock that was not moved would prove nothing.
    fn is_ahead(&self, node: usize) -> Result<(), String> {
        let here = fs::read_to_string("/proc/uptime").unwrap_or_default();
        let there =
            run(Command::new("nsenter").arg(self.option(node)).args(["cat", "/proc/uptime"]))?;
        let (Some(here), Some(there)) = (uptime_s(&here), uptime_s(&there)) else {
            return Err(format!("no uptime: {here:?}, {there:?}"));
        };
        let expected = here + APART_S * node as u64;
        if there.abs_diff(expected) < 60 {
            return Ok(());
        }
        Err(format!("the clock of node {node} is at {there} s instead of {expected}"))
    }

    fn file(&self, node: usize) -> PathBuf {
        self.0.join(format!("clock{node}"))
    }

    fn option(&self, node: usize) -> String {
        format!("--time={}", self.file(node).display())
    }

    /// What to put before a program so that it lives by that node's clock. It becomes the program.
    pub(crate) fn exec(&self, node: usize) -> [String; 2] {
        ["nsenter".to_owned(), self.option(node)]
    }
}

impl Drop for Clocks {
    fn drop(&mut self) {
        // The files are mount points; they end with the mount namespace of this run at the latest.
        let mut node = 0;
        while self.file(node).exists() {
            let _ends_with_the_run = run(Command::new("umount").arg(self.file(node)));
            let _temporary = fs::remove_file(self.file(node));
            node += 1;
        }
    }
}
