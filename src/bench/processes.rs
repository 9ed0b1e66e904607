//! CPU time and memory of processes on this machine, from /proc; and which of them are the nodes.

use std::net::SocketAddr;
use std::path::PathBuf;

use tokio::net::TcpStream;

/// Clock ticks a second in /proc/<pid>/stat; Linux has used this number on every machine since
/// the field exists.
const TICKS_PER_S: f64 = 100.0;

/// What a node's process is called; something else may listen on its behalf, a proxy for example.
const PROGRAM: &str = "oarlock";

/// Of a socket that listens, in /proc/net/tcp.
const LISTENS: &str = "0A";

/// Sums over some processes.
#[derive(Debug, Clone, Copy)]
pub(super) struct ProcessSample {
    pub(super) cpu_s: f64,
    pub(super) memory_bytes: u64,
}

/// Reads all of them; `None` without any, or if one is gone.
pub(super) fn sample(pids: &[u32]) -> Option<ProcessSample> {
    let samples = pids.iter().map(|pid| one(&pid.to_string())).collect::<Option<Vec<_>>>()?;
    let sum = |a: ProcessSample, b: ProcessSample| ProcessSample {
        cpu_s: a.cpu_s + b.cpu_s,
        memory_bytes: a.memory_bytes + b.memory_bytes,
    };
    samples.into_iter().reduce(sum)
}

/// The load generator itself.
pub(super) fn sample_self() -> Option<ProcessSample> {
    one("self")
}

fn one(pid: &str) -> Option<ProcessSample> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    Some(ProcessSample { cpu_s: cpu_s(&stat)?, memory_bytes: resident_bytes(&status)? })
}

fn cpu_s(stat: &str) -> Option<f64> {
    // The name may hold anything; the fields follow its last bracket.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
    Some(ticks / TICKS_PER_S)
}

fn resident_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().ok()?;
    Some(kib * 1024)
}

/// The process of each node, if all of them run on this machine and may be looked at.
pub async fn of_nodes(addresses: &[String]) -> Option<Vec<u32>> {
    let mut pids = Vec::new();
    for address in addresses {
        let stream = TcpStream::connect(address).await.ok()?;
        let (here, there) = (stream.local_addr().ok()?, stream.peer_addr().ok()?);
        if here.ip() != there.ip() {
            return None;
        }
        pids.push(listener(there)?);
    }
    Some(pids)
}

/// The process that listens there.
fn listener(address: SocketAddr) -> Option<u32> {
    let table = if address.is_ipv4() { "/proc/net/tcp" } else { "/proc/net/tcp6" };
    let table = std::fs::read_to_string(table).ok()?;
    let sockets: Vec<String> =
        listening_on(&table, address.port()).map(|inode| format!("socket:[{inode}]")).collect();
    let is_it = |link: PathBuf| link.to_str().is_some_and(|l| sockets.iter().any(|s| s == l));
    let processes = std::fs::read_dir("/proc").ok()?.filter_map(Result::ok);
    let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.find(|pid| {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let Ok(files) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
        let links = files.filter_map(|file| std::fs::read_link(file.ok()?.path()).ok());
        name.trim_end() == PROGRAM && links.into_iter().any(is_it)
    })
}

/// Inodes of the sockets that listen on a port, on whatever address of this machine.
fn listening_on(table: &str, port: u16) -> impl Iterator<Item = &str> {
    let ending = format!(":{port:04X}");
    table.lines().skip(1).filter_map(move |line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let listens = fields.get(1)?.ends_with(&ending) && *fields.get(3)? == LISTENS;
        listens.then_some(*fields.get(9)?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_found_behind_any_name() {
        let stat = "7 (a ) b) S 1 1 1 0 -1 4194560 80 0 0 0 250 50 0 0 20 0 9";
        assert_eq!(cpu_s(stat), Some(3.0));
        assert_eq!(cpu_s("7 (short) S 1"), None);
        assert_eq!(resident_bytes("Name:\tx\nVmRSS:\t    2048 kB\n"), Some(2_097_152));
    }

    #[test]
    fn a_listening_socket_is_told_from_connections_to_the_same_port() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:1CE8 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1\n\
            1: 0100007F:1CE8 0100007F:C001 01 00000000:00000000 00:00000000 00000000     0        0 4712 1\n\
            2: 0100007F:1CE9 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4713 1\n";
        assert_eq!(listening_on(table, 7_400).collect::<Vec<_>>(), ["4711"]);
        assert_eq!(listening_on(table, 1).count(), 0);
    }

    #[tokio::test]
    async fn a_process_of_another_name_is_no_node() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        assert_eq!(of_nodes(&[address]).await, None, "the test does not pass for a node");
        assert!(sample(&[std::process::id()]).is_some_and(|it| it.memory_bytes > 0));
        assert!(sample(&[]).is_none());
    }
}
