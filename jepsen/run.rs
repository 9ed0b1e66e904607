//! `oarlock-jepsen run`: rounds of faults under clients, and the check of what the clients saw.

use std::collections::BTreeMap;
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
use crate::coverage;
use crate::nemesis::{self, Kind};
use crate::network::Network;
use crate::{say, wait_for};

/// Grants that clients must get after each round: one without progress proves nothing.
const GRANTS_PER_ROUND: usize = 20;

/// Machines beside those of the members, for nodes that join.
const SPARES: usize = 1;

/// A kind of fault that was begun so often and never did anything is none.
const BEGUN_JUDGED_FROM: u64 = 4;

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
    /// So many machines in a network of their own; `None` for loopback.
    pub(crate) fn network_machines(&self) -> Option<usize> {
        (!self.loopback).then_some(usize::from(self.nodes) + SPARES)
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

    /// The kinds that are asked for and possible here. Of all kinds some are left out, which is
    /// said; one that is named must be possible.
    fn kinds(&self, has_orders: bool) -> Result<Vec<Kind>, String> {
        let is_possible = |kind: &Kind| {
            // Segments in memory are no disk; without one the node must be told that it is full.
            let needs_orders = kind.needs_orders() && (*kind != Kind::DiskFull || self.loopback);
            (has_orders || !needs_orders) && (self.loopback || !kind.needs_proxy())
        };
        let all = Kind::value_variants();
        let asked = if self.faults.is_empty() { all } else { &self.faults };
        let (possible, not): (Vec<Kind>, Vec<Kind>) = asked.iter().copied().partition(is_possible);
        if !not.is_empty() && !self.faults.is_empty() {
            return Err(format!(
                "not possible here: {not:?} (a proof build and a proxy have them)"
            ));
        }
        if !not.is_empty() {
            say(&format!("left out here: {not:?} (a proof build and a proxy have them)"));
        }
        Ok(possible)
    }

    pub(crate) async fn under_faults(&self) -> Result<String, String> {
        let binary = self.binary.clone().map_or_else(crate::beside_this, Ok)?;
        let kinds = self.kinds(cluster::is_for_the_proof(&binary)?)?;
        let nodes = usize::from(self.nodes);
        let network = self.network_machines().map(Network::of_this_run).transpose()?;
        let mut cluster = Cluster::start(Setup {
            binary,
            nodes,
            spares: if kinds.contains(&Kind::Members) { SPARES } else { 0 },
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
        let mut rounds = Rounds::new(kinds, self.seed);
        // Whatever fails, what the clients saw is judged and kept.
        let worked = self.all_rounds(&mut rounds, &mut cluster, &history).await;
        let stopped = workload.stop(PATIENCE).await;
        let mut ended = worked.and(stopped);
        if ended.is_ok() {
            ended = come_to_rest(&cluster, &plan).await;
        }
        let records = history.take();
        let ended = ended.and_then(|()| coverage::judge(&records, self.rounds));
        let told = format!(
            "{}, {} bytes lost, {:.1?}",
            rounds.begun_and_bit(),
            cluster.lost_bytes,
            rounds.began.elapsed()
        );
        self.verdict(&records, ended, &told)
    }

    async fn all_rounds(
        &self,
        rounds: &mut Rounds,
        cluster: &mut Cluster,
        history: &History,
    ) -> Result<(), String> {
        for number in 1..=self.rounds {
            let told = rounds.next(number, cluster, history).await?;
            say(&format!("round {number} of {}: {told}", self.rounds));
        }
        rounds.each_kind_bit()
    }

    /// Judges the history, and tells that together with what failed besides.
    fn verdict(
        &self,
        records: &Records,
        ended: Result<(), String>,
        told: &str,
    ) -> Result<String, String> {
        let verdict = checker::check(records);
        let problem = ended.as_ref().err().map(String::as_str);
        if let Some(dir) = &self.out {
            let commands = format!("oarlock-jepsen {}", self.as_arguments());
            let title = "oarlock under faults";
            let heading = Heading { title, commands: &commands, verdict: &verdict, problem };
            report::write(dir, &heading, records)?;
        }
        let expiries = report::expiries(records);
        let summary = format!(
            "{} rounds, {} faults, {} operations, {} grants, {} expiries of which {} under faults, {} unknown, \
             {} reads, {told}",
            self.rounds,
            records.faults.len(),
            records.operations.len(),
            records.grants(),
            expiries.all,
            expiries.under_faults,
            records.unknown(),
            records.looks(),
        );
        match (verdict.as_result(), ended) {
            (Ok(()), Ok(())) => Ok(format!("no violation found: {summary}")),
            (Err(why), Ok(())) | (Ok(()), Err(why)) => Err(format!("{why}\nafter {summary}")),
            (Err(why), Err(also)) => Err(format!("{why}\nand {also}\nafter {summary}")),
        }
    }
}

/// Nothing is done any more: all nodes know the same, and every lock can be taken.
async fn come_to_rest(cluster: &Cluster, plan: &Plan) -> Result<(), String> {
    let names = plan.locks.names();
    cluster.agrees_with_holders(&names).await?;
    workload::every_lock_is_acquirable(plan).await.map_err(|stuck| stuck.to_string())?;
    cluster.agrees(&names).await
}

struct Rounds {
    kinds: Vec<Kind>,
    chance: Chance,
    began: Instant,
    /// Faults of each kind that were begun, and those that left evidence.
    counts: BTreeMap<String, (u64, u64)>,
}

impl Rounds {
    fn new(kinds: Vec<Kind>, seed: u64) -> Self {
        Self { kinds, chance: Chance::new(seed), began: Instant::now(), counts: BTreeMap::new() }
    }

    fn count(&mut self, kind: Kind, bit: bool) {
        let name = kind.to_possible_value().map(|value| value.get_name().to_owned());
        let (begun, bitten) = self.counts.entry(name.unwrap_or_default()).or_default();
        *begun += 1;
        *bitten += u64::from(bit);
    }

    fn begun_and_bit(&self) -> String {
        let each =
            self.counts.iter().map(|(kind, (begun, bit))| format!("{kind} {bit} of {begun}"));
        format!("bit: {}", each.collect::<Vec<_>>().join(", "))
    }

    fn each_kind_bit(&self) -> Result<(), String> {
        let idle =
            |(_, (begun, bit)): &(&String, &(u64, u64))| *begun >= BEGUN_JUDGED_FROM && *bit == 0;
        match self.counts.iter().find(idle) {
            Some((kind, (begun, _))) => {
                Err(format!("{kind} was begun {begun} times and did nothing"))
            }
            None => Ok(()),
        }
    }

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
        active.sort_by_key(|(fault, _)| fault.end());
        let alone = active.len() == 1;
        for (mut fault, began_at) in active {
            let bit = nemesis::end(&mut fault, cluster, alone).await.map_err(in_round)?;
            self.count(fault.kind(), bit);
            if bit {
                let ended_at = self.began.elapsed();
                history.fault(Fault { what: fault.what, began_at, ended_at });
            } else {
                say(&format!("{}: nothing was there for it, not counted", fault.what));
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
