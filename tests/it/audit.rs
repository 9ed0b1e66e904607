//! The audit file of real nodes: the same story on all of them, through kills and rotation, and no
//! secret in it, nor in anything else that a run prints or stores beside the log.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;

use crate::cluster::{Cluster, eventually};
use crate::http::page;

fn path(cluster: &Cluster, id: u64) -> PathBuf {
    cluster.dir.path().join(format!("node{id}.audit"))
}

/// Three nodes, each with an audit file of its own.
fn audited(settings: &str) -> Cluster {
    let mut cluster = Cluster::configured(0, settings);
    for id in 1..=3 {
        let line = format!("audit_file = \"{}\"\n", path(&cluster, id).display());
        let config = fs::File::options().append(true).open(cluster.config(id));
        config.expect("a config").write_all(line.as_bytes()).expect("written");
    }
    cluster.start_all();
    cluster
}

fn verify(files: &[&Path]) -> Output {
    let program = Command::new(env!("CARGO_BIN_EXE_oarlock"))
        .args(["audit", "verify", "--output", "json"])
        .args(files)
        .output();
    program.expect("it runs")
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// What happened, without the place in the chain of one node.
fn story(path: &Path) -> Vec<Value> {
    let mut all = lines(path);
    all.retain(|line| !matches!(line["action"].as_str(), Some("began" | "stopped" | "gap")));
    for line in &mut all {
        let fields = line.as_object_mut().expect("a line");
        for field in ["line", "previous", "hash", "more"] {
            fields.remove(field);
        }
    }
    all
}

fn has(story: &[Value], action: &str, lock: &str) -> bool {
    story.iter().any(|line| line["action"] == action && line["lock"] == lock)
}

#[test]
fn every_node_writes_the_same_story_through_kills_and_rotation() {
    let mut cluster = audited("");
    let lease = cluster.acquire("audit/a", r#"{"owner":"ann","ttl_ms":600000}"#);
    let refused = cluster.acquire("audit/a", r#"{"owner":"bob","ttl_ms":600000}"#);
    assert_eq!(refused.status, 409);
    let force = "/v1/locks/audit/a?all=true&reason=she%20left&lock_delay_ms=0";
    assert_eq!(cluster.insist("DELETE", force, "").status, 200);
    assert_eq!(cluster.insist("POST", "/v1/members", r#"{"ttl_ms":60000}"#).status, 200);

    // Whoever leads dies, and comes back; another one is rotated meanwhile.
    let leader = cluster.leader(None);
    let other = leader % 3 + 1;
    let rotated = cluster.dir.path().join("rotated");
    cluster.kill(leader);
    fs::rename(path(&cluster, other), &rotated).expect("rotated");
    assert_eq!(cluster.acquire("audit/b", r#"{"owner":"cid","ttl_ms":600000}"#).status, 200);
    cluster.restart(leader);
    cluster.wait_ready(leader);
    assert_eq!(cluster.acquire("audit/c", r#"{"owner":"dan","ttl_ms":600000}"#).status, 200);
    eventually("all have written", || {
        (1..=3).all(|id| has(&story(&path(&cluster, id)), "granted", "audit/c")).then_some(())
    });

    let third = path(&cluster, other % 3 + 1);
    let whole = story(&third);
    for (action, field, value) in [
        ("granted", "actor", "ann"),
        ("refused", "actor", "bob"),
        ("forced", "reason", "she left"),
        ("ended", "detail", "forced"),
        ("record", "detail", "invite/4 written"),
    ] {
        let told = whole.iter().any(|line| line["action"] == action && line[field] == value);
        assert!(told, "{action} {value} is not in {whole:?}");
    }
    assert!(!format!("{whole:?}").contains(&lease.text("lease_id")));

    let mut stories = Vec::new();
    for id in 1..=3 {
        let file = path(&cluster, id);
        let mut files = vec![file.as_path()];
        if id == other {
            files.insert(0, &rotated);
        }
        let verified = verify(&files);
        assert!(verified.status.success(), "node {id}: {verified:?}");
        let mut told: Vec<Value> = files.iter().flat_map(|file| story(file)).collect();
        // Two nodes stand at different entries; what both have is the same.
        told.retain(|line| line["lock"].as_str().is_none_or(|it| it.starts_with("audit/")));
        stories.push(told);
    }
    // Of the one that was killed lines may be missing, and then it says so.
    let killed = &stories[leader as usize - 1];
    let rest: Vec<&Vec<Value>> =
        (1..=3).filter(|id| *id != leader).map(|id| &stories[id as usize - 1]).collect();
    assert_eq!(rest[0], rest[1]);
    assert!(killed.iter().all(|line| rest[0].contains(line)), "{killed:?}");
    let says_so = lines(&path(&cluster, leader)).iter().any(|line| line["action"] == "gap");
    assert!(says_so || killed == rest[0], "{killed:?}");

    // A line that is changed is found.
    let changed = cluster.dir.path().join("changed");
    let text = fs::read_to_string(third).expect("it is there");
    fs::write(&changed, text.replacen("she left", "he  left", 1)).expect("written");
    let broken = verify(&[&changed]);
    let said = String::from_utf8_lossy(&broken.stderr).into_owned();
    assert!(broken.status.code() == Some(1) && said.contains("first that is broken"), "{said}");
}

#[test]
fn the_node_that_was_asked_writes_whose_credential_it_was_and_who_was_denied() {
    let cluster = audited("");
    let secret = cluster.dir.path().join("secret");
    let at = |id: u64, token: &str, command: &[&str]| {
        fs::write(&secret, token).expect("written");
        let output = Command::new(env!("CARGO_BIN_EXE_oarlock"))
            .args(["--endpoint", cluster.api(id), "--output", "json", "--token-file"])
            .arg(&secret)
            .args(command)
            .output()
            .expect("it runs");
        let made = serde_json::from_slice::<Value>(&output.stdout).ok();
        made.filter(|_| output.status.success())
    };
    let word = |made: &Value| made["access_token"].as_str().expect("a secret").to_owned();
    let id_of = |made: &Value| made["token_id"].as_str().expect("an id").to_owned();
    let root = eventually("a first token", || at(1, "", &["tokens", "init"]));
    let create = ["tokens", "create", "ci", "--right", "acquire:ci/"];
    let ci = eventually("another one", || at(1, &word(&root), &create));
    let acquire = |name| at(2, &word(&ci), &["acquire", name, "--owner", "me", "--ttl", "10m"]);
    let lease = eventually("a lock", || acquire("ci/a"));
    assert!(acquire("other").is_none(), "no right");
    let lease_id = lease["lease_id"].as_str().expect("an id");
    at(2, &word(&ci), &["renew", lease_id]).expect("renewed");
    at(2, &word(&ci), &["release", lease_id]).expect("released");
    assert!(at(2, "oarkey1-0-0", &["inspect", "ci/a"]).is_none(), "nobody");

    let identity = format!("ci/{}", id_of(&ci));
    let of_calls = |id: u64| -> Vec<Value> {
        let all = lines(&path(&cluster, id)).into_iter();
        all.filter(|line| matches!(line["action"].as_str(), Some("called" | "denied"))).collect()
    };
    let by_it = eventually("it is written", || {
        let mut all = of_calls(2);
        let strange = all.iter().any(|line| line["identity"] == "an unknown token");
        all.retain(|line| line["identity"] == identity.as_str());
        (strange && all.len() >= 3).then_some(all)
    });
    let told: Vec<_> = by_it
        .iter()
        .map(|line| ["action", "detail", "lock"].map(|field| line[field].as_str().unwrap_or("")))
        .collect();
    assert!(told.contains(&["called", "acquire: granted", "ci/a"]), "{told:?}");
    assert!(told.contains(&["denied", "acquire: forbidden", "other"]), "{told:?}");
    assert!(told.contains(&["called", "release: released", "ci/a"]), "{told:?}");
    assert!(!told.iter().any(|line| line[1].starts_with("renew")), "{told:?}");
    let granted = by_it.iter().find(|line| line["detail"] == "acquire: granted");
    let granted = granted.expect("it is there");
    assert_eq!(granted["token"], lease["token"], "the token leads to what every node wrote");
    assert!(granted["wall_ms"].as_u64().is_some_and(|ms| ms > 0), "{granted}");
    // Who asked is known where it was asked, and there alone.
    assert!(of_calls(3).iter().all(|line| line["identity"] != identity.as_str()));
    let create = format!("create-token {}: done", id_of(&ci));
    assert!(of_calls(1).iter().any(|line| line["detail"] == create.as_str()));
    for id in 1..=3 {
        let file = path(&cluster, id);
        assert!(verify(&[&file]).status.success(), "node {id}");
        let text = fs::read_to_string(file).expect("it is there");
        for secret in [lease_id, &word(&root), &word(&ci)] {
            assert!(!text.contains(secret), "a secret is in the audit of node {id}");
        }
    }
}

/// Every file below a directory, but for the log, the snapshots and the state: they hold lease ids by
/// their nature.
fn stored(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !path.is_dir() {
            found.push(path);
        } else if name != "log" && !name.starts_with("snapshot") && !name.starts_with("state") {
            stored(&path, found);
        }
    }
}

#[test]
fn no_lease_id_and_no_secret_is_in_anything_that_a_run_prints_or_stores_beside_the_log() {
    let mut cluster = audited("log_level = \"debug\"\nreserve_bytes = 1048576");
    let mut secrets = Vec::new();
    let session = cluster.insist("POST", "/v1/sessions", r#"{"owner":"ann","ttl_ms":60000}"#);
    secrets.push(session.text("session_id"));
    let in_session = format!(r#"{{"session_id":"{}"}}"#, session.text("session_id"));
    secrets.push(cluster.acquire("secret/session", &in_session).text("lease_id"));
    let held = cluster.acquire("secret/a", r#"{"owner":"ann","ttl_ms":600000}"#);
    secrets.push(held.text("lease_id"));
    for (lock, ttl_ms) in [("secret/b", 600_000), ("secret/c", 300)] {
        let body = format!(r#"{{"owner":"bob","ttl_ms":{ttl_ms}}}"#);
        secrets.push(cluster.acquire(lock, &body).text("lease_id"));
    }
    let many =
        r#"{"owner":"cid","ttl_ms":60000,"locks":[{"name":"secret/x"},{"name":"secret/y"}]}"#;
    let many = cluster.insist("POST", "/v1/locks", many);
    let leases = many.body["leases"].as_array().expect("leases").iter();
    secrets.extend(leases.map(|lease| lease["lease_id"].as_str().expect("an id").to_owned()));
    let invited = cluster.insist("POST", "/v1/members", r#"{"ttl_ms":60000}"#);
    secrets.push(invited.text("join_token"));
    // Refusals, renewals, a release, an expiry, a force release, a leader that dies.
    let mut answers = vec![cluster.acquire("secret/a", r#"{"owner":"dan","ttl_ms":1000}"#)];
    let lease = |secret: &str, rest: &str| format!("/v1/leases/{secret}{rest}");
    assert_eq!(cluster.insist("POST", &lease(&secrets[2], "/renew"), "").status, 200);
    assert_eq!(cluster.insist("DELETE", &lease(&secrets[3], ""), "").status, 200);
    let force = "/v1/locks/secret/a?all=true&reason=test";
    answers.push(cluster.insist("DELETE", force, ""));
    eventually("it expires", || {
        (cluster.insist("GET", "/v1/locks/secret/c", "").body["held"] == false).then_some(())
    });
    let leader = cluster.leader(None);
    cluster.kill(leader);
    assert_eq!(cluster.acquire("secret/d", r#"{"owner":"eve","ttl_ms":0}"#).status, 400);
    cluster.restart(leader);
    cluster.wait_ready(leader);
    for path in
        ["/v1/locks?prefix=secret", "/v1/locks/secret/x", "/v1/history/secret/a", "/v1/cluster"]
    {
        answers.push(cluster.insist("GET", path, ""));
    }

    let mut texts: Vec<(String, String)> = answers
        .into_iter()
        .map(|it| ("an answer to others".to_owned(), it.body.to_string()))
        .collect();
    for node in &cluster.nodes {
        let metrics = page(&node.api, "/metrics", Duration::from_secs(30)).expect("a page");
        texts.push((format!("metrics of {}", node.id), metrics));
    }
    for arguments in [&["list"][..], &["list", "--graph"], &["status"], &["doctor"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_oarlock"))
            .args(arguments)
            .args(["--endpoint", cluster.api(1)])
            .output()
            .expect("it runs");
        let said = [output.stdout, output.stderr].concat();
        texts.push((arguments.join(" "), String::from_utf8_lossy(&said).into_owned()));
    }
    let seen = cluster.dir.path().join("watched");
    let out = fs::File::create(&seen).expect("a file");
    let mut watch = Command::new(env!("CARGO_BIN_EXE_oarlock"))
        .args(["watch", "--endpoint", cluster.api(2)])
        .stdout(out)
        .spawn()
        .expect("it runs");
    let mut round = 0;
    eventually("it watches", || {
        round += 1;
        let body = r#"{"owner":"fay","ttl_ms":200}"#;
        secrets.push(cluster.acquire(&format!("secret/watch/{round}"), body).text("lease_id"));
        (fs::metadata(&seen).ok()?.len() > 1_000).then_some(())
    });
    watch.kill().expect("it can be stopped");
    watch.wait().expect("it is gone");
    assert!(texts.iter().all(|(_, text)| !text.is_empty()), "{texts:?}");

    let mut files = Vec::new();
    stored(cluster.dir.path(), &mut files);
    let named = |end: &str| files.iter().filter(|it| it.to_string_lossy().ends_with(end)).count();
    assert_eq!((named(".log"), named(".audit")), (3, 3), "{files:?}");
    for file in files {
        let bytes = fs::read(&file).expect("a file");
        texts.push((file.display().to_string(), String::from_utf8_lossy(&bytes).into_owned()));
    }
    secrets.retain(|secret| !secret.is_empty());
    assert!(secrets.len() > 9, "{}", secrets.len());
    for (place, text) in &texts {
        for secret in &secrets {
            assert!(!text.contains(secret.as_str()), "a secret is in {place}");
        }
    }
}
