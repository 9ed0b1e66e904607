//! Real processes, real faults, recorded histories and the checks over them.
//!
//! `oarlock-jepsen kill --rounds N --seed S` runs a three-node cluster under clients while nodes
//! are killed, and checks what the clients saw. The seed fixes whom it hits and when; the machine
//! decides the rest, so a failing seed is repeated, not replayed.

mod checker;
mod cluster;
mod history;
mod nemesis;
mod workload;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Parser, Subcommand};
use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::history::History;
use crate::workload::Workload;

#[derive(Debug, Parser)]
#[command(version, about = "Fault tests of oarlock against real processes")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Kill nodes (a leader, a follower, all) under load
    Kill {
        /// Faults, one after the other
        #[arg(long, default_value_t = 10)]
        rounds: u32,
        /// Whom to hit and when
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// The node's program; else the one beside this
        #[arg(long)]
        binary: Option<PathBuf>,
    },
}

/// Small and repeatable; not for secrets. Marsaglia's xorshift64.
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "the verdict is what this prints")]
#[tokio::main]
async fn main() -> ExitCode {
    let Command::Kill { rounds, seed, binary } = Arguments::parse().command;
    match kill(rounds, seed, binary).await {
        Ok(summary) => {
            println!("{summary}");
            ExitCode::SUCCESS
        }
        Err(problem) => {
            eprintln!(
                "{problem}\nrepeat with: oarlock-jepsen kill --rounds {rounds} --seed {seed}"
            );
            ExitCode::FAILURE
        }
    }
}

async fn kill(rounds: u32, seed: u64, binary: Option<PathBuf>) -> Result<String, String> {
    let binary = match binary {
        Some(binary) => binary,
        None => beside_this()?,
    };
    let began = Instant::now();
    let mut cluster = Cluster::start(&binary).await?;
    let history = Arc::new(History::default());
    let workload = Workload::start(&cluster.endpoints(), seed, &history);
    let mut chance = Chance::new(seed);
    let mut faults = Vec::new();
    for round in 0..rounds {
        let before = history.granted();
        faults.push(nemesis::kill(&mut cluster, &mut chance).await?);
        // A round counts only if clients went on after the fault.
        let more = || history.granted() >= before + 20;
        wait_for(&format!("progress after fault {round}"), more).await?;
    }
    workload.stop().await;
    workload::every_lock_is_acquirable(&cluster.endpoints()).await?;
    let events = history.take();
    let verdict = checker::check(&events);
    let unknown = events.iter().filter(|event| event.token.is_none()).count();
    let summary = format!(
        "{rounds} faults ({}), {} grants, {unknown} unknown, {:?}",
        faults.join(", "),
        events.len() - unknown,
        began.elapsed()
    );
    verdict
        .map(|()| format!("ok: {summary}"))
        .map_err(|violation| format!("{violation}\nafter {summary}"))
}

fn beside_this() -> Result<PathBuf, String> {
    let this = std::env::current_exe().map_err(|error| error.to_string())?;
    let binary = this.with_file_name("oarlock");
    let missing = format!("{} is missing: cargo build, or --binary", binary.display());
    if binary.exists() { Ok(binary) } else { Err(missing) }
}

/// Waits until the condition holds, for at most a minute.
pub(crate) async fn wait_for(what: &str, condition: impl Fn() -> bool) -> Result<(), String> {
    let until = Instant::now() + Duration::from_mins(1);
    while !condition() {
        if Instant::now() > until {
            return Err(format!("waited in vain for {what}"));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
