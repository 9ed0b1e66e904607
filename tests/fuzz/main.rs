//! Hostile bytes for every decoder: each input of the corpus, then inputs made from it.
//!
//! The targets are functions of bytes that panic when something is wrong; this harness changes the
//! corpus at random without looking at coverage, which needs nothing but the toolchain.
//! `OARLOCK_FUZZ_RUNS` says how many inputs each target gets, or `OARLOCK_FUZZ_SECONDS` for how long,
//! and `OARLOCK_FUZZ_SEED` which. A failure
//! writes its input to a file and prints the command that runs just that one. Each target takes bytes
//! and nothing else, so that a fuzzer that is guided by coverage can drive it as well.

#![expect(clippy::print_stderr, reason = "a run says how much it tried")]

mod files;
#[path = "fuzz_targets/mod.rs"]
mod fuzz_targets;
mod mutate;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fuzz_targets::{codec, config, http, image, log, names, peers, snapshot};
use mutate::Chance;

/// Inputs for each target; some seconds in all.
const RUNS: u64 = 2_000;
const SEED: u64 = 1;

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().expect("a number"))
}

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target);
    let entries = fs::read_dir(&folder).expect("a corpus");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an input").path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).expect("an input")).collect()
}

fn one(target: &str, run: fn(&[u8]), input: &[u8]) {
    if catch_unwind(AssertUnwindSafe(|| run(input))).is_ok() {
        return;
    }
    let path = std::env::temp_dir().join(format!("oarlock-fuzz-{target}-{}", std::process::id()));
    fs::write(&path, input).expect("the input is kept");
    let path = path.display();
    panic!("{target} failed; again: OARLOCK_FUZZ_INPUT={path} cargo test --test fuzz {target}");
}

/// Runs a target over the corpus and what becomes of it; `seeds` adds inputs that no file holds.
fn fuzz(target: &str, run: fn(&[u8]), seeds: Vec<Vec<u8>>) {
    if let Some(path) = std::env::var_os("OARLOCK_FUZZ_INPUT") {
        return run(&fs::read(path).expect("the input"));
    }
    let mut inputs = corpus(target);
    inputs.extend(seeds);
    assert!(!inputs.is_empty(), "{target} has nothing to begin with");
    for input in &inputs {
        one(target, run, input);
    }
    let mut chance = Chance::new(number("OARLOCK_FUZZ_SEED", SEED));
    let seconds =
        std::env::var_os("OARLOCK_FUZZ_SECONDS").map(|_| number("OARLOCK_FUZZ_SECONDS", 0));
    let (begun, mut runs) = (Instant::now(), 0);
    let goes_on = |runs: u64| match seconds {
        Some(seconds) => begun.elapsed() < Duration::from_secs(seconds),
        None => runs < number("OARLOCK_FUZZ_RUNS", RUNS),
    };
    while goes_on(runs) {
        one(target, run, &chance.mutant(&inputs));
        runs += 1;
    }
    eprintln!("{target}: {runs} inputs in {:.1?}", begun.elapsed());
}

#[test]
fn http_requests() {
    fuzz("http", http::run, Vec::new());
}

#[test]
fn names_in_paths() {
    fuzz("names", names::run, Vec::new());
}

#[test]
fn configurations() {
    fuzz("config", config::run, vec![include_bytes!("../../cluster/sample.toml").to_vec()]);
}

#[test]
fn codec_frames_and_entries() {
    fuzz("codec", codec::run, codec::seeds());
}

#[test]
fn log_segments() {
    fuzz("log", log::run, log::seeds());
}

#[test]
fn images() {
    fuzz("image", image::run, image::seeds());
}

#[test]
fn snapshots() {
    fuzz("snapshot", snapshot::run, snapshot::seeds());
}

#[test]
fn messages_of_peers() {
    fuzz("peers", peers::run, peers::seeds());
}
