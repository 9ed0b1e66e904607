//! `oarlock doctor`: what could go wrong on this machine or in a cluster, each with what to do.
//!
//! Changes nothing but a small file in the data directory, which it removes. Every check is bounded
//! in time, so that a disk or a node that hangs is a finding and not a hanging doctor.

mod certificates;
mod cluster;
mod machine;

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use crate::cli::Failure;
use crate::cli::locks::Target;

const EXAMPLES: &str = "\
Without --config the cluster at the endpoints is examined: who answers, leader, quorum, members,
versions. With --config this machine is, for a node of that configuration, whether it runs or not:
configuration, disk, clocks, limits, certificates, who is asked for an identity, peers.

Every finding is `pass`, `warn` (it works, and something should be done) or `FAIL` (it does not work, or
a promise is at stake), with what to do. Exit code 0 without a failure, 1 with one.

Examples:
  oarlock doctor --config /etc/oarlock/oarlock.toml
  oarlock doctor --endpoint 10.0.0.1:7400,10.0.0.2:7400 --output json";

/// Look for what is wrong, with this machine (--config) or with the cluster, and say what to do
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Doctor {
    /// Examine this machine for the node with this configuration, instead of the cluster
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Pass,
    Warn,
    Fail,
}

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Finding {
    check: &'static str,
    verdict: Verdict,
    found: String,
    /// What to do; nothing where all is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<&'static str>,
}

fn pass(check: &'static str, found: impl Into<String>) -> Finding {
    Finding { check, verdict: Verdict::Pass, found: found.into(), advice: None }
}

fn warn(check: &'static str, found: impl Into<String>, advice: &'static str) -> Finding {
    Finding { check, verdict: Verdict::Warn, found: found.into(), advice: Some(advice) }
}

fn fail(check: &'static str, found: impl Into<String>, advice: &'static str) -> Finding {
    Finding { check, verdict: Verdict::Fail, found: found.into(), advice: Some(advice) }
}

#[derive(Serialize)]
struct Examined {
    findings: Vec<Finding>,
    warnings: usize,
    failures: usize,
}

pub(super) async fn run(target: &Target, of: Doctor) -> Result<(), Failure> {
    let findings = match &of.config {
        Some(path) => machine::examine(path, target.ca()).await,
        None => cluster::examine(target).await,
    };
    let count = |verdict| findings.iter().filter(|it| it.verdict == verdict).count();
    let (warnings, failures) = (count(Verdict::Warn), count(Verdict::Fail));
    let findings = Examined { findings, warnings, failures };
    target.show(&findings, described);
    match failures {
        0 => Ok(()),
        1 => Err(Failure::refused("one check failed")),
        many => Err(Failure::refused(format!("{many} checks failed"))),
    }
}

fn described(findings: &Examined) -> String {
    let mut text = String::new();
    for it in &findings.findings {
        let verdict = match it.verdict {
            Verdict::Pass => "pass",
            Verdict::Warn => "warn",
            Verdict::Fail => "FAIL",
        };
        let _infallible = writeln!(text, "{verdict}  {:<14} {}", it.check, it.found);
        if let Some(advice) = it.advice {
            let _infallible = writeln!(text, "      {:<14} -> {advice}", "");
        }
    }
    text
}
