//! The commands against a real cluster: exit codes, output for people and for scripts, help.

use std::net::TcpListener;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cluster::Cluster;

fn run(endpoints: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_oarlock"));
    command.args(arguments).env("OARLOCK_ENDPOINTS", endpoints).output().expect("it runs")
}

fn endpoints(cluster: &Cluster) -> String {
    cluster.nodes.iter().map(|node| node.api.as_str()).collect::<Vec<_>>().join(",")
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn json(endpoints: &str, arguments: &[&str]) -> Value {
    let output = run(endpoints, &[arguments, &["--output", "json"]].concat());
    serde_json::from_str(&text(&output)).expect("JSON and nothing else")
}

#[test]
fn every_command_answers_people_scripts_and_exit_codes() {
    let cluster = Cluster::start();
    let to = endpoints(&cluster);
    let lease = json(&to, &["acquire", "deploy/prod", "--ttl", "10m", "--owner", "one"]);
    let id = lease["lease_id"].as_str().expect("a lease id").to_owned();
    let token = lease["token"].to_string();
    let refused = run(&to, &["acquire", "deploy/prod", "--owner", "two"]);
    assert_eq!(refused.status.code(), Some(1));
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(why.contains("one") && !why.contains(&id), "it names the holder, not its right: {why}");
    assert!(text(&run(&to, &["renew", &id])).contains("is yours"));
    assert!(text(&run(&to, &["inspect", "deploy/prod"])).contains("holder  one"));
    assert_eq!(json(&to, &["list", "deploy/"])["locks"][0]["lock"], "deploy/prod");
    assert!(text(&run(&to, &["list", "--graph"])).contains("nobody waits"));
    json(&to, &["value", "set", "deploy/prod", "version 7", "--lease", &id]);
    assert_eq!(json(&to, &["value", "get", "deploy/prod"])["value"], "version 7");
    let forced = run(&to, &["force-release", "deploy/prod", "--token", &token, "--reason", "test"]);
    assert!(text(&forced).contains("taken from 1"));
    assert_eq!(run(&to, &["renew", &id]).status.code(), Some(1), "the lease is gone");
    let history = text(&run(&to, &["history", "deploy/prod"]));
    assert!(history.contains("one") && history.contains("forced: test"), "{history}");
    assert_eq!(json(&to, &["history", "--token", &token])["lock"], "deploy/prod");
    assert!(text(&run(&to, &["status"])).contains("leader node"));
}

#[test]
fn a_session_is_opened_used_shown_and_closed() {
    let cluster = Cluster::start();
    let to = endpoints(&cluster);
    let opened = json(&to, &["session", "open", "--owner", "me", "--ttl", "10m"]);
    let id = opened["session_id"].as_str().expect("a session id");
    json(&to, &["acquire", "a", "--session", id]);
    assert!(text(&run(&to, &["session", "renew", id])).contains("session"));
    assert_eq!(json(&to, &["session", "show", id])["leases"], 1);
    assert_eq!(json(&to, &["session", "close", id])["leases_ended"], 1);
    assert_eq!(run(&to, &["session", "show", id]).status.code(), Some(1));
}

#[test]
fn several_locks_are_taken_together_and_one_is_handed_over() {
    let cluster = Cluster::start();
    let to = endpoints(&cluster);
    let granted = json(&to, &["acquire", "db", "cache", "--ttl", "10m", "--owner", "green"]);
    let leases = granted["leases"].as_array().expect("leases");
    assert_eq!((&leases[0]["lock"], &leases[1]["lock"]), (&"db".into(), &"cache".into()));
    let refused = run(&to, &["acquire", "queue", "cache", "--owner", "blue"]);
    assert_eq!(refused.status.code(), Some(1));
    assert_eq!(json(&to, &["inspect", "queue"])["held"], false, "all or nothing");
    let alone = json(&to, &["acquire", "web", "--ttl", "10m", "--owner", "green"]);
    let id = alone["lease_id"].as_str().expect("a lease id");
    let theirs = json(&to, &["hand-over", id, "--owner", "blue", "--ttl", "10m"]);
    assert!(theirs["token"].as_u64() > alone["token"].as_u64());
    assert_ne!(theirs["lease_id"], alone["lease_id"]);
    assert_eq!(json(&to, &["inspect", "web"])["holders"][0]["owner"], "blue");
    assert_eq!(run(&to, &["renew", id]).status.code(), Some(1), "the old lease is over");
}

#[test]
fn f20_f21_an_unreachable_cluster_is_an_error_within_the_deadline() {
    // It takes connections and never answers; the other end is closed.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let gone = TcpListener::bind("127.0.0.1:0").expect("a port");
    let closed = gone.local_addr().expect("an address").to_string();
    drop(gone);
    let silent = silent.local_addr().map(|address| (address.to_string(), silent)).expect("silent");
    for (endpoint, code) in [(&closed, 3), (&silent.0, 4)] {
        let began = Instant::now();
        let output = run(endpoint, &["acquire", "a", "--timeout", "2s"]);
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        assert!(output.stdout.is_empty(), "no lock is claimed");
        assert!(began.elapsed() < Duration::from_secs(30));
    }
}

#[test]
fn help_names_every_command_and_exit_code() {
    let help = text(&run("", &["--help"]));
    for word in ["dev", "serve", "acquire", "watch", "history", "value", "session", "Exit codes"] {
        assert!(help.contains(word), "{word} is not in:\n{help}");
    }
    assert!(text(&run("", &["completions", "bash"])).contains("force-release"));
    assert!(text(&run("", &["man"])).contains(".TH"));
}
