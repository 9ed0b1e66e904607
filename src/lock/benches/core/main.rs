//! Benches of the core and its bytes: what a command, a row and an entry cost.
//!
//! `cargo bench -p oarlock-core` tells times, for orientation. What regressions are judged by are
//! counts of instructions under callgrind, which repeat exactly with one binary and to within one
//! per cent after a rebuild, as ratios against the committed `baseline.txt`: `-- --counts` compares, `-- --save` writes the baseline anew.
//! `-- --scale` tells what a million sessions cost (`docs/scaling.md`).

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "its figures are for who runs it")]

#[path = "../../../raft/store/codec.rs"]
#[expect(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "the store's module as it is; its frames and tests have no use here"
)]
mod codec;

mod cases;
mod counts;
mod scale;
mod world;

use std::process::ExitCode;

use cases::Case;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |word: &str| arguments.iter().any(|argument| argument == word);
    if has("--once") {
        cases::all(|case| measured(case.work));
        return ExitCode::SUCCESS;
    }
    if has("--counts") || has("--save") {
        return counts::compare(has("--save"));
    }
    if has("--scale") {
        scale::tell();
        return ExitCode::SUCCESS;
    }
    if !has("--bench") {
        // As a test it would only take time: no figure can fail it.
        return ExitCode::SUCCESS;
    }
    println!("times on this machine; `-- --counts` is what repeats");
    cases::all(timed);
    ExitCode::SUCCESS
}

#[expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the core reads no clock, and who times it has to"
)]
fn timed(Case { name, operations, work }: Case<'_>) {
    let began = std::time::Instant::now();
    measured(work);
    let nanos = began.elapsed().as_nanos() / u128::from(operations);
    println!("{name:<44} {nanos:>8} ns");
}

/// What callgrind counts, found by its name: nothing of the preparation.
#[inline(never)]
fn measured(work: &mut dyn FnMut()) {
    work();
}
