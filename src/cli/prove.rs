//! `oarlock prove`: the clients and the rules of our own fault tests against somebody's own cluster.
//!
//! They work below a prefix that nobody uses while the operator breaks what he likes; then the
//! history is judged. Nothing is left behind, and load and time are bounded.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use oarlock_client::{Client, ClientError};
use oarlock_jepsen::checker::{self, Verdict};
use oarlock_jepsen::history::{History, Records};
use oarlock_jepsen::report::{self, Heading};
use oarlock_jepsen::workload::{self, Locks, Plan, Stuck, Workload};
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use crate::cli::locks::{Target, for_people, ms};
use crate::cli::{Failure, stop_signal};

/// Longest run; a history of it still fits in memory.
const FOR_MAX: Duration = Duration::from_hours(1);
/// Most calls of a run, as its time and rate allow them; each takes about 300 bytes.
const CALLS_MAX: u64 = 2_000_000;
/// Of each call of a client, not counting its wait. Shorter than for people: an answer that comes
/// late says less, and a cut cable shall show.
const CALL_DEADLINE: Duration = Duration::from_secs(5);
/// How long clients may take to finish what they do, with all their calls at their deadlines.
const END_DEADLINE: Duration = Duration::from_mins(2);
/// How long it may take until every lock can be taken after that.
const FREE_DEADLINE: Duration = Duration::from_mins(2);
/// For telling which nodes answer.
const PROBE_DEADLINE: Duration = Duration::from_millis(800);

const EXAMPLES: &str = "\
Cut cables, kill nodes, stop them, fill their disks: while it runs, break whatever your cluster
promises to survive. The clients take, share, renew, queue for and forget locks below a prefix that
nobody uses; each call and its answer is kept, and at the end the rules of oarlock's own fault tests
judge them: no two holders at once, tokens that only grow, no lease ended early, first come first
served, fresh reads, nothing lost. Nothing is left behind. It needs no special rights.

Examples:
  oarlock prove                                  a minute against the nodes on this machine
  oarlock prove --endpoint a:7400,b:7400,c:7400 --for 10m --rate 100 --out report

Exit codes:
  0  no violation found
  1  a violation; the report shows it
  2  it could not be judged: wrong usage, the prefix is in use, nothing was granted, or the cluster
     was not whole again at the end
  3  no node or no leader could be reached at the start; nothing was done
  130  interrupted once more after Ctrl-C had ended the work; nothing is judged";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Prove {
    /// Names of the locks begin with this; no lock may be there yet [default: prove-RANDOM/]
    #[arg(long)]
    prefix: Option<String>,
    /// How long the clients work, at most an hour; Ctrl-C ends it early and judges what there is
    #[arg(long = "for", default_value = "60s", value_parser = humantime::parse_duration, value_name = "TIME")]
    time: Duration,
    /// Clients at once
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(2..=256))]
    clients: u16,
    /// Calls in a second at most, of all clients together
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=5000))]
    rate: u32,
    /// Where to put report.html and history.edn [default: oarlock-prove-RANDOM]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// The end of a run, for scripts.
#[derive(Debug, Serialize)]
struct Summary {
    /// `ok`, `violation` or `unknown`.
    verdict: &'static str,
    why: Option<String>,
    seconds: f64,
    calls: usize,
    unknown: usize,
    grants: usize,
    expiries: usize,
    longest_outage_ms: u64,
    report: String,
    history: String,
}

pub(super) async fn run(target: &Target, prove: Prove) -> Result<(), Failure> {
    let run = random()?;
    let plan = prove.plan(target, run)?;
    is_unused(target, &plan).await?;
    let history = Arc::new(History::default());
    let workload = Workload::start(&plan, &history);
    note(&format!("{} clients work below {}", plan.clients, plan.locks.prefix()));
    let mut end = Box::pin(stop_signal());
    tokio::select! {
        () = sleep(prove.time) => {}
        () = &mut end => note("ending early"),
        () = tell_progress(&workload, &history, target) => {}
    }
    let client = target.client();
    let prefix = plan.locks.prefix();
    let finished = unless(stop_signal(), finish(workload, &plan, &client)).await;
    let problem = finished.ok_or_else(|| {
        Failure::interrupted(format!(
            "interrupted: nothing is judged, and not all is cleaned up. Below {prefix} leases run out \
             by themselves and values stay: look with `oarlock list {prefix}`"
        ))
    })?;
    note("judging; Ctrl-C ends it without a verdict");
    let out = prove.out.clone().unwrap_or_else(|| format!("oarlock-prove-{run:08x}").into());
    let commands = prove.commands(&plan);
    let records = history.take();
    let left = left_behind(problem.as_ref(), prefix);
    // A thread of its own, which ends with the process: judging asks nobody whether it may go on.
    let judging = tokio::task::spawn_blocking(move || judge(&records, problem, &out, &commands));
    let judged = unless(stop_signal(), judging).await;
    let judged = judged.ok_or_else(|| {
        Failure::interrupted(format!("interrupted while judging: nothing is judged, {left}"))
    })?;
    let summary = judged.map_err(|error| Failure::usage(format!("judge: {error}")))??;
    target.show(&summary, text);
    let why = || summary.why.clone().unwrap_or_default();
    match summary.verdict {
        "ok" => Ok(()),
        "violation" => Err(Failure::refused(why())),
        _ => Err(Failure::usage(why())),
    }
}

impl Prove {
    fn plan(&self, target: &Target, run: u64) -> Result<Plan, Failure> {
        if self.time > FOR_MAX || self.time < Duration::from_secs(1) {
            return Err(Failure::usage("--for is at least a second and at most an hour"));
        }
        if self.time.as_secs() * u64::from(self.rate) > CALLS_MAX {
            return Err(Failure::usage(format!(
                "more than {CALLS_MAX} calls would not fit in memory: a lower --rate, or less --for"
            )));
        }
        let prefix = self.prefix.clone().unwrap_or_else(|| format!("prove-{run:08x}/"));
        if prefix.trim_matches('/').is_empty() {
            return Err(Failure::usage(
                "--prefix must name a place of its own, as in scratch/prove/",
            ));
        }
        Ok(Plan {
            endpoints: target.addresses(),
            identity: target.identity(),
            locks: Locks::new(&prefix, self.clients),
            clients: self.clients,
            rate: Some(self.rate),
            seed: run,
            deadline: CALL_DEADLINE,
        })
    }

    fn commands(&self, plan: &Plan) -> String {
        format!(
            "oarlock prove --endpoint {} --for {} --clients {} --rate {}\n\
             oarlock status --endpoint {}\n\
             oarlock history LOCK    (a lock of the picture: who held it, and how that ended)",
            plan.endpoints.join(","),
            for_people(ms(self.time)),
            self.clients,
            self.rate,
            plan.endpoints.join(",")
        )
    }
}

fn random() -> Result<u64, Failure> {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).map_err(|error| Failure::usage(format!("no chance: {error}")))?;
    Ok(u64::from(u32::from_le_bytes(bytes)))
}

/// Nobody else's locks are touched, and none is judged by rules that it does not know of.
async fn is_unused(target: &Target, plan: &Plan) -> Result<(), Failure> {
    let (client, prefix) = (target.client(), plan.locks.prefix());
    for name in plan.locks.names().iter().take(1) {
        if let Err(ClientError::Refused(problem)) = client.inspect(name, false).await {
            return Err(Failure::usage(format!("--prefix: {}", problem.detail)));
        }
    }
    let found = client.list(prefix, 1, None).await?;
    let Some(lock) = found.locks.first() else { return Ok(()) };
    Err(Failure::usage(format!(
        "the prefix {prefix} is in use, there is {}: choose another --prefix, or none",
        lock.lock
    )))
}

/// What the work comes to, unless the stop comes first.
async fn unless<T>(stop: impl Future<Output = ()>, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        done = work => Some(done),
        () = stop => None,
    }
}

/// What is there below the prefix when the clients have ended.
fn left_behind(problem: Option<&Stuck>, prefix: &str) -> String {
    match problem {
        None => format!("and nothing is left below {prefix}"),
        Some(stuck) => format!("and not all below {prefix} is cleaned up: {stuck}"),
    }
}

/// Ends the clients and leaves nothing behind; says what went wrong with that.
async fn finish(workload: Workload, plan: &Plan, client: &Client) -> Option<Stuck> {
    if let Err(why) = workload.stop(END_DEADLINE).await {
        return Some(Stuck::Unreachable(why));
    }
    note("every lock is taken once more and released");
    let free = timeout(FREE_DEADLINE, workload::every_lock_is_acquirable(plan)).await;
    match free {
        Err(_) => {
            let why = format!("the locks could not all be taken within {FREE_DEADLINE:?}");
            return Some(Stuck::Unreachable(why));
        }
        Ok(Err(stuck)) => return Some(stuck),
        Ok(Ok(())) => {}
    }
    match client.list(plan.locks.prefix(), 1, None).await {
        Ok(page) => page.locks.first().map(|lock| {
            Stuck::Held(format!("{} is still there, though everything was released", lock.lock))
        }),
        Err(error) => Some(Stuck::Unreachable(error.to_string())),
    }
}

fn judge(
    records: &Records,
    problem: Option<Stuck>,
    out: &std::path::Path,
    commands: &str,
) -> Result<Summary, Failure> {
    let verdict = checker::check(records);
    let stuck = problem.as_ref().map(ToString::to_string);
    let title = "oarlock prove";
    let heading = Heading { title, commands, verdict: &verdict, problem: stuck.as_deref() };
    report::write(out, &heading, records).map_err(Failure::usage)?;
    let (word, why) = outcome(&verdict, problem);
    let took = records.operations.iter().map(|operation| operation.returned_at).max();
    let path = |name: &str| out.join(name).display().to_string();
    Ok(Summary {
        verdict: word,
        why,
        seconds: took.unwrap_or_default().as_secs_f64(),
        calls: records.operations.len(),
        unknown: records.unknown(),
        grants: records.grants(),
        expiries: report::expiries(records).all,
        longest_outage_ms: ms(records.longest_gap()),
        report: path("report.html"),
        history: path("history.edn"),
    })
}

/// A violation is told before anything that could not be judged.
fn outcome(verdict: &Verdict, problem: Option<Stuck>) -> (&'static str, Option<String>) {
    let violation = verdict.violation().map(str::to_owned);
    let unknown = verdict.unknown().map(str::to_owned);
    match (violation, problem, unknown) {
        (Some(why), ..) | (None, Some(Stuck::Held(why)), _) => ("violation", Some(why)),
        (None, Some(Stuck::Unreachable(why)), _) | (None, None, Some(why)) => {
            ("unknown", Some(why))
        }
        (None, None, None) => ("ok", None),
    }
}

fn text(summary: &Summary) -> String {
    let verdict = match summary.verdict {
        "ok" => "no violation found",
        "violation" => "VIOLATION",
        _ => "not judged",
    };
    format!(
        "{verdict}: {:.0} s, {} calls, {} of unknown outcome, {} grants, {} expiries, at most {} \
         without a grant\nreport  {}\nhistory {}\n",
        summary.seconds,
        summary.calls,
        summary.unknown,
        summary.grants,
        summary.expiries,
        for_people(summary.longest_outage_ms),
        summary.report,
        summary.history
    )
}

/// One line a second, for ever.
async fn tell_progress(workload: &Workload, history: &History, target: &Target) {
    let endpoints = target.addresses();
    let mut probes: BTreeMap<&String, Arc<Client>> = BTreeMap::new();
    for endpoint in &endpoints {
        probes.insert(endpoint, Arc::new(target.client_at(endpoint, PROBE_DEADLINE)));
    }
    let began = Instant::now();
    let mut longest = Duration::ZERO;
    let mut every_second = interval(Duration::from_secs(1));
    every_second.set_missed_tick_behavior(MissedTickBehavior::Skip);
    every_second.tick().await;
    loop {
        every_second.tick().await;
        let nodes = who_answers(&probes).await;
        let counts = history.counts();
        let gap = workload.now().saturating_sub(history.last_grant_at().unwrap_or_default());
        longest = longest.max(gap);
        note(&format!(
            "{:>4} s  {} calls  {} grants  {} left to expire  {} unknown  longest without a grant \
             {:.1} s  {nodes}",
            began.elapsed().as_secs(),
            counts.operations,
            counts.grants,
            counts.left,
            counts.unknown,
            longest.as_secs_f64()
        ));
    }
}

/// Which endpoints answer that they are ready, and who leads.
async fn who_answers(probes: &BTreeMap<&String, Arc<Client>>) -> String {
    let mut asked = JoinSet::new();
    for (endpoint, client) in probes {
        let (endpoint, client) = ((*endpoint).clone(), Arc::clone(client));
        asked.spawn(async move { (endpoint, client.cluster().await) });
    }
    let mut silent: Vec<String> = Vec::new();
    let mut leader = None;
    while let Some(Ok((endpoint, answer))) = asked.join_next().await {
        match answer {
            Ok(cluster) if cluster.ready => leader = leader.max(cluster.leader_id),
            Ok(_) | Err(_) => silent.push(endpoint),
        }
    }
    silent.sort();
    let leader = leader.map_or("nobody leads".to_owned(), |id| format!("node {id} leads"));
    if silent.is_empty() {
        return format!("all nodes answer, {leader}");
    }
    format!("not {}, {leader}", silent.join(", "))
}

fn note(text: &str) {
    let _closed_pipe = writeln!(std::io::stderr(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn judging_ends_when_it_is_interrupted() {
        let (goes_on, waits) = std::sync::mpsc::sync_channel::<()>(1);
        let judging = tokio::task::spawn_blocking(move || waits.recv().is_ok());
        assert!(unless(std::future::ready(()), judging).await.is_none(), "it did not wait for it");
        drop(goes_on);
        assert_eq!(unless(std::future::pending(), std::future::ready(7)).await, Some(7));
    }

    #[test]
    fn whoever_interrupts_learns_what_is_left() {
        assert!(left_behind(None, "scratch/").contains("nothing is left below scratch/"));
        let stuck = Stuck::Unreachable("no leader".to_owned());
        let left = left_behind(Some(&stuck), "scratch/");
        assert!(left.contains("scratch/") && left.contains("no leader"), "{left}");
    }
}
