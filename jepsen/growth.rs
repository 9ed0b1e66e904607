//! `oarlock-jepsen growth`: a cluster of three grows to five, every member that it began with is
//! replaced, and it shrinks to three again, all under load. No call may fail beyond what the client
//! repeats under the same request id, no token may be out of order, no lock that is kept may be lost;
//! measured is the longest time in which nobody was granted anything.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Args;
use oarlock_client::Client;
use oarlock_client::wire::{AcquireRequest, Lease, TtlMs};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::arrivals::client;
use crate::changes::{self, Step};
use crate::cluster::{Cluster, Setup};
use crate::load::{Load, longest_gap};
use crate::say;

/// Of the configuration that the nodes have: the default of the shortest. The service must be back
/// in less than the shortest election timeout.
const GAP_MAX: Duration = Duration::from_millis(400);

/// Members at the beginning and in the end, and in between.
const FEW: usize = 3;
const MANY: usize = 5;

/// Load before the first change and after the last, so that a gap has two ends.
const CALM: Duration = Duration::from_secs(1);

/// Of the clients, so many take turns at one lock.
const TAKE_TURNS: u64 = 4;

/// Those who keep locks all the time, and how many each.
const KEEPERS: u64 = 4;
const KEPT: u64 = 8;
/// So long they hold without a renewal, which is many times the pause between two.
const KEPT_TTL_MS: u64 = 20_000;
const KEPT_PAUSE: Duration = Duration::from_millis(250);

#[derive(Debug, Args)]
pub(crate) struct Growth {
    /// Clients that take and release locks; four of them take turns at one
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u64).range(1..=1000))]
    clients: u64,
    /// Print the gaps, and judge all but those: for machines that are slow or busy
    #[arg(long)]
    lenient: bool,
    /// The node's program; else the one beside this
    #[arg(long)]
    binary: Option<PathBuf>,
}

/// What was done, from when until when.
struct Done {
    what: String,
    from: Instant,
    to: Instant,
}

impl Growth {
    pub(crate) async fn measure(&self) -> Result<String, String> {
        let binary = self.binary.clone().map_or_else(crate::beside_this, Ok)?;
        let mut cluster = Cluster::start(Setup {
            binary,
            nodes: FEW,
            spares: MANY - FEW + 1,
            network: None,
            small_disks: false,
            proxies: false,
            seed: 1,
            settings: "",
        })
        .await?;
        let kept = Keepers::start(&cluster.endpoints()).await?;
        let load = Load::start(&cluster.endpoints(), self.clients, TAKE_TURNS);
        sleep(CALM).await;
        let changed = change_all(&mut cluster).await;
        sleep(CALM).await;
        // Of two errors the one that a client met tells more.
        let grants = load.stop().await?;
        let renewals = kept.stop().await?;
        self.judge(&changed?, &grants, renewals)
    }

    fn judge(&self, done: &[Done], grants: &[Instant], renewals: u64) -> Result<String, String> {
        let (Some(first), Some(last)) = (done.first(), done.last()) else {
            return Err("nothing was changed".to_owned());
        };
        let shown: Vec<String> = done
            .iter()
            .map(|it| format!("{}: {:.0?}", it.what, longest_gap(grants, it.from, it.to)))
            .collect();
        let longest = longest_gap(grants, first.from, last.to);
        let told = format!(
            "{} changes of the members under {} clients in {:.1?}, {} grants and {renewals} renewals, \
             no call failed, no token out of order, no lock lost: longest time without a grant \
             {longest:.0?}, at most {GAP_MAX:?} are meant ({})",
            done.len(),
            self.clients,
            last.to - first.from,
            grants.len(),
            shown.join(", "),
        );
        if longest <= GAP_MAX || self.lenient { Ok(told) } else { Err(told) }
    }
}

/// Three grow to five, those three are replaced, five shrink to three; who leads goes first.
async fn change_all(cluster: &mut Cluster) -> Result<Vec<Done>, String> {
    let mut done = Vec::new();
    let first: Vec<u64> = cluster.members().iter().map(|node| cluster.id(*node)).collect();
    while cluster.members().len() < MANY {
        done.push(add(cluster).await?);
    }
    loop {
        let is_first = |node: &usize| first.contains(&cluster.id(*node));
        let left: Vec<usize> = cluster.members().into_iter().filter(is_first).collect();
        let Some(leaving) = leader_or_first(cluster, &left).await else { break };
        done.push(replace(cluster, leaving).await?);
    }
    while cluster.members().len() > FEW {
        let members = cluster.members();
        let leaving = leader_or_first(cluster, &members).await.ok_or("nobody is a member")?;
        done.push(remove(cluster, leaving).await?);
    }
    Ok(done)
}

async fn leader_or_first(cluster: &Cluster, among: &[usize]) -> Option<usize> {
    let leader = cluster.leader_if_known().await.filter(|leader| among.contains(leader));
    leader.or(among.first().copied())
}

/// The API addresses of those who stay members.
fn apis(cluster: &Cluster) -> Vec<String> {
    cluster.members().iter().map(|node| cluster.endpoints()[*node].clone()).collect()
}

async fn ask(cluster: &Cluster, step: Step, new: u64, old: u64) -> Result<(), String> {
    let what = format!("{step:?} (node {new} comes, node {old} goes)");
    changes::again(&what, &apis(cluster), |client| async move {
        step.ask(&client, new, old).await.map(|done| done.then_some(()))
    })
    .await
}

async fn let_in(cluster: &mut Cluster) -> Result<u64, String> {
    let invitation = changes::invite(&apis(cluster)).await?;
    let new = invitation.node_id;
    cluster.let_in(new, invitation.join_token)?;
    ask(cluster, Step::Joined, new, 0).await?;
    Ok(new)
}

async fn add(cluster: &mut Cluster) -> Result<Done, String> {
    let from = Instant::now();
    let new = let_in(cluster).await?;
    ask(cluster, Step::Promoted, new, 0).await?;
    cluster.settle()?;
    ended(cluster, format!("node {new} comes"), from).await
}

async fn replace(cluster: &mut Cluster, leaving: usize) -> Result<Done, String> {
    let (from, old) = (Instant::now(), cluster.id(leaving));
    let whom = whom(cluster, leaving).await;
    let logged = cluster.log_length(leaving);
    cluster.goes(leaving);
    let new = let_in(cluster).await?;
    ask(cluster, Step::Replaced, new, old).await?;
    changes::has_learnt(cluster, leaving, logged).await?;
    cluster.settle()?;
    ended(cluster, format!("node {new} replaces {old}{whom}"), from).await
}

async fn remove(cluster: &mut Cluster, leaving: usize) -> Result<Done, String> {
    let (from, old) = (Instant::now(), cluster.id(leaving));
    let whom = whom(cluster, leaving).await;
    let logged = cluster.log_length(leaving);
    cluster.goes(leaving);
    ask(cluster, Step::Removed, 0, old).await?;
    changes::has_learnt(cluster, leaving, logged).await?;
    cluster.settle()?;
    ended(cluster, format!("node {old}{whom} goes"), from).await
}

async fn whom(cluster: &Cluster, leaving: usize) -> &'static str {
    if cluster.leader_if_known().await == Some(leaving) { ", the leader," } else { "" }
}

/// All members know it.
async fn ended(cluster: &Cluster, what: String, from: Instant) -> Result<Done, String> {
    changes::all_know(cluster).await?;
    say(&what);
    Ok(Done { what, from, to: Instant::now() })
}

/// Clients that keep locks and renew them.
struct Keepers {
    stop: Arc<AtomicBool>,
    keepers: JoinSet<Result<u64, String>>,
}

impl Keepers {
    async fn start(endpoints: &[String]) -> Result<Self, String> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut keepers = JoinSet::new();
        for keeper in 0..KEEPERS {
            let (client, mut leases) = (client(endpoints, keeper), Vec::new());
            for lock in 0..KEPT {
                let request = AcquireRequest {
                    owner: Some(format!("keeper-{keeper}")),
                    ttl_ms: TtlMs::Ms(KEPT_TTL_MS),
                    ..AcquireRequest::default()
                };
                let taken = client.acquire(&format!("kept/{keeper}/{lock}"), request).await;
                leases.push(taken.map_err(|error| format!("take a lock to keep: {error}"))?.0);
            }
            keepers.spawn(keep(client, leases, Arc::clone(&stop)));
        }
        Ok(Self { stop, keepers })
    }

    /// How many renewals there were; an error if one failed for good.
    async fn stop(mut self) -> Result<u64, String> {
        self.stop.store(true, Ordering::SeqCst);
        let mut renewals = 0;
        while let Some(ended) = self.keepers.join_next().await {
            renewals += ended.map_err(|error| format!("a keeper failed: {error}"))??;
        }
        Ok(renewals)
    }
}

async fn keep(client: Client, leases: Vec<Lease>, stop: Arc<AtomicBool>) -> Result<u64, String> {
    let mut renewals = 0;
    while !stop.load(Ordering::SeqCst) {
        for lease in &leases {
            let renewed = client.renew(&lease.lease_id).await;
            let (renewed, _) =
                renewed.map_err(|error| format!("{} was lost: {error}", lease.lock))?;
            if renewed.token != lease.token {
                let (now, before) = (renewed.token, lease.token);
                return Err(format!("{} had token {before} and has {now}", lease.lock));
            }
            renewals += 1;
        }
        sleep(KEPT_PAUSE).await;
    }
    Ok(renewals)
}
