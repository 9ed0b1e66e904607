//! `oarlock-jepsen drain`: very many leases fall due within the same second. Measures until when all
//! of them are over, and what others wait for their locks meanwhile.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use oarlock_client::Client;
use oarlock_client::wire::{AcquireManyRequest, ClaimRequest, TtlMs};
use oarlock_jepsen::report::percentile;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::arrivals::{Arrival, Arrivals, between, client};
use crate::cluster::{Cluster, Setup};
use crate::say;

/// Locks of one request, as many as the API takes.
const LOCKS_PER_REQUEST: u64 = 64;
/// Clients that take them.
const FILLERS: u64 = 8;
/// Others, who take and release locks of their own at fixed moments.
const BYSTANDERS: u64 = 8;

/// A pace that any machine holds, for choosing the common end.
const LEASES_PER_S: u64 = 1_500;

const DRAINED_WITHIN: Duration = Duration::from_secs(10);
const BYSTANDER_P99: Duration = Duration::from_millis(100);

const GIVE_UP: Duration = Duration::from_mins(3);
const LOOK_PAUSE: Duration = Duration::from_millis(20);

#[derive(Debug, Args)]
pub(crate) struct Drain {
    /// Leases that fall due within the same second
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(64..=1_000_000))]
    leases: u64,
    /// Print the figures, and judge only that all leases end: for machines that are slow or busy
    #[arg(long)]
    lenient: bool,
    /// The node's program; else the one beside this
    #[arg(long)]
    binary: Option<PathBuf>,
}

impl Drain {
    pub(crate) async fn measure(&self) -> Result<String, String> {
        let binary = self.binary.clone().map_or_else(crate::beside_this, Ok)?;
        let cluster = Cluster::start(Setup {
            binary,
            nodes: 3,
            spares: 0,
            network: None,
            small_disks: false,
            proxies: false,
            seed: 1,
            settings: "",
        })
        .await?;
        let endpoints = cluster.endpoints();
        let due = Instant::now() + Duration::from_secs(3 + self.leases / LEASES_PER_S);
        self.fill(&endpoints, due).await?;
        let filled = Instant::now();
        if filled + Duration::from_secs(1) > due {
            return Err(format!("this machine is too slow to take {} leases in time", self.leases));
        }
        say(&format!("{} leases held, due together in {:.1?}", self.leases, due - filled));
        let bystanders = Arrivals::start(&endpoints, "bystander", BYSTANDERS);
        let drained = timeout(GIVE_UP, watch(&endpoints))
            .await
            .map_err(|_| format!("not all leases were over after {GIVE_UP:?}"))??;
        self.judge(due, drained, &bystanders.stop().await?)
    }

    /// Takes all leases so that they end at that moment.
    async fn fill(&self, endpoints: &[String], due: Instant) -> Result<(), String> {
        let mut fillers = JoinSet::new();
        let requests = self.leases.div_ceil(LOCKS_PER_REQUEST);
        for filler in 0..FILLERS {
            let (client, leases) = (client(endpoints, filler), self.leases);
            fillers.spawn(async move {
                for request in (filler..requests).step_by(usize::try_from(FILLERS).unwrap_or(1)) {
                    let from = request * LOCKS_PER_REQUEST;
                    let names = (from..leases.min(from + LOCKS_PER_REQUEST))
                        .map(|lease| format!("drain/{lease:07}"));
                    let left = due.saturating_duration_since(Instant::now());
                    take(&client, names, u64::try_from(left.as_millis()).unwrap_or(0)).await?;
                }
                Ok::<(), String>(())
            });
        }
        while let Some(ended) = fillers.join_next().await {
            ended.map_err(|error| format!("a filler failed: {error}"))??;
        }
        Ok(())
    }

    fn judge(
        &self,
        due: Instant,
        drained: Instant,
        arrivals: &[Arrival],
    ) -> Result<String, String> {
        let took = drained.saturating_duration_since(due);
        let before = between(arrivals, due.checked_sub(GIVE_UP).unwrap_or(due), due);
        let during = between(arrivals, due, drained);
        let p99 = percentile(&during, 99);
        let told = format!(
            "{} leases drained in {took:.2?}; meanwhile {} acquires and releases of others: \
             median {:.1?}, p99 {p99:.1?}, most {:.1?} (before: {}, p99 {:.1?})",
            self.leases,
            during.len(),
            percentile(&during, 50),
            percentile(&during, 100),
            before.len(),
            percentile(&before, 99),
        );
        let missed = took > DRAINED_WITHIN || p99 > BYSTANDER_P99 || during.is_empty();
        if missed && !self.lenient { Err(told) } else { Ok(told) }
    }
}

async fn take(
    client: &Client,
    names: impl Iterator<Item = String>,
    ttl_ms: u64,
) -> Result<(), String> {
    let locks = names.map(|name| ClaimRequest { name, ..ClaimRequest::default() }).collect();
    let request = AcquireManyRequest {
        owner: Some("drain".to_owned()),
        ttl_ms: TtlMs::Ms(ttl_ms),
        locks,
        ..AcquireManyRequest::default()
    };
    let taken = client.acquire_many(request).await;
    taken.map(drop).map_err(|error| format!("take {LOCKS_PER_REQUEST} leases: {error}"))
}

/// When the last of the leases was over.
async fn watch(endpoints: &[String]) -> Result<Instant, String> {
    let client = client(endpoints, 0);
    loop {
        let page = client.list("drain/", 1, None).await;
        let page = page.map_err(|error| format!("list the leases: {error}"))?;
        if page.locks.is_empty() {
            return Ok(Instant::now());
        }
        tokio::time::sleep(LOOK_PAUSE).await;
    }
}
