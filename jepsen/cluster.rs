//! The node processes, in namespaces of their own or on free loopback ports, killed when this goes
//! out of scope.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use oarlock_client::wire::History;
use oarlock_client::{Client, ClientError, Options};
use tokio::process::{Child, Command};

use crate::clocks::Clocks;
use crate::network::Network;
use crate::workload;

/// How long a node that was told to end may take.
const END_DEADLINE: Duration = Duration::from_secs(12);

/// Grants of each lock that the nodes must remember alike.
const PAST_SHOWN: u32 = 100;

pub(crate) struct Cluster {
    binary: PathBuf,
    // Before the directory that it lives in, so that it goes first.
    clocks: Option<Clocks>,
    dir: tempfile::TempDir,
    apis: Vec<String>,
    children: Vec<Option<Child>>,
    network: Option<Network>,
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
    let bound: Result<Vec<_>, _> =
        (0..2 * nodes).map(|_| TcpListener::bind("127.0.0.1:0")?.local_addr()).collect();
    let mut all: Vec<String> = bound
        .map_err(|e| format!("find free ports: {e}"))?
        .iter()
        .map(ToString::to_string)
        .collect();
    let peers = all.split_off(nodes);
    Ok((all, peers))
}

fn configuration(dir: &Path, node: usize, apis: &[String], peers: &[String]) -> String {
    let members: Vec<String> = apis
        .iter()
        .zip(peers)
        .zip(1..)
        .map(|((api, peer), id)| {
            format!("{{ id = {id}, peer_address = \"{peer}\", api_address = \"{api}\" }}")
        })
        .collect();
    format!(
        "node_id = {}\ndata_dir = \"{}\"\napi_address = \"{}\"\npeer_address = \"{}\"\n\
         snapshot_log_entries = 500\nworker_threads = 1\ninsecure_bind = true\nmembers = [{}]\n",
        node + 1,
        dir.join(format!("node{node}")).display(),
        apis[node],
        peers[node],
        members.join(", ")
    )
}

impl Cluster {
    pub(crate) async fn start(
        binary: &Path,
        nodes: usize,
        network: Option<Network>,
    ) -> Result<Self, String> {
        let failed = |error: &dyn std::fmt::Display| format!("set up the cluster: {error}");
        let dir = tempfile::tempdir().map_err(|error| failed(&error))?;
        let (apis, peers) = addresses(nodes, network.as_ref())?;
        for node in 0..nodes {
            let text = configuration(dir.path(), node, &apis, &peers);
            fs::write(dir.path().join(format!("node{node}.toml")), text)
                .map_err(|error| failed(&error))?;
        }
        let children = (0..nodes).map(|_| None).collect();
        let clocks = network.as_ref().map(|_| Clocks::set_apart(dir.path(), nodes)).transpose()?;
        let mut cluster = Self { binary: binary.to_owned(), clocks, dir, apis, children, network };
        (0..nodes).try_for_each(|node| cluster.launch_if_down(node))?;
        cluster.wait_ready().await?;
        Ok(cluster)
    }

    pub(crate) fn nodes(&self) -> usize {
        self.apis.len()
    }

    pub(crate) fn endpoints(&self) -> Vec<String> {
        self.apis.clone()
    }

    /// The network whose links can be cut.
    pub(crate) fn network(&self) -> Result<&Network, String> {
        self.network.as_ref().ok_or_else(|| "this run has no network of its own".to_owned())
    }

    pub(crate) fn runs(&self, node: usize) -> bool {
        self.children[node].is_some()
    }

    pub(crate) fn launch_if_down(&mut self, node: usize) -> Result<(), String> {
        if self.runs(node) {
            return Ok(());
        }
        let log = self.dir.path().join(format!("node{node}.log"));
        let log =
            fs::File::options().create(true).append(true).open(log).map_err(|e| e.to_string())?;
        let mut command = match &self.network {
            // Each becomes the program that it runs, so the process is the node's.
            Some(network) => {
                let mut command = Command::new("ip");
                let clock = self.clocks.as_ref().map(|clocks| clocks.exec(node));
                command.args(network.exec(node)).args(clock.into_iter().flatten());
                command.arg(&self.binary);
                command
            }
            None => Command::new(&self.binary),
        };
        let child = command
            .args(["serve", "--config"])
            .arg(self.dir.path().join(format!("node{node}.toml")))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("start node {node}: {error}"))?;
        self.children[node] = Some(child);
        Ok(())
    }

    /// kill -9, and waits until the process is gone: a fault that did not happen proves nothing.
    /// One that another fault has killed already stays dead.
    pub(crate) async fn kill(&mut self, node: usize) -> Result<(), String> {
        let Some(mut child) = self.children[node].take() else { return Ok(()) };
        child.kill().await.map_err(|error| format!("kill node {node}: {error}"))
    }

    /// SIGTERM, and waits for the process to end by itself.
    pub(crate) async fn terminate(&mut self, node: usize) -> Result<(), String> {
        self.signal(node, "TERM")?;
        let Some(mut child) = self.children[node].take() else { return Ok(()) };
        match tokio::time::timeout(END_DEADLINE, child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(ended) => Err(format!("node {node} ended badly on SIGTERM: {ended:?}")),
            Err(_) => Err(format!("node {node} did not end within {END_DEADLINE:?} of SIGTERM")),
        }
    }

    /// Sends a signal; to a node that is down, none.
    pub(crate) fn signal(&self, node: usize, signal: &str) -> Result<(), String> {
        let Some(pid) = self.children[node].as_ref().and_then(Child::id) else { return Ok(()) };
        let status = std::process::Command::new("kill")
            .args([format!("-{signal}"), pid.to_string()])
            .status()
            .map_err(|error| format!("kill -{signal}: {error}"))?;
        if status.success() { Ok(()) } else { Err(format!("kill -{signal} of node {node} failed")) }
    }

    /// Whether a SIGSTOP holds the node; a node that is down counts as stopped.
    pub(crate) fn is_stopped(&self, node: usize) -> bool {
        let Some(pid) = self.children[node].as_ref().and_then(Child::id) else { return true };
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The state follows the name in parentheses.
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
    }

    /// Deletes the state view of a node that is down.
    pub(crate) fn remove_view(&self, node: usize) -> Result<(), String> {
        let view = self.dir.path().join(format!("node{node}")).join("state");
        fs::remove_dir_all(&view).map_err(|error| format!("remove {}: {error}", view.display()))
    }

    fn client(&self, node: usize) -> Client {
        let endpoints = vec![self.apis[node].clone()];
        Client::new(Options { endpoints, deadline: Duration::from_secs(2) })
    }

    pub(crate) async fn wait_ready(&mut self) -> Result<(), String> {
        for node in 0..self.nodes() {
            let client = self.client(node);
            let mut tries = 0;
            while !client.cluster().await.is_ok_and(|cluster| cluster.ready) {
                let ended = self.children[node].as_mut().map(Child::try_wait);
                tries += 1;
                if tries > 600 || matches!(ended, Some(Ok(Some(_)))) {
                    let log = self.dir.path().join(format!("node{node}.log"));
                    let log = fs::read_to_string(log).unwrap_or_default();
                    return Err(format!("node {node} does not come back:\n{log}"));
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        Ok(())
    }

    /// The index of the node that some node believes to lead.
    pub(crate) async fn leader_if_known(&self) -> Option<usize> {
        for node in 0..self.nodes() {
            if let Ok(cluster) = self.client(node).cluster().await
                && let Some(id) = cluster.leader_id
            {
                return usize::try_from(id - 1).ok();
            }
        }
        None
    }

    /// Once nothing changes any more, every node knows the same: the same applied entry, the same
    /// locks in a stale read of its own state, and the same past of each: who held it by which
    /// token, how long, and how that ended (F19).
    pub(crate) async fn agrees(&self) -> Result<(), String> {
        let mut seen = Vec::new();
        for _ in 0..300 {
            seen.clear();
            for node in 0..self.nodes() {
                seen.push(self.knows(node).await.map_err(|error| error.to_string())?);
            }
            if seen.windows(2).all(|pair| pair[0] == pair[1]) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let indexes: Vec<u64> = seen.iter().map(|known| known.applied_index).collect();
        let differ =
            seen[0].pasts.iter().find(|past| !seen.iter().all(|it| it.pasts.contains(past)));
        Err(format!("the nodes do not come to agree: applied {indexes:?}, first past: {differ:?}"))
    }

    async fn knows(&self, node: usize) -> Result<Knows, ClientError> {
        let client = self.client(node);
        let applied_index = client.cluster().await?.applied_index;
        let locks = client.list_stale("").await?.locks;
        let mut pasts = Vec::new();
        for name in workload::names() {
            pasts.push(client.history_stale(&name, PAST_SHOWN).await?);
        }
        let tokens = locks.into_iter().map(|lock| (lock.lock, lock.last_token)).collect();
        Ok(Knows { applied_index, tokens, pasts })
    }
}

/// What one node knows.
#[derive(Debug, PartialEq, Eq)]
struct Knows {
    applied_index: u64,
    tokens: Vec<(String, Option<u64>)>,
    pasts: Vec<History>,
}
