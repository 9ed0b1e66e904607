//! `backup` and `restore`: the state of a cluster in one file, and a new cluster that begins with it.

use std::fs::File;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use oarlock_client::backup::Backup as Copy;
use serde::Serialize;

use crate::cli::Failure;
use crate::cli::locks::Target;
use crate::config::Config;
use crate::node::{Given, NodeError, Restored, inspect_backup, restore_backup};

/// How often a long copy says how far it is.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// Copy the state of a running cluster into a file.
///
/// The copy is consistent, has everything that was acknowledged before the command began, and
/// carries checksums, which are verified once it is written. Nothing is interrupted. It holds lease
/// ids, which are the right to release: keep it as you keep the data directories.
///
/// Example: oarlock backup locks.backup
#[derive(Debug, Args)]
pub(super) struct Backup {
    /// Where to put it, a file that is not there yet; `-` writes to standard output, unverified
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Replace the file if it exists
    #[arg(long)]
    replace: bool,
}

/// Begin a new cluster with the state of a backup.
///
/// Run it once, on the first member with the lowest id, before any node of the new cluster was
/// started; all data directories must be empty. Then start the nodes: they form a cluster with a
/// new id, whose tokens are far above all that the old one can have given.
///
/// Example: oarlock restore locks.backup --config node1.toml --token-above 48210
#[derive(Debug, Args)]
pub(super) struct Restore {
    /// What `oarlock backup` wrote
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Configuration of the node, as for `serve`
    #[arg(long, value_name = "FILE", required_unless_present = "inspect")]
    config: Option<PathBuf>,
    /// Overrides `data_dir` of the configuration
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The highest token that any resource has seen, from the old cluster or an earlier restore
    #[arg(long, value_name = "TOKEN", required_unless_present_any = ["first", "inspect"])]
    token_above: Option<u64>,
    /// This backup was never restored before, and the cluster it came from is gone for good
    #[arg(long = "first-restore", conflicts_with = "token_above")]
    first: bool,
    /// Only verify the backup and say what it holds
    #[arg(long, conflicts_with_all = ["config", "data_dir", "token_above", "first"])]
    inspect: bool,
}

#[derive(Debug, Serialize)]
struct Shown {
    cluster_id: String,
    applied_index: u64,
    locks: u64,
    rows: u64,
    bytes: u64,
    token_ceiling: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens_go_on_above: Option<u64>,
}

impl Shown {
    fn new(held: &Restored, tokens_go_on_above: Option<u64>) -> Self {
        Self {
            cluster_id: format!("{:032x}", held.cluster_id),
            applied_index: held.applied_index,
            locks: held.locks,
            rows: held.rows,
            bytes: held.bytes,
            token_ceiling: held.token_ceiling,
            tokens_go_on_above,
        }
    }

    fn text(&self) -> String {
        format!(
            "state of cluster {} at entry {}: {} locks, {} bytes, tokens up to {}\n",
            self.cluster_id, self.applied_index, self.locks, self.bytes, self.token_ceiling
        )
    }
}

fn node(error: &NodeError) -> Failure {
    Failure::node(error.to_string())
}

pub(super) async fn backup(target: &Target, of: Backup) -> Result<(), Failure> {
    if of.file.as_os_str() == "-" {
        let mut copy = target.client().backup().await?;
        return receive(&mut copy, &mut std::io::stdout()).await;
    }
    if of.file.exists() && !of.replace {
        let file = of.file.display();
        return Err(Failure::usage(format!("{file} exists: choose another name, or --replace")));
    }
    let mut name = of.file.as_os_str().to_owned();
    name.push(".part");
    let part = PathBuf::from(name);
    let mut copy = target.client().backup().await?;
    let kept = keep(&mut copy, &part, &of.file).await;
    if kept.is_err() {
        // Whatever failed has its own sentence; a part that is left is overwritten the next time.
        let _gone = std::fs::remove_file(&part);
    }
    let held = kept?;
    target.show(&Shown::new(&held, None), |shown| {
        format!("{}{}", shown.text(), format_args!("written to {}\n", of.file.display()))
    });
    Ok(())
}

/// The file gets its name once it is durable and verified.
async fn keep(copy: &mut Copy, part: &Path, file: &Path) -> Result<Restored, Failure> {
    let cannot = |error| writing(part, &error);
    let mut out = File::create(part).map_err(cannot)?;
    receive(copy, &mut out).await?;
    out.sync_all().map_err(cannot)?;
    let held = inspect_backup(part).map_err(|error| node(&error))?;
    std::fs::rename(part, file).map_err(cannot)?;
    let parent = file.parent().filter(|dir| !dir.as_os_str().is_empty());
    let dir = File::open(parent.unwrap_or(Path::new("."))).and_then(|dir| dir.sync_all());
    dir.map_err(|error| writing(file, &error))?;
    Ok(held)
}

fn writing(path: &Path, error: &std::io::Error) -> Failure {
    Failure::node(format!("write {}: {error}", path.display()))
}

async fn receive(copy: &mut Copy, out: &mut impl Write) -> Result<(), Failure> {
    let begun = Instant::now();
    let mut told = begun;
    while let Some(piece) = copy.next().await? {
        out.write_all(&piece).map_err(|error| Failure::node(format!("write the copy: {error}")))?;
        if told.elapsed() >= PROGRESS_EVERY {
            told = Instant::now();
            progress(copy, begun.elapsed());
        }
    }
    out.flush().map_err(|error| Failure::node(format!("write the copy: {error}")))
}

/// For whoever waits at a terminal.
fn progress(copy: &Copy, elapsed: Duration) {
    let mut terminal = std::io::stderr();
    if terminal.is_terminal() {
        let (done, all) = (copy.done / 1_000_000, copy.bytes / 1_000_000);
        let seconds = elapsed.as_secs();
        let _closed =
            writeln!(terminal, "{done} of {all} MB from {} after {seconds} s", copy.address);
    }
}

pub(super) fn restore(target: &Target, of: &Restore) -> Result<(), Failure> {
    if of.inspect {
        let held = inspect_backup(&of.file).map_err(|error| node(&error))?;
        target.show(&Shown::new(&held, None), Shown::text);
        return Ok(());
    }
    let mut config =
        Config::load(of.config.as_deref()).map_err(|errors| Failure::usage(errors.to_string()))?;
    if let Some(dir) = &of.data_dir {
        config.data_dir.clone_from(dir);
    }
    let given = of.token_above.map_or(Given::FirstRestore, Given::UpTo);
    let restored = restore_backup(&config, &of.file, given);
    let (held, ceiling) = restored.map_err(|error| node(&error))?;
    target.show(&Shown::new(&held, Some(ceiling)), |shown| {
        let dir = config.data_dir.display();
        format!(
            "{}restored into {dir}; tokens go on above {ceiling}\n\
             now start node {} and the other members, whose directories must be empty\n",
            shown.text(),
            config.node_id
        )
    });
    Ok(())
}
