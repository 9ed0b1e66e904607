//! A proxy before the peer listener of each node, for machines where nobody may cut packets.
//!
//! ```text
//!   node 1 ──┐                    ┌── rule 1 -> 2 ──>┐
//!            ├──> proxy of node 2 ┤                  ├── node 2
//!   node 3 ──┘                    └<── rule 2 -> 1 ──┘
//! ```
//! Who connected is read from the kernel's table of sockets and the open files of the nodes'
//! processes. A cut holds bytes back as long as it lasts, as TCP would send them again; what is
//! lost comes late; a delay moves everything and keeps the order.

use std::fs;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use oarlock_jepsen::chance::Chance;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// When TCP sends a lost packet again, at first.
const SENT_AGAIN: Duration = Duration::from_millis(200);

/// Pause between two looks whether a cut has ended.
const CUT_PAUSE: Duration = Duration::from_millis(10);

/// Pieces on their way over one connection.
const PIECES_MAX: usize = 256;

const PIECE_BYTES: usize = 16 * 1024;

/// What happens to bytes on their way from one node to another.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Rule {
    pub(crate) cut: bool,
    pub(crate) lost_percent: u64,
    pub(crate) delay: Duration,
}

#[derive(Default)]
struct Shared {
    nodes: usize,
    /// Of each pair, at `from * nodes + to`.
    rules: Mutex<Vec<Rule>>,
    processes: Mutex<Vec<Option<u32>>>,
    held: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) struct Proxies {
    shared: Arc<Shared>,
    // Dropped with the connections of all nodes.
    _tasks: JoinSet<()>,
}

impl Proxies {
    /// One before each of the peers; also where they listen.
    pub(crate) async fn start(peers: &[String]) -> Result<(Self, Vec<String>), String> {
        let nodes = peers.len();
        let (rules, processes) = (vec![Rule::default(); nodes * nodes], vec![None; nodes]);
        let (rules, processes) = (Mutex::new(rules), Mutex::new(processes));
        let shared = Arc::new(Shared { nodes, rules, processes, ..Shared::default() });
        let (mut tasks, mut addresses) = (JoinSet::new(), Vec::new());
        for (to, peer) in peers.iter().enumerate() {
            let listener = TcpListener::bind("127.0.0.1:0").await;
            let listener = listener.map_err(|error| format!("start a proxy: {error}"))?;
            let address = listener.local_addr().map_err(|error| format!("a proxy: {error}"))?;
            addresses.push(address.to_string());
            tasks.spawn(serve(listener, to, peer.clone(), Arc::clone(&shared)));
        }
        Ok((Self { shared, _tasks: tasks }, addresses))
    }

    pub(crate) fn lives_in(&self, node: usize, process: Option<u32>) {
        lock(&self.shared.processes)[node] = process;
    }

    pub(crate) fn rule(
        &self,
        from: usize,
        to: usize,
        change: impl FnOnce(&mut Rule),
    ) -> Result<(), String> {
        let mut rules = lock(&self.shared.rules);
        let rule = rules.get_mut(from * self.shared.nodes + to);
        rule.map(change).ok_or_else(|| format!("no link from {from} to {to}"))
    }

    pub(crate) fn held(&self) -> u64 {
        self.shared.held.load(Ordering::Relaxed)
    }

    pub(crate) fn heal(&self) -> u64 {
        lock(&self.shared.rules).fill(Rule::default());
        self.shared.held.swap(0, Ordering::Relaxed)
    }
}

async fn serve(listener: TcpListener, to: usize, peer: String, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, from)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        let (peer, shared) = (peer.clone(), Arc::clone(&shared));
        connections.spawn(async move {
            // A node that died meanwhile has no connection that matters.
            if let Some(node) = shared.who_connects_from(from) {
                connect(stream, (node, to), &peer, &shared).await;
            }
        });
    }
}

async fn connect(stream: TcpStream, (one, other): (usize, usize), peer: &str, shared: &Shared) {
    // Also a connection is not made across a cut: its first packet must get through.
    shared.pass(one, other, Instant::now()).await;
    let Ok(onward) = TcpStream::connect(peer).await else { return };
    let _slower_without = (stream.set_nodelay(true), onward.set_nodelay(true));
    let (from_one, to_one) = stream.into_split();
    let (from_other, to_other) = onward.into_split();
    tokio::join!(
        shared.carry((one, other), from_one, to_other),
        shared.carry((other, one), from_other, to_one),
    );
}

impl Shared {
    fn rule(&self, from: usize, to: usize) -> Rule {
        lock(&self.rules)[from * self.nodes + to]
    }

    /// Waits as the rule says for something sent at that moment.
    async fn pass(&self, from: usize, to: usize, sent_at: Instant) {
        let delay = self.rule(from, to).delay;
        if !delay.is_zero() {
            self.held.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep_until(sent_at + delay).await;
        }
        let mut counted = false;
        while self.rule(from, to).cut {
            if !std::mem::replace(&mut counted, true) {
                self.held.fetch_add(1, Ordering::Relaxed);
            }
            tokio::time::sleep(CUT_PAUSE).await;
        }
    }

    /// Carries one direction of a connection until it ends; then the other end learns it.
    async fn carry(
        &self,
        (from, to): (usize, usize),
        mut input: impl AsyncRead + Unpin,
        mut output: impl AsyncWrite + Unpin,
    ) {
        let (pieces, mut queue) = mpsc::channel::<(Instant, Vec<u8>)>(PIECES_MAX);
        let reading = async move {
            let mut buffer = vec![0; PIECE_BYTES];
            while let Ok(read @ 1..) = input.read(&mut buffer).await {
                if pieces.send((Instant::now(), buffer[..read].to_vec())).await.is_err() {
                    break;
                }
            }
        };
        let writing = async {
            let mut chance = Chance::new((from * self.nodes + to) as u64 + 1);
            while let Some((sent_at, piece)) = queue.recv().await {
                if chance.below(100) < self.rule(from, to).lost_percent {
                    self.held.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(SENT_AGAIN).await;
                }
                self.pass(from, to, sent_at).await;
                if output.write_all(&piece).await.is_err() {
                    break;
                }
            }
            queue.close();
            self.pass(from, to, Instant::now()).await;
            let _gone = output.shutdown().await;
        };
        tokio::join!(reading, writing);
    }

    /// The node whose process has the socket at the other end.
    fn who_connects_from(&self, from: SocketAddr) -> Option<usize> {
        let table = fs::read_to_string("/proc/net/tcp").ok()?;
        let port = format!(":{:04X}", from.port());
        let socket = table.lines().skip(1).find_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let inode = fields.get(9).filter(|inode| **inode != "0")?;
            fields[1].ends_with(&port).then(|| format!("socket:[{inode}]"))
        })?;
        let processes = lock(&self.processes).clone();
        processes.iter().position(|process| {
            let files = process.and_then(|pid| fs::read_dir(format!("/proc/{pid}/fd")).ok());
            files.into_iter().flatten().flatten().any(|file| {
                fs::read_link(file.path()).is_ok_and(|link| link.as_os_str() == socket.as_str())
            })
        })
    }
}
