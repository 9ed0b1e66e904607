//! `oarlock bench` against a cluster of real processes: every workload for a moment, what its JSON
//! says, what it leaves behind, and what it refuses. No figure is judged: machines are slow.

use std::fs;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::cluster::{Cluster, eventually};

fn bench(cluster: &Cluster, arguments: &[&str]) -> Command {
    let endpoints: Vec<&str> = cluster.nodes.iter().map(|node| node.api.as_str()).collect();
    let mut command = Command::new(env!("CARGO_BIN_EXE_oarlock"));
    command.arg("bench").args(arguments).env("OARLOCK_ENDPOINTS", endpoints.join(","));
    command.stdin(Stdio::null());
    command
}

fn run(cluster: &Cluster, arguments: &[&str]) -> Output {
    bench(cluster, arguments).output().expect("it runs")
}

/// A short run; its report and its progress.
fn report(cluster: &Cluster, arguments: &[&str]) -> (Value, String) {
    let common = ["--output", "json", "--clients", "4", "--timeout", "60s"];
    let output = run(cluster, &[common.as_slice(), arguments].concat());
    let progress = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{arguments:?}: {progress}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON and nothing else");
    assert_eq!(report["errors"], 0, "{report}");
    assert!(report.get("left_behind").is_none(), "{report}");
    (report, progress)
}

fn locks(cluster: &Cluster) -> usize {
    let page = cluster.insist("GET", "/v1/locks?prefix=bench/", "");
    page.body["locks"].as_array().expect("locks").len()
}

fn sessions(cluster: &Cluster) -> String {
    let leader = cluster.api(cluster.leader(None));
    let page = Command::new("curl").args(["-s", &format!("http://{leader}/metrics")]).output();
    let page = String::from_utf8_lossy(&page.expect("curl runs").stdout).into_owned();
    let line = page.lines().find_map(|line| line.strip_prefix("oarlock_sessions "));
    line.expect("it is told").to_owned()
}

#[test]
fn every_workload_runs_tells_its_cost_and_leaves_nothing_behind() {
    let cluster = Cluster::start();
    for (workload, kinds) in [
        ("pairs", &["acquire", "release"][..]),
        ("contended", &["acquire", "release", "hand_over"]),
        ("renew", &["renew"]),
        ("renew-sessions", &["renew_session"]),
        ("mixed", &["acquire", "release", "renew", "renew_session", "read"]),
        ("failover", &["acquire", "release"]),
        ("names", &["acquire", "release"]),
    ] {
        // By their number: of so many, one client meets all kinds of the mixture on any machine.
        let (report, progress) = report(&cluster, &["--workload", workload, "--operations", "60"]);
        assert_eq!((&report["workload"], &report["clients"]), (&workload.into(), &4.into()));
        assert_eq!(report["operations"], 60, "{report}");
        for kind in kinds {
            let latency = &report["latency"][kind];
            let percentiles = ["p50_us", "p90_us", "p99_us", "p99_9_us", "p99_99_us", "max_us"];
            let us = percentiles.map(|name| latency[name].as_u64().expect(name));
            assert!(us[0] > 0 && us.is_sorted(), "{workload} {kind}: {us:?}");
        }
        let nodes = &report["nodes"];
        assert_eq!(nodes["processes"], 3, "they were found by their ports: {report}");
        assert!(nodes["cpu_s_per_10000"].is_f64() && nodes["memory_mib"].as_f64() > Some(1.0));
        assert!(report["syncs_per_s"].as_f64() > Some(0.0), "{report}");
        assert!(report["longest_gap_ms"].as_f64() > Some(0.0), "{report}");
        assert!(progress.contains("measuring"), "{progress}");
        assert_eq!((locks(&cluster), sessions(&cluster)), (0, "0".to_owned()), "{workload}");
    }
    let (idle, _) =
        report(&cluster, &["--workload", "idle", "--duration", "500ms", "--warmup", "0s"]);
    assert_eq!((&idle["operations"], &idle["latency"]), (&0.into(), &serde_json::json!({})));
    assert!(idle["nodes"]["cpu_cores"].is_f64(), "{idle}");
}

#[test]
fn live_locks_are_held_while_others_are_measured_and_given_back() {
    let cluster = Cluster::start();
    for in_sessions in [&[][..], &["--live-in-sessions"]] {
        let arguments = [&["--live", "2500", "--duration", "5s"], in_sessions].concat();
        let common = ["--clients", "2", "--output", "json"];
        let child = bench(&cluster, &[common.as_slice(), &arguments].concat())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("it runs");
        eventually("they are held", || {
            let page = cluster.get(1, "/v1/locks?prefix=bench/&limit=1000").ok()?;
            (page.body["locks"].as_array()?.len() == 1_000).then_some(())
        });
        let output = child.wait_with_output().expect("it ends");
        let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
        assert_eq!((&report["live_locks"], &report["errors"]), (&2_500.into(), &0.into()));
        assert!(report.get("left_behind").is_none(), "{report}");
        assert_eq!((locks(&cluster), sessions(&cluster)), (0, "0".to_owned()));
    }
}

#[test]
fn a_fixed_rate_is_kept_and_drawn() {
    let cluster = Cluster::start();
    let out = tempfile::tempdir().expect("a directory");
    let svg = out.path().join("latency.svg");
    let arguments = ["--rate", "100", "--duration", "1s", "--svg", svg.to_str().expect("text")];
    let short = ["--rate", "100", "--duration", "500ms", "--warmup", "100ms"];
    let (report, _) = report(&cluster, &short);
    assert_eq!(report["rate_per_s"], 100);
    let all = report["operations"].as_u64().zip(report["missed"].as_u64()).expect("numbers");
    assert_eq!(all.0 + all.1, 50, "half a second: {report}");
    let text = run(&cluster, &[&["-c", "4", "--warmup", "0s"], arguments.as_slice()].concat());
    let told = String::from_utf8_lossy(&text.stdout).into_owned();
    for word in ["operations/s", "acquire", "p99.9", "longest gap", "CPU s for 10,000", "synced"] {
        assert!(told.contains(word), "{word} is not in:\n{told}");
    }
    let picture = fs::read_to_string(svg).expect("a picture");
    assert!(picture.starts_with("<svg") && picture.contains("acquire: p50"), "{picture}");
    assert!(picture.contains("100 operations/s were meant to begin"), "{picture}");
}

#[test]
fn a_gap_shows_when_the_leader_dies_and_the_rest_is_cleaned_up() {
    let mut cluster = Cluster::start();
    let out = tempfile::tempdir().expect("a directory");
    let progress = out.path().join("progress");
    let child = bench(
        &cluster,
        &["--workload", "failover", "-c", "8", "--duration", "12s", "--leader-only"],
    )
    .args(["--output", "json"])
    .stdout(Stdio::piped())
    .stderr(fs::File::create(&progress).expect("a file"))
    .spawn()
    .expect("it runs");
    let said = || fs::read_to_string(&progress).expect("its progress");
    eventually("it asks for it", || said().contains("kill the leader now").then_some(()));
    let leader = cluster.leader(None);
    cluster.kill(leader);
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{}", said());
    let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
    assert!(report["errors"].as_u64() > Some(0), "connections broke: {report}");
    assert!(report["longest_gap_ms"].as_f64() > Some(100.0), "{report}");
    assert!(report.get("left_behind").is_none(), "{report}");
    assert!(report.get("nodes").is_none(), "one of them is gone: {report}");
    assert_eq!(locks(&cluster), 0);
}

#[test]
fn an_interrupted_bench_reports_what_there_is_and_cleans_up() {
    let cluster = Cluster::start();
    let out = tempfile::tempdir().expect("a directory");
    let progress = out.path().join("progress");
    let child = bench(&cluster, &["--duration", "10m", "--live", "500", "--output", "json"])
        .stdout(Stdio::piped())
        .stderr(fs::File::create(&progress).expect("a file"))
        .spawn()
        .expect("it runs");
    let said = || fs::read_to_string(&progress).expect("its progress");
    eventually("a second of work", || said().contains("1 of 600 s").then_some(()));
    let told = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(told.expect("kill runs").success());
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{}", said());
    let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
    assert!(report["operations"].as_u64() > Some(0) && report["seconds"].as_f64() < Some(300.0));
    assert_eq!(locks(&cluster), 0);
}

#[test]
fn what_cannot_be_measured_is_refused_in_a_sentence() {
    let refused = |arguments: &[&str], code: i32, word: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_oarlock"));
        command.arg("bench").args(arguments).args(["--timeout", "1s"]);
        // Nothing listens on the port of that name.
        let output = command.env("OARLOCK_ENDPOINTS", "127.0.0.1:1").output().expect("it runs");
        let why = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {why}");
        assert!(why.contains(word), "{word} is not in: {why}");
    };
    refused(&["--duration", "1h"], 2, "10 minutes");
    refused(&["--duration", "soon"], 2, "--duration");
    refused(&["--clients", "0"], 2, "1..=8192");
    refused(&["--live", "9000000"], 2, "--live");
    refused(&["--live-in-sessions"], 2, "--live");
    refused(&["--rate", "0"], 2, "--rate");
    refused(&["--workload", "idle", "--rate", "5"], 2, "idle");
    refused(&["--workload", "tea"], 2, "contended");
    refused(&["--operations", "5", "--duration", "5s"], 2, "cannot be used with");
    refused(&["--svg", "/nonexistent/a.svg"], 2, "/nonexistent/a.svg");
    refused(&[], 3, "no node could answer");
}
