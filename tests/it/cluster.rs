//! A cluster of real processes on free loopback ports, stopped when it goes out of scope.

use std::fs;
use std::io;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::http::{Answer, ask};

/// Conditions come true within this time, on slow machines too.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

pub(crate) struct Node {
    pub(crate) id: u64,
    pub(crate) api: String,
    child: Option<Child>,
}

pub(crate) struct Cluster {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) nodes: Vec<Node>,
    /// How far the clock of each node is ahead of the one before it.
    hours_apart: u64,
}

/// Waits until the condition holds.
pub(crate) fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < until, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Below the ports that the kernel gives to connections: one of those could take the port of a
/// node that is down for a moment. Each port is handed out once in this process.
pub(crate) fn free_ports(count: usize) -> Vec<u16> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let start = std::process::id() * 97;
    let candidates =
        std::iter::repeat_with(|| 15_000 + start.wrapping_add(NEXT.fetch_add(1, Relaxed)) % 9_000);
    let ports = candidates.take(9_000).map(|port| port as u16);
    let free: Vec<u16> =
        ports.filter(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).take(count).collect();
    assert_eq!(free.len(), count, "too few free ports");
    free
}

impl Cluster {
    /// Three nodes, ready.
    pub(crate) fn start() -> Self {
        Self::with("")
    }

    /// Three nodes with further settings.
    pub(crate) fn with(settings: &str) -> Self {
        Self::with_clocks_apart(0, settings)
    }

    /// Three nodes in time namespaces of their own; needs root.
    pub(crate) fn with_clocks_apart(hours_apart: u64, settings: &str) -> Self {
        let mut cluster = Self::configured(hours_apart, settings);
        cluster.start_all();
        cluster
    }

    /// Starts three nodes that were never started, and waits until they are ready.
    pub(crate) fn start_all(&mut self) {
        (1..=3).for_each(|id| self.restart(id));
        (1..=3).for_each(|id| self.wait_ready(id));
    }

    /// Three nodes that are not started yet.
    pub(crate) fn configured(hours_apart: u64, settings: &str) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let ports = free_ports(6);
        let members: Vec<String> = (0..3)
            .map(|n| {
                let (peer, api) = (ports[2 * n + 1], ports[2 * n]);
                format!("{{ id = {}, peer_address = \"127.0.0.1:{peer}\", api_address = \"127.0.0.1:{api}\" }}", n + 1)
            })
            .collect();
        let mut nodes = Vec::new();
        for n in 0..3 {
            let (id, api, peer) = (n as u64 + 1, ports[2 * n], ports[2 * n + 1]);
            let data = dir.path().join(format!("node{id}"));
            let text = format!(
                "node_id = {id}\ndata_dir = \"{}\"\napi_address = \"127.0.0.1:{api}\"\n\
                 peer_address = \"127.0.0.1:{peer}\"\nmembers = [{}]\n{settings}\n",
                data.display(),
                members.join(", ")
            );
            fs::write(dir.path().join(format!("node{id}.toml")), text).expect("a config");
            nodes.push(Node { id, api: format!("127.0.0.1:{api}"), child: None });
        }
        Self { dir, nodes, hours_apart }
    }

    pub(crate) fn api(&self, id: u64) -> &str {
        &self.nodes[id as usize - 1].api
    }

    pub(crate) fn config(&self, id: u64) -> PathBuf {
        self.dir.path().join(format!("node{id}.toml"))
    }

    pub(crate) fn data(&self, id: u64) -> PathBuf {
        self.dir.path().join(format!("node{id}"))
    }

    /// Starts a node that does not run.
    pub(crate) fn restart(&mut self, id: u64) {
        self.restart_with(id, "");
    }

    /// The same, with a join token.
    pub(crate) fn restart_with(&mut self, id: u64, token: &str) {
        let path = self.dir.path().join(format!("node{id}.log"));
        let log = fs::File::options().create(true).append(true).open(path).expect("a log");
        let child = self
            .program(id)
            .args(["serve", "--config"])
            .arg(self.config(id))
            // For a build with faults inside, which serves only where it is told to.
            .env("OARLOCK_PROOF", "1")
            .envs((!token.is_empty()).then_some(("OARLOCK_JOIN_TOKEN", token)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the node starts");
        self.nodes[id as usize - 1].child = Some(child);
    }

    /// One more machine with an empty disk, under the next number and with another one's list of
    /// members. Answers the number it has here.
    pub(crate) fn one_more(&mut self, node_id: u64) -> u64 {
        let id = self.nodes.len() as u64 + 1;
        let ports = free_ports(2);
        let text = fs::read_to_string(self.config(1)).expect("a config");
        let members = text.lines().find(|line| line.starts_with("members")).expect("members");
        let text = format!(
            "node_id = {node_id}\ndata_dir = \"{}\"\napi_address = \"127.0.0.1:{}\"\n\
             peer_address = \"127.0.0.1:{}\"\n{members}\n",
            self.data(id).display(),
            ports[0],
            ports[1]
        );
        fs::write(self.config(id), text).expect("a config");
        self.nodes.push(Node { id, api: format!("127.0.0.1:{}", ports[0]), child: None });
        id
    }

    fn program(&self, id: u64) -> Command {
        let binary = env!("CARGO_BIN_EXE_oarlock");
        if self.hours_apart == 0 {
            return Command::new(binary);
        }
        let ahead_s = (self.hours_apart * 3600 * (id - 1)).to_string();
        let mut command = Command::new("unshare");
        // The node is a child of `unshare` and ends with it.
        command.args(["--time", "--monotonic", &ahead_s, "--boottime", &ahead_s]);
        command.args(["--fork", "--kill-child", "--", binary]);
        command
    }

    pub(crate) fn pids(&self) -> Vec<u32> {
        self.nodes.iter().filter_map(|node| node.child.as_ref()).map(Child::id).collect()
    }

    pub(crate) fn log(&self, id: u64) -> String {
        fs::read_to_string(self.dir.path().join(format!("node{id}.log"))).unwrap_or_default()
    }

    pub(crate) fn wait_ready(&self, id: u64) {
        eventually(&format!("node {id} is ready; its log:\n{}", self.log(id)), || {
            (self.get(id, "/readyz").ok()?.status == 200).then_some(())
        });
    }

    /// Sends a signal by name, such as `-9` or `-STOP`, to the node itself: where it lives in a
    /// namespace of its own it is the child of the process that was started.
    pub(crate) fn signal(&self, id: u64, signal: &str) {
        let child = self.nodes[id as usize - 1].child.as_ref().expect("it runs").id();
        let children = fs::read_to_string(format!("/proc/{child}/task/{child}/children"));
        let node = children.expect("its children").trim().to_owned();
        let node = if node.is_empty() { child.to_string() } else { node };
        let status = Command::new("kill").args([signal, &node]).status();
        assert!(status.expect("kill runs").success());
    }

    /// kill -9, and waits until the process is gone.
    pub(crate) fn kill(&mut self, id: u64) {
        if let Some(mut child) = self.nodes[id as usize - 1].child.take() {
            child.kill().expect("it can be killed");
            child.wait().expect("it is gone");
        }
    }

    /// Waits until a node ended by itself; its exit code.
    pub(crate) fn wait_exit(&mut self, id: u64) -> i32 {
        let child = self.nodes[id as usize - 1].child.as_mut().expect("it ran");
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = child.try_wait().expect("it can be asked") {
                self.nodes[id as usize - 1].child = None;
                return status.code().unwrap_or(-1);
            }
            assert!(Instant::now() < until, "node {id} still runs:\n{}", self.log(id));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn get(&self, id: u64, path: &str) -> io::Result<Answer> {
        ask(self.api(id), "GET", path, "", Duration::from_secs(20))
    }

    /// Asks some node until one answers with something else than 503 or 504.
    pub(crate) fn insist(&self, method: &str, path: &str, body: &str) -> Answer {
        let mut turn = 0;
        eventually(&format!("{method} {path} {body}"), || {
            turn += 1;
            let node = &self.nodes[turn % self.nodes.len()];
            node.child.as_ref()?;
            let answer = ask(&node.api, method, path, body, Duration::from_secs(30)).ok()?;
            (answer.status != 503 && answer.status != 504).then_some(answer)
        })
    }

    pub(crate) fn acquire(&self, name: &str, body: &str) -> Answer {
        self.insist("POST", &format!("/v1/locks/{name}"), body)
    }

    /// The node that leads, as the others than `except` see it.
    pub(crate) fn leader(&self, except: Option<u64>) -> u64 {
        eventually("somebody leads", || {
            let ids =
                self.nodes.iter().filter(|node| node.child.is_some() && Some(node.id) != except);
            ids.map(|node| node.id).find_map(|id| {
                let leader =
                    ask(self.api(id), "GET", "/v1/cluster", "", Duration::from_secs(2)).ok()?;
                leader.body["leader_id"].as_u64().filter(|leader| Some(*leader) != except)
            })
        })
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            if let Some(mut child) = node.child.take() {
                let _may_have_ended = child.kill();
                let _may_have_ended = child.wait();
            }
        }
        if std::thread::panicking() {
            for id in self.nodes.iter().map(|node| node.id) {
                let log = self.log(id);
                let lines: Vec<&str> = log.lines().collect();
                eprintln!("--- node {id}\n{}", lines[lines.len().saturating_sub(25)..].join("\n"));
            }
        }
    }
}
