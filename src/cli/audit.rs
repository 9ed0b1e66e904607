//! `oarlock audit verify`: whether the lines of audit files are as they were written.

use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::Serialize;

use crate::cli::Failure;
use crate::cli::locks::Target;
use crate::observe::audit::chain::{self, Head};

/// What is done with audit files.
#[derive(Debug, Subcommand)]
pub(super) enum OfAudit {
    Verify(Verify),
}

/// Verify that no line was changed, removed or put in, and name the first broken one
///
/// Several files are taken for one chain that was rotated: name them oldest first. The last hash is
/// printed: who writes it down elsewhere can tell later whether the whole chain was made anew.
///
/// Example: oarlock audit verify /var/log/oarlock/audit.log.1 /var/log/oarlock/audit.log
#[derive(Debug, Args)]
pub(super) struct Verify {
    /// The files, oldest first
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

#[derive(Serialize)]
struct Shown {
    first_line: u64,
    last_line: u64,
    last_index: u64,
    last_hash: String,
    gaps: u64,
    cluster: String,
    changes_of_cluster: u64,
}

pub(super) fn run(target: &Target, of: &OfAudit) -> Result<(), Failure> {
    let OfAudit::Verify(Verify { files }) = of;
    let (mut before, mut first_line): (Option<Head>, Option<u64>) = (None, None);
    let (mut gaps, mut changes_of_cluster) = (0, 0);
    for path in files {
        let name = path.display();
        let unreadable = |error| Failure::usage(format!("read {name}: {error}"));
        let file = BufReader::new(File::open(path).map_err(unreadable)?);
        let verified = chain::verify(file, before.as_ref()).map_err(unreadable)?;
        let verified = verified.map_err(|broken| {
            let (line, why) = (broken.line_in_file, broken.why);
            Failure::refused(format!("{name}: line {line} is the first that is broken: {why}"))
        })?;
        if verified.first_line > 0 {
            first_line.get_or_insert(verified.first_line);
        }
        gaps += verified.gaps;
        changes_of_cluster += verified.changes_of_cluster;
        before = Some(verified.head);
    }
    let head = before.unwrap_or_default();
    let shown = Shown {
        first_line: first_line.unwrap_or(0),
        last_line: head.line,
        last_index: head.index,
        last_hash: head.hash,
        gaps,
        cluster: head.cluster,
        changes_of_cluster,
    };
    target.show(&shown, |it| {
        let gaps = match it.gaps {
            0 => "none says that lines are missing".to_owned(),
            1 => "one says that lines are missing before it".to_owned(),
            many => format!("{many} say that lines are missing before them"),
        };
        let clusters = match it.changes_of_cluster {
            0 => String::new(),
            1 => ", after those of another cluster".to_owned(),
            many => format!(", after those of others: the cluster changes {many} times"),
        };
        let before = match it.first_line {
            0 | 1 => String::new(),
            first => format!("those before {first} are in none of these files; "),
        };
        format!(
            "lines {} to {} are as they were written; {before}{gaps}\nlast entry {} of cluster {}{clusters}, \
             last hash {}\n",
            it.first_line, it.last_line, it.last_index, it.cluster, it.last_hash
        )
    });
    Ok(())
}
