//! The configuration of a node: a TOML file, overridden by environment variables, checked whole.
//!
//! Every setting has a default, so an empty file runs the first of three nodes on loopback. Every
//! setting `x` can be overridden by the variable `OARLOCK_X` (upper case). `cluster/sample.toml`
//! lists them all; a test keeps it equal to the defaults here.

mod validate;

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Prefix of the environment variables that override the file.
pub const ENVIRONMENT_PREFIX: &str = "OARLOCK_";

/// A first member of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemberConfig {
    pub id: u64,
    /// `host:port` of its peer listener.
    pub peer_address: String,
    /// `host:port` of its HTTP API.
    pub api_address: String,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Text,
    Json,
}

/// All settings of a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Number of this node; fixed for its life and never reused.
    pub node_id: u64,
    /// Where log, snapshots and state are kept.
    pub data_dir: PathBuf,
    /// `host:port` to serve the HTTP API on.
    pub api_address: String,
    /// `host:port` to serve administration and metrics on, away from clients; empty for `api_address`.
    pub admin_address: String,
    /// `host:port` to serve peers on.
    pub peer_address: String,
    /// `host:port` at which clients reach the API of a node that joins; empty for `api_address`.
    pub advertise_api_address: String,
    /// `host:port` at which peers reach a node that joins; empty for `peer_address`.
    pub advertise_peer_address: String,
    /// Who forms the cluster, or whom a node that joins asks; equal on all that form it.
    pub members: Vec<MemberConfig>,
    /// Leader to followers; also the pace of the lease clock.
    pub heartbeat_interval_ms: u64,
    /// A follower that has heard nothing for the leader lease stands for election after this long, at
    /// least.
    pub election_timeout_min_ms: u64,
    /// … and at most this long. It is the leader lease, too.
    pub election_timeout_max_ms: u64,
    /// Log entries between two snapshots; as many stay in the log.
    pub snapshot_log_entries: u64,
    /// Size of one log segment.
    pub log_segment_bytes: u64,
    /// Page cache of the state view.
    pub sled_cache_bytes: u64,
    /// Disk space kept in reserve. With less than that free, no new locks are granted.
    pub reserve_bytes: u64,
    /// Client connections at once.
    pub connections_max: usize,
    /// Threads that serve clients and peers; 0 for one per core. Disk and state have their own.
    pub worker_threads: usize,
    /// Part of the names in the certificates of peers; equal on all nodes.
    pub cluster_name: String,
    /// Certificate chain of the API, in PEM; empty for none, and then no TLS.
    pub tls_cert: String,
    /// Its key.
    pub tls_key: String,
    /// Authority of client certificates; empty for none.
    pub tls_client_ca: String,
    /// Lists of client certificates that it revoked; empty for none.
    pub tls_revoked: String,
    /// Certificate of this node among its peers; empty for none, and then no TLS.
    pub peer_tls_cert: String,
    /// Its key.
    pub peer_tls_key: String,
    /// Authority of the certificates of peers.
    pub peer_tls_ca: String,
    /// Lists of those that it revoked; empty for none.
    pub peer_tls_revoked: String,
    /// Hash of a key with all rights, for who has lost all others; empty for none.
    pub break_glass_hash: String,
    /// Refuses whoever does not show who they are, also while no token exists.
    pub auth_required: bool,
    /// Allows a listener on other than loopback addresses without TLS.
    pub insecure_bind: bool,
    /// Allows that with `auth_required` for peers, too: tokens then protect nothing from their network.
    pub insecure_peers: bool,
    /// Where this node writes who took, lost or forced which lock, and every change of the members;
    /// empty for nowhere. Its folder must exist.
    pub audit_file: PathBuf,
    /// `error`, `warn`, `info`, `debug` or `trace`, or a filter of the tracing crate.
    pub log_level: String,
    /// `text` or `json`.
    pub log_format: LogFormat,
    /// Collector that takes traces by OTLP over plain HTTP; empty for no traces. For builds with the
    /// feature `otel`.
    pub traces_endpoint: String,
    /// Part of the traces that begin at this node, 0 to 1, that is kept.
    pub traces_sample_ratio: f64,
    /// `service.name` of the traces.
    pub traces_service_name: String,
    /// The file that this was read from, to read it again; no setting.
    #[serde(skip)]
    pub source: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        let member = |id: u64| MemberConfig {
            id,
            peer_address: format!("127.0.0.1:{}", 7391 + 10 * id),
            api_address: format!("127.0.0.1:{}", 7390 + 10 * id),
        };
        Self {
            node_id: 1,
            data_dir: PathBuf::from("oarlock-data"),
            api_address: "127.0.0.1:7400".to_owned(),
            admin_address: String::new(),
            peer_address: "127.0.0.1:7401".to_owned(),
            advertise_api_address: String::new(),
            advertise_peer_address: String::new(),
            members: (1..=3).map(member).collect(),
            heartbeat_interval_ms: 100,
            election_timeout_min_ms: 400,
            election_timeout_max_ms: 800,
            snapshot_log_entries: 50_000,
            log_segment_bytes: 16 * 1024 * 1024,
            sled_cache_bytes: 64 * 1024 * 1024,
            reserve_bytes: 64 * 1024 * 1024,
            connections_max: 10_000,
            worker_threads: 0,
            cluster_name: "oarlock".to_owned(),
            tls_cert: String::new(),
            tls_key: String::new(),
            tls_client_ca: String::new(),
            tls_revoked: String::new(),
            peer_tls_cert: String::new(),
            peer_tls_key: String::new(),
            peer_tls_ca: String::new(),
            peer_tls_revoked: String::new(),
            break_glass_hash: String::new(),
            auth_required: false,
            insecure_bind: false,
            insecure_peers: false,
            audit_file: PathBuf::new(),
            log_level: "info".to_owned(),
            log_format: LogFormat::Text,
            traces_endpoint: String::new(),
            traces_sample_ratio: 1.0,
            traces_service_name: "oarlock".to_owned(),
            source: None,
        }
    }
}

/// Everything that is wrong with a configuration, a sentence each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<String>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the configuration cannot be used:")?;
        self.0.iter().try_for_each(|problem| write!(f, "\n  - {problem}"))
    }
}

impl std::error::Error for ConfigErrors {}

/// Whether an address is good for binding only.
pub fn is_anywhere(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_unspecified())
}

impl Config {
    /// Whether only this machine can reach an address.
    pub fn is_loopback(address: &str) -> bool {
        validate::port_of(address).is_some_and(|(host, _)| validate::is_loopback(host))
    }

    /// Whether other machines reach the API and are let in without showing who they are, until a
    /// first token is made.
    pub fn is_open_to_anybody(&self) -> bool {
        let own = [&self.api_address, &self.admin_address];
        let is_wide = |address: &&String| !address.is_empty() && !Self::is_loopback(address);
        !self.auth_required && own.iter().any(is_wide)
    }

    /// Where others reach the peer listener and the API of this node.
    pub fn advertised(&self) -> (String, String) {
        let or = |told: &String, bound: &String| {
            if told.is_empty() { bound.clone() } else { told.clone() }
        };
        (
            or(&self.advertise_peer_address, &self.peer_address),
            or(&self.advertise_api_address, &self.api_address),
        )
    }

    /// Reads a file and the environment, and checks the whole.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigErrors> {
        let one = |problem: String| ConfigErrors(vec![problem]);
        let text = match path {
            Some(path) => std::fs::read_to_string(path)
                .map_err(|error| one(format!("cannot read {}: {error}.", path.display())))?,
            None => String::new(),
        };
        let config = Self::parse(
            &text,
            std::env::vars().filter(|(name, _)| name.starts_with(ENVIRONMENT_PREFIX)),
        )?;
        Ok(Self { source: path.map(Path::to_owned), ..config })
    }

    /// Reads a text and overriding variables, and checks the whole.
    pub fn parse(
        text: &str,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigErrors> {
        let mut table: toml::Table =
            text.parse().map_err(|error| ConfigErrors(vec![format!("{error}")]))?;
        let settings = toml::Table::try_from(Self::default())
            .map_err(|error| ConfigErrors(vec![format!("{error}")]))?;
        for (name, value) in variables {
            let setting = name.trim_start_matches(ENVIRONMENT_PREFIX).to_lowercase();
            // Others carry this prefix too: endpoints of the command line, tokens, scripts.
            if !settings.contains_key(&setting) {
                continue;
            }
            // A number, a truth value or a list where it reads as one, else a text.
            let line = format!("value = {value}").parse::<toml::Table>();
            let parsed = line.ok().and_then(|mut table| table.remove("value"));
            table.insert(setting, parsed.unwrap_or(toml::Value::String(value)));
        }
        let config: Self =
            table.try_into().map_err(|error| ConfigErrors(vec![format!("{error}")]))?;
        let problems = validate::problems(&config);
        if problems.is_empty() { Ok(config) } else { Err(ConfigErrors(problems)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_lists_every_setting_with_its_default_and_variable() {
        let sample = include_str!("../../cluster/sample.toml");
        let config = Config::parse(sample, []).expect("the sample is valid");
        assert_eq!(config, Config::default());
        let defaults = toml::Table::try_from(Config::default()).expect("defaults are a table");
        let listed: toml::Table = sample.parse().expect("the sample is TOML");
        for setting in defaults.keys() {
            assert!(listed.contains_key(setting), "{setting} is not in the sample");
            let variable = format!("{ENVIRONMENT_PREFIX}{}", setting.to_uppercase());
            assert!(sample.contains(&variable), "{variable} is not in the sample");
        }
    }

    #[test]
    fn all_errors_are_told_at_once() {
        let text = "node_id = 0\nheartbeat_interval_ms = 400\napi_address = \"nonsense\"";
        let errors = Config::parse(text, []).expect_err("it is wrong in three ways");
        assert!(errors.0.len() >= 3, "{errors}");
    }

    #[test]
    fn an_unknown_setting_is_named() {
        let errors = Config::parse("heartbeat = 1", []).expect_err("it is unknown");
        assert!(errors.to_string().contains("heartbeat"), "{errors}");
    }

    #[test]
    fn a_variable_overrides_the_file() {
        let variable = ("OARLOCK_LOG_LEVEL".to_owned(), "debug".to_owned());
        let number = ("OARLOCK_SNAPSHOT_LOG_ENTRIES".to_owned(), "77".to_owned());
        let config = Config::parse("log_level = \"warn\"", [variable, number]).expect("valid");
        assert_eq!((config.log_level.as_str(), config.snapshot_log_entries), ("debug", 77));
    }

    #[test]
    fn an_address_that_nobody_can_reach_is_known() {
        assert!(["0.0.0.0:7401", "[::]:7401"].into_iter().all(is_anywhere));
        assert!(!["127.0.0.1:7401", "node-1:7401", "[::1]:7401"].into_iter().any(is_anywhere));
        let text = "node_id = 4\npeer_address = \"127.0.0.1:7431\"";
        let config = Config::parse(text, []).expect("it may join");
        assert_eq!(config.advertised().0, "127.0.0.1:7431");
        let text = format!("{text}\nadvertise_peer_address = \"node-4:7401\"");
        assert_eq!(Config::parse(&text, []).expect("valid").advertised().0, "node-4:7401");
        let first = Config::parse("advertise_peer_address = \"node-4:7401\"", []);
        let errors = first.expect_err("it contradicts the list of members");
        assert!(errors.to_string().contains("what `members` says"), "{errors}");
    }

    #[test]
    fn traces_are_refused_where_they_are_not_built_in_or_make_no_sense() {
        let endpoint = Config::parse("traces_endpoint = \"http://127.0.0.1:4318\"", []);
        assert_eq!(endpoint.is_ok(), crate::traces::IS_BUILT_IN);
        for ratio in ["-0.1", "1.5", "nan"] {
            let errors = Config::parse(&format!("traces_sample_ratio = {ratio}"), []);
            assert!(errors.expect_err(ratio).to_string().contains("traces_sample_ratio"));
        }
        assert!(Config::parse("traces_sample_ratio = 1", []).is_ok());
    }

    #[test]
    fn variables_of_others_are_left_alone() {
        let variable = ("OARLOCK_BIN".to_owned(), "/usr/bin/oarlock".to_owned());
        assert_eq!(Config::parse("", [variable]), Ok(Config::default()));
    }

    #[test]
    fn a_public_address_needs_an_explicit_word() {
        let text = "api_address = \"0.0.0.0:7400\"";
        let errors = Config::parse(text, []).expect_err("it is not loopback");
        assert!(errors.to_string().contains("insecure_bind"), "{errors}");
        assert!(Config::parse(&format!("{text}\ninsecure_bind = true"), []).is_ok());
        let with_tls = format!("{text}\ntls_cert = \"a.crt\"\ntls_key = \"a.key\"");
        assert!(Config::parse(&with_tls, []).is_ok());
        let peers = format!("{with_tls}\npeer_address = \"0.0.0.0:7401\"");
        let errors = Config::parse(&peers, []).expect_err("peers have none");
        assert!(errors.to_string().contains("peer_address"), "{errors}");
    }

    #[test]
    fn tokens_are_not_asked_for_while_peers_speak_in_clear() {
        let text = "auth_required = true\ninsecure_bind = true\npeer_address = \"0.0.0.0:7401\"";
        let errors =
            Config::parse(text, []).expect_err("whoever reaches the peers is asked nothing");
        let told = errors.to_string();
        assert!(told.contains("peer_tls_cert") && told.contains("insecure_peers"), "{told}");
        assert!(Config::parse(&format!("{text}\ninsecure_peers = true"), []).is_ok());
        let tls = "peer_tls_cert = \"a\"\npeer_tls_key = \"b\"\npeer_tls_ca = \"c\"";
        assert!(Config::parse(&format!("{text}\n{tls}"), []).is_ok());
        assert!(Config::parse("auth_required = true", []).is_ok(), "on loopback");
    }

    #[test]
    fn who_is_asked_for_nothing_is_known() {
        let open = |text: &str| Config::parse(text, []).expect("valid").is_open_to_anybody();
        let wide = "api_address = \"0.0.0.0:7400\"\ntls_cert = \"a\"\ntls_key = \"b\"";
        assert!(open(wide) && !open(&format!("{wide}\nauth_required = true")) && !open(""));
    }

    #[test]
    fn a_listener_for_administration_is_judged_as_that_of_clients() {
        let parse = |text: &str| Config::parse(text, []);
        assert!(parse("admin_address = \"127.0.0.1:7409\"").is_ok());
        for (bad, why) in [
            ("admin_address = \"7409\"", "host:port"),
            ("admin_address = \"0.0.0.0:7409\"", "insecure_bind"),
            ("admin_address = \"127.0.0.1:7400\"", "listeners"),
            ("admin_address = \"127.0.0.1:7401\"", "listeners"),
        ] {
            let errors = parse(bad).expect_err(why);
            assert!(errors.to_string().contains(why), "{errors}");
        }
    }

    #[test]
    fn half_of_a_certificate_is_none() {
        for half in [
            "tls_cert = \"a\"",
            "tls_key = \"a\"",
            "tls_client_ca = \"a\"",
            "tls_cert = \"a\"\ntls_key = \"b\"\ntls_revoked = \"c\"",
            "peer_tls_revoked = \"a\"",
            "peer_tls_cert = \"a\"\npeer_tls_key = \"b\"",
            "cluster_name = \"Not A Name\"",
        ] {
            assert!(Config::parse(half, []).is_err(), "{half}");
        }
    }
}
