//! `oarlock dev`: a real cluster on this machine in one command.
//!
//! Each node is a `serve` process of this same binary, a direct child, with its own directory, log
//! and ports on loopback. The children hold the reading end of a pipe whose writing end lives
//! here: however this process ends, they notice and stop.

use std::fmt::Write as _;
use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use clap::Args;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::cli::{Failure, print, stop_signal};
use crate::config::{Config, MemberConfig};

/// All nodes are ready within this time, or `dev` fails and shows why.
const READY_DEADLINE: Duration = Duration::from_secs(30);

/// A child ends within this time after SIGTERM, or is killed.
const STOP_DEADLINE: Duration = Duration::from_secs(4);

#[derive(Debug, Args)]
pub(super) struct Dev {
    /// Where the nodes keep their data; without it a temporary directory, removed at the end
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Number of nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=9))]
    nodes: u16,
    /// HTTP port of node 1; node n listens on this plus 10 * (n - 1), its peers one above
    #[arg(long, default_value_t = 7400, value_parser = clap::value_parser!(u16).range(1..=65000))]
    port_base: u16,
}

/// The processes with the numbers of their nodes.
type Children = Vec<(u64, Child)>;

struct Node {
    id: u64,
    api_address: String,
    log: PathBuf,
    pid: u32,
}

/// Runs the cluster until SIGINT or SIGTERM.
pub(super) async fn run(dev: Dev) -> Result<(), Failure> {
    let temporary = match &dev.data_dir {
        Some(_) => None,
        None => Some(Temporary::new()?),
    };
    let dir = match (&dev.data_dir, &temporary) {
        (Some(dir), _) => dir.clone(),
        (None, Some(temporary)) => temporary.0.clone(),
        (None, None) => return Err(Failure::usage("no data directory")),
    };
    let configs = configs(&dev, &dir);
    refuse_busy_ports(&configs)?;
    std::fs::create_dir_all(&dir).map_err(|e| Failure::usage(format!("{}: {e}", dir.display())))?;
    let (mut children, nodes) = start(&dir, &configs)?;
    let stopped = stop_signal();
    tokio::pin!(stopped);
    tokio::select! {
        () = &mut stopped => {}
        ready = wait_ready(&nodes) => {
            if let Err(failure) = ready {
                stop(children).await;
                return Err(failure);
            }
            print(&greeting(&nodes, &dir, dev.port_base));
            watch(&mut children, stopped).await;
        }
    }
    print("stopping\n");
    stop(children).await;
    drop(temporary);
    Ok(())
}

/// A directory that goes with this value.
struct Temporary(PathBuf);

impl Temporary {
    fn new() -> Result<Self, Failure> {
        let path = std::env::temp_dir().join(format!("oarlock-dev-{}", std::process::id()));
        std::fs::create_dir(&path)
            .map_err(|error| Failure::usage(format!("create {}: {error}", path.display())))?;
        Ok(Self(path))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _may_be_gone = std::fs::remove_dir_all(&self.0);
    }
}

fn configs(dev: &Dev, dir: &Path) -> Vec<Config> {
    let port = |node: u16, offset: u16| dev.port_base + 10 * (node - 1) + offset;
    let members: Vec<MemberConfig> = (1..=dev.nodes)
        .map(|node| MemberConfig {
            id: u64::from(node),
            peer_address: format!("127.0.0.1:{}", port(node, 1)),
            api_address: format!("127.0.0.1:{}", port(node, 0)),
        })
        .collect();
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let config = |member: &MemberConfig| Config {
        node_id: member.id,
        data_dir: dir.join(format!("node{}", member.id)),
        api_address: member.api_address.clone(),
        peer_address: member.peer_address.clone(),
        members: members.clone(),
        worker_threads: (cores / members.len().max(1)).max(1),
        ..Config::default()
    };
    members.iter().map(config).collect()
}

/// Names every busy port before anything is started.
fn refuse_busy_ports(configs: &[Config]) -> Result<(), Failure> {
    let addresses = configs.iter().flat_map(|c| [&c.api_address, &c.peer_address]);
    let busy: Vec<&str> = addresses
        .filter(|address| {
            matches!(TcpListener::bind(address.as_str()), Err(e) if e.kind() == io::ErrorKind::AddrInUse)
        })
        .map(String::as_str)
        .collect();
    if busy.is_empty() {
        return Ok(());
    }
    Err(Failure::usage(format!(
        "in use: {}; stop what listens there, or choose other ports with --port-base",
        busy.join(", ")
    )))
}

fn start(dir: &Path, configs: &[Config]) -> Result<(Children, Vec<Node>), Failure> {
    let program = std::env::current_exe()
        .map_err(|error| Failure::usage(format!("find this program: {error}")))?;
    let (mut children, mut nodes) = (Vec::new(), Vec::new());
    for config in configs {
        let id = config.node_id;
        let path = dir.join(format!("node{id}.toml"));
        let log = dir.join(format!("node{id}.log"));
        let failed = |error: &dyn std::fmt::Display| {
            Failure::usage(format!("start node {id} in {}: {error}", dir.display()))
        };
        let text = toml::to_string(config).map_err(|e| failed(&e))?;
        std::fs::write(&path, text).map_err(|e| failed(&e))?;
        let output = std::fs::File::create(&log).map_err(|e| failed(&e))?;
        let child = Command::new(&program)
            .args(["serve", "--exit-with-stdin", "--config"])
            .arg(&path)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(output)
            // A signal to the terminal's group is for us; we stop the children in our own way.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| failed(&e))?;
        let pid = child.id().unwrap_or_default();
        nodes.push(Node { id, api_address: config.api_address.clone(), log, pid });
        children.push((id, child));
    }
    Ok((children, nodes))
}

async fn wait_ready(nodes: &[Node]) -> Result<(), Failure> {
    let deadline = Instant::now() + READY_DEADLINE;
    for node in nodes {
        while !is_ready(&node.api_address).await {
            if Instant::now() > deadline {
                return Err(Failure::unreachable(format!(
                    "node {} is not ready after {} s; the end of its log ({}):\n{}",
                    node.id,
                    READY_DEADLINE.as_secs(),
                    node.log.display(),
                    tail(&node.log)
                )));
            }
            sleep(Duration::from_millis(50)).await;
        }
    }
    Ok(())
}

async fn is_ready(address: &str) -> bool {
    let ask = async {
        let mut stream = TcpStream::connect(address).await?;
        let request =
            format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(4096).read_to_end(&mut answer).await?;
        Ok::<_, io::Error>(answer.starts_with(b"HTTP/1.1 200"))
    };
    matches!(timeout(Duration::from_secs(2), ask).await, Ok(Ok(true)))
}

fn tail(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}

fn greeting(nodes: &[Node], dir: &Path, port_base: u16) -> String {
    let mut text =
        format!("A cluster of {} is ready. Data and logs: {}\n\n", nodes.len(), dir.display());
    for node in nodes {
        let _infallible =
            writeln!(text, "  node {}   http://{}   pid {}", node.id, node.api_address, node.pid);
    }
    let first = format!("http://127.0.0.1:{port_base}");
    let endpoints: Vec<&str> = nodes.iter().map(|node| node.api_address.as_str()).collect();
    let export = if port_base == 7400 && nodes.len() == 3 {
        String::new()
    } else {
        format!("  export OARLOCK_ENDPOINTS={}\n", endpoints.join(","))
    };
    let _infallible = write!(
        text,
        "\nTry, in another terminal:\n\n\
         {export}\
         \x20 curl -s {first}/v1/locks/deploy/prod -d '{{\"owner\":\"me\",\"ttl_ms\":60000}}'\n\
         \x20 curl -s {first}/v1/locks/deploy/prod\n\
         \x20 curl -s -X DELETE '{first}/v1/locks/deploy/prod?all=true&reason=trying&lock_delay_ms=0'\n\
         \x20 oarlock status\n\
         \x20 kill -9 {}    # one node dies, the others go on\n\n\
         Ctrl-C stops all nodes.\n",
        nodes[0].pid
    );
    text
}

/// Reports children that end, until it is time to stop. They are left down; the others go on.
async fn watch(children: &mut [(u64, Child)], stopped: impl Future<Output = ()>) {
    let mut stopped = std::pin::pin!(stopped);
    let mut reported = Vec::new();
    loop {
        for (id, child) in children.iter_mut() {
            if !reported.contains(id)
                && let Ok(Some(status)) = child.try_wait()
            {
                reported.push(*id);
                print(&format!("node {id} ended ({status}); it is left down, the others go on\n"));
            }
        }
        tokio::select! {
            () = &mut stopped => return,
            () = sleep(Duration::from_millis(200)) => {}
        }
    }
}

/// SIGTERM to all, SIGKILL to those that do not end in time.
async fn stop(children: Children) {
    let mut ends = JoinSet::new();
    for (_, mut child) in children {
        if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok())
            && let Some(pid) = rustix::process::Pid::from_raw(pid)
        {
            let _may_have_ended = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        ends.spawn(async move {
            if timeout(STOP_DEADLINE, child.wait()).await.is_err() {
                let _may_have_ended = child.kill().await;
            }
        });
    }
    while ends.join_next().await.is_some() {}
}
