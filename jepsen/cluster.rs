//! Three node processes on free loopback ports, killed when this goes out of scope.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use oarlock_client::{Client, Options};
use tokio::process::{Child, Command};

const NODES: usize = 3;

pub(crate) struct Cluster {
    binary: PathBuf,
    dir: tempfile::TempDir,
    apis: Vec<String>,
    children: Vec<Option<Child>>,
}

impl Cluster {
    pub(crate) async fn start(binary: &Path) -> Result<Self, String> {
        let failed = |error: &dyn std::fmt::Display| format!("set up the cluster: {error}");
        let dir = tempfile::tempdir().map_err(|error| failed(&error))?;
        let bound: Result<Vec<_>, _> =
            (0..2 * NODES).map(|_| TcpListener::bind("127.0.0.1:0")).collect();
        let bound = bound.map_err(|error| failed(&error))?;
        let addresses: Result<Vec<_>, _> = bound.iter().map(TcpListener::local_addr).collect();
        let addresses: Vec<String> =
            addresses.map_err(|error| failed(&error))?.iter().map(ToString::to_string).collect();
        drop(bound);
        let (apis, peers) = addresses.split_at(NODES);
        let members: Vec<String> = (0..NODES)
            .map(|n| {
                format!(
                    "{{ id = {}, peer_address = \"{}\", api_address = \"{}\" }}",
                    n + 1,
                    peers[n],
                    apis[n]
                )
            })
            .collect();
        for n in 0..NODES {
            let data = dir.path().join(format!("node{n}"));
            let text = format!(
                "node_id = {}\ndata_dir = \"{}\"\napi_address = \"{}\"\npeer_address = \"{}\"\n\
                 snapshot_log_entries = 500\nmembers = [{}]\n",
                n + 1,
                data.display(),
                apis[n],
                peers[n],
                members.join(", ")
            );
            fs::write(dir.path().join(format!("node{n}.toml")), text)
                .map_err(|error| failed(&error))?;
        }
        let children = (0..NODES).map(|_| None).collect();
        let mut cluster = Self { binary: binary.to_owned(), dir, apis: apis.to_vec(), children };
        (0..NODES).try_for_each(|n| cluster.launch(n))?;
        cluster.wait_ready().await?;
        Ok(cluster)
    }

    pub(crate) fn endpoints(&self) -> Vec<String> {
        self.apis.clone()
    }

    pub(crate) fn launch(&mut self, node: usize) -> Result<(), String> {
        let log = self.dir.path().join(format!("node{node}.log"));
        let log =
            fs::File::options().create(true).append(true).open(log).map_err(|e| e.to_string())?;
        let child = Command::new(&self.binary)
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
    pub(crate) async fn kill(&mut self, node: usize) -> Result<(), String> {
        let mut child = self.children[node].take().ok_or("the node does not run")?;
        child.kill().await.map_err(|error| format!("kill node {node}: {error}"))
    }

    fn client(&self, node: usize) -> Client {
        let endpoints = vec![self.apis[node].clone()];
        Client::new(Options { endpoints, deadline: Duration::from_secs(2) })
    }

    pub(crate) async fn wait_ready(&mut self) -> Result<(), String> {
        for node in 0..NODES {
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

    /// The index of the node that leads.
    pub(crate) async fn leader(&self) -> Result<usize, String> {
        for _ in 0..600 {
            for node in 0..NODES {
                if let Ok(cluster) = self.client(node).cluster().await
                    && let Some(id) = cluster.leader_id
                {
                    return usize::try_from(id - 1).map_err(|error| error.to_string());
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Err("nobody leads".to_owned())
    }
}
