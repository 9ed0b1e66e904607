//! Backups of running clusters, and new clusters that begin with them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::cluster::{Cluster, eventually};

/// How far the tokens of a restored cluster jump (P2).
const TOKEN_JUMP: u64 = 1 << 40;

fn oarlock(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_oarlock"));
    command.args(arguments).output().expect("it runs")
}

fn path(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

fn shown(output: &Output) -> Value {
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).expect("JSON and nothing else")
}

fn refused(output: &Output) -> String {
    assert!(!output.status.success(), "it is refused: {output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn back_up(cluster: &Cluster, node: u64) -> PathBuf {
    let file = cluster.dir.path().join("locks.backup");
    let endpoint = cluster.api(node);
    let done = oarlock(&["backup", path(&file), "--endpoint", endpoint, "--output", "json"]);
    assert!(shown(&done)["locks"].as_u64() > Some(0), "{done:?}");
    file
}

/// A new cluster that begins with the backup; every token that it gives is above the number.
fn restored(backup: &Path, arguments: &[&str]) -> (Cluster, u64) {
    let mut cluster = Cluster::configured(0, "");
    let config = cluster.config(1);
    let command =
        [&["restore", path(backup), "--config", path(&config), "--output", "json"], arguments];
    let above = shown(&oarlock(&command.concat()))["tokens_go_on_above"].as_u64();
    cluster.start_all();
    (cluster, above.expect("it says where tokens go on"))
}

fn take(cluster: &Cluster, name: &str) -> (u64, String) {
    let answer = cluster.acquire(name, r#"{"owner":"me","ttl_ms":3600000}"#);
    assert_eq!(answer.status, 200, "{answer:?}");
    (answer.number("token"), answer.text("lease_id"))
}

#[test]
fn a_restored_cluster_has_every_lock_and_repeats_no_token_however_often_it_is_restored() {
    let mut old = Cluster::start();
    let (first, lease) = take(&old, "deploy/prod");
    let set = format!(r#"{{"lease_id":"{lease}","value":"version 7"}}"#);
    assert_eq!(old.insist("PUT", "/v1/values/deploy/prod", &set).status, 200);
    let (_, released) = take(&old, "batch/nightly");
    assert_eq!(old.insist("DELETE", &format!("/v1/leases/{released}"), "").status, 200);
    let follower = (1..=3).find(|id| *id != old.leader(None)).expect("two of them");
    let backup = back_up(&old, follower);
    // What happens after a backup is lost with the cluster, except to those who saw the tokens.
    let seen = (0..20).map(|n| take(&old, &format!("later/{n}")).0).max().expect("twenty tokens");
    assert!(seen > first);
    (1..=3).for_each(|id| old.kill(id));

    let (mut once, above) = restored(&backup, &["--token-above", &seen.to_string()]);
    assert_eq!(above, seen + TOKEN_JUMP);
    for id in 1..=3 {
        let lock = once.get(id, "/v1/locks/deploy/prod").expect("an answer");
        assert_eq!(lock.body["holders"][0]["token"].as_u64(), Some(first), "{lock:?}");
    }
    let value = once.insist("GET", "/v1/values/deploy/prod", "");
    assert_eq!(value.text("value"), "version 7");
    assert_eq!(
        once.get(1, "/v1/locks/later/1").expect("an answer").body["holders"],
        Value::Array(vec![])
    );
    assert_eq!(
        once.insist("DELETE", &format!("/v1/leases/{lease}"), "").status,
        200,
        "still its right"
    );
    let (again, _) = take(&once, "deploy/prod");
    assert!(again > above, "{again}");
    let cluster_id =
        |cluster: &Cluster| cluster.get(2, "/v1/cluster").expect("it").text("cluster_id");
    let its_id = cluster_id(&once);
    // It is a cluster like any other: it survives its leader, and all of its nodes at once.
    (1..=3).for_each(|id| once.kill(id));
    (1..=3).for_each(|id| once.restart(id));
    let (more, _) = take(&once, "deploy/staging");
    assert!(more > again);
    (1..=3).for_each(|id| once.kill(id));

    let (twice, above) = restored(&backup, &["--token-above", &more.to_string()]);
    assert_ne!(cluster_id(&twice), its_id);
    let (last, _) = take(&twice, "deploy/staging");
    assert!(last > above && above > more, "{last} {above} {more}");
}

#[test]
fn a_backup_with_a_flipped_bit_or_a_missing_end_is_refused() {
    let cluster = Cluster::start();
    (0..40).for_each(|n| drop(take(&cluster, &format!("some/{n}"))));
    let backup = back_up(&cluster, 1);
    let good = fs::read(&backup).expect("the backup");
    let bad = backup.with_extension("bad");
    let inspect = |file: &Path| oarlock(&["restore", path(file), "--inspect", "--output", "json"]);
    assert_eq!(shown(&inspect(&backup))["locks"], 40);
    for part in 0..16 {
        let mut bytes = good.clone();
        let at = part * (good.len() - 1) / 15;
        bytes[at] ^= 1 << (part % 8);
        fs::write(&bad, &bytes).expect("written");
        let why = refused(&inspect(&bad));
        assert!(
            why.contains("cannot be used") || why.contains("newer oarlock"),
            "byte {at}: {why}"
        );
    }
    for length in [0, 1, good.len() / 2, good.len() - 1] {
        fs::write(&bad, &good[..length]).expect("written");
        assert!(refused(&inspect(&bad)).contains("cannot be used"), "{length} bytes");
    }
    let missing = inspect(&backup.with_extension("nowhere"));
    assert!(refused(&missing).contains("No such file"));
}

#[test]
fn an_unsafe_restore_is_refused_with_what_to_do_instead() {
    let cluster = Cluster::start();
    take(&cluster, "deploy/prod");
    let backup = back_up(&cluster, 2);
    let fresh = Cluster::configured(0, "");
    let restore = |config: &Path, more: &[&str]| {
        oarlock(&[&["restore", path(&backup), "--config", path(config)], more].concat())
    };
    let config = fresh.config(1);
    assert!(refused(&restore(&config, &[])).contains("--token-above"), "it asks for the tokens");
    let both = restore(&config, &["--token-above", "7", "--first-restore"]);
    assert!(refused(&both).contains("cannot be used with"));
    let huge = (1_u64 << 53).to_string();
    assert!(refused(&restore(&config, &["--token-above", &huge])).contains("2^53"));
    let elsewhere = refused(&restore(&fresh.config(2), &["--first-restore"]));
    assert!(elsewhere.contains("restore the backup on node 1"), "{elsewhere}");
    let running = refused(&restore(&cluster.config(1), &["--first-restore"]));
    assert!(running.contains("another oarlock process"), "{running}");
    let twice = [restore(&config, &["--first-restore"]), restore(&config, &["--first-restore"])];
    assert!(twice[0].status.success(), "{twice:?}");
    assert!(refused(&twice[1]).contains("holds a restored state already"));
    let existing = oarlock(&["backup", path(&backup), "--endpoint", cluster.api(1)]);
    assert!(refused(&existing).contains("--replace"), "a backup is not overwritten by accident");
}

#[test]
fn a_restored_state_on_a_stopped_cluster_is_refused() {
    let mut cluster = Cluster::start();
    take(&cluster, "deploy/prod");
    let backup = back_up(&cluster, 1);
    (1..=3).for_each(|id| cluster.kill(id));
    let config = cluster.config(1);
    let why = refused(&oarlock(&[
        "restore",
        path(&backup),
        "--config",
        path(&config),
        "--first-restore",
    ]));
    assert!(why.contains("is in use"), "{why}");
    cluster.restart(1);
    cluster.restart(2);
    eventually("the old cluster goes on untouched", || {
        let lock = cluster.get(1, "/v1/locks/deploy/prod").ok()?;
        (lock.body["holders"][0]["owner"] == "me").then_some(())
    });
}
