//! `oarlock members`: who they are, and how they come and go. Waits where a change takes its time, and
//! says on standard error how far it is.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Duration;

use clap::Subcommand;
use oarlock_client::ClientError;
use oarlock_client::wire::{InvitationRequest, Members, MembersChanged};

use crate::cli::Failure;
use crate::cli::locks::{Target, for_people, ms};

/// Pause before the same is asked for again.
const AGAIN: Duration = Duration::from_millis(500);

/// A removal waits at most so long for another change.
const REMOVAL_MAX: Duration = Duration::from_secs(30);

/// What is done about members.
#[derive(Debug, Subcommand)]
pub(super) enum OfMembers {
    /// Show every member, whether it votes, and how far it is behind
    List,
    /// Invite one machine: prints the token with which it joins, once
    Add {
        /// Id of the new node, above all that were ever given; without it the next one
        #[arg(long, value_name = "N")]
        id: Option<u64>,
        /// How long the token is good for; at most 24h
        #[arg(long, default_value = "15m", value_parser = humantime::parse_duration)]
        ttl: Duration,
    },
    /// Make a member that joined a voter, once it has caught up
    Promote {
        /// Its id
        id: u64,
        /// Give up after this long
        #[arg(long, default_value = "10m", value_parser = humantime::parse_duration)]
        within: Duration,
    },
    /// Remove a member for good: it stops, and its id is never used again
    Remove {
        /// Its id
        id: u64,
        /// Also when fewer than three voters are left, or too few of them answer
        #[arg(long)]
        force: bool,
    },
    /// Make one member a voter and remove the other, in one change
    Replace {
        /// Id of the member that goes
        old: u64,
        /// Id of the member that takes its place; it has joined already
        new: u64,
        /// Give up after this long
        #[arg(long, default_value = "10m", value_parser = humantime::parse_duration)]
        within: Duration,
    },
}

pub(super) async fn run(target: &Target, of: OfMembers) -> Result<(), Failure> {
    let client = target.client();
    match of {
        OfMembers::List => target.show(&client.members().await?, table),
        OfMembers::Add { id, ttl } => {
            let request = InvitationRequest { node_id: id, ttl_ms: Some(ms(ttl)) };
            let invitation = client.invite(&request).await?;
            target.show(&invitation, |it| {
                format!(
                    "node {} may join within {}. On its machine, with node_id = {} in its \
                     configuration:\n\n  OARLOCK_JOIN_TOKEN={} oarlock serve --config node{}.toml\n\n\
                     Whoever has this token may add a node; it is shown this once and works once.\n",
                    it.node_id,
                    for_people(it.expires_in_ms),
                    it.node_id,
                    it.join_token,
                    it.node_id
                )
            });
        }
        OfMembers::Promote { id, within } => {
            let promoted = waiting(within, || client.promote(id)).await?;
            target.show(&promoted, changed);
        }
        OfMembers::Remove { id, force } => {
            let removed = waiting(REMOVAL_MAX, || client.remove_member(id, force)).await?;
            target.show(&removed, changed);
        }
        OfMembers::Replace { old, new, within } => {
            let replaced = waiting(within, || client.replace_member(old, new)).await?;
            target.show(&replaced, changed);
        }
    }
    Ok(())
}

/// Asks until it is done, refused for good, or `within` ran out.
async fn waiting<T, F>(within: Duration, ask: impl Fn() -> F) -> Result<T, Failure>
where
    F: Future<Output = Result<T, ClientError>>,
{
    let mut said = String::new();
    let asking = async {
        loop {
            match ask().await {
                Err(ClientError::Refused(problem)) if is_passing(&problem.kind) => {
                    if said != problem.detail {
                        let _closed = writeln!(std::io::stderr(), "waiting: {}", problem.detail);
                        said.clone_from(&problem.detail);
                    }
                    tokio::time::sleep(AGAIN).await;
                }
                answer => return answer,
            }
        }
    };
    match tokio::time::timeout(within, asking).await {
        Ok(answer) => Ok(answer?),
        Err(_) if said.is_empty() => {
            Err(Failure::unknown("no answer in time; look with `members list`"))
        }
        Err(_) => Err(Failure::refused(format!("gave up waiting: {said}"))),
    }
}

fn is_passing(kind: &str) -> bool {
    matches!(kind, "member-behind" | "members-busy")
}

fn changed(changed: &MembersChanged) -> String {
    match changed.is_now.as_str() {
        "voter" => format!("node {} votes now\n", changed.node_id),
        _ => format!("node {} is removed for good\n", changed.node_id),
    }
}

fn table(members: &Members) -> String {
    let mut text = format!("{:>6}  {:<8} {:<24} {:<24} BEHIND\n", "ID", "ROLE", "API", "PEERS");
    for member in &members.members {
        let role = match (members.leader_id == Some(member.id), member.voter) {
            (true, _) => "leader",
            (false, true) => "voter",
            (false, false) => "learner",
        };
        let behind = member.lag_entries.map_or("-".to_owned(), |lag| lag.to_string());
        let _infallible = writeln!(
            text,
            "{:>6}  {role:<8} {:<24} {:<24} {behind}",
            member.id, member.api_address, member.peer_address
        );
    }
    text
}
