//! The commands that make leases: `acquire`, of one lock or several, and `hand-over`.

use std::fmt::Write as _;
use std::time::Duration;

use clap::Args;
use oarlock_client::wire::{
    AcquireManyRequest, AcquireRequest, ClaimRequest, HandOverRequest, Lease, Leases, Metadata,
    Mode, TtlMs,
};

use crate::cli::Failure;
use crate::cli::locks::{Target, for_people, ms};

/// Take a lock, or wait for it.
///
/// Several names are taken together or not at all, and a wait for them never holds some of them.
///
/// Example: oarlock acquire deploy/prod --ttl 30s --wait 5m
#[derive(Debug, Args)]
pub(super) struct Acquire {
    /// Names of the locks; a name may hold slashes
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    #[command(flatten)]
    term: Term,
    /// Stand in the queue for at most this long
    #[arg(long, default_value = "0s", value_parser = humantime::parse_duration)]
    wait: Duration,
    /// Who you are, for those who wait
    #[arg(long)]
    owner: Option<String>,
    /// Share the lock with other shared holders
    #[arg(long, conflicts_with = "permits")]
    shared: bool,
    /// Take so many of the permits of the lock; all who ask name the same --limit
    #[arg(long, value_name = "N", requires = "limit")]
    permits: Option<u64>,
    /// How many permits there are
    #[arg(long, value_name = "N", requires = "permits")]
    limit: Option<u64>,
    /// Keep the lock closed for this long if you are lost instead of releasing it
    #[arg(long, value_parser = humantime::parse_duration)]
    lock_delay: Option<Duration>,
    /// How long your place in the queue survives a lost connection
    #[arg(long, value_parser = humantime::parse_duration)]
    grace: Option<Duration>,
}

/// How long the lease lives, and what is said about it.
#[derive(Debug, Args)]
struct Term {
    /// How long the lock is yours without a renewal
    #[arg(long, default_value = "30s", value_parser = humantime::parse_duration, conflicts_with_all = ["forever", "session"])]
    ttl: Duration,
    /// No expiry: held until released or forced
    #[arg(long, conflicts_with = "session")]
    forever: bool,
    /// Keep the lock alive by this session instead of a TTL
    #[arg(long, value_name = "ID")]
    session: Option<String>,
    /// UUID under which this request may be repeated
    #[arg(long, value_name = "UUID")]
    request_id: Option<String>,
    /// Shown to others, such as a link to the job; may be repeated
    #[arg(long = "metadata", value_name = "KEY=VALUE", value_parser = key_value)]
    metadata: Vec<(String, String)>,
}

impl Term {
    fn ttl_ms(&self) -> TtlMs {
        match (self.forever, &self.session) {
            (true, _) => TtlMs::Forever,
            (false, Some(_)) => TtlMs::Absent,
            (false, None) => TtlMs::Ms(ms(self.ttl)),
        }
    }

    fn metadata(&self) -> Metadata {
        self.metadata.iter().cloned().collect()
    }
}

pub(super) fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("it is KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// user@host:pid, as far as the environment tells.
pub(super) fn default_owner() -> String {
    let user = std::env::var("USER").unwrap_or_else(|_| "oarlock".to_owned());
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("{user}@{host}:{}", std::process::id())
}

impl Acquire {
    fn mode(&self) -> Mode {
        match (self.shared, self.permits) {
            (true, _) => Mode::Shared,
            (false, Some(_)) => Mode::Permits,
            (false, None) => Mode::Exclusive,
        }
    }

    fn owner(&self) -> Option<String> {
        // Under a session the session's owner is the default, and the server knows it.
        let default = || self.term.session.is_none().then(default_owner);
        self.owner.clone().or_else(default)
    }
}

pub(super) async fn acquire(target: &Target, acquire: Acquire) -> Result<(), Failure> {
    if acquire.names.len() > 1 {
        return acquire_many(target, acquire).await;
    }
    let name = acquire.names.first().map_or("", String::as_str);
    let request = AcquireRequest {
        owner: acquire.owner(),
        ttl_ms: acquire.term.ttl_ms(),
        wait_ms: Some(ms(acquire.wait)),
        mode: Some(acquire.mode()),
        permits: acquire.permits,
        limit: acquire.limit,
        lock_delay_ms: acquire.lock_delay.map(ms),
        session_id: acquire.term.session.clone(),
        request_id: acquire.term.request_id.clone(),
        grace_ms: acquire.grace.map(ms),
        metadata: Some(acquire.term.metadata()),
    };
    let (lease, _) = target.client().acquire(name, request).await?;
    target.show(&lease, granted);
    Ok(())
}

async fn acquire_many(target: &Target, acquire: Acquire) -> Result<(), Failure> {
    let claim = |name: &String| ClaimRequest {
        name: name.clone(),
        mode: Some(acquire.mode()),
        permits: acquire.permits,
        limit: acquire.limit,
        lock_delay_ms: acquire.lock_delay.map(ms),
    };
    let request = AcquireManyRequest {
        locks: acquire.names.iter().map(claim).collect(),
        owner: acquire.owner(),
        ttl_ms: acquire.term.ttl_ms(),
        wait_ms: Some(ms(acquire.wait)),
        session_id: acquire.term.session.clone(),
        request_id: acquire.term.request_id.clone(),
        grace_ms: acquire.grace.map(ms),
        metadata: Some(acquire.term.metadata()),
    };
    let (leases, _) = target.client().acquire_many(request).await?;
    target.show(&leases, all_granted);
    Ok(())
}

pub(super) fn granted(lease: &Lease) -> String {
    let left = left(lease);
    format!(
        "{} is yours {left}\n  lease  {}\n  token  {}\nrelease it: oarlock release {}\n",
        lease.lock, lease.lease_id, lease.token, lease.lease_id
    )
}

fn all_granted(granted: &Leases) -> String {
    let mut text = String::new();
    for lease in &granted.leases {
        let _infallible = writeln!(
            text,
            "{} is yours {}\n  lease  {}\n  token  {}",
            lease.lock,
            left(lease),
            lease.lease_id,
            lease.token
        );
    }
    text + "release each: oarlock release LEASE\n"
}

fn left(lease: &Lease) -> String {
    lease
        .remaining_ms
        .map_or_else(|| "until released".to_owned(), |ms| format!("for {}", for_people(ms)))
}

/// Hand a lock that you hold over to somebody else, without a gap.
///
/// Your lease ends and theirs begins in one step, with a token of its own; the new lease id is
/// printed here: pass it on to them.
///
/// Example: oarlock hand-over LEASE --owner blue --ttl 10m
#[derive(Debug, Args)]
pub(super) struct HandOver {
    /// The lease id that acquire printed
    #[arg(value_name = "LEASE")]
    lease_id: String,
    /// Who holds it from then on
    #[arg(long, required_unless_present = "session")]
    owner: Option<String>,
    #[command(flatten)]
    term: Term,
}

pub(super) async fn hand_over(target: &Target, hand_over: HandOver) -> Result<(), Failure> {
    let request = HandOverRequest {
        ttl_ms: hand_over.term.ttl_ms(),
        metadata: Some(hand_over.term.metadata()),
        owner: hand_over.owner,
        session_id: hand_over.term.session,
        request_id: hand_over.term.request_id,
    };
    let (lease, _) = target.client().hand_over(&hand_over.lease_id, request).await?;
    target.show(&lease, |lease| {
        format!(
            "{} is {}'s {}\n  lease  {}\n  token  {}\n",
            lease.lock,
            lease.owner,
            left(lease),
            lease.lease_id,
            lease.token
        )
    });
    Ok(())
}
