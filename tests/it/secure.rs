//! Identity and encryption across processes: certificates of a private authority, mutual TLS between
//! peers, tokens at every node.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::Value;

use crate::cluster::{Cluster, eventually};

/// The command line with these arguments, and what it printed; an error is what it said.
fn oarlock(arguments: &[&str]) -> Result<String, String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_oarlock"));
    for name in ["OARLOCK_ACCESS_TOKEN", "OARLOCK_TOKEN_FILE", "OARLOCK_CA", "OARLOCK_ENDPOINTS"] {
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

/// Another authority that calls itself the same, and what it signs.
fn foreign(pki: &Pki, days: std::ops::Range<i64>, own: bool, name: &str, file: &str) {
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
    let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let day = |days: i64| {
        let seconds = now.saturating_add_signed(days * 86_400);
        rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds)
    };
    (params.not_before, params.not_after) = (day(days.start), day(days.end));
    let signed = params.signed_by(&key, &Issuer::new(authority, ca_key)).expect("signed");
    fs::write(pki.file(&format!("{file}.crt")), signed.pem()).expect("written");
    fs::write(pki.file(&format!("{file}.key")), key.serialize_pem()).expect("written");
}

#[test]
fn f87_a_peer_with_a_bad_certificate_is_refused_with_the_reason_and_nothing_is_merged() {
    let mut secured = Secured::start();
    secured.cluster.kill(3);
    let pki = &secured.pki;
    foreign(pki, -9..9, false, "node-3.test.oarlock", "foreign");
    foreign(pki, -9..-1, true, "node-3.test.oarlock", "expired");
    foreign(pki, 1..9, true, "node-3.test.oarlock", "early");
    foreign(pki, -9..9, true, "node-3.other.oarlock", "elsewhere");
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
    foreign(&secured.pki, -9..9, false, "somebody", "foreign");
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
