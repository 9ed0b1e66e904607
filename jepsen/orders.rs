//! Orders to one node to fail from inside, and what it says became of them: two small files, which
//! builds for the proof read and write (`src/raft/faults` in the repository).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

pub(crate) struct Orders {
    path: PathBuf,
    given: BTreeMap<&'static str, String>,
}

impl Orders {
    /// The file of one node. Of what is not synced, some nodes lose all when they are killed, the
    /// others what had not reached the disk by chance, torn at the sectors.
    pub(crate) fn new(dir: &Path, node: usize, seed: u64) -> Result<Self, String> {
        let path = dir.join(format!("node{node}.faults"));
        let torn = (seed + node as u64).is_multiple_of(2);
        let unsynced = if torn { "sectors" } else { "memory" };
        let orders = Self { path, given: BTreeMap::from([("unsynced", unsynced.to_owned())]) };
        orders.write()?;
        Ok(orders)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn give(
        &mut self,
        name: &'static str,
        value: &(impl ToString + ?Sized),
    ) -> Result<(), String> {
        self.given.insert(name, value.to_string());
        self.write()
    }

    pub(crate) fn withdraw(&mut self, name: &'static str) -> Result<(), String> {
        self.given.remove(name);
        self.write()
    }

    /// What the node says of itself under that name; zero before it said anything.
    pub(crate) fn evidence(&self, name: &str) -> i64 {
        let told = fs::read_to_string(self.path.with_extension("state")).unwrap_or_default();
        let lines = told.lines().filter_map(|line| line.split_once(" = "));
        lines.filter(|(of, _)| *of == name).find_map(|(_, value)| value.parse().ok()).unwrap_or(0)
    }

    /// What an earlier process said says nothing of the next one.
    pub(crate) fn forget_evidence(&self) {
        let _may_not_be_there = fs::remove_file(self.path.with_extension("state"));
    }

    fn write(&self) -> Result<(), String> {
        let lines = self.given.iter().map(|(name, value)| format!("{name} = {value}\n"));
        let (text, new) = (lines.collect::<String>(), self.path.with_extension("orders"));
        fs::write(&new, text)
            .and_then(|()| fs::rename(&new, &self.path))
            .map_err(|error| format!("give orders by {}: {error}", self.path.display()))
    }
}
