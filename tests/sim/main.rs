//! Whole clusters in one thread, from one seed: the real replication, service, core and disk format
//! over a network, disks and clocks that the simulation moves. The same seed is the same run, down
//! to every message; faults come and go while clients work; what must hold is judged apart.
//!
//! ```text
//!  run ─ cluster ─ node: runtime, real parts ── net, disk
//!      ├ clients ──────────┘ └─ applied entries ─┐
//!      └ faults      answers ────────────────────┴─> witness ─> invariants
//! ```
//! A failure prints the command that repeats it. Not simulated: sled (a node starts from snapshot
//! and log), birth, and the surfaces; other tests have those.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::print_stderr,
    reason = "counts are small, and a run reports what it did"
)]

#[cfg(not(tokio_unstable))]
compile_error!(
    "RUSTFLAGS hides .cargo/config.toml: add `--cfg tokio_unstable` to it, under which tokio lets \
     its chance be seeded"
);

mod clients;
mod cluster;
mod disk;
mod faults;
mod invariants;
mod net;
mod node;
mod random;
mod run;
mod trace;
mod witness;

use run::{Report, run};

/// Seeds of the short form.
const SHORT: std::ops::Range<u64> = 1..7;

fn judge(report: &Report) {
    eprintln!("{report}");
    if let Some(complaint) = &report.complaint {
        for line in &report.lines {
            eprintln!("{line}");
        }
        panic!(
            "seed {}: {complaint}\nrepeat it: OARLOCK_SEED={} cargo test --test sim seeds -- --nocapture",
            report.seed, report.seed
        );
    }
}

#[test]
fn the_same_seed_is_the_same_run() {
    let keeps = std::env::var_os("OARLOCK_TRACE").is_some();
    let (first, again) = (run(42, keeps), run(42, keeps));
    if let Some(at) = (0..first.lines.len()).find(|at| first.lines.get(*at) != again.lines.get(*at))
    {
        let around = at.saturating_sub(5)..(at + 3).min(first.lines.len());
        eprintln!("{:#?}\n{:#?}", &first.lines[around.clone()], again.lines.get(around));
    }
    assert_eq!((first.trace_count, first.trace_hash), (again.trace_count, again.trace_hash));
    assert_ne!(first.trace_hash, run(43, false).trace_hash, "another seed is another run");
}

/// One seed with `OARLOCK_SEED=7`, a range with `OARLOCK_SEEDS=1000..2000`, else the short form.
/// `OARLOCK_TRACE` prints the whole trace of a seed that fails.
#[test]
fn seeds() {
    let number = |text: &str| text.trim().parse::<u64>().expect("a number");
    let seeds = match (std::env::var("OARLOCK_SEED"), std::env::var("OARLOCK_SEEDS")) {
        (Ok(seed), _) => number(&seed)..number(&seed) + 1,
        (Err(_), Ok(seeds)) => {
            let (from, upto) = seeds.split_once("..").expect("OARLOCK_SEEDS is FROM..UPTO");
            number(from)..number(upto)
        }
        (Err(_), Err(_)) => SHORT,
    };
    let mut sum = run::Sum::default();
    for seed in seeds {
        let report = run(seed, std::env::var_os("OARLOCK_TRACE").is_some());
        sum.add(&report);
        judge(&report);
    }
    eprintln!("{sum}");
}
