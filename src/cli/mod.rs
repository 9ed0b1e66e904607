//! The command line.

mod acquire;
mod audit;
mod backup;
mod bench;
mod dev;
mod doctor;
mod graph;
mod locks;
mod members;
mod pki;
mod prove;
mod records;
mod serve;
mod shell;
mod tokens;
mod watch;

use std::future::Future;
use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use oarlock_core::planted::{Bug, planted};
use tokio::signal::unix::{SignalKind, signal};

#[cfg(not(feature = "proof"))]
const VERSION: &str = env!("CARGO_PKG_VERSION");
#[cfg(feature = "proof")]
const VERSION: &str =
    concat!(env!("CARGO_PKG_VERSION"), " (proof build: faults and planted bugs, not for service)");

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
#[command(name = "oarlock", version = VERSION, after_help = EXIT_CODES)]
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
    Acquire(acquire::Acquire),
    HandOver(acquire::HandOver),
    /// Renew a lease
    Renew(locks::OfLease),
    /// Give a lock back, or leave its queue
    Release(locks::OfLease),
    /// Show who holds a lock and who waits
    Inspect(locks::Inspect),
    /// List locks, or with --graph who waits for whom
    List(locks::List),
    /// Print what happens to locks, as it happens
    Watch(watch::Watch),
    /// Show who held a lock, when, and how it ended
    History(records::History),
    /// Read or write the text that a lock carries
    #[command(subcommand)]
    Value(records::OfValue),
    /// Open, renew, close or show a session, which keeps many leases alive
    #[command(subcommand)]
    Session(records::OfSession),
    /// Take a lock away from its holder
    ForceRelease(locks::ForceRelease),
    /// Show leader and members; fails without a majority
    Status,
    Doctor(doctor::Doctor),
    /// Verify the audit file of a node
    #[command(subcommand)]
    Audit(audit::OfAudit),
    /// Hand leadership to another node, or to the one that is closest behind
    Transfer(locks::Transfer),
    /// List, invite, promote, remove and replace the members of the cluster
    ///
    /// A new machine comes in three steps. `members add` prints a join token. `OARLOCK_JOIN_TOKEN=… oarlock
    /// serve --config node4.toml` on that machine brings it in as a learner, which gets the data and
    /// does not vote. `members promote` makes it a voter once it has caught up. A machine goes with
    /// `members remove`, and its id is never used again; `members replace` does both in one change.
    #[command(subcommand)]
    Members(members::OfMembers),
    /// Say who may do what: make, list and revoke access tokens
    #[command(subcommand)]
    Tokens(tokens::OfTokens),
    /// Make certificates: an authority, and what it signs for nodes and clients
    #[command(subcommand)]
    Pki(pki::OfPki),
    Backup(backup::Backup),
    Restore(backup::Restore),
    Bench(bench::Bench),
    /// Let clients work on your cluster while you break it, and judge what they saw
    Prove(prove::Prove),
    /// Print a completion script for a shell
    Completions(shell::Completions),
    /// Print the manual page
    Man,
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

    /// By a signal, with the code that shells give for Ctrl-C.
    pub(crate) fn interrupted(text: impl Into<String>) -> Self {
        Self { code: 130, text: text.into() }
    }
}

/// Parses the arguments and runs the command.
pub fn main() -> ExitCode {
    let Arguments { target, command } = Arguments::parse();
    match target.identified().and_then(|target| run(&target, command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => fail(&failure),
    }
}

fn run(target: &locks::Target, command: Command) -> Result<(), Failure> {
    match command {
        Command::Serve(serve) => {
            let config = serve.config()?;
            on_runtime(config.worker_threads, serve::run(serve, config))
        }
        // The load generator uses all cores; nobody else has work for two.
        Command::Bench(bench) => on_runtime(0, bench::run(target, bench)),
        Command::Prove(prove) => on_runtime(0, prove::run(target, prove)),
        Command::Tokens(of) => on_runtime(1, tokens::run(target, of)),
        Command::Pki(of) => pki::run(&of),
        Command::Members(of) => on_runtime(1, members::run(target, of)),
        Command::Backup(of) => on_runtime(1, backup::backup(target, of)),
        Command::Restore(of) => backup::restore(target, &of),
        Command::Dev(dev) => on_runtime(1, dev::run(dev)),
        Command::Acquire(acquire) => on_runtime(1, acquire::acquire(target, acquire)),
        Command::HandOver(of) => on_runtime(1, acquire::hand_over(target, of)),
        Command::Renew(of) => on_runtime(1, locks::renew(target, of)),
        Command::Release(of) => on_runtime(1, locks::release(target, of)),
        Command::Inspect(inspect) => on_runtime(1, locks::inspect(target, inspect)),
        Command::List(list) => on_runtime(1, locks::list(target, list)),
        Command::Watch(watch) => on_runtime(1, watch::run(target, watch)),
        Command::History(of) => on_runtime(1, records::history(target, of)),
        Command::Value(of) => on_runtime(1, records::value(target, of)),
        Command::Session(of) => on_runtime(1, records::session(target, of)),
        Command::Completions(of) => {
            shell::completions(&of, Arguments::command());
            Ok(())
        }
        Command::Man => shell::man(Arguments::command()),
        Command::ForceRelease(force) => on_runtime(1, locks::force_release(target, force)),
        Command::Transfer(transfer) => on_runtime(1, locks::transfer(target, transfer)),
        Command::Status => on_runtime(1, locks::status(target)),
        Command::Doctor(of) => on_runtime(1, doctor::run(target, of)),
        Command::Audit(of) => audit::run(target, &of),
    }
}

/// Runs to the end on so many threads; 0 takes one per core. With one, tasks, timers and sockets
/// stay on the calling thread, and nothing pays for waking another.
fn on_runtime(
    worker_threads: usize,
    work: impl Future<Output = Result<(), Failure>>,
) -> Result<(), Failure> {
    let mut builder = match worker_threads {
        1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    if worker_threads > 1 {
        builder.worker_threads(worker_threads);
    }
    let runtime = builder
        .enable_all()
        .build()
        .map_err(|error| Failure::node(format!("start the runtime: {error}")))?;
    let result = runtime.block_on(work);
    // Reads of standard input cannot be interrupted; nothing else is left.
    runtime.shutdown_background();
    result
}

fn fail(failure: &Failure) -> ExitCode {
    let _closed_pipe = writeln!(std::io::stderr(), "oarlock: {}", failure.text);
    if planted(Bug::UnreachableIsSuccess) && failure.code == 3 {
        return ExitCode::SUCCESS;
    }
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
