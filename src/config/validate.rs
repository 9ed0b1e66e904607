//! What a configuration must satisfy, all of it at once, in plain sentences.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::config::{Config, MemberConfig};
use crate::traces;

/// Everything that is wrong, a sentence each.
pub(super) fn problems(config: &Config) -> Vec<String> {
    let mut problems = Vec::new();
    addresses(config, &mut problems);
    certificates(config, &mut problems);
    members(config, &mut problems);
    timing(config, &mut problems);
    sizes(config, &mut problems);
    traced(config, &mut problems);
    problems
}

pub(super) fn port_of(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    Some((host, port.parse().ok()?)).filter(|(host, _)| !host.is_empty())
}

pub(super) fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare == "localhost" || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn addresses(config: &Config, problems: &mut Vec<String>) {
    let own = [
        ("api_address", &config.api_address, "tls_cert", &config.tls_cert),
        ("admin_address", &config.admin_address, "tls_cert", &config.tls_cert),
        ("peer_address", &config.peer_address, "peer_tls_cert", &config.peer_tls_cert),
    ];
    let has_admin = !config.admin_address.is_empty();
    let own = own.into_iter().filter(|(setting, ..)| has_admin || *setting != "admin_address");
    for (setting, address, tls, certificate) in own {
        match port_of(address) {
            None => problems.push(format!("{setting} is host:port, not {address:?}.")),
            Some((host, _))
                if !is_loopback(host) && certificate.is_empty() && !config.insecure_bind =>
            {
                problems.push(format!(
                    "{setting} {address} is reachable from other machines and nothing encrypts or \
                 checks who calls; set {tls} and its key (`oarlock pki` makes them), bind to \
                 loopback, or set insecure_bind = true if the network itself is private."
                ));
            }
            Some(_) => {}
        }
    }
    let peers_are_wide = port_of(&config.peer_address).is_some_and(|(host, _)| !is_loopback(host));
    if config.auth_required
        && peers_are_wide
        && config.peer_tls_cert.is_empty()
        && !config.insecure_peers
    {
        problems.push(format!(
            "auth_required asks clients who they are, and peer_address {} takes whoever reaches it \
             for a node, which may do everything: set peer_tls_cert, its key and peer_tls_ca \
             (`oarlock pki` makes them), bind peers to loopback, or set insecure_peers = true if \
             only the nodes are on that network.",
            config.peer_address
        ));
    }
    if config.api_address == config.peer_address {
        problems.push("api_address and peer_address are the same; they are two listeners.".into());
    }
    if [&config.api_address, &config.peer_address].contains(&&config.admin_address) {
        problems.push(
            "admin_address is that of another listener; these are three listeners, or leave it empty."
                .into(),
        );
    }
}

fn certificates(config: &Config, problems: &mut Vec<String>) {
    let together = [
        ("tls_cert", &config.tls_cert, "tls_key", &config.tls_key),
        ("peer_tls_cert", &config.peer_tls_cert, "peer_tls_key", &config.peer_tls_key),
        ("peer_tls_cert", &config.peer_tls_cert, "peer_tls_ca", &config.peer_tls_ca),
    ];
    for (one, its, other, others) in together {
        if its.is_empty() != others.is_empty() {
            problems.push(format!("{one} and {other} come together, or neither."));
        }
    }
    if !config.tls_client_ca.is_empty() && config.tls_cert.is_empty() {
        problems
            .push("tls_client_ca needs tls_cert: without TLS nobody shows a certificate.".into());
    }
    for (list, its, authority, others) in [
        ("tls_revoked", &config.tls_revoked, "tls_client_ca", &config.tls_client_ca),
        ("peer_tls_revoked", &config.peer_tls_revoked, "peer_tls_ca", &config.peer_tls_ca),
    ] {
        if !its.is_empty() && others.is_empty() {
            problems.push(format!("{list} needs {authority}, which signed what it lists."));
        }
    }
    let hash = config.break_glass_hash.as_str();
    let digits = |text: &str| text.bytes().all(|it| matches!(it, b'0'..=b'9' | b'a'..=b'f'));
    if !hash.is_empty() && (hash.len() != 64 || !digits(hash)) {
        problems.push(
            "break_glass_hash is 64 hexadecimal digits, as `oarlock tokens break-glass` prints them; \
             the token itself does not belong there."
                .into(),
        );
    }
    let plain = |it: u8| it.is_ascii_lowercase() || it.is_ascii_digit() || it == b'-';
    let name = config.cluster_name.as_str();
    let is_edge = name.starts_with('-') || name.ends_with('-');
    if !(1..=40).contains(&name.len()) || !name.bytes().all(plain) || is_edge {
        problems.push(format!(
            "cluster_name is 1 to 40 lower-case letters, digits and hyphens, not {name:?}."
        ));
    }
}

fn members(config: &Config, problems: &mut Vec<String>) {
    if config.members.is_empty() {
        problems.push(
            "members is empty; list every first member, or whom this node asks to join.".into(),
        );
    }
    if config.node_id == 0 {
        problems.push("node_id is at least 1.".into());
    }
    advertised(config, problems);
    let ids: BTreeSet<u64> = config.members.iter().map(|member| member.id).collect();
    if ids.len() != config.members.len() {
        problems.push("two members have the same id; each id is used once, for ever.".into());
    }
    let mut seen = BTreeSet::new();
    for member in &config.members {
        for address in [&member.peer_address, &member.api_address] {
            if port_of(address).is_none() {
                problems.push(format!("member {}: {address:?} is not host:port.", member.id));
            } else if !seen.insert(address) {
                problems.push(format!("member {}: {address} is used twice.", member.id));
            }
        }
    }
}

/// What first members are reached at stands in the list that all of them have.
fn advertised(config: &Config, problems: &mut Vec<String>) {
    let own = config.members.iter().find(|member| member.id == config.node_id);
    let listed = |of: fn(&MemberConfig) -> &String| own.map(of);
    let settings = [
        ("advertise_api_address", &config.advertise_api_address, listed(|it| &it.api_address)),
        ("advertise_peer_address", &config.advertise_peer_address, listed(|it| &it.peer_address)),
    ];
    for (setting, address, listed) in settings.into_iter().filter(|(_, it, _)| !it.is_empty()) {
        if port_of(address).is_none() {
            problems.push(format!("{setting} is host:port, not {address:?}."));
        }
        if let Some(listed) = listed.filter(|listed| *listed != address) {
            problems.push(format!(
                "{setting} {address} is not what `members` says of this node: {listed}."
            ));
        }
    }
}

fn timing(config: &Config, problems: &mut Vec<String>) {
    let (heartbeat, min, max) = (
        config.heartbeat_interval_ms,
        config.election_timeout_min_ms,
        config.election_timeout_max_ms,
    );
    if heartbeat == 0 {
        problems.push("heartbeat_interval_ms is at least 1.".into());
    }
    if heartbeat.saturating_mul(3) > min {
        problems.push(format!(
            "election_timeout_min_ms ({min}) is less than three heartbeats ({heartbeat} each): one \
             lost message would cost an election."
        ));
    }
    if min >= max {
        problems.push(format!(
            "election_timeout_min_ms ({min}) is below election_timeout_max_ms ({max}), so that \
             two nodes seldom stand at once."
        ));
    }
    if max > 60_000 {
        problems.push("election_timeout_max_ms is at most 60000.".into());
    }
}

fn sizes(config: &Config, problems: &mut Vec<String>) {
    if config.snapshot_log_entries < 10 {
        problems.push("snapshot_log_entries is at least 10.".into());
    }
    if !(64 * 1024..=1024 * 1024 * 1024).contains(&config.log_segment_bytes) {
        problems.push("log_segment_bytes is 65536 (64 KiB) to 1073741824 (1 GiB).".into());
    }
    if config.sled_cache_bytes < 1024 * 1024 {
        problems.push("sled_cache_bytes is at least 1048576 (1 MiB).".into());
    }
    if config.reserve_bytes < 1024 * 1024 {
        problems.push("reserve_bytes is at least 1048576 (1 MiB).".into());
    }
    if config.worker_threads > 1_024 {
        problems.push("worker_threads is at most 1024; 0 takes one per core.".into());
    }
    if config.connections_max == 0 {
        problems.push("connections_max is at least 1.".into());
    }
}

fn traced(config: &Config, problems: &mut Vec<String>) {
    if !config.traces_endpoint.is_empty() {
        problems.extend(traces::problem(&config.traces_endpoint));
    }
    if !(0.0..=1.0).contains(&config.traces_sample_ratio) {
        problems.push("traces_sample_ratio is 0.0 (none) to 1.0 (all).".into());
    }
    if config.traces_service_name.is_empty() {
        problems.push("traces_service_name is empty; `oarlock` is the usual one.".into());
    }
}
