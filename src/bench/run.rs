//! One run from the first live lock to the last one removed.
//!
//! ```text
//!  live locks -> what clients keep -> warm-up -> [ measured ] -> last answers -> all given back
//! ```

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use oarlock_client as api;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{interval, sleep_until};

use crate::bench::clients::{Client, Run};
use crate::bench::live::{self, Count, Live};
use crate::bench::plan::{Plan, Until, Workload};
use crate::bench::processes;
use crate::bench::report::{Measured, Report, Sample};
use crate::bench::tally::{Timed, micros};
use crate::bench::wire::{Connection, Place, metrics_page};

/// For the metrics of a node; one that does not answer in time is left out.
const METRICS_DEADLINE: Duration = Duration::from_secs(1);
/// How often it looks whether it was stopped.
const LOOK_EVERY: Duration = Duration::from_millis(100);
const SYNCS: &str = "oarlock_fsync_seconds_count ";

/// How a run is stopped from outside, and where it tells how far it is.
pub struct Outside<'a> {
    pub stop: Arc<AtomicBool>,
    pub tell: &'a dyn Fn(&str),
}

/// Runs the plan and cleans up, also when it is stopped or fails.
pub async fn run(plan: &Plan, outside: &Outside<'_>) -> Result<Report, String> {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).map_err(|error| format!("no chance: {error}"))?;
    let prefix: Arc<str> = format!("bench/{:08x}/", u32::from_le_bytes(bytes)).into();
    let before = processes::sample(&plan.pids);
    let (held, created) = create(plan, &prefix, outside).await;
    let growth = before.zip(processes::sample(&plan.pids));
    let result = match created {
        Ok(live_locks) => measure(plan, &prefix, outside).await.map(|part| {
            Measured {
                plan,
                tally: &part.run.tally,
                took: part.took,
                by_client: part.by_client.clone(),
                missed: part.missed,
                before: part.before,
                after: part.after,
                growth,
                live_locks,
            }
            .report()
        }),
        Err(why) => Err(why),
    };
    let left = clean_up(plan, held, &prefix, outside).await;
    match (result, left) {
        (Ok(report), left) => Ok(Report { left_behind: left.err(), ..report }),
        (Err(why), Ok(())) => Err(why),
        (Err(why), Err(left)) => Err(format!("{why}; and {left}")),
    }
}

async fn create(
    plan: &Plan,
    prefix: &Arc<str>,
    outside: &Outside<'_>,
) -> (Live, Result<u64, String>) {
    if plan.live_locks == 0 {
        return (Live::default(), Ok(0));
    }
    let done = Arc::new(Count::default());
    let told = || format!("live locks: {} of {}", done.get(), plan.live_locks);
    let creating = live::create(plan, prefix, &done, &outside.stop);
    let (held, created) = telling(outside, told, creating).await;
    (held, created.map(|()| done.get()))
}

/// Says every second how far something is.
async fn telling<T>(
    outside: &Outside<'_>,
    told: impl Fn() -> String,
    work: impl Future<Output = T>,
) -> T {
    let mut work = std::pin::pin!(work);
    let mut every_second = interval(Duration::from_secs(1));
    every_second.tick().await;
    loop {
        tokio::select! {
            result = &mut work => return result,
            _ = every_second.tick() => (outside.tell)(&told()),
        }
    }
}

async fn clean_up(
    plan: &Plan,
    held: Live,
    prefix: &str,
    outside: &Outside<'_>,
) -> Result<(), String> {
    let (done, count) = (Arc::new(Count::default()), held.count());
    let told = || format!("cleaning up: {} of {count}", done.get());
    let endpoints = plan.endpoints.clone();
    let client = api::Client::new(api::Options {
        endpoints,
        deadline: plan.deadline,
        identity: plan.identity.clone(),
    });
    let cleaning = async {
        held.remove(plan, &done).await;
        live::sweep(&client, prefix).await
    };
    telling(outside, told, cleaning).await
}

/// What measuring gave.
struct Part {
    run: Arc<Run>,
    took: Duration,
    by_client: Vec<u64>,
    missed: Option<u64>,
    before: Sample,
    after: Sample,
}

async fn measure(plan: &Plan, prefix: &Arc<str>, outside: &Outside<'_>) -> Result<Part, String> {
    let (clients, prepared) = prepare(plan, prefix, outside).await;
    if let Err(why) = prepared {
        finish(clients).await;
        return Err(why);
    }
    let run = Arc::new(Run::new(plan, &outside.stop));
    let mut working = JoinSet::new();
    for mut client in clients {
        let run = Arc::clone(&run);
        working.spawn(async move {
            let operations = client.work(&run).await;
            (client, operations)
        });
    }
    let pacing = Arc::clone(&run);
    let paced = spawn_blocking(move || pacing.pacer.as_ref().map(|it| it.run(&pacing.stop)));
    while Instant::now() < run.tally.start && !outside.stop.load(Relaxed) {
        sleep_until(run.tally.start.min(Instant::now() + LOOK_EVERY).into()).await;
    }
    (outside.tell)(&begun(plan));
    let before = sample(plan, true).await;
    let (ended, after, clients, by_client) = watch(plan, &run, working, outside).await;
    finish(clients).await;
    paced.await.map_err(|e| e.to_string())?.unwrap_or(Ok(())).map_err(|e| format!("timer: {e}"))?;
    let missed = count_missed(&run, ended);
    let took = ended.saturating_duration_since(run.tally.start);
    Ok(Part { run, took, by_client, missed, before, after })
}

fn begun(plan: &Plan) -> String {
    match plan.workload {
        Workload::Failover => {
            "measuring: kill the leader now (`oarlock status` tells which node it is)".to_owned()
        }
        Workload::Pairs
        | Workload::Contended
        | Workload::Renew
        | Workload::RenewSessions
        | Workload::Mixed
        | Workload::Names
        | Workload::Idle => "measuring".to_owned(),
    }
}

/// Connects all clients and lets each take what it keeps.
async fn prepare(
    plan: &Plan,
    prefix: &Arc<str>,
    outside: &Outside<'_>,
) -> (Vec<Client>, Result<(), String>) {
    let place = Place::of(plan);
    let count = if plan.workload == Workload::Idle { 0 } else { usize::from(plan.clients) };
    let plan = Arc::new(plan.clone());
    let mut preparing = JoinSet::new();
    for number in 0..count {
        let at = if plan.leader_only { 0 } else { number };
        let connection = Connection::new(&place, at, plan.deadline);
        let mut client = Client::new(number, connection, prefix);
        let plan = Arc::clone(&plan);
        preparing.spawn(async move {
            let result = client.prepare(&plan).await;
            (client, result)
        });
    }
    let done = Count::default();
    let told = || format!("clients: {} of {count} are ready", done.get());
    let all = async {
        let (mut clients, mut result) = (Vec::new(), Ok(()));
        while let Some(prepared) = preparing.join_next().await {
            match prepared {
                Ok((client, Ok(()))) => clients.push(client),
                Ok((client, Err(trouble))) => {
                    clients.push(client);
                    result = Err(trouble.why().to_owned());
                }
                Err(error) => result = Err(error.to_string()),
            }
            done.one_more();
        }
        (clients, result)
    };
    telling(outside, told, all).await
}

async fn finish(clients: Vec<Client>) {
    let mut finishing = JoinSet::new();
    for mut client in clients {
        finishing.spawn(async move { client.finish().await });
    }
    while finishing.join_next().await.is_some() {}
}

/// Waits for the end and for the last answers; when it ended, what things were then, and the
/// clients with their counts.
async fn watch(
    plan: &Plan,
    run: &Arc<Run>,
    mut working: JoinSet<(Client, u64)>,
    outside: &Outside<'_>,
) -> (Instant, Sample, Vec<Client>, Vec<u64>) {
    let all = async {
        let mut ended = (Vec::new(), Vec::new());
        while let Some(joined) = working.join_next().await {
            ended.extend(joined);
        }
        // At rest there is nobody whose end would tell that of the run.
        if plan.workload == Workload::Idle {
            pending::<()>().await;
        }
        ended
    };
    let mut all = std::pin::pin!(all);
    let mut told_s = 0;
    loop {
        let next = Instant::now() + LOOK_EVERY;
        let next = run.end.map_or(next, |end| end.min(next));
        let joined = tokio::select! {
            joined = &mut all => Some(joined),
            () = sleep_until(next.into()) => None,
        };
        let now = Instant::now();
        let is_over = run.end.is_some_and(|end| now >= end) || outside.stop.load(Relaxed);
        if joined.is_some() || is_over {
            let ended = run.end.map_or(now, |end| end.min(now));
            let after = sample(plan, false).await;
            let (clients, by_client) = match joined {
                Some(joined) => joined,
                None if plan.workload == Workload::Idle => (Vec::new(), Vec::new()),
                None => all.await,
            };
            return (ended, after, clients, by_client);
        }
        let since_s = now.saturating_duration_since(run.tally.start).as_secs();
        if since_s > told_s {
            told_s = since_s;
            (outside.tell)(&progress(plan, run, since_s));
        }
    }
}

fn progress(plan: &Plan, run: &Run, since_s: u64) -> String {
    let (done, errors) = (run.tally.done.load(Relaxed), run.tally.errors.load(Relaxed));
    let of = match plan.until {
        Until::Elapsed(time) => format!("{since_s} of {} s, {done} operations", time.as_secs()),
        Until::Operations(all) => format!("{since_s} s, {done} of {all} operations"),
    };
    if errors == 0 { of } else { format!("{of}, {errors} errors") }
}

/// Those that were meant to begin and never did count with the time for which they had waited:
/// else a cluster that falls behind would look the better the further it does.
fn count_missed(run: &Run, ended: Instant) -> Option<u64> {
    let pacer = run.pacer.as_ref()?;
    let what = run.begins_with();
    let mut count = 0;
    for meant in pacer.missed(ended).filter(|meant| *meant >= run.tally.start) {
        count += 1;
        let waited = micros(ended.saturating_duration_since(meant));
        run.tally.latency(what).add(waited);
    }
    Some(count)
}

/// Processes last where measuring begins and first where it ends, so that asking for metrics does
/// not count.
async fn sample(plan: &Plan, is_begin: bool) -> Sample {
    let mut sample = Sample::default();
    if is_begin {
        sample.syncs = syncs(plan).await;
    }
    sample.nodes = processes::sample(&plan.pids);
    sample.own = processes::sample_self();
    if !is_begin {
        sample.syncs = syncs(plan).await;
    }
    sample
}

/// Of all nodes; `None` unless all tell.
async fn syncs(plan: &Plan) -> Option<u64> {
    let mut sum = None;
    for member in &plan.members {
        let page = metrics_page(member, &plan.identity, METRICS_DEADLINE).await?;
        sum = Some(sum.unwrap_or(0) + syncs_on(&page)?);
    }
    sum
}

fn syncs_on(page: &str) -> Option<u64> {
    page.lines().find_map(|line| line.strip_prefix(SYNCS))?.trim().parse().ok()
}

impl Run {
    /// The kind of request that the latency of an operation counts for.
    fn begins_with(&self) -> Timed {
        match self.workload {
            Workload::Renew => Timed::Renew,
            Workload::RenewSessions => Timed::RenewSession,
            Workload::Pairs
            | Workload::Contended
            | Workload::Mixed
            | Workload::Failover
            | Workload::Names
            | Workload::Idle => Timed::Acquire,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::plan::tests::plan;

    #[test]
    fn syncs_are_counted_from_the_page_of_metrics() {
        let page = "# TYPE oarlock_fsync_seconds histogram\noarlock_fsync_seconds_sum 0.5\n\
                    oarlock_fsync_seconds_count 42\noarlock_log_bytes 1\n";
        assert_eq!(syncs_on(page), Some(42));
        assert_eq!(syncs_on("oarlock_log_bytes 1\n"), None);
    }

    #[tokio::test]
    async fn what_never_began_counts_with_the_time_that_it_waited() {
        let plan = Plan { rate_per_s: Some(10), ..plan() };
        let run = Run::new(&plan, &Arc::default());
        let ended = run.tally.start + Duration::from_millis(250);
        assert_eq!(count_missed(&run, ended), Some(3));
        let waited = run.tally.latency(Timed::Acquire);
        assert_eq!((waited.count(), waited.max_us()), (3, 250_000));
        assert_eq!(
            count_missed(&Run::new(&Plan { rate_per_s: None, ..plan }, &Arc::default()), ended),
            None
        );
    }

    #[tokio::test]
    async fn a_cluster_that_is_not_there_is_an_error_and_no_report() {
        let plan = Plan { deadline: Duration::from_millis(200), ..plan() };
        let outside = Outside { stop: Arc::default(), tell: &|_| {} };
        let why = run(&plan, &outside).await.expect_err("nobody listens");
        assert!(why.contains("127.0.0.1:1"), "{why}");
    }
}
