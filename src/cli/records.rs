//! The commands about what is remembered or carried: `history`, `value`, `session`.

use std::fmt::Write as _;
use std::time::Duration;

use clap::{Args, Subcommand};
use oarlock_client::wire::{Metadata, PastGrant, Session, SessionRequest, Value};

use crate::cli::Failure;
use crate::cli::acquire::{default_owner, key_value};
use crate::cli::locks::{Target, for_people, ms};

/// Example: oarlock history deploy/prod
#[derive(Debug, Args)]
pub(super) struct History {
    /// Name of the lock
    #[arg(required_unless_present = "token", conflicts_with = "token")]
    name: Option<String>,
    /// The one grant with this token, of whichever lock
    #[arg(long)]
    token: Option<u64>,
    /// Grants on one page
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    /// Only grants before this token; the page before names it
    #[arg(long, value_name = "TOKEN", conflicts_with = "token")]
    before: Option<u64>,
}

pub(super) async fn history(target: &Target, of: History) -> Result<(), Failure> {
    let client = target.client();
    match (of.name, of.token) {
        (_, Some(token)) => {
            let grant = client.grant_of_token(token).await?;
            target.show(&grant, |grant| format!("{}\n{}", grant.lock, grants(&[grant])));
        }
        (Some(name), None) => {
            let page = client.history(&name, of.before, of.limit).await?;
            target.show(&page, |page| {
                if page.grants.is_empty() {
                    return format!("nothing is remembered of {}\n", page.lock);
                }
                let mut text = grants(&page.grants.iter().collect::<Vec<_>>());
                if let Some(next) = page.next {
                    let _infallible = writeln!(text, "more: --before {next}");
                }
                text
            });
        }
        (None, None) => return Err(Failure::usage("name a lock, or a --token")),
    }
    Ok(())
}

fn grants(grants: &[&PastGrant]) -> String {
    let mut text =
        format!("{:>10}  {:<24} {:<26} {:<14} ENDED\n", "TOKEN", "OWNER", "SINCE", "HELD");
    for grant in grants {
        let held = for_people(grant.held_ms);
        let how = grant.how.as_deref().unwrap_or("still held");
        let reason = grant.reason.as_ref().map_or(String::new(), |why| format!(": {why}"));
        let _infallible = writeln!(
            text,
            "{:>10}  {:<24} {:<26} {held:<14} {how}{reason}",
            grant.token, grant.owner, grant.since
        );
    }
    text
}

/// A text that a lock carries; only its holder writes it.
#[derive(Debug, Subcommand)]
pub(super) enum OfValue {
    /// Show the value and under which token it was written
    Get {
        /// Name of the lock
        name: String,
    },
    /// Write the value, or delete it
    Set {
        /// Name of the lock
        name: String,
        /// The text, at most 4 KiB
        #[arg(required_unless_present = "delete", conflicts_with = "delete")]
        value: Option<String>,
        /// The lease that holds the lock
        #[arg(long, value_name = "ID")]
        lease: String,
        /// Delete it
        #[arg(long)]
        delete: bool,
    },
}

pub(super) async fn value(target: &Target, of: OfValue) -> Result<(), Failure> {
    let client = target.client();
    match of {
        OfValue::Get { name } => target.show(&client.value(&name).await?, valued),
        OfValue::Set { name, value: Some(value), lease, .. } => {
            target.show(&client.set_value(&name, &lease, &value).await?, valued);
        }
        OfValue::Set { name, value: None, lease, .. } => {
            let deleted = client.delete_value(&name, &lease).await?;
            target.show(&deleted, |deleted| {
                let what =
                    if deleted.deleted { "the value is deleted" } else { "there was no value" };
                format!("{}: {what}\n", deleted.lock)
            });
        }
    }
    Ok(())
}

fn valued(value: &Value) -> String {
    let now = if value.current { "the present holder" } else { "a former holder" };
    format!(
        "{}\n  lock   {}\n  token  {}\n  owner  {}, {now}\n  since  {}\n",
        value.value, value.lock, value.token, value.owner, value.written
    )
}

/// A session keeps many leases alive with one renewal.
#[derive(Debug, Subcommand)]
pub(super) enum OfSession {
    /// Open a session
    Open {
        /// How long it lives without a renewal
        #[arg(long, default_value = "30s", value_parser = humantime::parse_duration)]
        ttl: Duration,
        /// Who you are, for those who wait
        #[arg(long)]
        owner: Option<String>,
        /// UUID under which this request may be repeated
        #[arg(long, value_name = "UUID")]
        request_id: Option<String>,
        /// Shown to others; may be repeated
        #[arg(long = "metadata", value_name = "KEY=VALUE", value_parser = key_value)]
        metadata: Vec<(String, String)>,
    },
    /// Renew a session, and with it all its leases
    Renew {
        /// The session id that open printed
        session_id: String,
    },
    /// Close a session; all its leases end
    Close {
        /// The session id that open printed
        session_id: String,
    },
    /// Show a session
    Show {
        /// The session id that open printed
        session_id: String,
    },
}

pub(super) async fn session(target: &Target, of: OfSession) -> Result<(), Failure> {
    let client = target.client();
    match of {
        OfSession::Open { ttl, owner, request_id, metadata } => {
            let metadata: Metadata = metadata.into_iter().collect();
            let request = SessionRequest {
                owner: owner.unwrap_or_else(default_owner),
                ttl_ms: ms(ttl),
                request_id,
                metadata: Some(metadata),
            };
            target.show(&client.open_session(request).await?, |session| {
                let id = &session.session_id;
                format!(
                    "{}take locks with it: oarlock acquire NAME --session {id}\n",
                    open(session)
                )
            });
        }
        OfSession::Renew { session_id } => {
            target.show(&client.renew_session(&session_id).await?, open);
        }
        OfSession::Show { session_id } => target.show(&client.session(&session_id).await?, open),
        OfSession::Close { session_id } => {
            let closed = client.close_session(&session_id).await?;
            target
                .show(&closed, |closed| format!("closed; {} leases ended\n", closed.leases_ended));
        }
    }
    Ok(())
}

fn open(session: &Session) -> String {
    format!(
        "session {}\n  owner   {}\n  left    {}\n  leases  {}\n",
        session.session_id,
        session.owner,
        for_people(session.remaining_ms),
        session.leases
    )
}
