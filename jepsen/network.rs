//! A network of one machine's own: a namespace for each node, all on one bridge, so that links can
//! be cut packet by packet and nothing outside is touched.
//!
//! ```text
//!   hub namespace: bridge 10.77.0.254, this program, its clients
//!      ├── node 1 namespace 10.77.0.1
//!      └── node n namespace 10.77.0.n
//! ```
//!
//! Needs root, `ip` and `iptables`. The program builds it, runs itself once more inside the hub,
//! and takes it down when that run ends, however it ends.

use std::env;
use std::process::{Command, ExitStatus, Stdio};

/// Tells the inner run whose namespaces it lives in.
const HUB_VARIABLE: &str = "OARLOCK_JEPSEN_HUB";

fn run(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("run {program}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let why = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program} {}: {}", arguments.join(" "), why.trim()))
}

fn namespace(hub: &str, node: usize) -> String {
    format!("{hub}n{}", node + 1)
}

fn address(node: usize) -> String {
    format!("10.77.0.{}", node + 1)
}

/// The namespaces while they exist; dropping it takes them down.
struct Built {
    hub: String,
    nodes: usize,
}

impl Built {
    fn new(nodes: usize) -> Result<Self, String> {
        let built = Self { hub: format!("oj{}", std::process::id()), nodes };
        let hub = built.hub.as_str();
        run("ip", &["netns", "add", hub])?;
        run("ip", &["-n", hub, "link", "set", "lo", "up"])?;
        run("ip", &["-n", hub, "link", "add", "br0", "type", "bridge"])?;
        run("ip", &["-n", hub, "addr", "add", "10.77.0.254/24", "dev", "br0"])?;
        run("ip", &["-n", hub, "link", "set", "br0", "up"])?;
        for node in 0..nodes {
            let (inside, port) = (namespace(hub, node), format!("p{node}"));
            let with_mask = format!("{}/24", address(node));
            run("ip", &["netns", "add", &inside])?;
            run("ip", &["-n", &inside, "link", "set", "lo", "up"])?;
            let pair = ["link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns"];
            let inside_name = inside.as_str();
            run("ip", &[&["-n", hub][..], &pair[..], &[inside_name][..]].concat())?;
            run("ip", &["-n", hub, "link", "set", &port, "master", "br0", "up"])?;
            run("ip", &["-n", &inside, "addr", "add", &with_mask, "dev", "eth0"])?;
            run("ip", &["-n", &inside, "link", "set", "eth0", "up"])?;
        }
        Ok(built)
    }
}

impl Drop for Built {
    fn drop(&mut self) {
        for node in 0..self.nodes {
            let _may_not_exist = run("ip", &["netns", "del", &namespace(&self.hub, node)]);
        }
        let _may_not_exist = run("ip", &["netns", "del", &self.hub]);
    }
}

/// Builds the network and runs this program with the same arguments inside it. `None` if this is
/// the inner run already.
pub(crate) fn run_inside(nodes: usize) -> Result<Option<ExitStatus>, String> {
    if env::var_os(HUB_VARIABLE).is_some() {
        return Ok(None);
    }
    let built = Built::new(nodes).map_err(|why| {
        format!("cannot build a network of its own ({why}); it needs root, ip and iptables")
    })?;
    let this = env::current_exe().map_err(|error| error.to_string())?;
    let status = Command::new("ip")
        .args(["netns", "exec", &built.hub])
        .arg(this)
        .args(env::args_os().skip(1))
        .env(HUB_VARIABLE, &built.hub)
        .status()
        .map_err(|error| format!("run inside {}: {error}", built.hub))?;
    Ok(Some(status))
}

/// The network as the inner run sees it.
#[derive(Debug, Clone)]
pub(crate) struct Network {
    hub: String,
    nodes: usize,
}

impl Network {
    pub(crate) fn of_this_run(nodes: usize) -> Result<Self, String> {
        let hub = env::var(HUB_VARIABLE).map_err(|_| "not inside a network".to_owned())?;
        Ok(Self { hub, nodes })
    }

    pub(crate) fn address(node: usize) -> String {
        address(node)
    }

    /// The arguments of `ip` that run a program as that node.
    pub(crate) fn exec(&self, node: usize) -> [String; 3] {
        ["netns".to_owned(), "exec".to_owned(), namespace(&self.hub, node)]
    }

    fn tables(&self, node: usize, rule: &[&str]) -> Result<String, String> {
        let inside = namespace(&self.hub, node);
        // -w: another call may hold the lock of the tables.
        let fixed = ["netns", "exec", &inside, "iptables", "-w", "5"];
        run("ip", &[&fixed[..], rule].concat())
    }

    /// What `from` sends no longer reaches `to`.
    pub(crate) fn cut(&self, from: usize, to: usize) -> Result<(), String> {
        self.tables(to, &["-A", "INPUT", "-s", &address(from), "-j", "DROP"]).map(drop)
    }

    /// Of what `from` sends to `to`, so many per cent of the packets are lost.
    pub(crate) fn lose(&self, from: usize, to: usize, percent: u64) -> Result<(), String> {
        let chance = format!("0.{percent:02}");
        let random = ["-m", "statistic", "--mode", "random", "--probability", &chance];
        let from = address(from);
        let rule = [&["-A", "INPUT", "-s", &from][..], &random, &["-j", "DROP"]].concat();
        self.tables(to, &rule).map(drop)
    }

    /// The packets that the cuts have dropped so far.
    pub(crate) fn dropped(&self) -> Result<u64, String> {
        let mut dropped = 0;
        for node in 0..self.nodes {
            let listing = self.tables(node, &["-L", "INPUT", "-v", "-n", "-x"])?;
            let rules = listing.lines().filter(|line| line.contains("DROP"));
            dropped += rules
                .filter_map(|line| line.split_whitespace().next()?.parse::<u64>().ok())
                .sum::<u64>();
        }
        Ok(dropped)
    }

    /// Every link is whole again. Returns the packets that were dropped: a cut that dropped none
    /// was no fault.
    pub(crate) fn heal(&self) -> Result<u64, String> {
        let dropped = self.dropped()?;
        (0..self.nodes).try_for_each(|node| self.tables(node, &["-F", "INPUT"]).map(drop))?;
        Ok(dropped)
    }
}
