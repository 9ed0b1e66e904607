//! The commands that look at locks and end leases: `renew`, `release`, `inspect`, `list`, `force-release`,
//! `status`. They ask through the client and print for people, or JSON for scripts.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use oarlock_client::wire::Lock;
use oarlock_client::{BadIdentity, Certified, Client, ClientError, Identity, Options};
use serde::Serialize;

use crate::cli::acquire::granted;
use crate::cli::{Failure, graph, print};

/// Options of every command that speaks to a cluster.
#[derive(Debug, Clone, Args)]
pub(super) struct Target {
    /// host:port of a node; several may be given, any will do
    #[arg(
        long = "endpoint",
        env = "OARLOCK_ENDPOINTS",
        value_delimiter = ',',
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:7400,127.0.0.1:7410,127.0.0.1:7420",
        global = true
    )]
    endpoints: Vec<String>,
    /// Give up after this long, not counting --wait; a watch, this long after its stream broke
    #[arg(long, default_value = "15s", value_parser = humantime::parse_duration, global = true)]
    timeout: Duration,
    /// File with the access token to show to the cluster; or the token itself in `OARLOCK_ACCESS_TOKEN`
    #[arg(long, env = "OARLOCK_TOKEN_FILE", value_name = "FILE", global = true)]
    token_file: Option<PathBuf>,
    /// File with the authority of the nodes' certificates: then all is said over TLS
    #[arg(long, env = "OARLOCK_CA", value_name = "FILE", global = true)]
    ca: Option<PathBuf>,
    /// File with a client certificate to show
    #[arg(long, env = "OARLOCK_CERT", value_name = "FILE", requires = "key", global = true)]
    cert: Option<PathBuf>,
    /// File with its key
    #[arg(long, env = "OARLOCK_KEY", value_name = "FILE", requires = "cert", global = true)]
    key: Option<PathBuf>,
    /// Send the token also to other machines over connections that nothing encrypts
    #[arg(long, env = "OARLOCK_INSECURE", global = true,
          value_parser = clap::builder::FalseyValueParser::new())]
    insecure: bool,
    #[arg(skip)]
    identity: Identity,
    /// For people, or the JSON of the API for scripts
    #[arg(long, value_enum, default_value_t = Output::Text, global = true)]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

impl Target {
    pub(super) fn client(&self) -> Client {
        Client::new(Options {
            endpoints: self.addresses(),
            deadline: self.timeout,
            identity: self.identity.clone(),
        })
    }

    /// A client of one node alone.
    pub(super) fn client_at(&self, address: &str, deadline: Duration) -> Client {
        let (endpoints, identity) = (vec![address.to_owned()], self.identity.clone());
        Client::new(Options { endpoints, deadline, identity })
    }

    /// Reads what says who asks.
    pub(super) fn identified(mut self) -> Result<Self, Failure> {
        let read = |file: &PathBuf| {
            let bytes = std::fs::read(file);
            bytes.map_err(|error| Failure::usage(format!("read {}: {error}", file.display())))
        };
        let bad = |error: BadIdentity| Failure::usage(error.0);
        let over_tls = self.endpoints.iter().any(|it| it.starts_with("https://"));
        match &self.ca {
            Some(ca) => {
                let files = self.cert.as_ref().zip(self.key.as_ref());
                let files = files.map(|(cert, key)| Ok::<_, Failure>((read(cert)?, read(key)?)));
                let files = files.transpose()?;
                let certified = files.as_ref();
                let certified = certified.map(|(certificate, key)| Certified { certificate, key });
                self.identity = self.identity.with_tls(&read(ca)?, certified).map_err(bad)?;
            }
            None if over_tls || self.cert.is_some() => {
                return Err(Failure::usage("name the authority of the nodes with --ca"));
            }
            None => {}
        }
        let token = match &self.token_file {
            Some(file) => Some(String::from_utf8_lossy(&read(file)?).into_owned()),
            None => std::env::var("OARLOCK_ACCESS_TOKEN").ok().filter(|token| !token.is_empty()),
        };
        if let Some(token) = token {
            self.identity = self.identity.with_token(&token).map_err(bad)?;
            if self.insecure {
                self.identity = self.identity.insecure();
            }
        }
        Ok(self)
    }

    /// The endpoints as `host:port`.
    pub(super) fn addresses(&self) -> Vec<String> {
        let address = |text: &String| {
            let text = text.trim_start_matches("https://").trim_start_matches("http://");
            text.trim_end_matches('/').to_owned()
        };
        self.endpoints.iter().map(address).collect()
    }

    /// Where the authority of the nodes is.
    pub(super) fn ca(&self) -> Option<&Path> {
        self.ca.as_deref()
    }

    /// Who asks.
    pub(super) fn identity(&self) -> Identity {
        self.identity.clone()
    }

    /// Of one call, not counting its wait.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    pub(super) fn is_json(&self) -> bool {
        self.output == Output::Json
    }

    pub(super) fn show<T: Serialize>(&self, value: &T, text: impl FnOnce(&T) -> String) {
        match self.output {
            Output::Text => print(&text(value)),
            Output::Json => {
                print(&format!("{}\n", serde_json::to_string(value).unwrap_or_default()));
            }
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Refused(problem) => Self::refused(problem.detail),
            ClientError::Unreachable(_) => {
                Self::unreachable(format!("{error}; check --endpoint, and `oarlock status`"))
            }
            ClientError::Unknown(_) => Self::unknown(format!(
                "{error}; repeat with the same --request-id, or look with `oarlock inspect`"
            )),
            ClientError::Insecure(_) => Self::usage(error.to_string()),
            ClientError::Protocol(_) => {
                Self::usage(format!("{error}; is --endpoint a node of oarlock?"))
            }
        }
    }
}

/// Milliseconds as people say them.
pub(super) fn for_people(ms: u64) -> String {
    humantime::format_duration(Duration::from_millis(ms)).to_string()
}

pub(super) fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[derive(Debug, Args)]
pub(super) struct OfLease {
    /// The lease id that acquire printed
    lease_id: String,
}

pub(super) async fn renew(target: &Target, of: OfLease) -> Result<(), Failure> {
    let (lease, _) = target.client().renew(&of.lease_id).await?;
    target.show(&lease, granted);
    Ok(())
}

pub(super) async fn release(target: &Target, of: OfLease) -> Result<(), Failure> {
    let released = target.client().release(&of.lease_id).await?;
    target.show(&released, |released| format!("{} is released\n", released.lock));
    Ok(())
}

#[derive(Debug, Args)]
pub(super) struct Inspect {
    /// Name of the lock
    name: String,
    /// Take the answer of any node, and be told how old it may be
    #[arg(long)]
    stale: bool,
}

pub(super) async fn inspect(target: &Target, inspect: Inspect) -> Result<(), Failure> {
    let lock = target.client().inspect(&inspect.name, inspect.stale).await?;
    target.show(&lock, describe);
    Ok(())
}

fn describe(lock: &Lock) -> String {
    let mut text = format!("{}  {}\n", lock.lock, if lock.held { "held" } else { "free" });
    for holder in &lock.holders {
        let left = holder.remaining_ms.map_or_else(
            || "no expiry".to_owned(),
            |ms| format!("{} left", humantime::format_duration(Duration::from_millis(ms))),
        );
        let _infallible = writeln!(
            text,
            "  holder  {}  token {}  since {}  {left}",
            holder.owner, holder.token, holder.since
        );
    }
    for waiter in &lock.waiters {
        let waited = humantime::format_duration(Duration::from_millis(waiter.waiting_ms));
        let _infallible =
            writeln!(text, "  waiter {}  {}  for {waited}", waiter.position, waiter.owner);
    }
    text
}

#[derive(Debug, Args)]
pub(super) struct List {
    /// Only locks whose names start with this
    #[arg(default_value = "")]
    prefix: String,
    /// Locks on one page
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    /// Where the page before ended
    #[arg(long)]
    cursor: Option<String>,
    /// Show who waits for whom instead
    #[arg(long, conflicts_with_all = ["cursor", "limit"])]
    graph: bool,
}

pub(super) async fn list(target: &Target, list: List) -> Result<(), Failure> {
    if list.graph {
        return graph::show(target, &list.prefix).await;
    }
    let cursor = list.cursor.as_deref();
    let page = target.client().list(&list.prefix, list.limit, cursor).await?;
    target.show(&page, |page| {
        let mut text = String::new();
        for lock in &page.locks {
            let owner = lock.holders.first().map_or("-", |holder| holder.owner.as_str());
            let _infallible =
                writeln!(text, "{:<40} {:<24} {} waiting", lock.lock, owner, lock.queue_length);
        }
        if let Some(cursor) = &page.cursor {
            let _infallible = writeln!(text, "more: --cursor '{cursor}'");
        }
        if text.is_empty() { "no locks\n".to_owned() } else { text }
    });
    Ok(())
}

#[derive(Debug, Args)]
pub(super) struct ForceRelease {
    /// Name of the lock
    name: String,
    /// Take it from the grant with this token only
    #[arg(long, required_unless_present = "all", conflicts_with = "all")]
    token: Option<u64>,
    /// Take it from every holder
    #[arg(long)]
    all: bool,
    /// Why, for the record
    #[arg(long)]
    reason: String,
    /// Keep the lock closed for this long; else for what remained of the lease
    #[arg(long, value_parser = humantime::parse_duration)]
    lock_delay: Option<Duration>,
}

pub(super) async fn force_release(target: &Target, force: ForceRelease) -> Result<(), Failure> {
    let lock_delay_ms = force.lock_delay.map(ms);
    let client = target.client();
    let forced =
        client.force_release(&force.name, force.token, &force.reason, lock_delay_ms).await?;
    target.show(&forced, |forced| match forced.released.len() {
        0 => format!("{}: nothing to take, that grant had ended\n", forced.lock),
        count => format!("{}: taken from {count}\n", forced.lock),
    });
    Ok(())
}

/// Asks every endpoint; fails without a leader that has a majority.
pub(super) async fn status(target: &Target) -> Result<(), Failure> {
    let mut shown = None;
    for endpoint in &target.endpoints {
        let one = Target {
            endpoints: vec![endpoint.clone()],
            timeout: Duration::from_secs(3),
            ..target.clone()
        };
        if let Ok(cluster) = one.client().cluster().await {
            let serves = cluster.leader_id.is_some() && cluster.ready;
            if serves || shown.is_none() {
                shown = Some((cluster, serves));
            }
            if serves {
                break;
            }
        }
    }
    let Some((cluster, serves)) = shown else {
        return Err(Failure::unreachable(
            "no node answers; check --endpoint, and whether nodes run",
        ));
    };
    target.show(&cluster, |cluster| {
        let leader = cluster.leader_id.map_or("none".to_owned(), |id| format!("node {id}"));
        let mut text =
            format!("leader {leader}, term {}, applied {}\n", cluster.term, cluster.applied_index);
        for member in &cluster.members {
            let lag =
                member.lag_entries.map_or(String::new(), |lag| format!("  {lag} entries behind"));
            let _infallible =
                writeln!(text, "  node {}  http://{}{lag}", member.id, member.api_address);
        }
        text
    });
    if serves {
        Ok(())
    } else {
        Err(Failure::unreachable("the cluster has no leader with a majority"))
    }
}

/// Example: oarlock transfer 2
#[derive(Debug, Args)]
pub(super) struct Transfer {
    /// Id of the node that shall lead
    node: Option<u64>,
}

pub(super) async fn transfer(target: &Target, of: Transfer) -> Result<(), Failure> {
    let leader = target.client().transfer_leader(of.node).await?;
    target.show(&leader, |leader| format!("node {} leads\n", leader.leader_id));
    Ok(())
}
