//! Whose process is at the other end of a connection within this machine: the kernel says which user
//! a socket belongs to. A proxy that runs as a user of its own can so be told from who sits here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Of the network that this process is in, for both families of addresses.
const TABLES: [&str; 2] = ["/proc/self/net/tcp", "/proc/self/net/tcp6"];
const ROOT: u32 = 0;

/// Whether the socket at `from` that is connected to `at` belongs to the user of this process, or to
/// root. Reads a table of the kernel, which is as long as there are connections: it blocks.
pub fn is_own(from: SocketAddr, at: SocketAddr) -> bool {
    let own = rustix::process::geteuid().as_raw();
    let user = TABLES.iter().find_map(|path| {
        let table = std::fs::read_to_string(path).ok()?;
        owner(&table, canonical(from), canonical(at))
    });
    user.is_some_and(|user| user == own || user == ROOT)
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Connected at both ends. A socket that was closed shows user 0, whoever had it.
const ESTABLISHED: &str = "01";

/// The columns are: number, its own end, the other end, state, two queues, timer, retransmits, user.
fn owner(table: &str, from: SocketAddr, at: SocketAddr) -> Option<u32> {
    table.lines().skip(1).find_map(|line| {
        let mut columns = line.split_ascii_whitespace().skip(1);
        let (own, other) = (end(columns.next()?)?, end(columns.next()?)?);
        if (own, other) != (from, at) || columns.next()? != ESTABLISHED {
            return None;
        }
        columns.nth(3)?.parse().ok()
    })
}

/// Words of four bytes in the order of this machine, then the port.
fn end(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let word = |at: usize| {
        let digits = address.get(8 * at..8 * (at + 1))?;
        u32::from_str_radix(digits, 16).ok().map(u32::to_ne_bytes)
    };
    let ip = match address.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut octets = [0; 16];
            for (at, part) in octets.chunks_exact_mut(4).enumerate() {
                part.copy_from_slice(&word(at)?);
            }
            IpAddr::V6(Ipv6Addr::from(octets)).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn the_owner_of_the_other_end_is_found_in_the_table() {
        let word = |text: &str| {
            let ip: Ipv4Addr = text.parse().expect("an address");
            format!("{:08X}", u32::from_ne_bytes(ip.octets()))
        };
        let (here, there) = (word("127.0.0.1"), word("10.0.0.2"));
        let mapped = format!("0000000000000000{:08X}", u32::from_ne_bytes([0, 0, 0xff, 0xff]));
        let row_in = |state: &str, own: &str, other: &str, user: u32| {
            format!(
                "   1: {own} {other} {state} 00000000:00000000 00:00000000 00000000  {user}  0 7 1\n"
            )
        };
        let row = |own: &str, other: &str, user: u32| row_in("01", own, other, user);
        let table = ["  sl  local_address rem_address\n".to_owned()]
            .into_iter()
            .chain([
                row(&format!("{there}:1CE8"), &format!("{here}:9C40"), 7),
                row(&format!("{here}:9C40"), &format!("{there}:1CE8"), 8),
                row(&format!("{here}:9C40"), &format!("{here}:1CE8"), 1_000),
                row(&format!("{mapped}{here}:9C41"), &format!("{mapped}{here}:1CE8"), 1_001),
                row_in("05", &format!("{here}:9C43"), &format!("{here}:1CE8"), ROOT),
            ])
            .collect::<String>();
        let at = |text: &str| text.parse::<SocketAddr>().expect("an address");
        let node = at("127.0.0.1:7400");
        assert_eq!(owner(&table, at("127.0.0.1:40000"), node), Some(1_000));
        assert_eq!(owner(&table, at("127.0.0.1:40001"), node), Some(1_001), "over both families");
        assert_eq!(owner(&table, at("127.0.0.1:40002"), node), None);
        assert_eq!(owner(&table, at("127.0.0.1:40003"), node), None, "its user closed it");
        assert_eq!(owner("sl\n x\n 1: a b\n 1: 7F:1 00:2\n", node, node), None);
    }

    #[test]
    fn a_connection_of_our_own_is_our_own() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let at = listener.local_addr().expect("an address");
        let client = TcpStream::connect(at).expect("a connection");
        let from = client.local_addr().expect("an address");
        assert!(is_own(from, at));
        assert!(!is_own("127.0.0.1:1".parse().expect("an address"), at), "nobody is there");
    }
}
