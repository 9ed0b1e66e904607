//! Real processes, real faults, recorded histories and the checks over them.
//!
//! `oarlock-jepsen run` starts a cluster in a network of its own, lets clients work, begins and
//! ends faults, up to three of them at once, and checks what the clients saw. The seed fixes
//! the faults and whom they hit; the machine decides the rest, so a failing seed is repeated, not
//! replayed. `recovery` and `drain` measure what is promised of fail-over and of expiry,
//! `rolling` what a restart of all nodes costs, `growth` what it costs to change all members.

mod agree;
mod arrivals;
mod changes;
mod clocks;
mod cluster;
mod coverage;
mod disks;
mod drain;
mod growth;
mod links;
mod load;
mod nemesis;
mod network;
mod orders;
mod proxy;
mod recovery;
mod rolling;
mod run;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use tokio::time::Instant;

use crate::drain::Drain;
use crate::growth::Growth;
use crate::recovery::Recovery;
use crate::rolling::Rolling;
use crate::run::Run;

#[derive(Debug, Parser)]
#[command(version, about = "Fault tests of oarlock against real processes")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a cluster under clients and faults, and check what the clients saw
    Run(Run),
    /// Kill the leader again and again, and measure until the next grant
    Recovery(Recovery),
    /// Let very many leases fall due at once, and measure until all are over
    Drain(Drain),
    /// Restart all nodes in turn under load, and measure the longest time without a grant
    Rolling(Rolling),
    /// Grow, replace and shrink all members in turn under load, and measure the longest time without a grant
    Growth(Growth),
}

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "the verdict is what this prints")]
fn main() -> ExitCode {
    let command = Arguments::parse().command;
    match start(&command) {
        Ok(Ended::Inside(code)) => code,
        Ok(Ended::Here(summary)) => {
            println!("{summary}");
            ExitCode::SUCCESS
        }
        Err(problem) => {
            eprintln!("{problem}");
            if let Command::Run(run) = &command {
                eprintln!("repeat with: oarlock-jepsen {}", run.as_arguments());
            }
            ExitCode::FAILURE
        }
    }
}

enum Ended {
    /// The run took place in the network; it has told its verdict itself.
    Inside(ExitCode),
    Here(String),
}

fn start(command: &Command) -> Result<Ended, String> {
    if let Command::Run(run) = command
        && let Some(machines) = run.network_machines()
        && let Some(status) = network::run_inside(machines)?
    {
        return Ok(Ended::Inside(if status.success() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }));
    }
    let runtime = tokio::runtime::Runtime::new().map_err(|error| error.to_string())?;
    let ended = runtime.block_on(async {
        match command {
            Command::Run(run) => run.under_faults().await,
            Command::Recovery(recovery) => recovery.measure().await,
            Command::Drain(drain) => drain.measure().await,
            Command::Rolling(rolling) => rolling.measure().await,
            Command::Growth(growth) => growth.measure().await,
        }
    });
    ended.map(Ended::Here)
}

/// Tells how far it is.
#[expect(clippy::print_stderr, reason = "long runs are watched")]
fn say(progress: &str) {
    eprintln!("{progress}");
}

fn beside_this() -> Result<PathBuf, String> {
    let this = std::env::current_exe().map_err(|error| error.to_string())?;
    let binary = this.with_file_name("oarlock");
    let missing = format!("{} is missing: cargo build, or --binary", binary.display());
    if binary.exists() { Ok(binary) } else { Err(missing) }
}

/// Waits until the condition holds, for at most a minute.
async fn wait_for(what: &str, condition: impl Fn() -> bool) -> Result<(), String> {
    let until = Instant::now() + Duration::from_mins(1);
    while !condition() {
        if Instant::now() > until {
            return Err(format!("waited in vain for {what}"));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
