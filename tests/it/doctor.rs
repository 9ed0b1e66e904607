//! `oarlock doctor`, with machines and clusters that are well and that are not.

use std::fs;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cluster::{Cluster, eventually};

fn doctor(arguments: &[&str]) -> (Output, Value) {
    let output = Command::new(env!("CARGO_BIN_EXE_oarlock"))
        .args(["doctor", "--output", "json"])
        .args(arguments)
        .output()
        .expect("it runs");
    let findings = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {output:?}"));
    (output, findings)
}

/// The finding of one check: its verdict, and what it says.
fn verdict(findings: &Value, check: &str) -> (String, String) {
    let all = findings["findings"].as_array().expect("a list");
    let found = all.iter().find(|it| it["check"] == check);
    let found = found.unwrap_or_else(|| panic!("{check} is not in {findings}"));
    let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
    assert_eq!(text("verdict") == "pass", text("advice").is_empty(), "{found}");
    (text("verdict"), text("found"))
}

#[test]
fn a_machine_is_examined_without_a_node_and_left_as_it_was() {
    let cluster = Cluster::configured(0, "");
    let config = cluster.config(1);
    let arguments = ["--config", config.to_str().expect("a path")];
    let (output, findings) = doctor(&arguments);
    assert!(!cluster.data(1).exists(), "it makes nothing");
    assert_eq!(verdict(&findings, "configuration").0, "pass");
    assert_eq!(verdict(&findings, "permissions").0, "pass");
    assert_eq!(verdict(&findings, "protection").0, "pass");
    let (peers, found) = verdict(&findings, "peers");
    assert!(peers == "warn" && found.contains("2 of 2"), "{found}");
    for check in ["file system", "disk space", "sync", "open files", "clocks"] {
        assert!(!verdict(&findings, check).1.is_empty(), "{check}");
    }
    let failed = findings["failures"].as_u64().expect("a number");
    assert_eq!(output.status.code(), Some(i32::from(failed > 0)), "{findings}");
    let left: Vec<_> = fs::read_dir(cluster.dir.path()).expect("a directory").collect();
    assert_eq!(left.len(), 3, "the three configurations: {left:?}");
}

#[test]
fn a_directory_that_cannot_be_written_to_fails() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let config = dir.path().join("node.toml");
    // Nobody makes files there, whatever the rights of the user.
    fs::write(&config, "data_dir = \"/proc/oarlock/data\"").expect("written");
    let (output, findings) = doctor(&["--config", config.to_str().expect("a path")]);
    assert_eq!(output.status.code(), Some(1));
    let (failed, found) = verdict(&findings, "permissions");
    assert!(failed == "fail" && found.contains("/proc"), "{findings}");
}

#[test]
fn a_low_limit_of_open_files_fails_and_a_wrong_configuration_is_told() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let config = dir.path().join("node.toml");
    let program = env!("CARGO_BIN_EXE_oarlock");
    let under = |limit: u32, text: &str| {
        fs::write(&config, text).expect("written");
        let run = format!("ulimit -n {limit}; exec \"$0\" doctor --output json --config \"$1\"");
        let shell = Command::new("sh").args(["-c", &run, program]).arg(&config).output();
        let output = shell.expect("it runs");
        serde_json::from_slice::<Value>(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
    };
    let data = format!("data_dir = \"{}\"\n", dir.path().display());
    assert_eq!(verdict(&under(128, &data), "open files").0, "fail");
    assert_eq!(verdict(&under(512, &data), "open files").0, "warn");
    let wrong = under(512, "heartbeat = 3");
    let (failed, found) = verdict(&wrong, "configuration");
    assert!(failed == "fail" && found.contains("heartbeat"), "{found}");
}

#[test]
fn a_cluster_is_examined_and_a_stopped_node_found() {
    let mut cluster = Cluster::start();
    let all: Vec<String> = cluster.nodes.iter().map(|node| node.api.clone()).collect();
    // One endpoint is enough: the others are known to it.
    let findings = eventually("all is well", || {
        let (output, findings) = doctor(&["--endpoint", &all[0]]);
        let well = findings["warnings"] == 0 && output.status.success();
        well.then_some(findings)
    });
    assert!(verdict(&findings, "reachable").1.contains("3 of 3"), "{findings}");
    let build = verdict(&findings, "builds").1;
    assert!(build.contains(env!("CARGO_PKG_VERSION")) && build.contains("protocol="), "{build}");

    // Stopped, not killed: its port takes connections, and it answers nobody.
    let follower = cluster.leader(None) % 3 + 1;
    cluster.signal(follower, "-STOP");
    let began = Instant::now();
    let (output, findings) = doctor(&["--endpoint", &all.join(",")]);
    assert!(began.elapsed() < Duration::from_mins(1), "bounded in time");
    assert_eq!(output.status.code(), Some(0), "two of three serve: {findings}");
    let (warned, found) = verdict(&findings, "reachable");
    assert!(warned == "warn" && found.contains(cluster.api(follower)), "{found}");
    cluster.signal(follower, "-CONT");

    // Without a majority.
    (1..=2).for_each(|id| cluster.kill(id));
    eventually("it is told", || {
        let (output, findings) = doctor(&["--endpoint", &all[2]]);
        let lost = verdict(&findings, "leader").0 == "fail" && output.status.code() == Some(1);
        lost.then_some(())
    });
    cluster.kill(3);
    let (output, findings) = doctor(&["--endpoint", &all.join(",")]);
    assert_eq!(
        (output.status.code(), verdict(&findings, "reachable").0.as_str()),
        (Some(1), "fail")
    );
}

#[test]
fn a_wide_api_is_judged_by_what_it_answers_to_nobody_in_particular() {
    let mut cluster = Cluster::start();
    let config = cluster.dir.path().join("wide.toml");
    let port = cluster.api(1).rsplit_once(':').expect("a port").1.to_owned();
    let text = format!(
        "data_dir = \"{}\"\napi_address = \"0.0.0.0:{port}\"\ninsecure_bind = true\n",
        cluster.data(1).display()
    );
    fs::write(&config, text).expect("written");
    let access = || verdict(&doctor(&["--config", config.to_str().expect("a path")]).1, "access").0;
    assert_eq!(access(), "fail", "anybody is let in");
    let made = Command::new(env!("CARGO_BIN_EXE_oarlock"))
        .args(["tokens", "init", "--endpoint", cluster.api(1)])
        .output();
    assert!(made.as_ref().expect("it runs").status.success(), "{made:?}");
    // The peers of this configuration are on loopback.
    eventually("a token closes it", || (access() == "pass").then_some(()));
    (1..=3).for_each(|id| cluster.kill(id));
    assert_eq!(access(), "warn", "nobody is there to ask");
}

/// What the command line made, or its complaint.
fn pki(arguments: &[&str]) {
    let made = Command::new(env!("CARGO_BIN_EXE_oarlock")).arg("pki").args(arguments).output();
    assert!(made.as_ref().expect("it runs").status.success(), "{made:?}");
}

#[test]
fn f90_certificates_are_read_and_what_is_wrong_with_them_is_told() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (config, made) = (dir.path().join("node.toml"), dir.path().join("pki"));
    let place = made.to_str().expect("a path");
    let other = dir.path().join("other").display().to_string();
    pki(&["init", "--dir", place]);
    pki(&["node", "1", "--dir", place]);
    pki(&["node", "2", "--dir", place, "--days", "10"]);
    pki(&["init", "--dir", &other]);
    pki(&["node", "1", "--dir", &other]);
    let judged = |node: u64, certificate: &str, key: &str, ca: &str| {
        let text = format!(
            "node_id = {node}\ndata_dir = \"{0}/data\"\ntls_cert = \"{1}\"\ntls_key = \"{2}\"\n\
             peer_tls_cert = \"{1}\"\npeer_tls_key = \"{2}\"\npeer_tls_ca = \"{3}\"\n",
            dir.path().display(),
            made.join(certificate).display(),
            made.join(key).display(),
            made.join(ca).display(),
        );
        fs::write(&config, text).expect("written");
        doctor(&["--config", config.to_str().expect("a path")]).1
    };
    let well = judged(1, "node-1.crt", "node-1.key", "ca.crt");
    assert_eq!(verdict(&well, "peer cert").0, "pass", "{well}");
    assert_eq!(verdict(&well, "api cert").0, "pass", "{well}");
    // Short-lived by design: nothing is to be done before its last third.
    let short = judged(2, "node-2.crt", "node-2.key", "ca.crt");
    let (passed, found) = verdict(&short, "peer cert");
    assert!(passed == "pass" && found.contains("days"), "{found}");
    for (node, certificate, key, ca, why) in [
        (1, "node-1.crt", "node-2.key", "ca.crt", "its key"),
        (1, "gone.crt", "node-1.key", "ca.crt", "gone.crt"),
        (3, "node-1.crt", "node-1.key", "ca.crt", "it is of node 1"),
        (1, "node-1.crt", "node-1.key", "../other/ca.crt", "peers refuse it"),
        (1, "ca.crt", "ca.key", "ca.crt", "names no node"),
    ] {
        let findings = judged(node, certificate, key, ca);
        let (failed, found) = verdict(&findings, "peer cert");
        assert!(failed == "fail" && found.contains(why), "{why}: {findings}");
    }
    // Renewed for no days at all, it is over by now.
    pki(&["node", "1", "--dir", place, "--days", "0"]);
    eventually("it is over", || {
        let (failed, found) =
            verdict(&judged(1, "node-1.crt", "node-1.key", "ca.crt"), "peer cert");
        (failed == "fail" && found.contains("is over")).then_some(())
    });
}
