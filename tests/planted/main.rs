//! Bugs put in on purpose, each run against the layer that has to notice it. One that survives, or
//! that dies of something else, fails the job; so does a layer that complains without any bug.
//!
//! ```text
//!  cases ── bug, promise, layer ──> layers ── a process with the bug ──> its verdict ──> the table
//! ```
//! `OARLOCK_BUGS=10` runs the first ten of the short form, `OARLOCK_BUGS=VoteBeforeSync,OutagesCount`
//! those named; without it all are run, and also looked at by the golden scripts and the naive
//! model. The table that it prints is the one in `docs/testing.md`.

#![expect(clippy::print_stderr, clippy::print_stdout, reason = "this is what it is for")]

mod cases;
mod layers;

use std::collections::{BTreeMap, VecDeque};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use oarlock_core::planted::Bug;

use cases::{CASES, Case, Layer, SHORT};
use layers::{Binaries, EVERYWHERE, Fate, also_seen_by};

fn main() -> ExitCode {
    match prove() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("planted: {why}");
            ExitCode::FAILURE
        }
    }
}

/// One row of the table.
struct Row {
    case: &'static Case,
    fate: Fate,
    also: Vec<&'static str>,
    seconds: u64,
}

fn prove() -> Result<(), String> {
    let wanted = std::env::var("OARLOCK_BUGS").ok().filter(|wanted| !wanted.is_empty());
    let chosen = choose(wanted.as_deref())?;
    every_bug_has_a_case()?;
    let looks_further = wanted.is_none();
    let mut layers: Vec<Layer> = chosen.iter().map(|case| case.layer).collect();
    layers.extend(EVERYWHERE.into_iter().filter(|_| looks_further));
    let binaries = Binaries::build(&layers)?;
    nothing_is_wrong_without_a_bug(&chosen, &binaries)?;
    let rows = Mutex::new(Vec::new());
    let left = Mutex::new(VecDeque::from(chosen));
    at_once(|| {
        while let Some(case) = take(&left) {
            let began = Instant::now();
            let fate = case.layer.meets(case.bug, &binaries);
            let seconds = began.elapsed().as_secs();
            let also = if looks_further { also_seen_by(case.bug, &binaries) } else { Vec::new() };
            let row = Row { case, fate, also, seconds };
            eprintln!("{}", line(&row));
            rows.lock().unwrap_or_else(PoisonError::into_inner).push(row);
        }
    });
    let mut rows = rows.into_inner().unwrap_or_else(PoisonError::into_inner);
    rows.sort_by_key(|row| CASES.iter().position(|case| case.bug == row.case.bug));
    println!("| bug | promise | defect | killed by | it took | also seen by | seconds |");
    println!("|---|---|---|---|---|---|---|");
    for row in &rows {
        println!("{}", line(row));
    }
    let survivors: Vec<String> = rows.iter().filter_map(survivor).collect();
    if survivors.is_empty() {
        println!("{} planted bugs, all killed", rows.len());
        return Ok(());
    }
    Err(format!("{} of {} survived\n{}", survivors.len(), rows.len(), survivors.join("\n")))
}

/// The cases that are asked for.
fn choose(wanted: Option<&str>) -> Result<Vec<&'static Case>, String> {
    let of = |bug: &Bug| CASES.iter().find(|case| case.bug == *bug);
    let Some(wanted) = wanted else { return Ok(CASES.iter().collect()) };
    if let Ok(count) = wanted.parse::<usize>() {
        let rest = CASES.iter().map(|case| case.bug).filter(|bug| !SHORT.contains(bug));
        let all: Vec<Bug> = SHORT.into_iter().chain(rest).collect();
        return Ok(all.iter().take(count).filter_map(of).collect());
    }
    let named = |name: &str| {
        let case = CASES.iter().find(|case| format!("{:?}", case.bug) == name);
        case.ok_or_else(|| format!("no planted bug is called {name:?}"))
    };
    wanted.split(',').map(|name| named(name.trim())).collect()
}

/// A bug without a case would never be run, and one with two would be counted twice.
fn every_bug_has_a_case() -> Result<(), String> {
    let mut cases: BTreeMap<String, usize> = BTreeMap::new();
    for case in CASES {
        *cases.entry(format!("{:?}", case.bug)).or_default() += 1;
    }
    let named = Bug::ALL.iter().map(|bug| format!("{bug:?}"));
    let wrong: Vec<String> = named.filter(|bug| cases.get(bug) != Some(&1)).collect();
    if wrong.is_empty() { Ok(()) } else { Err(format!("not one case each: {wrong:?}")) }
}

/// A layer that complains anyway proves nothing.
fn nothing_is_wrong_without_a_bug(
    chosen: &[&'static Case],
    binaries: &Binaries,
) -> Result<(), String> {
    let layers: BTreeMap<String, &Case> =
        chosen.iter().map(|case| (case.layer.tests_named(), *case)).collect();
    let left = Mutex::new(VecDeque::from_iter(layers));
    let wrong = Mutex::new(Vec::new());
    at_once(|| {
        while let Some((name, case)) = take(&left) {
            let verdict = case.layer.is_clean(binaries);
            eprintln!("no bug, {name}: {}", if verdict.is_ok() { "green" } else { "red" });
            if let Err(why) = verdict {
                wrong.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{name}: {why}"));
            }
        }
    });
    let wrong = wrong.into_inner().unwrap_or_else(PoisonError::into_inner);
    if wrong.is_empty() { Ok(()) } else { Err(format!("without a bug:\n{}", wrong.join("\n"))) }
}

/// Does the same on all processors.
fn at_once(work: impl Fn() + Sync) {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(&work);
        }
    });
}

fn take<T>(left: &Mutex<VecDeque<T>>) -> Option<T> {
    left.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
}

fn line(row: &Row) -> String {
    let (what, took) = (
        row.case.bug.what().trim_end_matches('.'),
        match &row.fate {
            Fate::Killed(by) => by.clone(),
            Fate::Survived(_) => "**survived**".to_owned(),
        },
    );
    let (case, also) = (row.case, row.also.join(", "));
    format!(
        "| `{:?}`: {what} | {} | {} | {} | {took} | {also} | {} |",
        case.bug,
        case.promise,
        case.row,
        case.layer.name(),
        row.seconds
    )
}

fn survivor(row: &Row) -> Option<String> {
    match &row.fate {
        Fate::Killed(_) => None,
        Fate::Survived(why) => Some(format!("{:?}: {why}", row.case.bug)),
    }
}
