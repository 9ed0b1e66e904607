//! Disks that lose things: the view, the tail of the log, the middle of it, everything.

use std::fs;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::cluster::{Cluster, eventually};

fn newest_segment(cluster: &Cluster, id: u64) -> PathBuf {
    let dir = fs::read_dir(cluster.data(id).join("log")).expect("a log");
    let mut paths: Vec<PathBuf> = dir.map(|entry| entry.expect("an entry").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|end| end == "seg"));
    paths.sort();
    // The last one may be prepared and empty.
    let used = |path: &PathBuf| fs::read(path).expect("read").iter().any(|byte| *byte != 0);
    paths.into_iter().rfind(used).expect("a segment in use")
}

fn length_in_use(path: &PathBuf) -> u64 {
    let bytes = fs::read(path).expect("read");
    bytes.iter().rposition(|byte| *byte != 0).expect("it is used") as u64 + 1
}

fn fill(cluster: &Cluster, numbers: Range<usize>) {
    for n in numbers {
        let answer = cluster.acquire(&format!("filled/{n}"), r#"{"owner":"f","ttl_ms":600000}"#);
        assert_eq!(answer.status, 200);
    }
}

#[test]
fn a_follower_away_past_the_purge_comes_back_by_snapshot() {
    let mut cluster = Cluster::with("snapshot_log_entries = 20\nlog_segment_bytes = 65536");
    let leader = cluster.leader(None);
    let follower = leader % 3 + 1;
    cluster.kill(follower);
    fill(&cluster, 0..150);
    eventually("a snapshot covers it", || {
        let status = cluster.get(leader, "/v1/cluster").ok()?;
        (status.number("snapshot_index") > 100).then_some(())
    });
    cluster.restart(follower);
    cluster.wait_ready(follower);
    eventually("it has everything", || {
        let page =
            cluster.get(follower, "/v1/locks?prefix=filled/&limit=1000&consistency=stale").ok()?;
        (page.body["locks"].as_array()?.len() == 150).then_some(())
    });
    let status = cluster.get(follower, "/v1/cluster").expect("an answer");
    assert!(status.number("snapshot_index") > 0, "it came by snapshot: {status:?}");
}

#[test]
fn a_deleted_state_view_is_rebuilt() {
    let mut cluster = Cluster::with("snapshot_log_entries = 20");
    fill(&cluster, 0..50);
    for id in 1..=3 {
        cluster.kill(id);
        fs::remove_dir_all(cluster.data(id).join("state")).expect("the view is removed");
        cluster.restart(id);
        cluster.wait_ready(id);
        let page = cluster.insist("GET", "/v1/locks?prefix=filled/&limit=1000", "");
        assert_eq!(page.body["locks"].as_array().map(Vec::len), Some(50));
    }
    for id in 1..=3 {
        eventually("every node has everything", || {
            let page =
                cluster.get(id, "/v1/locks?prefix=filled/&limit=1000&consistency=stale").ok()?;
            (page.body["locks"].as_array()?.len() == 50).then_some(())
        });
    }
}

#[test]
fn a_torn_log_tail_is_dropped_and_made_up_for() {
    let mut cluster = Cluster::start();
    fill(&cluster, 0..20);
    let follower = cluster.leader(None) % 3 + 1;
    cluster.kill(follower);
    let segment = newest_segment(&cluster, follower);
    let end = length_in_use(&segment);
    let file = fs::File::options().write(true).open(&segment).expect("open");
    file.write_all_at(&[0; 5], end - 5).expect("torn");
    cluster.restart(follower);
    cluster.wait_ready(follower);
    assert_eq!(cluster.acquire("after", r#"{"owner":"a","ttl_ms":1000}"#).status, 200);
}

#[test]
fn damage_in_the_middle_of_the_log_is_refused_with_a_sentence() {
    let mut cluster = Cluster::start();
    fill(&cluster, 0..20);
    let follower = cluster.leader(None) % 3 + 1;
    cluster.kill(follower);
    let segment = newest_segment(&cluster, follower);
    let middle = length_in_use(&segment) / 2;
    let file = fs::File::options().read(true).write(true).open(&segment).expect("open");
    let mut byte = [0; 1];
    file.read_exact_at(&mut byte, middle).expect("read");
    file.write_all_at(&[byte[0] ^ 0x10], middle).expect("flipped");
    let before = fs::read(&segment).expect("read");
    cluster.restart(follower);
    assert_ne!(cluster.wait_exit(follower), 0);
    let log = cluster.log(follower);
    assert!(log.contains("damaged") && log.contains("new id"), "{log}");
    assert_eq!(fs::read(&segment).expect("read"), before, "nothing was cut away");
    assert_eq!(cluster.acquire("after", r#"{"owner":"a","ttl_ms":1000}"#).status, 200);
}

#[test]
fn a_node_with_an_emptied_directory_does_not_vote_and_says_how_to_rejoin() {
    let mut cluster = Cluster::start();
    fill(&cluster, 0..5);
    let follower = cluster.leader(None) % 3 + 1;
    cluster.kill(follower);
    fs::remove_dir_all(cluster.data(follower)).expect("emptied");
    cluster.restart(follower);
    assert_ne!(cluster.wait_exit(follower), 0);
    let log = cluster.log(follower);
    assert!(log.contains("must not vote") && log.contains("new id"), "{log}");
    assert_eq!(cluster.acquire("after", r#"{"owner":"a","ttl_ms":1000}"#).status, 200);
}

fn copy(from: &Path, to: &Path) {
    let status = std::process::Command::new("cp").arg("-r").args([from, to]).status();
    assert!(status.expect("cp runs").success());
}

#[test]
fn a_disk_that_went_back_to_an_old_image_is_refused_by_the_peers() {
    let mut cluster = Cluster::start();
    fill(&cluster, 0..5);
    let follower = cluster.leader(None) % 3 + 1;
    cluster.kill(follower);
    let (data, image) = (cluster.data(follower), cluster.dir.path().join("image"));
    copy(&data, &image);
    cluster.restart(follower);
    cluster.wait_ready(follower);
    fill(&cluster, 5..30);
    eventually("the follower has what is new", || {
        let page =
            cluster.get(follower, "/v1/locks?prefix=filled/&limit=1000&consistency=stale").ok()?;
        (page.body["locks"].as_array()?.len() == 30).then_some(())
    });
    cluster.kill(follower);
    let newest = cluster.dir.path().join("newest");
    fs::rename(&data, &newest).expect("put aside");
    fs::rename(&image, &data).expect("the old image");
    cluster.restart(follower);
    assert_ne!(cluster.wait_exit(follower), 0);
    let log = cluster.log(follower);
    assert!(log.contains("went back") && log.contains("new id"), "{log}");
    assert_eq!(cluster.acquire("after", r#"{"owner":"a","ttl_ms":1000}"#).status, 200);
    fs::remove_dir_all(&data).expect("the old image goes");
    fs::rename(&newest, &data).expect("the newest comes back");
    cluster.restart(follower);
    cluster.wait_ready(follower);
}

#[test]
fn a_second_process_on_a_directory_is_refused() {
    let cluster = Cluster::start();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_oarlock"))
        .args(["serve", "--config"])
        .arg(cluster.dir.path().join("node1.toml"))
        .stdin(std::process::Stdio::null())
        .output()
        .expect("it runs");
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("another oarlock process uses"), "{text}");
}

#[test]
fn with_a_full_disk_releases_pass_new_locks_are_refused_and_work_resumes() {
    let mut cluster = Cluster::start();
    let known =
        r#"{"owner":"h","ttl_ms":600000,"request_id":"5e2f6a5c-8d0b-4b9e-9a43-0b6d5a2f7c11"}"#;
    let held = cluster.acquire("held", known);
    // No disk has this much room, so every node sees itself as nearly full.
    let restart_all = |cluster: &mut Cluster, change: &dyn Fn(String) -> String| {
        for id in 1..=3 {
            cluster.kill(id);
            let path = cluster.dir.path().join(format!("node{id}.toml"));
            let text = change(fs::read_to_string(&path).expect("read"));
            fs::write(&path, text).expect("written");
        }
        (1..=3).for_each(|id| cluster.restart(id));
        (1..=3).for_each(|id| cluster.wait_ready(id));
    };
    let huge = "\nreserve_bytes = 1000000000000000\n";
    restart_all(&mut cluster, &|text| text + huge);
    let path = "/v1/locks/new";
    let refused = eventually("a refusal that says why", || {
        let body = r#"{"owner":"n","ttl_ms":1000}"#;
        let answer =
            crate::http::ask(cluster.api(1), "POST", path, body, crate::cluster::PATIENCE).ok()?;
        assert_ne!(answer.status, 200, "{answer:?}");
        answer.text("detail").contains("disk").then_some(answer)
    });
    assert_eq!((refused.status, refused.text("outcome").as_str()), (503, "not_done"));
    let repeated = cluster.acquire("held", known);
    assert_eq!(repeated.number("token"), held.number("token"), "a repeat is told what was done");
    let released = cluster.insist("DELETE", &format!("/v1/leases/{}", held.text("lease_id")), "");
    assert_eq!(released.status, 200);
    restart_all(&mut cluster, &|text| text.replace(huge, ""));
    assert_eq!(cluster.acquire("new", r#"{"owner":"n","ttl_ms":1000}"#).status, 200);
}
