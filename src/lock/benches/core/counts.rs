//! Counts of instructions: runs the cases once under callgrind and compares with the baseline.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use crate::cases::NAMES;

/// Above this ratio something became slower. With one compiler on one kind of processor counts stay
/// within one per cent; another one of either moves them further.
const WORSE: f64 = 1.05;

fn baseline_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/core/baseline.txt")
}

/// Prints what each operation costs, and its ratio to the baseline; or writes that.
pub(crate) fn compare(save: bool) -> ExitCode {
    let counts = match count() {
        Ok(counts) => counts,
        Err(why) => {
            eprintln!("{why}");
            return ExitCode::from(2);
        }
    };
    let path = baseline_path();
    // Without a baseline everything is new.
    let text = std::fs::read_to_string(&path).unwrap_or_default();
    let before = read(&text);
    let mut is_worse = false;
    println!("{:<44} {:>12} {:>12} {:>7}", "instructions for one", "now", "baseline", "ratio");
    for ((name, _), now) in NAMES.iter().zip(&counts) {
        let then = before.get(*name).copied();
        let ratio = then.map(|then| ratio(*now, then));
        let worse = ratio.is_some_and(|ratio| ratio > WORSE);
        is_worse |= worse;
        let then = then.map_or_else(|| "-".to_owned(), |then| then.to_string());
        let ratio = ratio.map_or_else(|| "new".to_owned(), |ratio| format!("{ratio:.3}"));
        let mark = if worse { "  WORSE" } else { "" };
        println!("{name:<44} {now:>12} {then:>12} {ratio:>7}{mark}");
    }
    if save {
        if let Err(error) = std::fs::write(&path, written(&counts)) {
            eprintln!("{}: {error}", path.display());
            return ExitCode::from(2);
        }
        println!("written to {}", path.display());
        return ExitCode::SUCCESS;
    }
    ExitCode::from(u8::from(is_worse))
}

#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
fn ratio(now: u64, then: u64) -> f64 {
    now as f64 / then.max(1) as f64
}

/// `name: count`, and comments.
fn read(text: &str) -> BTreeMap<&str, u64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| line.rsplit_once(": "))
        .filter_map(|(n, c)| Some((n, c.parse().ok()?)))
        .collect()
}

fn written(counts: &[u64]) -> String {
    let mut text = "# Instructions for one operation, counted by callgrind; written by `just bench-core-save`.\n\
         # Another compiler or processor moves them a little: save, change, compare on one machine.\n"
        .to_owned();
    for ((name, _), count) in NAMES.iter().zip(counts) {
        let _infallible = writeln!(text, "{name}: {count}");
    }
    text
}

/// For one operation of each case, in their order.
fn count() -> Result<Vec<u64>, String> {
    let program = std::env::current_exe().map_err(|error| format!("find this program: {error}"))?;
    let folder = program.with_file_name(format!("callgrind-{}", std::process::id()));
    std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let counted = run(&program, &folder);
    let _left_in_the_target_folder = std::fs::remove_dir_all(&folder);
    let totals = counted?;
    if totals.len() != NAMES.len() {
        return Err(format!("callgrind told {} cases of {}", totals.len(), NAMES.len()));
    }
    Ok(NAMES.iter().zip(totals).map(|((_, operations), total)| total / operations).collect())
}

/// The counts of each call of `measured`: callgrind collects nothing outside of it, and writes a
/// file after each.
fn run(program: &Path, folder: &Path) -> Result<Vec<u64>, String> {
    eprintln!("counting instructions; this takes some minutes");
    let status = Command::new("valgrind")
        .args(["--tool=callgrind", "--quiet", "--combine-dumps=no"])
        .args(["--toggle-collect=core::measured", "--dump-after=core::measured"])
        .arg(format!("--callgrind-out-file={}", folder.join("out").display()))
        .arg(program)
        .arg("--once")
        .stdin(Stdio::null())
        .status()
        .map_err(|error| format!("valgrind: {error}; install it to count instructions"))?;
    if !status.success() {
        return Err(format!("valgrind ended with {status}"));
    }
    let mut totals = Vec::new();
    for number in 1.. {
        let path = folder.join(format!("out.{number}"));
        let Ok(text) = std::fs::read_to_string(path) else { break };
        if text.contains("Trigger: --dump-after") {
            let total = text.lines().find_map(|line| line.strip_prefix("totals: "));
            let total = total.and_then(|total| total.trim().parse().ok());
            totals.push(total.ok_or("a file of callgrind without its total")?);
        }
    }
    Ok(totals)
}
