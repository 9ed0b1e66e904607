//! Many seeds: each a run in one thread, several threads at once. What they did is added up; each
//! failure is kept with the command that repeats it.

use std::fmt::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::evidence::Tally;
use crate::faults;
use crate::run::{Length, Report, run};
use crate::trace::lock;

/// Up to so many seeds each gets a line; of more, a line now and then tells how far they are.
const LINES_MAX: u64 = 20;
const PROGRESS_EVERY: u64 = 250;

/// From so many seeds on every kind of fault must have bitten and everything be reached once.
const JUDGED_FROM: u64 = 200;

/// From so many seeds of this length on every fault must also have met everything.
const PAIRS_JUDGED_FROM: u64 = 1_000;
const LONG_BUSY_MS: u64 = 20_000;

/// Failures that are described; of all others the seeds are named.
const FAILURES_SHOWN: usize = 10;

/// What several runs did together.
#[derive(Default)]
struct Sum {
    runs: u64,
    simulated_ms: u64,
    answers: u64,
    grants: u64,
    expiries: u64,
    snapshots: u64,
    crashes: u64,
    leaders: u64,
    slowest_recovery_ms: u64,
    tally: Tally,
    failures: Vec<(u64, String)>,
    /// Of the last run.
    trace_hash: u64,
}

impl Sum {
    fn add(&mut self, report: &Report) {
        self.trace_hash = report.trace_hash;
        self.simulated_ms += report.simulated_ms;
        self.answers += report.counts.answers;
        self.grants += report.counts.grants;
        self.expiries += report.counts.expiries;
        self.snapshots += report.snapshots;
        self.crashes += report.crashes;
        self.leaders += report.leaders;
        self.slowest_recovery_ms = self.slowest_recovery_ms.max(report.slowest_recovery_ms);
        self.tally.add(&report.tally);
        if let Some(complaint) = &report.complaint {
            self.failures.push((report.seed, complaint.clone()));
        }
    }

    fn text(&self) -> String {
        format!(
            "{} seeds, {} failed: {} simulated seconds, {} answers, {} grants, {} expiries, {} \
             snapshots, {} crashes, {} leaders, the slowest of them after {} ms",
            self.runs,
            self.failures.len(),
            self.simulated_ms / 1_000,
            self.answers,
            self.grants,
            self.expiries,
            self.snapshots,
            self.crashes,
            self.leaders,
            self.slowest_recovery_ms
        )
    }
}

/// Which seeds, how long, and in how many threads.
pub(crate) struct Seeds {
    pub(crate) list: Vec<u64>,
    pub(crate) length: Length,
    pub(crate) threads: usize,
}

fn repeat(seed: u64, length: Length) -> String {
    format!(
        "OARLOCK_SEED={seed} OARLOCK_SIM_SECONDS={}..{} cargo test --test sim seeds -- --nocapture",
        length.busy_ms / 1_000,
        length.busy_ms_max / 1_000
    )
}

/// Runs one seed; a panic of the harness or of the product is a complaint, too.
fn attempt(seed: u64, length: Length) -> Result<Report, String> {
    catch_unwind(AssertUnwindSafe(|| run(seed, length))).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        format!("panicked: {}", text.unwrap_or("without a word"))
    })
}

/// Runs all of them, prints what they did, and panics if one failed or too little happened. The hash
/// of the run that ended last.
pub(crate) fn run_all(seeds: &Seeds) -> u64 {
    let (next, sum) = (AtomicU64::new(0), Mutex::new(Sum::default()));
    std::thread::scope(|scope| {
        for _ in 0..seeds.threads {
            scope.spawn(|| work(seeds, &next, &sum));
        }
    });
    let sum = lock(&sum);
    eprintln!("{}\n{}", sum.text(), sum.tally.table());
    let complaints = judge(seeds, &sum);
    assert!(complaints.is_empty(), "{complaints}");
    sum.trace_hash
}

fn work(seeds: &Seeds, next: &AtomicU64, sum: &Mutex<Sum>) {
    loop {
        let at = next.fetch_add(1, Ordering::Relaxed) as usize;
        let Some(seed) = seeds.list.get(at).copied() else { return };
        let outcome = attempt(seed, seeds.length);
        let mut sum = lock(sum);
        sum.runs += 1;
        match &outcome {
            Ok(report) => {
                sum.add(report);
                if seeds.list.len() as u64 <= LINES_MAX {
                    eprintln!("{report}");
                }
                if report.complaint.is_some() && seeds.list.len() == 1 {
                    report.lines.iter().for_each(|line| eprintln!("{line}"));
                }
            }
            Err(why) => sum.failures.push((seed, why.clone())),
        }
        if sum.failures.last().is_some_and(|(failed, _)| *failed == seed) {
            eprintln!("seed {seed} failed; repeat it: {}", repeat(seed, seeds.length));
        }
        if sum.runs.is_multiple_of(PROGRESS_EVERY) {
            eprintln!("{}", sum.text());
        }
    }
}

fn judge(seeds: &Seeds, sum: &Sum) -> String {
    let mut text = String::new();
    for (seed, why) in sum.failures.iter().take(FAILURES_SHOWN) {
        let repeat = repeat(*seed, seeds.length);
        let _infallible = writeln!(text, "seed {seed}: {why}\nrepeat it: {repeat}");
    }
    let others: Vec<u64> =
        sum.failures.iter().skip(FAILURES_SHOWN).map(|(seed, _)| *seed).collect();
    if !others.is_empty() {
        let _infallible = writeln!(text, "and the seeds {others:?}");
    }
    let mut missed = Vec::new();
    let are_long = seeds.length.busy_ms >= LONG_BUSY_MS;
    if sum.runs >= JUDGED_FROM {
        missed.extend(sum.tally.never(faults::kinds(), are_long));
    }
    if sum.runs >= PAIRS_JUDGED_FROM && are_long {
        missed.extend(sum.tally.never_met(faults::kinds()));
    }
    if !missed.is_empty() {
        let _infallible = writeln!(text, "must be reached and was not: {missed:#?}");
    }
    text
}
