//! How a machine with an invitation comes into a cluster that runs.
//!
//! It writes down who it will be before it asks, so that after a crash it asks as the same instance:
//! an invitation is bound to the first that uses it. It asks the configured nodes, whoever answers,
//! until its leader took it in or refused it for good. From the answer it knows the members, and from
//! then on it needs no invitation any more; its log and state come from the leader. Once its log is in
//! use that is written down, too.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::raft::birth::{self, random_u128};
use crate::raft::presence;
use crate::raft::store::identity::Identity;
use crate::raft::transport::Peers;
use crate::raft::transport::inbound::Handlers;
use crate::raft::transport::peers::Local;
use crate::raft::types::{Member, RaftHandle};
use crate::service::members::token::JoinToken;
use crate::service::members::{Join, KnownMember, MembersRefusal, MembersReply, TokenProblem};
use crate::service::replicator::NodeId;

/// Pause between two rounds of asking.
const ROUND_PAUSE: Duration = Duration::from_millis(250);

/// A node as it starts, perhaps for the first time.
pub struct Newcomer<'a> {
    pub dir: &'a Path,
    /// Who forms the cluster, or who is asked.
    pub first_members: BTreeMap<NodeId, Member>,
    pub token: Option<String>,
    /// Where others reach this node, or why they cannot.
    pub address: Result<Member, String>,
}

impl Newcomer<'_> {
    /// Who this node is: what it was, what it is invited to be, or what it becomes with the others.
    pub async fn come_in(
        self,
        known: Option<Identity>,
        (local, peers, handlers): (&Arc<Local>, &Arc<Peers>, &Handlers),
    ) -> io::Result<Identity> {
        match (known, self.token) {
            (Some(identity), _) if !identity.is_pending() => Ok(identity),
            (known, Some(word)) => {
                let address = self.address.map_err(io::Error::other)?;
                let token = read_token(&word, local.node_id())?;
                await_invitation(self.dir, (local, peers), &token, &address, known).await
            }
            (Some(_), None) => Err(io::Error::other(
                "this node asked to join and was not let in yet: start it with its join token again",
            )),
            (None, None) if !self.first_members.contains_key(&local.node_id()) => {
                Err(io::Error::other(format!(
                    "node {} is not among the `members` that form the cluster: to join one that \
                     runs, start it with a token of `oarlock members add`, as --join or \
                     OARLOCK_JOIN_TOKEN",
                    local.node_id()
                )))
            }
            (None, None) => {
                birth::await_birth(self.dir, local, peers, handlers, &self.first_members).await
            }
        }
    }
}

/// The word of an invitation, if it is one and for this node.
fn read_token(word: &str, node_id: NodeId) -> io::Result<JoinToken> {
    let token: JoinToken = word.parse().map_err(io::Error::other)?;
    if token.node_id == node_id {
        return Ok(token);
    }
    Err(io::Error::other(format!(
        "the join token is for node {}, the configuration says node_id = {node_id}: correct one of \
         them",
        token.node_id
    )))
}

/// Waits until the cluster took this node in. `address` is where the others reach it.
async fn await_invitation(
    dir: &Path,
    (local, peers): (&Arc<Local>, &Arc<Peers>),
    token: &JoinToken,
    address: &Member,
    begun: Option<Identity>,
) -> io::Result<Identity> {
    let identity = begin(dir, token, address, begun)?;
    let join = Join {
        token: token.clone(),
        instance_id: identity.instance_id(),
        peer_address: address.peer_address.clone(),
        api_address: address.api_address.clone(),
    };
    let mut said = String::new();
    loop {
        for id in peers.configured().filter(|id| *id != token.node_id) {
            let why = match peers.join(id, join.clone()).await {
                Ok(Ok(MembersReply::Joined(members))) => {
                    let members = members.into_iter().map(member).collect();
                    let identity = Identity { members, ..identity };
                    identity.save(dir)?;
                    local.set_identity(identity.clone());
                    return Ok(identity);
                }
                Ok(Ok(MembersReply::Refused(MembersRefusal::Token(problem)))) => {
                    return Err(io::Error::other(sentence(problem, token)));
                }
                Ok(Ok(MembersReply::Refused(MembersRefusal::Address(address)))) => {
                    return Err(io::Error::other(format!(
                        "node {} is not let in: no member can reach it at {address}; say in \
                         advertise_peer_address and advertise_api_address where the others do",
                        token.node_id
                    )));
                }
                Ok(Ok(MembersReply::Refused(_))) => "the members change just now".to_owned(),
                Ok(Ok(MembersReply::Invited { .. } | MembersReply::Changed)) => {
                    "it gave another answer".to_owned()
                }
                Ok(Err(why)) => why,
                Err(error) => error.to_string(),
            };
            presence::refused(local).map_err(io::Error::other)?;
            // The same reason again is no news.
            if said != why {
                tracing::info!(asked = id, why, "not let in yet; asking again");
                said = why;
            }
        }
        tokio::time::sleep(ROUND_PAUSE).await;
    }
}

/// Who this node will be: as it was written down before, or anew.
fn begin(
    dir: &Path,
    token: &JoinToken,
    address: &Member,
    begun: Option<Identity>,
) -> io::Result<Identity> {
    let same = |it: &Identity| it.cluster_id == token.cluster_id && it.node_id == token.node_id;
    if let Some(identity) = begun.filter(same) {
        return Ok(identity);
    }
    let own = Member { instance_id: random_u128(), ..address.clone() };
    let identity = Identity {
        cluster_id: token.cluster_id,
        node_id: token.node_id,
        members: vec![(token.node_id, own)],
        joined: false,
        invited: true,
    };
    identity.save(dir)?;
    Ok(identity)
}

/// Writes down that this node's log is in use.
pub fn save_joined(identity: &Identity, dir: &Path, local: &Local) -> io::Result<Identity> {
    let identity = Identity { joined: true, ..identity.clone() };
    identity.save(dir)?;
    local.set_identity(identity.clone());
    Ok(identity)
}

/// Does so once it is, before its vote can matter twice.
pub async fn remember_joining(
    identity: Identity,
    raft: RaftHandle,
    dir: PathBuf,
    local: Arc<Local>,
) {
    if local.identity().is_some_and(|identity| identity.joined) {
        return;
    }
    let waited = raft.wait(None).metrics(|m| m.last_log_index.is_some(), "the log is used").await;
    if waited.is_ok()
        && let Err(error) = save_joined(&identity, &dir, &local)
    {
        tracing::error!(%error, "writing the identity failed");
    }
}

fn member(known: KnownMember) -> (NodeId, Member) {
    let KnownMember { node_id, peer_address, api_address, instance_id } = known;
    (node_id, Member { peer_address, api_address, instance_id })
}

/// Why the invitation opens nothing, and what to do.
fn sentence(problem: TokenProblem, token: &JoinToken) -> String {
    let why = match problem {
        TokenProblem::OtherCluster => {
            return "the join token is of another cluster than the nodes in `members`: correct the \
                    list, or get a token from that cluster with `oarlock members add`"
                .to_owned();
        }
        TokenProblem::Unknown => "the cluster knows no such join token",
        TokenProblem::Expired => "the join token has expired",
        TokenProblem::Used => "the join token was used by another machine or another directory",
        TokenProblem::Removed => "the node of this join token was removed, and an id is used once",
    };
    format!("node {} is not let in: {why}; get a new one with `oarlock members add`", token.node_id)
}
