//! Where a machine that joins may say that it is reached. All members connect to what it says, so an
//! address that leads to themselves, to many, or to what a machine offers to its own programs is refused.
//! A name is taken as it is: what it leads to may change at any time, and peers' TLS asks who is there.

use std::net::{IpAddr, Ipv4Addr};

/// As the DNS has it.
const NAME_BYTES_MAX: usize = 253;

/// Whether nobody should be sent there. `others` are the addresses of the members of the same kind: a
/// cluster on the loopback takes more there.
pub(super) fn is_refused<'a>(address: &str, mut others: impl Iterator<Item = &'a str>) -> bool {
    let Some(host) = host_of(address) else { return true };
    if is_loopback(address) {
        return !others.any(is_loopback);
    }
    match host {
        Host::Name(name) => !is_name(name),
        Host::Ip(ip) => leads_astray(ip),
    }
}

enum Host<'a> {
    Name(&'a str),
    Ip(IpAddr),
}

/// The host of `host:port`, if both are there.
fn host_of(address: &str) -> Option<Host<'_>> {
    let (host, port) = address.rsplit_once(':')?;
    let is_number = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number || port.parse::<u16>().ok()? == 0 {
        return None;
    }
    if let Some(bare) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return Some(Host::Ip(IpAddr::V6(bare.parse().ok()?).to_canonical()));
    }
    Some(host.parse::<Ipv4Addr>().map_or(Host::Name(host), |ip| Host::Ip(IpAddr::V4(ip))))
}

fn leads_astray(ip: IpAddr) -> bool {
    let is_link_local = match ip {
        // Also where clouds tell a machine its secrets, 169.254.169.254.
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    is_link_local || ip.is_unspecified() || ip.is_multicast()
}

fn is_name(name: &str) -> bool {
    let plain = |it: u8| it.is_ascii_alphanumeric() || matches!(it, b'-' | b'_');
    let mut labels = name.strip_suffix('.').unwrap_or(name).split('.');
    // Resolvers take `127.1`, `2130706433` and `0x7f000001` for numbers of machines.
    let last = labels.clone().next_back().unwrap_or_default();
    let hex = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
    let is_numeric = last.bytes().all(|it| it.is_ascii_digit())
        || hex.is_some_and(|digits| digits.bytes().all(|it| it.is_ascii_hexdigit()));
    let is_label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(plain);
    name.len() <= NAME_BYTES_MAX && !is_numeric && labels.all(is_label)
}

fn is_loopback(address: &str) -> bool {
    match host_of(address) {
        Some(Host::Ip(ip)) => ip.is_loopback(),
        Some(Host::Name(name)) => {
            let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
            name == "localhost" || name.ends_with(".localhost")
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NETWORK: [&str; 2] = ["10.0.0.1:7401", "node-2:7401"];
    const ONE_MACHINE: [&str; 2] = ["127.0.0.1:7401", "localhost:7411"];

    fn refused(address: &str, others: [&str; 2]) -> bool {
        is_refused(address, others.into_iter())
    }

    #[test]
    fn f94_an_address_that_points_inside_is_no_address_of_a_member() {
        for astray in [
            "0.0.0.0:7401",
            "[::]:7401",
            "169.254.169.254:80",
            "[fe80::1]:7401",
            "[::ffff:169.254.169.254]:80",
            "224.0.0.1:7401",
            "[ff02::1]:7401",
            "255.255.255.255:7401",
            "10.0.0.4:0",
            "10.0.0.4:65536",
            "10.0.0.4:+7401",
            "10.0.0.4",
            ":7401",
            "[10.0.0.4]:7401",
            "fd00::4:7401",
            "2852039166:80",
            "0xa9fea9fe:80",
            "169.254.43518:80",
            "node 4:7401",
            "node-4/../:7401",
            "node..4:7401",
            "me@node-4:7401",
            "node-4:7401\r\nx:1",
        ] {
            assert!(refused(astray, NETWORK) && refused(astray, ONE_MACHINE), "{astray:?}");
        }
        assert!(refused(&format!("{}:7401", "a.".repeat(200)), NETWORK), "too long for a name");
        for fine in [
            "10.0.0.4:7401",
            "[fd00::4]:7401",
            "node-4:7401",
            "node_4.cluster.local.:1",
            "3f2a9c8b7d6e:7401",
        ] {
            assert!(!refused(fine, NETWORK) && !refused(fine, ONE_MACHINE), "{fine:?}");
        }
    }

    #[test]
    fn f94_only_a_cluster_on_the_loopback_takes_more_there() {
        for own in [
            "127.0.0.1:7431",
            "127.9.9.9:7431",
            "[::1]:7431",
            "[::ffff:127.0.0.1]:7431",
            "localhost:7431",
            "LocalHost.:7431",
            "node.localhost:7431",
        ] {
            assert!(refused(own, NETWORK), "{own:?}");
            assert!(!refused(own, ONE_MACHINE), "{own:?}");
        }
    }
}
