//! `oarlock prove` against a cluster of real processes: it judges what its clients saw while nodes
//! die, ends early when told to, leaves nothing behind, and touches nobody else's locks.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::cluster::{Cluster, eventually};

fn prove(cluster: &Cluster, out: &Path, arguments: &[&str]) -> Child {
    let endpoints: Vec<&str> = cluster.nodes.iter().map(|node| node.api.as_str()).collect();
    let progress = fs::File::create(out.join("progress")).expect("a file");
    Command::new(env!("CARGO_BIN_EXE_oarlock"))
        .arg("prove")
        .args(arguments)
        .args(["--output", "json", "--out"])
        .arg(out.join("report"))
        .env("OARLOCK_ENDPOINTS", endpoints.join(","))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(progress)
        .spawn()
        .expect("it runs")
}

fn progress(out: &Path) -> String {
    fs::read_to_string(out.join("progress")).expect("its progress")
}

/// Ends by itself, and says why if it should not have ended so.
fn end(child: Child, out: &Path, code: i32) -> Option<Value> {
    let Output { status, stdout, .. } = child.wait_with_output().expect("it ends");
    assert_eq!(
        status.code(),
        Some(code),
        "{}\n{}",
        String::from_utf8_lossy(&stdout),
        progress(out)
    );
    serde_json::from_slice(&stdout).ok()
}

fn names_below(cluster: &Cluster, prefix: &str) -> usize {
    let page = cluster.insist("GET", &format!("/v1/locks?prefix={prefix}"), "");
    assert_eq!(page.status, 200);
    page.body["locks"].as_array().expect("locks").len()
}

#[test]
fn prove_judges_a_cluster_whose_leader_dies_and_leaves_nothing_behind() {
    let mut cluster = Cluster::start();
    let out = tempfile::tempdir().expect("a directory");
    let arguments = ["--for", "12s", "--prefix", "scratch/", "--clients", "12"];
    let child = prove(&cluster, out.path(), &arguments);
    eventually("a few seconds of work", || progress(out.path()).contains("  2 s  ").then_some(()));
    let leader = cluster.leader(None);
    cluster.kill(leader);
    let api = cluster.api(leader).to_owned();
    eventually("the dead node is named", || {
        progress(out.path()).contains(&format!("not {api}")).then_some(())
    });
    cluster.restart(leader);
    let summary = end(child, out.path(), 0).expect("a summary");
    assert_eq!(summary["verdict"], "ok", "{summary}");
    assert!(summary["grants"].as_u64() > Some(50), "{summary}");
    assert!(summary["expiries"].as_u64() > Some(0), "{summary}");
    assert!(summary["longest_outage_ms"].as_u64() > Some(100), "{summary}");
    let report = fs::read_to_string(out.path().join("report/report.html")).expect("the report");
    assert!(report.contains("No violation found") && report.contains("scratch/lock-"));
    let history = fs::read_to_string(out.path().join("report/history.edn")).expect("the history");
    let calls = usize::try_from(summary["calls"].as_u64().expect("calls")).expect("a count");
    assert_eq!(history.lines().count(), 2 * calls, "a call and its completion each");
    assert_eq!(names_below(&cluster, "scratch/"), 0, "something is left behind");
}

#[test]
fn prove_refuses_a_prefix_that_is_in_use() {
    let cluster = Cluster::start();
    let body = r#"{"owner": "somebody", "ttl_ms": 600000}"#;
    assert_eq!(cluster.acquire("deploy/prod", body).status, 200);
    let out = tempfile::tempdir().expect("a directory");
    end(prove(&cluster, out.path(), &["--for", "5s", "--prefix", "deploy/"]), out.path(), 2);
    let why = progress(out.path());
    assert!(why.contains("deploy/prod") && why.contains("--prefix"), "{why}");
    assert!(!out.path().join("report").exists(), "nothing was proved");
    assert_eq!(names_below(&cluster, "deploy/"), 1, "it is touched");
    end(prove(&cluster, out.path(), &["--prefix", "/"]), out.path(), 2);
    end(prove(&cluster, out.path(), &["--prefix", "a//b"]), out.path(), 2);
    end(prove(&cluster, out.path(), &["--for", "1h", "--rate", "5000"]), out.path(), 2);
}

fn interrupt(child: &Child) {
    let told = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(told.expect("kill runs").success());
}

#[test]
fn prove_that_is_interrupted_twice_ends_at_once_and_names_its_prefix() {
    let mut cluster = Cluster::start();
    let out = tempfile::tempdir().expect("a directory");
    let child = prove(&cluster, out.path(), &["--for", "30m", "--prefix", "twice/"]);
    eventually("a few seconds of work", || progress(out.path()).contains("  2 s  ").then_some(()));
    // Without a cluster it would wait for minutes.
    (1..=3).for_each(|id| cluster.kill(id));
    interrupt(&child);
    eventually("it ends early", || progress(out.path()).contains("ending early").then_some(()));
    // Whoever listens for signals does so by then, or the next one is heard.
    let pid = child.id().to_string();
    let again = std::thread::spawn(move || {
        while Command::new("kill").args(["-INT", &pid]).status().is_ok_and(|told| told.success()) {
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    end(child, out.path(), 130);
    again.join().expect("it stops when the process is gone");
    let why = progress(out.path());
    assert!(why.contains("nothing is judged") && why.contains("oarlock list twice/"), "{why}");
    assert!(!out.path().join("report").exists(), "a report without a verdict");
}

#[test]
fn prove_ends_early_when_it_is_interrupted_and_judges_what_there_is() {
    let cluster = Cluster::start();
    let out = tempfile::tempdir().expect("a directory");
    let child = prove(&cluster, out.path(), &["--for", "30m", "--prefix", "early/"]);
    eventually("a few seconds of work", || progress(out.path()).contains("  3 s  ").then_some(()));
    interrupt(&child);
    let summary = end(child, out.path(), 0).expect("a summary");
    assert_eq!(summary["verdict"], "ok", "{summary}");
    assert!(summary["seconds"].as_f64() < Some(Duration::from_mins(3).as_secs_f64()), "{summary}");
    assert_eq!(names_below(&cluster, "early/"), 0, "something is left behind");
}
