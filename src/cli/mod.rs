//! The command line.

mod bench;
mod dev;
mod locks;
mod serve;

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  refused: the lock is held, the wait ran out, the lease is gone
  2  wrong usage or configuration
  3  no node or no leader could be reached; nothing was done
  4  the outcome is unknown: repeat with the same --request-id, or look
  5  the node could not start or go on (serve)";

/// A Raft-replicated distributed lock cluster.
#[derive(Debug, Parser)]
#[command(name = "oarlock", version, after_help = EXIT_CODES)]
struct Arguments {
    #[command(flatten)]
    target: locks::Target,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a cluster on this machine to try things out
    Dev(dev::Dev),
    /// Run one node of a cluster
    Serve(serve::Serve),
    /// Take a lock, or wait for it
    Acquire(locks::Acquire),
    /// Renew a lease
    Renew(locks::OfLease),
    /// Give a lock back, or leave its queue
    Release(locks::OfLease),
    /// Show who holds a lock and who waits
    Inspect(locks::Inspect),
    /// List locks
    List(locks::List),
    /// Take a lock away from its holder
    ForceRelease(locks::ForceRelease),
    /// Show leader and members; fails without a majority
    Status,
    /// Measure a cluster
    Bench(bench::Bench),
}

/// Why a command failed: its exit code and a sentence.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    text: String,
}

impl Failure {
    pub(crate) fn usage(text: impl Into<String>) -> Self {
        Self { code: 2, text: text.into() }
    }

    pub(crate) fn refused(text: impl Into<String>) -> Self {
        Self { code: 1, text: text.into() }
    }

    pub(crate) fn unknown(text: impl Into<String>) -> Self {
        Self { code: 4, text: text.into() }
    }

    pub(crate) fn unreachable(text: impl Into<String>) -> Self {
        Self { code: 3, text: text.into() }
    }

    pub(crate) fn node(text: impl Into<String>) -> Self {
        Self { code: 5, text: text.into() }
    }
}

/// Parses the arguments and runs the command.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&Failure::node(format!("start the runtime: {error}"))),
    };
    let Arguments { target, command } = arguments;
    let result = runtime.block_on(async {
        match command {
            Command::Dev(dev) => dev::run(dev).await,
            Command::Serve(serve) => serve::run(serve).await,
            Command::Acquire(acquire) => locks::acquire(&target, acquire).await,
            Command::Renew(of) => locks::renew(&target, of).await,
            Command::Release(of) => locks::release(&target, of).await,
            Command::Inspect(inspect) => locks::inspect(&target, inspect).await,
            Command::List(list) => locks::list(&target, list).await,
            Command::ForceRelease(force) => locks::force_release(&target, force).await,
            Command::Status => locks::status(&target).await,
            Command::Bench(bench) => bench::run(&target, bench).await,
        }
    });
    // Reads of standard input cannot be interrupted; nothing else is left.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => fail(&failure),
    }
}

fn fail(failure: &Failure) -> ExitCode {
    let _closed_pipe = writeln!(std::io::stderr(), "oarlock: {}", failure.text);
    ExitCode::from(failure.code)
}

/// Prints for people or scripts; a closed pipe is not an error of ours.
pub(crate) fn print(text: &str) {
    let mut out = std::io::stdout();
    let _closed_pipe = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Returns at SIGINT or SIGTERM.
pub(crate) async fn stop_signal() {
    let (interrupt, terminate) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
    match (interrupt, terminate) {
        (Ok(mut interrupt), Ok(mut terminate)) => {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        }
        _ => std::future::pending().await,
    }
}
