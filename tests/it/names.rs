//! Names that come and go leave nothing behind (F14), and those that stay take what they should.
//!
//! `OARLOCK_NAMES` says how many; the short form shows the harness, ten million show the claim:
//! `OARLOCK_NAMES=10000000 cargo test --release --test it f14 -- --nocapture`.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::cluster::{Cluster, eventually};

const NAMES: u64 = 20_000;
const PARTS: u64 = 10;
/// In these parts everything that is bounded reaches its bound; the rest must not need more. The log
/// grows from one snapshot to the next, so that single parts cannot be compared.
const FILLING: usize = 6;
const MIB: u64 = 1024 * 1024;

/// Locks taken as fast as they can be, and what one of them may take in each node, the caches that
/// fill meanwhile included. It was 5,000 to 8,000 bytes when the view wrote all of its changes at once.
const HELD: u64 = 40_000;
const BYTES_PER_HELD_LOCK_MAX: u64 = 3_600;

#[derive(Debug, Clone, Copy)]
struct Footprint {
    memory_mib: u64,
    disk_mib: u64,
}

fn bytes_on_disk(path: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(path) else {
        // A file, or one that was purged just now.
        return fs::metadata(path)
            .map_or(0, |data| std::os::unix::fs::MetadataExt::blocks(&data) * 512);
    };
    entries.filter_map(Result::ok).map(|entry| bytes_on_disk(&entry.path())).sum()
}

fn resident_bytes(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its size");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}

/// Takes and releases so many locks with new names; what the nodes then need.
fn part(cluster: &Cluster, names: u64) -> Footprint {
    let endpoints: Vec<&str> = cluster.nodes.iter().map(|node| node.api.as_str()).collect();
    let output = Command::new(env!("CARGO_BIN_EXE_oarlock"))
        .args(["bench", "--workload", "names", "--clients", "64", "--leader-only"])
        .args(["--operations", &names.to_string()])
        .args(["--endpoint", &endpoints.join(","), "--output", "json"])
        .output()
        .expect("it runs");
    let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
    assert_eq!((&report["operations"], &report["errors"]), (&names.into(), &0.into()));
    let memory_mib = cluster.pids().iter().map(|pid| resident_bytes(*pid)).sum::<u64>() / MIB;
    let disk_mib = (1..=3).map(|id| bytes_on_disk(&cluster.data(id))).sum::<u64>() / MIB;
    Footprint { memory_mib, disk_mib }
}

#[test]
fn f14_names_that_were_used_once_leave_no_trace_in_memory_or_on_disk() {
    let names: u64 =
        std::env::var("OARLOCK_NAMES").map_or(NAMES, |text| text.parse().expect("a number"));
    let cluster = Cluster::with("worker_threads = 1\n");
    let before = cluster.acquire("again", r#"{"owner":"me","ttl_ms":60000}"#);
    cluster.insist("DELETE", &format!("/v1/leases/{}", before.text("lease_id")), "");
    let mut footprints = Vec::new();
    for number in 1..=PARTS {
        let footprint = part(&cluster, names / PARTS);
        eprintln!("{} names: {footprint:?} of three nodes", number * names / PARTS);
        footprints.push(footprint);
    }
    let (filling, after) = footprints.split_at(FILLING);
    let flat = |size: fn(&Footprint) -> u64| {
        let (full, later) = (filling.iter().map(size).max(), after.iter().map(size).max());
        // But for what the allocator and the last segments make of it.
        full.zip(later).is_some_and(|(full, later)| later <= full + full / 8 + 64)
    };
    assert!(flat(|it| it.memory_mib), "memory grew: {footprints:?}");
    assert!(flat(|it| it.disk_mib), "the disk filled: {footprints:?}");
    eventually("no lock is left", || {
        let page = cluster.get(1, "/v1/locks?limit=1").ok()?;
        page.body["locks"].as_array().is_some_and(Vec::is_empty).then_some(())
    });
    let after = cluster.acquire("again", r#"{"owner":"me","ttl_ms":60000}"#);
    assert_eq!(after.number("token"), before.number("token") + PARTS * (names / PARTS) + 1);
}

#[test]
fn very_many_locks_taken_at_once_take_little_memory() {
    let cluster = Cluster::with("worker_threads = 1\n");
    let resident = || -> Vec<u64> { cluster.pids().into_iter().map(resident_bytes).collect() };
    let before = resident();
    let names: Vec<u64> = (0..HELD).collect();
    let take = |names: &[u64]| {
        for names in names.chunks(64) {
            let claims: Vec<String> =
                names.iter().map(|number| format!(r#"{{"name":"many/{number:06}"}}"#)).collect();
            let body =
                format!(r#"{{"owner":"me","ttl_ms":600000,"locks":[{}]}}"#, claims.join(","));
            let answer = cluster.insist("POST", "/v1/locks", &body);
            assert_eq!(answer.status, 200, "{}", answer.body);
        }
    };
    std::thread::scope(|scope| {
        names.chunks(names.len() / 4).for_each(|part| {
            scope.spawn(|| take(part));
        });
    });
    let after = resident();
    let grown = before.iter().zip(&after).map(|(before, after)| after.saturating_sub(*before));
    let each: Vec<u64> = grown.map(|bytes| bytes / HELD).collect();
    eprintln!("bytes per lock of each node: {each:?}");
    assert!(each.iter().all(|bytes| *bytes < BYTES_PER_HELD_LOCK_MAX), "{each:?} bytes a lock");
}
