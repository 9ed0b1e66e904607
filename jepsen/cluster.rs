//! The node processes, in namespaces of their own or on free loopback ports, killed when this goes
//! out of scope. A process that ends without a fault that may end it fails the run.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use oarlock_client::{Client, Options};
use tokio::process::{Child, Command};

use crate::clocks::Clocks;
use crate::disks::Disks;
use crate::links::Links;
use crate::network::Network;
use crate::orders::Orders;

/// How long a node that was told to end may take.
const END_DEADLINE: Duration = Duration::from_secs(12);

/// How long a node that cannot go on may take to say so and end.
const REFUSAL_DEADLINE: Duration = Duration::from_secs(30);

/// Of a log, so many bytes are shown at most.
const LOG_SHOWN: usize = 64 * 1024;

/// What a cluster is made of.
pub(crate) struct Setup {
    /// The node's program.
    pub(crate) binary: PathBuf,
    /// Members.
    pub(crate) nodes: usize,
    /// Machines with empty disks that may become members.
    pub(crate) spares: usize,
    /// Namespaces of its own, or loopback.
    pub(crate) network: Option<Network>,
    /// Whether each node gets a small disk of its own; only with namespaces.
    pub(crate) small_disks: bool,
    /// Between the peers on loopback: fault proxies, or nothing.
    pub(crate) proxies: bool,
    pub(crate) seed: u64,
    /// Further lines of each configuration.
    pub(crate) settings: &'static str,
}

/// What faults need: segments that are closed soon, snapshots now and then, a reserve that is small
/// beside a small disk.
pub(crate) const FAULTY: &str =
    "snapshot_log_entries = 500\nlog_segment_bytes = 262144\nreserve_bytes = 8388608\n";

/// A machine, and the process on it while there is one.
struct Node {
    /// The node that it is: zero before it is one, another number each time it joins anew.
    id: u64,
    /// Lets it in; needed until it is a member.
    join_token: Option<String>,
    child: Option<Child>,
    /// Whether a fault under way may end the process.
    may_end: bool,
    /// How to make it fail from inside; only builds for the proof can.
    orders: Option<Orders>,
}

pub(crate) struct Cluster {
    binary: PathBuf,
    settings: &'static str,
    at: Addresses,
    nodes: Vec<Node>,
    /// The machines that are members.
    members: Vec<usize>,
    /// Who is to go.
    leaving: Option<usize>,
    /// Who comes.
    joining: Option<usize>,
    links: Links,
    // Before the directory that they live in, so that they go first.
    clocks: Option<Clocks>,
    disks: Option<Disks>,
    dir: tempfile::TempDir,
    /// Written and not synced when the power was cut, over all cuts.
    pub(crate) lost_bytes: u64,
}

/// Addresses of the HTTP APIs and of the peer listeners.
fn addresses(
    nodes: usize,
    network: Option<&Network>,
) -> Result<(Vec<String>, Vec<String>), String> {
    if network.is_some() {
        let on = |port: u16| move |node| format!("{}:{port}", Network::address(node));
        return Ok(((0..nodes).map(on(7400)).collect(), (0..nodes).map(on(7401)).collect()));
    }
    // Below the ports that the kernel gives to connections: one of those could take the port of a
    // node that is down for a moment.
    let start = std::process::id() * 97;
    let candidates = (0..8_000).map(|n| 24_000 + start.wrapping_add(n) % 8_000);
    let mut all: Vec<String> = candidates
        .map(|port| format!("127.0.0.1:{port}"))
        .filter(|address| TcpListener::bind(address.as_str()).is_ok())
        .take(2 * nodes)
        .collect();
    if all.len() < 2 * nodes {
        return Err("find free ports: there are too few between 24000 and 32000".to_owned());
    }
    let peers = all.split_off(nodes);
    Ok((all, peers))
}

/// A directory inside what may be a disk of its own, so that it can be moved.
fn data_dir(dir: &Path, node: usize) -> PathBuf {
    dir.join(format!("node{node}")).join("data")
}

/// Whether the program has faults inside.
pub(crate) fn is_for_the_proof(binary: &Path) -> Result<bool, String> {
    let output = std::process::Command::new(binary).arg("--version").stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("run {}: {error}", binary.display()))?;
    Ok(String::from_utf8_lossy(&output.stdout).contains("proof"))
}

/// Where nodes listen, and where the others look for them.
struct Addresses {
    apis: Vec<String>,
    peers: Vec<String>,
    /// The peers, or the proxies before them.
    known: Vec<String>,
}

impl Cluster {
    pub(crate) async fn start(setup: Setup) -> Result<Self, String> {
        let failed = |error: &dyn std::fmt::Display| format!("set up the cluster: {error}");
        let dir = tempfile::tempdir().map_err(|error| failed(&error))?;
        let machines = setup.nodes + setup.spares;
        let (apis, peers) = addresses(machines, setup.network.as_ref())?;
        let (links, known) = match &setup.network {
            Some(network) => (Links::Namespaces(network.clone()), peers.clone()),
            None if setup.proxies => Links::proxies(&peers).await?,
            None => (Links::Bare, peers.clone()),
        };
        let at = Addresses { apis, peers, known };
        let clocks = setup.network.as_ref();
        let clocks = clocks.map(|_| Clocks::set_apart(dir.path(), machines)).transpose()?;
        let disks = setup.small_disks.then(|| Disks::mount(dir.path(), machines)).transpose()?;
        let proof = is_for_the_proof(&setup.binary)?;
        let mut nodes = Vec::new();
        for (node, number) in (0..machines).zip(1..) {
            let data = data_dir(dir.path(), node);
            fs::create_dir_all(&data).map_err(|error| failed(&error))?;
            let orders = proof.then(|| Orders::new(dir.path(), node, setup.seed)).transpose()?;
            let id = if node < setup.nodes { number } else { 0 };
            nodes.push(Node { id, join_token: None, child: None, may_end: false, orders });
        }
        let (members, leaving, joining) = ((0..setup.nodes).collect::<Vec<_>>(), None, None);
        let (binary, settings, lost_bytes) = (setup.binary, setup.settings, 0);
        #[rustfmt::skip]
        let mut cluster = Self {
            binary, settings, at, nodes, members, leaving, joining, links, clocks, disks, dir,
            lost_bytes,
        };
        cluster.write_configurations()?;
        cluster.members().into_iter().try_for_each(|node| cluster.launch_if_down(node))?;
        cluster.wait_ready().await?;
        Ok(cluster)
    }

    /// Every node is told who the members are now, as an operator would do it.
    fn write_configurations(&self) -> Result<(), String> {
        (0..self.machines()).filter(|node| self.nodes[*node].id != 0).try_for_each(|node| {
            let path = self.dir.path().join(format!("node{node}.toml"));
            fs::write(&path, self.configuration(node))
                .map_err(|error| format!("write {}: {error}", path.display()))
        })
    }

    fn configuration(&self, node: usize) -> String {
        let at = &self.at;
        let member = |member: &usize| {
            let (id, peer, api) = (self.id(*member), &at.known[*member], &at.apis[*member]);
            format!("{{ id = {id}, peer_address = \"{peer}\", api_address = \"{api}\" }}")
        };
        let members: Vec<String> = self.members.iter().map(member).collect();
        format!(
            "node_id = {}\ndata_dir = \"{}\"\napi_address = \"{}\"\npeer_address = \"{}\"\n\
             advertise_peer_address = \"{}\"\nworker_threads = 1\ninsecure_bind = true\n\
             members = [{}]\n{}",
            self.id(node),
            self.data(node).display(),
            at.apis[node],
            at.peers[node],
            at.known[node],
            members.join(", "),
            self.settings,
        )
    }

    /// All machines, members or not; each has its place from zero on.
    pub(crate) fn machines(&self) -> usize {
        self.nodes.len()
    }

    /// The members that faults may be done to: who is about to go is left alone.
    pub(crate) fn members(&self) -> Vec<usize> {
        self.members.iter().copied().filter(|node| Some(*node) != self.leaving).collect()
    }

    /// The machines with a node that talks to the others: members, and one that joins.
    pub(crate) fn talking(&self) -> Vec<usize> {
        self.members.iter().copied().chain(self.joining).collect()
    }

    /// The machine of a node that joins.
    pub(crate) fn joining(&self) -> Option<usize> {
        self.joining
    }

    /// The number of the node on a machine; zero for none.
    pub(crate) fn id(&self, node: usize) -> u64 {
        self.nodes[node].id
    }

    pub(crate) fn endpoints(&self) -> Vec<String> {
        self.at.apis.clone()
    }

    /// A machine with an empty disk starts with this invitation. Answers which it is.
    pub(crate) fn let_in(&mut self, id: u64, join_token: String) -> Result<usize, String> {
        let spare = (0..self.machines()).find(|node| !self.members.contains(node));
        let joining = spare.ok_or("there is no machine to spare")?;
        self.nodes[joining].id = id;
        self.nodes[joining].join_token = Some(join_token);
        self.joining = Some(joining);
        self.write_configurations()?;
        self.launch_if_down(joining)?;
        Ok(joining)
    }

    /// That member is to go, and ends by itself when it has.
    pub(crate) fn goes(&mut self, leaving: usize) {
        self.leaving = Some(leaving);
        self.may_end(leaving, true);
    }

    /// Who came is a member and needs no invitation any more; who went leaves an empty machine.
    pub(crate) fn settle(&mut self) -> Result<(), String> {
        if let Some(joined) = self.joining.take() {
            self.members.push(joined);
            self.nodes[joined].join_token = None;
        }
        if let Some(left) = self.leaving.take() {
            self.members.retain(|node| *node != left);
            let gone = &mut self.nodes[left];
            (gone.id, gone.child, gone.may_end) = (0, None, false);
            let data = self.data(left);
            fs::remove_dir_all(&data)
                .and_then(|()| fs::create_dir(&data))
                .map_err(|error| format!("empty {}: {error}", data.display()))?;
        }
        self.write_configurations()
    }

    /// The connections between the nodes, which can be cut.
    pub(crate) fn links(&self) -> &Links {
        &self.links
    }

    pub(crate) fn disks(&self) -> Option<&Disks> {
        self.disks.as_ref()
    }

    /// How to make a node fail from inside.
    pub(crate) fn orders(&mut self, node: usize) -> Result<&mut Orders, String> {
        let orders = self.nodes[node].orders.as_mut();
        orders.ok_or_else(|| "only a build with the feature `proof` takes orders".to_owned())
    }

    /// What a node says under a name; zero if it takes no orders or said nothing.
    pub(crate) fn said(&self, node: usize, name: &str) -> i64 {
        self.nodes[node].orders.as_ref().map_or(0, |orders| orders.evidence(name))
    }

    pub(crate) fn data(&self, node: usize) -> PathBuf {
        data_dir(self.dir.path(), node)
    }

    /// Whether the process is there.
    pub(crate) fn runs(&mut self, node: usize) -> bool {
        let child = self.nodes[node].child.as_mut();
        child.is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Whether a fault under way may end the process of a node.
    pub(crate) fn is_ending(&self, node: usize) -> bool {
        self.nodes[node].may_end
    }

    /// Says whether the process of a node may end by itself from now on.
    pub(crate) fn may_end(&mut self, node: usize, may_end: bool) {
        self.nodes[node].may_end = may_end;
    }

    /// Launches a node that another fault has killed; one that ended by itself is left as it is.
    pub(crate) fn launch_if_killed(&mut self, node: usize) -> Result<(), String> {
        if self.nodes[node].child.is_some() { Ok(()) } else { self.launch_if_down(node) }
    }

    pub(crate) fn launch_if_down(&mut self, node: usize) -> Result<(), String> {
        if self.runs(node) {
            return Ok(());
        }
        if self.nodes[node].child.is_some() && !self.nodes[node].may_end {
            return Err(format!("node {node} ended by itself:\n{}", self.log_since(node, 0)));
        }
        let log = fs::File::options().create(true).append(true).open(self.log_path(node));
        let log = log.map_err(|error| format!("open the log of node {node}: {error}"))?;
        let mut command = match &self.links {
            // Each becomes the program that it runs, so the process is the node's.
            Links::Namespaces(network) => {
                let mut command = Command::new("ip");
                let clock = self.clocks.as_ref().map(|clocks| clocks.exec(node));
                command.args(network.exec(node)).args(clock.into_iter().flatten());
                command.arg(&self.binary);
                command
            }
            Links::Proxies(_) | Links::Bare => Command::new(&self.binary),
        };
        if let Some(token) = &self.nodes[node].join_token {
            command.env("OARLOCK_JOIN_TOKEN", token);
        }
        if let Some(orders) = &self.nodes[node].orders {
            orders.forget_evidence();
            command.env("OARLOCK_FAULTS", orders.path());
        }
        let child = command
            .args(["serve", "--config"])
            .arg(self.dir.path().join(format!("node{node}.toml")))
            .env("OARLOCK_PROOF", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("start node {node}: {error}"))?;
        self.links.lives_in(node, child.id());
        self.nodes[node].child = Some(child);
        Ok(())
    }

    /// kill -9, and waits until the process is gone: a fault that did not happen proves nothing.
    /// One that another fault has killed already stays dead; one that ended by itself is not
    /// buried in silence.
    pub(crate) async fn kill(&mut self, node: usize) -> Result<(), String> {
        let ended = self.nodes[node].child.is_some() && !self.runs(node);
        if ended && !self.nodes[node].may_end {
            return Err(format!("node {node} ended by itself:\n{}", self.log_since(node, 0)));
        }
        let Some(mut child) = self.nodes[node].child.take() else { return Ok(()) };
        child.kill().await.map_err(|error| format!("kill node {node}: {error}"))
    }

    /// SIGTERM, and waits for the process to end by itself.
    pub(crate) async fn terminate(&mut self, node: usize) -> Result<(), String> {
        self.signal(node, "TERM")?;
        let Some(mut child) = self.nodes[node].child.take() else { return Ok(()) };
        match tokio::time::timeout(END_DEADLINE, child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(ended) => Err(format!("node {node} ended badly on SIGTERM: {ended:?}")),
            Err(_) => Err(format!("node {node} did not end within {END_DEADLINE:?} of SIGTERM")),
        }
    }

    /// Waits until a process that may end has ended by itself; its exit code.
    pub(crate) async fn wait_ended(&mut self, node: usize) -> Result<i32, String> {
        let Some(child) = self.nodes[node].child.as_mut() else {
            return Err(format!("node {node} was not started"));
        };
        match tokio::time::timeout(REFUSAL_DEADLINE, child.wait()).await {
            Ok(Ok(status)) => Ok(status.code().unwrap_or(-1)),
            Ok(Err(error)) => Err(format!("wait for node {node}: {error}")),
            Err(_) => {
                let log = self.log_since(node, 0);
                Err(format!("node {node} should have ended and runs on:\n{log}"))
            }
        }
    }

    fn log_path(&self, node: usize) -> PathBuf {
        self.dir.path().join(format!("node{node}.log"))
    }

    /// How much the node has logged so far, in bytes.
    pub(crate) fn log_length(&self, node: usize) -> usize {
        fs::metadata(self.log_path(node))
            .map_or(0, |log| usize::try_from(log.len()).unwrap_or(usize::MAX))
    }

    /// What the node logged after that.
    pub(crate) fn log_since(&self, node: usize, length: usize) -> String {
        let log = fs::read(self.log_path(node)).unwrap_or_default();
        let recent = length.max(log.len().saturating_sub(LOG_SHOWN));
        String::from_utf8_lossy(log.get(recent..).unwrap_or_default()).into_owned()
    }

    /// Sends a signal; to a node that is down, none.
    pub(crate) fn signal(&self, node: usize, signal: &str) -> Result<(), String> {
        let Some(pid) = self.nodes[node].child.as_ref().and_then(Child::id) else { return Ok(()) };
        let status = std::process::Command::new("kill")
            .args([format!("-{signal}"), pid.to_string()])
            .status()
            .map_err(|error| format!("kill -{signal}: {error}"))?;
        if status.success() { Ok(()) } else { Err(format!("kill -{signal} of node {node} failed")) }
    }

    /// Whether a SIGSTOP holds the node; a node that is down or ended counts as stopped.
    pub(crate) fn is_stopped(&self, node: usize) -> bool {
        let Some(pid) = self.nodes[node].child.as_ref().and_then(Child::id) else { return true };
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The state follows the name in parentheses.
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['T', 'Z']))
    }

    pub(crate) fn client(&self, node: usize) -> Client {
        let endpoints = vec![self.at.apis[node].clone()];
        Client::new(Options { endpoints, deadline: Duration::from_secs(2), ..Options::default() })
    }

    pub(crate) async fn wait_ready(&mut self) -> Result<(), String> {
        for node in self.members() {
            let client = self.client(node);
            let mut tries = 0;
            while !client.cluster().await.is_ok_and(|cluster| cluster.ready) {
                let ended = self.nodes[node].child.as_mut().map(Child::try_wait);
                tries += 1;
                if tries > 600 || matches!(ended, Some(Ok(Some(_)))) {
                    let log = self.log_since(node, 0);
                    return Err(format!("node {node} does not come back:\n{log}"));
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        Ok(())
    }

    /// The machine of the node that some node believes to lead.
    pub(crate) async fn leader_if_known(&self) -> Option<usize> {
        for node in self.talking() {
            if let Ok(cluster) = self.client(node).cluster().await
                && let Some(id) = cluster.leader_id
            {
                return self.nodes.iter().position(|node| node.id == id);
            }
        }
        None
    }
}
