//! Identity and encryption across processes: certificates of a private authority, mutual TLS between
//! peers, tokens at every node.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use serde_json::Value;

use crate::cluster::{Cluster, eventually, free_ports};

const DAY: i64 = 86_400;

/// The command line with these arguments, and what it printed; an error is what it said.
fn oarlock(arguments: &[&str]) -> Result<String, String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_oarlock"));
    for name in [
        "OARLOCK_ACCESS_TOKEN",
        "OARLOCK_TOKEN_FILE",
        "OARLOCK_CA",
        "OARLOCK_ENDPOINTS",
        "OARLOCK_INSECURE",
    ] {
        command.env_remove(name);
    }
    let output = command.args(arguments).output().expect("it runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// A private authority with certificates for three nodes.
struct Pki(PathBuf);

impl Pki {
    fn new(dir: &Path) -> Self {
        let dir = dir.join("pki");
        let pki = Self(dir);
        pki.make(&["init", "--cluster-name", "test"]);
        (1..=3).for_each(|id: u64| pki.make(&["node", &id.to_string()]));
        pki
    }

    fn make(&self, arguments: &[&str]) {
        let dir = self.file("");
        let made = oarlock(&[&["pki"], arguments, &["--dir", &dir]].concat());
        made.unwrap_or_else(|error| panic!("{arguments:?}: {error}"));
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    /// The settings of a node, with certificates that may be another's.
    fn settings(&self, certificate: &str) -> String {
        let (ca, crt, key) = (
            self.file("ca.crt"),
            self.file(&format!("{certificate}.crt")),
            self.file(&format!("{certificate}.key")),
        );
        format!(
            "cluster_name = \"test\"\ntls_cert = \"{crt}\"\ntls_key = \"{key}\"\ntls_client_ca = \"{ca}\"\n\
             peer_tls_cert = \"{crt}\"\npeer_tls_key = \"{key}\"\npeer_tls_ca = \"{ca}\"\n"
        )
    }
}

struct Secured {
    cluster: Cluster,
    pki: Pki,
}

impl Secured {
    /// Three nodes that were not started yet.
    fn configured() -> Self {
        let cluster = Cluster::configured(0, "");
        let pki = Pki::new(cluster.dir.path());
        let secured = Self { cluster, pki };
        (1..=3).for_each(|id| secured.set(id, &secured.pki.settings(&format!("node-{id}"))));
        secured
    }

    /// Adds settings to the configuration of a node, in place of those added before.
    fn set(&self, id: u64, settings: &str) {
        let path = self.cluster.config(id);
        let text = fs::read_to_string(&path).expect("a config");
        let plain = text.split("cluster_name").next().unwrap_or_default();
        fs::write(path, format!("{plain}{settings}")).expect("a config");
    }

    /// The command line, at one node, with more arguments before the command.
    fn at(&self, id: u64, more: &[&str], command: &[&str]) -> Result<String, String> {
        let endpoint = format!("https://{}", self.cluster.api(id));
        let ca = self.pki.file("ca.crt");
        let target = ["--endpoint", &endpoint, "--ca", &ca, "--timeout", "20s", "--output", "json"];
        oarlock(&[&target, more, command].concat())
    }

    fn insist(&self, id: u64, more: &[&str], command: &[&str]) -> Value {
        let text =
            eventually(&format!("{command:?} at node {id}"), || self.at(id, more, command).ok());
        serde_json::from_str(&text).expect("JSON")
    }

    fn wait_ready(&self) {
        for id in 1..=3 {
            eventually(&format!("node {id} serves; its log:\n{}", self.cluster.log(id)), || {
                let cluster = self.at(id, &[], &["status"]).ok()?;
                cluster.contains("\"ready\":true").then_some(())
            });
        }
    }

    fn start() -> Self {
        let mut secured = Self::configured();
        (1..=3).for_each(|id| secured.cluster.restart(id));
        secured.wait_ready();
        secured
    }

    /// The same, with lists of revoked certificates.
    fn start_with_lists() -> Self {
        let mut secured = Self::configured();
        secured.pki.make(&["revoke"]);
        let list = secured.pki.file("ca.crl");
        for id in 1..=3 {
            let settings = secured.pki.settings(&format!("node-{id}"));
            let lists = format!("tls_revoked = \"{list}\"\npeer_tls_revoked = \"{list}\"\n");
            secured.set(id, &format!("{settings}{lists}"));
            secured.cluster.restart(id);
        }
        secured.wait_ready();
        secured
    }

    fn wait_log(&self, id: u64, text: &str) {
        eventually(&format!("node {id} says: {text}"), || {
            self.cluster.log(id).contains(text).then_some(())
        });
    }
}

#[test]
fn f90_certificates_are_asked_for_and_rotated_while_locks_are_held() {
    let secured = Secured::start();
    // Plain text is no way in.
    assert!(secured.cluster.get(1, "/readyz").is_err());
    let init = secured.insist(1, &[], &["tokens", "init"]);
    let admin = secured.pki.file("admin.token");
    fs::write(&admin, init["access_token"].as_str().expect("a secret")).expect("written");
    let admin = ["--token-file", admin.as_str()];
    // The token works at every node, once that has heard of it.
    (1..=3).for_each(|id| drop(secured.insist(id, &admin, &["tokens", "list"])));
    let refused = secured.at(2, &[], &["inspect", "a"]).expect_err("nobody asks");
    assert!(refused.contains("asks who you are"), "{refused}");

    // A client certificate has the rights of its name, and no others.
    secured.pki.make(&["client", "ci"]);
    let create = ["tokens", "create", "ci", "--certificate", "--right", "acquire:ci/"];
    secured.insist(3, &admin, &create);
    let (crt, key) = (secured.pki.file("client-ci.crt"), secured.pki.file("client-ci.key"));
    let ci = ["--cert", crt.as_str(), "--key", key.as_str()];
    let acquire =
        |name: &str| secured.at(2, &ci, &["acquire", name, "--owner", "ci", "--ttl", "10m"]);
    let lease = eventually("the certificate is known", || acquire("ci/a").ok());
    let lease: Value = serde_json::from_str(&lease).expect("JSON");
    assert!(acquire("other").expect_err("no right").contains("acquire over `other`"));

    // New certificates for all nodes, used without a restart, while the lock is held.
    for id in 1..=3_u64 {
        secured.pki.make(&["node", &id.to_string(), "--host", "rotated.example"]);
        secured.cluster.signal(id, "-HUP");
    }
    for id in 1..=3 {
        secured.wait_log(id, "new certificates are in use");
    }
    let lease_id = lease["lease_id"].as_str().expect("an id");
    for id in 1..=3 {
        let renewed = secured.insist(id, &ci, &["renew", lease_id]);
        assert_eq!(renewed["token"], lease["token"], "nothing was lost");
    }
    let secret = fs::read_to_string(secured.pki.file("admin.token")).expect("a token");
    for id in 1..=3 {
        let log = secured.cluster.log(id);
        assert!(!log.contains(&secret) && !log.contains(lease_id), "a secret is in a log");
    }
}

#[test]
fn f90_a_revoked_certificate_is_refused_with_the_reason_and_its_connections_end() {
    let secured = Secured::start_with_lists();
    let init = secured.insist(1, &[], &["tokens", "init"]);
    let admin = secured.pki.file("admin.token");
    fs::write(&admin, init["access_token"].as_str().expect("a secret")).expect("written");
    let create = ["tokens", "create", "ci", "--certificate", "--right", "inspect"];
    secured.insist(1, &["--token-file", &admin], &create);
    secured.pki.make(&["client", "ci"]);
    let (crt, key) = (secured.pki.file("stolen.crt"), secured.pki.file("stolen.key"));
    fs::copy(secured.pki.file("client-ci.crt"), &crt).expect("copied");
    fs::copy(secured.pki.file("client-ci.key"), &key).expect("copied");
    let stolen = ["--cert", crt.as_str(), "--key", key.as_str(), "--timeout", "3s"];
    let mut command = Command::new(env!("CARGO_BIN_EXE_oarlock"));
    let endpoint = format!("https://{}", secured.cluster.api(1));
    command.args(["--endpoint", &endpoint, "--ca", &secured.pki.file("ca.crt")]);
    let seen = fs::File::create(secured.pki.file("seen")).expect("a file");
    let mut watch = command.args(stolen).arg("watch").stdout(seen).spawn().expect("it runs");
    let ca = secured.pki.file("ca.crt");
    let look = |certified: &[&str]| {
        oarlock(&[&["--endpoint", &endpoint, "--ca", &ca], certified, &["inspect", "a"]].concat())
    };
    eventually("it is let in", || look(&stolen).ok());
    eventually("and watches", || {
        let take = ["acquire", "a", "--owner", "me", "--ttl", "1s"];
        drop(secured.at(1, &["--token-file", &admin], &take));
        (fs::metadata(secured.pki.file("seen")).ok()?.len() > 0).then_some(())
    });

    // Damage changes nothing.
    let list = secured.pki.file("ca.crl");
    let good = fs::read(&list).expect("a list");
    fs::write(&list, "-----BEGIN X509 CRL-----\n????").expect("written");
    secured.cluster.signal(1, "-HUP");
    secured.wait_log(1, "changed certificates cannot be used");
    fs::write(&list, good).expect("written");
    assert!(look(&stolen).is_ok());

    let other = tempfile::tempdir().expect("a directory");
    let other = other.path().display().to_string();
    oarlock(&["pki", "init", "--dir", &other]).expect("another authority");
    let foreign = oarlock(&["pki", "revoke", &crt, "--dir", &other]).expect_err("not its own");
    assert!(foreign.contains("was not signed by the authority"), "{foreign}");
    let dir = secured.pki.file("");
    let whole = oarlock(&["pki", "revoke", "ca", "--dir", &dir]).expect_err("no node or client");
    assert!(whole.contains("was not signed by the authority"), "{whole}");
    assert!(Path::new(&secured.pki.file("ca.key")).exists());

    secured.pki.make(&["revoke", "client-ci"]);
    (1..=3).for_each(|id| secured.cluster.signal(id, "-HUP"));
    secured.wait_log(1, "a client's certificate was revoked: its connection ends");
    assert!(!watch.wait().expect("it ended").success());
    assert!(look(&stolen).is_err());
    secured.wait_log(1, "its certificate was revoked");
    // The list goes away: nobody is let in again by that.
    fs::remove_file(&list).expect("removed");
    secured.cluster.signal(1, "-HUP");
    assert!(look(&stolen).is_err());
    secured.pki.make(&["revoke"]);
    // A new certificate has a key of its own, and is no other client's.
    secured.pki.make(&["client", "ci"]);
    let (crt, key) = (secured.pki.file("client-ci.crt"), secured.pki.file("client-ci.key"));
    let fresh = ["--cert", crt.as_str(), "--key", key.as_str()];
    eventually("the new one is good", || look(&fresh).ok());
    assert!(look(&stolen).is_err(), "the list is extended, not begun anew");

    // A peer.
    secured.pki.make(&["revoke", "node-3"]);
    (1..=2).for_each(|id| secured.cluster.signal(id, "-HUP"));
    // Who called it calls again only because that connection ended.
    eventually("the others end its connections", || {
        let ended = "the certificate of the other end was revoked";
        let again = "its certificate was revoked: if it should be let in, give it a new one";
        let told = |log: String| log.contains(ended) || log.contains(again);
        (1..=2).any(|id| told(secured.cluster.log(id))).then_some(())
    });
    eventually("and take no other", || {
        let refused = "a peer was refused at the TLS handshake";
        let why = "its certificate was revoked";
        let both = |line: &str| line.contains(refused) && line.contains(why);
        (1..=2).any(|id| secured.cluster.log(id).lines().any(both)).then_some(())
    });
}

/// From when to when, in seconds from now, something is good.
fn in_seconds(params: &mut CertificateParams, good: std::ops::Range<i64>) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let at = |seconds: i64| {
        rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(now.saturating_add_signed(seconds))
    };
    (params.not_before, params.not_after) = (at(good.start), at(good.end));
}

/// Another authority that calls itself the same, and what it signs.
fn foreign(pki: &Pki, seconds: std::ops::Range<i64>, own: bool, name: &str, file: &str) {
    let key = KeyPair::generate().expect("a key");
    let mut authority = CertificateParams::default();
    authority.distinguished_name.push(rcgen::DnType::CommonName, "oarlock test");
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let ca_key = if own {
        let text = fs::read_to_string(pki.file("ca.key")).expect("a key");
        KeyPair::from_pem(&text).expect("a key")
    } else {
        KeyPair::generate().expect("a key")
    };
    let mut params = CertificateParams::default();
    params.subject_alt_names.push(match name.strip_prefix("oarlock:") {
        Some(_) => SanType::URI(name.try_into().expect("a URI")),
        None => SanType::DnsName(name.try_into().expect("a name")),
    });
    in_seconds(&mut params, seconds);
    let signed = params.signed_by(&key, &Issuer::new(authority, ca_key)).expect("signed");
    fs::write(pki.file(&format!("{file}.crt")), signed.pem()).expect("written");
    fs::write(pki.file(&format!("{file}.key")), key.serialize_pem()).expect("written");
}

#[test]
fn f87_a_peer_with_a_bad_certificate_is_refused_with_the_reason_and_nothing_is_merged() {
    let mut secured = Secured::start();
    secured.cluster.kill(3);
    let pki = &secured.pki;
    foreign(pki, -9 * DAY..9 * DAY, false, "node-3.test.oarlock", "foreign");
    foreign(pki, -9 * DAY..-DAY, true, "node-3.test.oarlock", "expired");
    foreign(pki, DAY..9 * DAY, true, "node-3.test.oarlock", "early");
    foreign(pki, -9 * DAY..9 * DAY, true, "node-3.other.oarlock", "elsewhere");
    for (certificate, why) in [
        ("foreign", "another authority"),
        ("expired", "its certificate is over"),
        ("early", "is not valid yet"),
        ("elsewhere", "names no node of this cluster"),
        ("node-2", "its certificate is of node 2"),
    ] {
        // Only towards the peers: its own clients need no more than this here.
        secured.set(3, &secured.pki.settings(certificate));
        secured.cluster.restart(3);
        eventually(&format!("somebody refuses {certificate}: {why}"), || {
            (1..=2).any(|id| secured.cluster.log(id).contains(why)).then_some(())
        });
        secured.cluster.kill(3);
    }
    let taken = secured.insist(1, &[], &["acquire", "a", "--owner", "me", "--ttl", "10m"]);
    assert!(taken["token"].as_u64().is_some(), "{taken}");
    // With its own certificate it is one of them again.
    secured.set(3, &secured.pki.settings("node-3"));
    secured.cluster.restart(3);
    secured.wait_ready();
    let seen = secured.insist(3, &[], &["inspect", "a"]);
    assert_eq!(seen["holders"][0]["token"], taken["token"], "{seen}");
}

#[test]
fn f89_a_client_of_another_authority_and_plain_text_are_refused_with_a_reason() {
    let mut secured = Secured::configured();
    (1..=3).for_each(|id| secured.cluster.restart(id));
    secured.wait_ready();
    foreign(&secured.pki, -9 * DAY..9 * DAY, false, "somebody", "foreign");
    let (crt, key) = (secured.pki.file("foreign.crt"), secured.pki.file("foreign.key"));
    let shown = ["--cert", crt.as_str(), "--key", key.as_str(), "--timeout", "3s"];
    assert!(secured.at(1, &shown[..4], &["inspect", "a"]).is_err());
    secured.wait_log(1, "a client was refused at the TLS handshake");
    assert!(secured.cluster.log(1).contains("another authority"), "{}", secured.cluster.log(1));
    // A node that its client does not trust.
    let endpoint = format!("https://{}", secured.cluster.api(1));
    let told = oarlock(&["--endpoint", &endpoint, "--ca", &crt, "--timeout", "3s", "inspect", "a"]);
    assert!(told.is_err());
    let plain = oarlock(&["--endpoint", secured.cluster.api(1), "--timeout", "3s", "inspect", "a"]);
    assert!(plain.is_err());
}

#[test]
fn f90_a_connection_ends_with_the_certificate_of_its_client() {
    let secured = Secured::start();
    let init = secured.insist(1, &[], &["tokens", "init"]);
    let admin = secured.pki.file("admin.token");
    fs::write(&admin, init["access_token"].as_str().expect("a secret")).expect("written");
    let create = ["tokens", "create", "ci", "--certificate", "--right", "inspect"];
    secured.insist(1, &["--token-file", &admin], &create);
    // How long the handshake takes is not known: where a short life was too short, a longer one.
    for life in [4, 16, 64] {
        foreign(&secured.pki, -DAY..life, true, "oarlock:client/ci", "short");
        let (crt, key) = (secured.pki.file("short.crt"), secured.pki.file("short.key"));
        let endpoint = format!("https://{}", secured.cluster.api(1));
        let ca = secured.pki.file("ca.crt");
        let shown = ["--endpoint", &endpoint, "--ca", &ca, "--cert", &crt, "--key", &key];
        // It goes on for as long as its certificate does; then nobody lets it in again.
        let watched = oarlock(&[&shown[..], &["--timeout", "2s", "watch"]].concat());
        assert!(watched.is_err(), "a watch does not end by itself");
        if secured.cluster.log(1).contains("its connection ends") {
            let again = oarlock(&[&shown[..], &["--timeout", "3s", "inspect", "a"]].concat());
            assert!(again.is_err(), "{again:?}");
            return secured.wait_log(1, "its certificate is over");
        }
    }
    panic!("a stream outlived its certificate:\n{}", secured.cluster.log(1));
}

#[test]
fn f90_a_connection_of_peers_ends_with_a_certificate_and_a_new_one_takes_its_place() {
    let mut secured = Secured::start();
    secured.cluster.kill(3);
    secured.set(3, &secured.pki.settings("short"));
    let ended = |cluster: &Cluster| {
        (1..=2).any(|id| cluster.log(id).contains("ran out while it was connected"))
    };
    // How long a node takes to start and connect is not known: where a short life was too short, a
    // longer one.
    for life in [6, 18, 50] {
        foreign(&secured.pki, -DAY..life, true, "node-3.test.oarlock", "short");
        let over = Instant::now() + Duration::from_secs(life.unsigned_abs() + 4);
        secured.cluster.restart(3);
        eventually("its peers end the connections, or it was too late to make some", || {
            (ended(&secured.cluster) || Instant::now() > over).then_some(())
        });
        if ended(&secured.cluster) {
            break;
        }
        secured.cluster.kill(3);
    }
    assert!(ended(&secured.cluster), "connections outlived a certificate");
    secured.wait_log(3, "this certificate runs out soon");
    eventually("and take no other", || {
        let over = "its certificate is over";
        (1..=2).any(|id| secured.cluster.log(id).contains(over)).then_some(())
    });
    secured.wait_log(3, "this certificate is over");
    // Put in place while it runs, the new one is taken.
    for end in ["crt", "key"] {
        let from = secured.pki.file(&format!("node-3.{end}"));
        fs::copy(from, secured.pki.file(&format!("short.{end}"))).expect("copied");
    }
    secured.cluster.signal(3, "-HUP");
    secured.wait_ready();
}

#[test]
fn a_lost_administrator_gets_in_by_the_configuration_of_a_node_and_that_is_audited() {
    let cluster = Cluster::configured(0, "");
    let audit = cluster.dir.path().join("audit.log");
    let path = cluster.config(2);
    let text = fs::read_to_string(&path).expect("a config");
    fs::write(&path, format!("audit_file = \"{}\"\n{text}", audit.display())).expect("written");
    let mut cluster = cluster;
    cluster.start_all();
    let at = |id: u64, token: &str, command: &[&str]| {
        let file = cluster.dir.path().join("token");
        fs::write(&file, token).expect("written");
        let file = file.display().to_string();
        let target = ["--endpoint", cluster.api(id), "--token-file", &file, "--output", "json"];
        oarlock(&[&target, command].concat())
    };
    drop(eventually("the first token, which is lost", || at(1, "", &["tokens", "init"]).ok()));
    let made = Command::new(env!("CARGO_BIN_EXE_oarlock")).args(["tokens", "break-glass"]).output();
    let made = made.expect("it runs");
    let word = String::from_utf8(made.stdout).expect("a word");
    let told = String::from_utf8(made.stderr).expect("a line");
    let line = told.lines().find(|line| line.starts_with("break_glass_hash")).expect("a line");
    eventually("the cluster is closed", || at(2, &word, &["tokens", "list"]).err());

    let text = fs::read_to_string(&path).expect("a config");
    fs::write(&path, format!("{line}\n{text}")).expect("written");
    cluster.signal(2, "-HUP");
    let create = ["tokens", "create", "admin-2", "--right", "admin"];
    let fresh = eventually("the node lets it in", || at(2, &word, &create).ok());
    let fresh: Value = serde_json::from_str(&fresh).expect("JSON");
    let fresh = fresh["access_token"].as_str().expect("a secret");
    assert!(at(1, &word, &["tokens", "list"]).is_err(), "that node has no such line");
    eventually("the new token works", || at(1, fresh, &["tokens", "list"]).ok());
    let log = cluster.log(2);
    assert!(log.contains("BREAK-GLASS TOKEN OF THIS NODE WAS USED"), "{log}");
    assert!(!log.contains(word.trim()), "no secret is in a log");
    eventually("it is in the audit", || {
        let lines = fs::read_to_string(&audit).ok()?;
        (lines.contains("\"break-glass\"") && lines.contains("POST /v1/tokens")).then_some(())
    });
    oarlock(&["audit", "verify", &audit.display().to_string()]).expect("an unbroken chain");

    fs::write(&path, text).expect("written");
    cluster.signal(2, "-HUP");
    eventually("without the line it is over", || at(2, &word, &["tokens", "list"]).err());
}

#[test]
fn a_token_that_ran_out_opens_nothing_at_any_node_of_an_idle_cluster() {
    let cluster = Cluster::start();
    let at = |id: u64, token: &str, command: &[&str]| {
        let file = cluster.dir.path().join(format!("token-{id}"));
        fs::write(&file, token).expect("written");
        let file = file.display().to_string();
        let target = ["--endpoint", cluster.api(id), "--token-file", &file, "--output", "json"];
        let made = oarlock(&[&target, command].concat())?;
        serde_json::from_str::<Value>(&made).map_err(|error| format!("{error}: {made}"))
    };
    let secret = |made: &Value| made["access_token"].as_str().expect("a secret").to_owned();
    let admin = eventually("a first token", || at(1, "", &["tokens", "init"]).ok());
    let admin = secret(&admin);
    let create = ["tokens", "create", "short", "--right", "inspect", "--ttl", "3s"];
    let short = secret(&eventually("a short one", || at(1, &admin, &create).ok()));
    // Stale reads, which each node answers by what it has applied. Nothing else is going on.
    for id in 1..=3 {
        eventually("it runs out", || {
            at(id, &short, &["inspect", "a", "--stale"]).err().filter(|it| it.contains("expired"))
        });
    }
}

#[test]
fn bench_and_prove_say_who_asks_and_speak_tls() {
    let secured = Secured::start();
    let init = secured.insist(1, &[], &["tokens", "init"]);
    let admin = secured.pki.file("admin.token");
    fs::write(&admin, init["access_token"].as_str().expect("a secret")).expect("written");
    let endpoints: Vec<String> =
        (1..=3).map(|id| format!("https://{}", secured.cluster.api(id))).collect();
    let ca = secured.pki.file("ca.crt");
    let endpoints = endpoints.join(",");
    let target = ["--endpoint", &endpoints, "--ca", &ca, "--output", "json", "--timeout", "60s"];
    let token = ["--token-file", admin.as_str()];
    let bench = ["bench", "--operations", "40", "-c", "4"];
    let refused = oarlock(&[&target[..], &bench].concat()).expect_err("nobody asks");
    assert!(refused.contains("asks who you are"), "{refused}");
    // Every node has heard of the token by then.
    (1..=3).for_each(|id| drop(secured.insist(id, &token, &["tokens", "list"])));
    let report = oarlock(&[&target[..], &token, &bench].concat()).expect("measured");
    let report: Value = serde_json::from_str(&report).expect("JSON");
    assert_eq!((report["operations"].as_u64(), report["errors"].as_u64()), (Some(40), Some(0)));
    let out = secured.cluster.dir.path().join("report").display().to_string();
    let prove = ["prove", "--for", "2s", "--clients", "6", "--out", &out];
    let judged = oarlock(&[&target[..], &token, &prove].concat()).expect("judged");
    let judged: Value = serde_json::from_str(&judged).expect("JSON");
    assert_eq!(judged["verdict"], "ok", "{judged}");
}

#[test]
fn administration_may_have_a_listener_of_its_own() {
    let mut cluster = Cluster::configured(0, "");
    let admin = format!("127.0.0.1:{}", free_ports(1)[0]);
    let path = cluster.config(1);
    let text = fs::read_to_string(&path).expect("a config");
    fs::write(&path, format!("admin_address = \"{admin}\"\n{text}")).expect("written");
    cluster.start_all();
    let elsewhere = cluster.get(1, "/v1/tokens").expect("an answer");
    assert_eq!((elsewhere.status, elsewhere.text("type")), (421, "other-listener".to_owned()));
    assert_eq!(cluster.get(1, "/v1/locks").expect("an answer").status, 200);
    let at = |endpoint: &str, command: &[&str]| {
        oarlock(&[&["--endpoint", endpoint, "--output", "json"], command].concat())
    };
    let refused = at(cluster.api(1), &["tokens", "init"]).expect_err("not there");
    assert!(refused.contains("admin_address"), "{refused}");
    at(&admin, &["inspect", "a"]).expect("it serves everything");
    at(&admin, &["tokens", "init"]).expect("the first token");
    assert_eq!(cluster.get(1, "/metrics").expect("an answer").status, 421, "whoever asks");
}
