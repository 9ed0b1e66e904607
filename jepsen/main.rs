//! Real processes, real faults, recorded histories and the checks over them.
//!
//! `oarlock-jepsen run` starts a cluster in a network of its own, lets clients work, begins and
//! ends faults, two of them at once now and then, and checks what the clients saw. The seed fixes
//! the faults and whom they hit; the machine decides the rest, so a failing seed is repeated, not
//! replayed.

mod checker;
mod clocks;
mod cluster;
mod history;
mod nemesis;
mod network;
mod report;
mod workload;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::history::{Fault, History};
use crate::nemesis::Kind;
use crate::network::Network;
use crate::workload::Workload;

/// Grants that clients must get after each round: one without progress proves nothing.
const GRANTS_PER_ROUND: usize = 20;

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
}

#[derive(Debug, Args)]
struct Run {
    /// Rounds of faults, one after the other
    #[arg(long, default_value_t = 10)]
    rounds: u32,
    /// Which faults, whom they hit, and when
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Nodes of the cluster
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(3..=5))]
    nodes: u8,
    /// Kinds of faults to choose from; all of them if none is named
    #[arg(long, value_delimiter = ',')]
    faults: Vec<Kind>,
    /// Stay on loopback: no root needed, but no fault of the network either
    #[arg(long)]
    loopback: bool,
    /// Where to put report.html and history.edn
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// The node's program; else the one beside this
    #[arg(long)]
    binary: Option<PathBuf>,
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
fn main() -> ExitCode {
    let Command::Run(run) = Arguments::parse().command;
    match start(&run) {
        Ok(Ended::Inside(code)) => code,
        Ok(Ended::Here(summary)) => {
            println!("{summary}");
            ExitCode::SUCCESS
        }
        Err(problem) => {
            eprintln!("{problem}\nrepeat with: oarlock-jepsen {}", run.as_arguments());
            ExitCode::FAILURE
        }
    }
}

enum Ended {
    /// The run took place in the network; it has told its verdict itself.
    Inside(ExitCode),
    Here(String),
}

fn start(run: &Run) -> Result<Ended, String> {
    if !run.loopback
        && let Some(status) = network::run_inside(usize::from(run.nodes))?
    {
        return Ok(Ended::Inside(if status.success() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }));
    }
    let runtime = tokio::runtime::Runtime::new().map_err(|error| error.to_string())?;
    runtime.block_on(run.under_faults()).map(Ended::Here)
}

impl Run {
    fn as_arguments(&self) -> String {
        let loopback = if self.loopback { " --loopback" } else { "" };
        let faults: Vec<String> = self
            .faults
            .iter()
            .filter_map(|kind| Some(kind.to_possible_value()?.get_name().to_owned()))
            .collect();
        let faults = if faults.is_empty() {
            faults.join(",")
        } else {
            format!(" --faults {}", faults.join(","))
        };
        let Self { rounds, seed, nodes, .. } = self;
        format!("run --rounds {rounds} --seed {seed} --nodes {nodes}{faults}{loopback}")
    }

    fn kinds(&self) -> Vec<Kind> {
        let all = Kind::value_variants();
        let asked = if self.faults.is_empty() { all } else { &self.faults };
        asked.iter().copied().filter(|kind| !(self.loopback && kind.needs_network())).collect()
    }

    async fn under_faults(&self) -> Result<String, String> {
        let kinds = self.kinds();
        if kinds.is_empty() {
            return Err("none of these faults is possible on loopback".to_owned());
        }
        let binary = self.binary.clone().map_or_else(beside_this, Ok)?;
        let nodes = usize::from(self.nodes);
        let network = if self.loopback { None } else { Some(Network::of_this_run(nodes)?) };
        let mut cluster = Cluster::start(&binary, nodes, network).await?;
        let history = Arc::new(History::default());
        let workload = Workload::start(&cluster.endpoints(), self.seed, &history);
        let began = Instant::now();
        let mut chance = Chance::new(self.seed);
        for number in 0..self.rounds {
            round(number, &kinds, &mut cluster, &mut chance, &history, began).await?;
        }
        workload.stop().await?;
        workload::every_lock_is_acquirable(&cluster.endpoints()).await?;
        cluster.agrees().await?;
        self.verdict(&history, began.elapsed())
    }

    fn verdict(&self, history: &History, took: Duration) -> Result<String, String> {
        let records = history.take();
        let verdict = checker::check(&records);
        let heading = format!("oarlock-jepsen {}", self.as_arguments());
        if let Some(dir) = &self.out {
            report::write(dir, &heading, &verdict, &records)?;
        }
        let names: Vec<&str> = records.faults.iter().map(|fault| fault.what.as_str()).collect();
        let summary = format!(
            "{} faults ({}), {} grants, {} expiries, {} unknown, {} reads, {took:.1?}",
            names.len(),
            names.join(", "),
            records.grants(),
            records.expiries(),
            records.unknown(),
            records.looks.len(),
        );
        verdict
            .map(|()| format!("no violation found: {summary}"))
            .map_err(|violation| format!("{violation}\nafter {summary}"))
    }
}

/// One fault, or two that overlap; then everything is whole again and clients went on.
async fn round(
    number: u32,
    kinds: &[Kind],
    cluster: &mut Cluster,
    chance: &mut Chance,
    history: &History,
    began: Instant,
) -> Result<(), String> {
    let one_of =
        |chance: &mut Chance| kinds[usize::try_from(chance.below(kinds.len() as u64)).unwrap_or(0)];
    let first = one_of(chance);
    // Healing flushes all rules of the network, so it carries one fault at a time.
    let apart = |kind: Kind| kind != first && !(kind.needs_network() && first.needs_network());
    let second = Some(one_of(chance)).filter(|&kind| apart(kind) && chance.below(3) == 0);
    sleep_some(chance, 200, 800).await;
    let mut active = Vec::new();
    for kind in [Some(first), second].into_iter().flatten() {
        let began_at = began.elapsed();
        let fault = nemesis::begin(kind, cluster, chance).await?;
        active.push((fault, began_at));
        sleep_some(chance, 300, 2_500).await;
    }
    for (fault, began_at) in active {
        nemesis::end(&fault, cluster)?;
        history.fault(Fault { what: fault.what, began_at, ended_at: began.elapsed() });
    }
    cluster.wait_ready().await?;
    let before = history.granted();
    let more = || history.granted() >= before + GRANTS_PER_ROUND;
    wait_for(&format!("progress after round {number}"), more).await
}

async fn sleep_some(chance: &mut Chance, least_ms: u64, more_ms: u64) {
    tokio::time::sleep(Duration::from_millis(least_ms + chance.below(more_ms))).await;
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
