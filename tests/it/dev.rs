//! `oarlock dev` and the commands, as a person uses them.

use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::cluster::eventually;
use crate::http::ask;

struct Dev {
    child: Child,
    port: u16,
    pids: Vec<u32>,
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _may_have_ended = self.child.kill();
        let _may_have_ended = self.child.wait();
    }
}

fn oarlock() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_oarlock"));
    command.env("OARLOCK_PROOF", "1");
    command
}

/// A base at which all six ports are free, below those that the kernel gives to connections.
fn free_base() -> u16 {
    let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    let start = (std::process::id() % 1000) as u16 * 30;
    let bases = (0..100_u16).map(|n| (start + n * 37) % 4_900 + 10_000);
    let all = |base: &u16| [0, 1, 10, 11, 20, 21].iter().all(|offset| free(base + offset));
    bases.into_iter().find(all).expect("free ports")
}

fn start_dev() -> Dev {
    let port = free_base();
    let mut child = oarlock()
        .args(["dev", "--port-base", &port.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("dev starts");
    let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    let mut pids = Vec::new();
    for line in lines.by_ref() {
        let line = line.expect("a line");
        if let Some((_, pid)) = line.split_once("   pid ") {
            pids.push(pid.trim().parse().expect("a process id"));
        }
        if line.contains("Ctrl-C") {
            break;
        }
    }
    assert_eq!(pids.len(), 3, "three nodes were announced");
    Dev { child, port, pids }
}

fn runs(pid: u32) -> bool {
    // A zombie has ended; only its parent has not looked yet.
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn dev_brings_up_a_cluster_that_locks_and_sigterm_stops_all_of_it() {
    let mut dev = start_dev();
    let api = format!("127.0.0.1:{}", dev.port);
    let body = r#"{"owner":"me","ttl_ms":60000}"#;
    let answer = ask(&api, "POST", "/v1/locks/deploy/prod", body, Duration::from_secs(30));
    assert_eq!(answer.expect("an answer").status, 200);
    let endpoints = format!("{api},127.0.0.1:{}", dev.port + 10);
    let status = oarlock().args(["status", "--endpoint", &endpoints]).output().expect("it runs");
    assert!(status.status.success(), "{status:?}");
    let refused = oarlock().args(["acquire", "deploy/prod", "--endpoint", &endpoints]).output();
    let refused = refused.expect("it runs");
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("held by me"));
    let began = Instant::now();
    let stopped = Command::new("kill").arg(dev.child.id().to_string()).status();
    assert!(stopped.expect("kill runs").success());
    assert!(dev.child.wait().expect("it ends").success());
    assert!(began.elapsed() < Duration::from_secs(30));
    assert!(dev.pids.iter().all(|pid| !runs(*pid)));
}

#[test]
fn the_nodes_end_when_dev_is_killed() {
    let mut dev = start_dev();
    dev.child.kill().expect("killed");
    dev.child.wait().expect("gone");
    eventually("the nodes end", || dev.pids.iter().all(|pid| !runs(*pid)).then_some(()));
}

#[test]
fn a_busy_port_is_named() {
    let port = free_base();
    let _busy = TcpListener::bind(("127.0.0.1", port + 10)).expect("it was free");
    let output = oarlock()
        .args(["dev", "--port-base", &port.to_string()])
        .stdin(Stdio::null())
        .output()
        .expect("it runs");
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains(&(port + 10).to_string()) && text.contains("--port-base"), "{text}");
}

#[test]
fn unreachable_nodes_and_wrong_settings_have_their_own_exit_codes() {
    let gone = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = gone.local_addr().expect("an address").to_string();
    drop(gone);
    let output =
        oarlock().args(["acquire", "a", "--timeout", "2s", "--endpoint", &address]).output();
    let output = output.expect("it runs");
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let mut child = oarlock()
        .args(["serve", "--config", "/nonexistent.toml"])
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    assert_eq!(child.wait().expect("it ends").code(), Some(2));
    let mut text = String::new();
    child.stderr.take().expect("its errors").read_to_string(&mut text).expect("read");
    assert!(text.contains("nonexistent.toml"), "{text}");
}
