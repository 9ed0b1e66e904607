//! `oarlock-jepsen run`: rounds of faults under clients, and the check of what the clients saw.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use oarlock_jepsen::chance::Chance;
use oarlock_jepsen::checker;
use oarlock_jepsen::history::{Fault, History, Records};
use oarlock_jepsen::report::{self, Heading};
use oarlock_jepsen::workload::{self, Plan, Workload};
use tokio::time::Instant;

use crate::cluster::{self, Cluster, Setup};
use crate::nemesis::{self, Kind};
use crate::network::Network;
use crate::{say, wait_for};

/// Grants that clients must get after each round: one without progress proves nothing.
const GRANTS_PER_ROUND: usize = 20;

/// How long the clients may take to finish what they do: a few calls at their deadlines.
const PATIENCE: Duration = Duration::from_mins(3);

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Rounds of faults, one after the other
    #[arg(long, default_value_t = 10)]
    rounds: u32,
    /// Which faults, whom they hit, and when
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Nodes of the cluster
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(3..=5))]
    nodes: u8,
    /// Kinds of faults to choose from; all that are possible if none is named
    #[arg(long, value_delimiter = ',')]
    faults: Vec<Kind>,
    /// Stay on loopback: no root needed; links are cut by proxies, and clocks are not hours apart
    #[arg(long)]
    loopback: bool,
    /// Where to put report.html and history.edn
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// The node's program; else the one beside this
    #[arg(long)]
    binary: Option<PathBuf>,
}

impl Run {
    /// So many nodes in a network of their own; `None` for loopback.
    pub(crate) fn network_nodes(&self) -> Option<usize> {
        (!self.loopback).then_some(usize::from(self.nodes))
    }

    pub(crate) fn as_arguments(&self) -> String {
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

    /// The kinds that are asked for and possible here; what is left out is said.
    fn kinds(&self, has_orders: bool) -> Result<Vec<Kind>, String> {
        let is_possible = |kind: &Kind| {
            // Segments in memory are no disk; without one the node must be told that it is full.
            let needs_orders = kind.needs_orders() && (*kind != Kind::DiskFull || self.loopback);
            (has_orders || !needs_orders) && (self.loopback || !kind.needs_proxy())
        };
        let all = Kind::value_variants();
        let asked = if self.faults.is_empty() { all } else { &self.faults };
        let (possible, not): (Vec<Kind>, Vec<Kind>) = asked.iter().copied().partition(is_possible);
        if !not.is_empty() {
            say(&format!("left out here: {not:?} (a proof build and a proxy have them)"));
        }
        if possible.is_empty() {
            Err("none of these is possible here".to_owned())
        } else {
            Ok(possible)
        }
    }

    pub(crate) async fn under_faults(&self) -> Result<String, String> {
        let binary = self.binary.clone().map_or_else(crate::beside_this, Ok)?;
        let kinds = self.kinds(cluster::is_for_the_proof(&binary)?)?;
        let nodes = usize::from(self.nodes);
        let network = if self.loopback { None } else { Some(Network::of_this_run(nodes)?) };
        let mut cluster = Cluster::start(Setup {
            binary,
            nodes,
            network,
            small_disks: !self.loopback && kinds.contains(&Kind::DiskFull),
            proxies: kinds.iter().any(|kind| kind.needs_links()),
            seed: self.seed,
            settings: cluster::FAULTY,
        })
        .await?;
        let history = Arc::new(History::default());
        let plan = Plan::of_tests(&cluster.endpoints(), self.seed);
        let workload = Workload::start(&plan, &history);
        let mut rounds = Rounds { kinds, chance: Chance::new(self.seed), began: Instant::now() };
        for number in 1..=self.rounds {
            let told = rounds.next(number, &mut cluster, &history).await?;
            say(&format!("round {number} of {}: {told}", self.rounds));
        }
        workload.stop(PATIENCE).await?;
        workload::every_lock_is_acquirable(&plan).await.map_err(|stuck| stuck.to_string())?;
        cluster.agrees(&plan.locks.names()).await?;
        self.verdict(&history.take(), cluster.lost_bytes, rounds.began.elapsed())
    }

    fn verdict(&self, records: &Records, lost: u64, took: Duration) -> Result<String, String> {
        let verdict = checker::check(records);
        let lost_none = something_was_lost(records, lost);
        let problem = lost_none.as_ref().err().map(String::as_str);
        if let Some(dir) = &self.out {
            let commands = format!("oarlock-jepsen {}", self.as_arguments());
            let title = "oarlock under faults";
            let heading = Heading { title, commands: &commands, verdict: &verdict, problem };
            report::write(dir, &heading, records)?;
        }
        let expiries = report::expiries(records);
        let summary = format!(
            "{} rounds, {} faults, {} operations, {} grants, {} expiries of which {} under faults, {} unknown, \
             {} reads, {lost} bytes lost, {took:.1?}",
            self.rounds,
            records.faults.len(),
            records.operations.len(),
            records.grants(),
            expiries.all,
            expiries.under_faults,
            records.unknown(),
            records.looks(),
        );
        verdict
            .as_result()
            .and(lost_none)
            .map(|()| format!("no violation found: {summary}"))
            .map_err(|violation| format!("{violation}\nafter {summary}"))
    }
}

/// A power cut that never took anything was a kill, whatever it is called.
fn something_was_lost(records: &Records, lost: u64) -> Result<(), String> {
    let cuts = records.faults.iter().filter(|fault| fault.what.contains("power of")).count();
    if cuts > 0 && lost == 0 {
        return Err(format!("{cuts} power cuts lost nothing: they were no fault"));
    }
    Ok(())
}

struct Rounds {
    kinds: Vec<Kind>,
    chance: Chance,
    began: Instant,
}

impl Rounds {
    /// One to three faults that overlap, for the next round.
    fn choose(&mut self) -> Vec<Kind> {
        let mut chosen: Vec<Kind> = Vec::new();
        for tries in 0..3 {
            let below = self.kinds.len() as u64;
            let kind = self.kinds[usize::try_from(self.chance.below(below)).unwrap_or(0)];
            let apart = chosen.iter().all(|other| kind.can_overlap(*other));
            let apart = apart && (chosen.is_empty() || !kind.begins_first());
            if apart && (tries == 0 || self.chance.below(2) == 0) {
                chosen.push(kind);
            }
        }
        chosen
    }

    /// Faults; then everything is whole again and clients went on. Returns what happened.
    async fn next(
        &mut self,
        number: u32,
        cluster: &mut Cluster,
        history: &History,
    ) -> Result<String, String> {
        let (started, before) = (self.began.elapsed(), history.granted());
        self.pause(200, 800).await;
        let mut active = Vec::new();
        for kind in self.choose() {
            let began_at = self.began.elapsed();
            let fault = nemesis::begin(kind, cluster, &mut self.chance).await;
            active.push((fault.map_err(|why| format!("{kind:?} cannot begin: {why}"))?, began_at));
            self.pause(300, 2_500).await;
        }
        let whats: Vec<String> = active.iter().map(|(fault, _)| fault.what.clone()).collect();
        let told = whats.join(" + ");
        let in_round = |why: String| format!("round {number} ({told}): {why}");
        active.sort_by_key(|(fault, _)| fault.ends_late());
        let alone = active.len() == 1;
        for (fault, began_at) in active {
            if nemesis::end(&fault, cluster, alone).await.map_err(in_round)? {
                let ended_at = self.began.elapsed();
                history.fault(Fault { what: fault.what, began_at, ended_at });
            } else {
                say(&format!("{}: nothing was there to be kept, not counted", fault.what));
            }
        }
        cluster.wait_ready().await.map_err(in_round)?;
        let healed = history.granted();
        let more = || history.granted() >= healed + GRANTS_PER_ROUND;
        wait_for(&format!("progress after round {number} ({told})"), more).await?;
        let took = self.began.elapsed().saturating_sub(started);
        Ok(format!("{told}; {} grants in {took:.1?}", history.granted() - before))
    }

    async fn pause(&mut self, least_ms: u64, more_ms: u64) {
        let ms = least_ms + self.chance.below(more_ms);
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }
}
