//! How a cluster comes into being, once, and how a node knows that it must not.
//!
//! An empty node asks every configured first member who it is. Only when all answer that they are
//! empty and know the same members does the lowest id mint the identities and offer them; each
//! node writes its own down before it agrees. The lowest writes its own last and initialises Raft.
//! A peer that was born while others still wait says so with its whole identity, so that a crash
//! half way is finished with the same cluster id. An empty node whose peers already *run* a
//! cluster has lost its disk, and its vote with it: it never takes part again under this id.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use oarlock_core::planted::{Bug, planted};
use tokio::sync::mpsc;

use crate::raft::presence;
use crate::raft::store::identity::Identity;
use crate::raft::transport::Peers;
use crate::raft::transport::inbound::Handlers;
use crate::raft::transport::peers::Local;
use crate::raft::transport::wire::ProbeReply;
use crate::raft::types::Member;
use crate::service::replicator::NodeId;

/// Pause between two rounds of asking.
const ROUND_PAUSE: Duration = Duration::from_millis(100);

/// Waits until this node has an identity: minted here, or offered by the lowest first member.
pub async fn await_birth(
    dir: &Path,
    local: &Arc<Local>,
    peers: &Arc<Peers>,
    handlers: &Handlers,
    first_members: &BTreeMap<NodeId, Member>,
) -> io::Result<Identity> {
    let own_id = local.node_id();
    let (offered, mut offers) = mpsc::channel(1);
    let accept = acceptor(dir.to_owned(), Arc::clone(local), offered);
    let _only_once = handlers.birth.set(Box::new(accept));
    let lowest = first_members.keys().next() == Some(&own_id);
    let mut rounds = 0_u32;
    loop {
        tokio::select! {
            born = offers.recv() => {
                return born.ok_or_else(|| io::Error::other("nobody can offer an identity"));
            }
            () = tokio::time::sleep(ROUND_PAUSE) => {}
        }
        let answers = probe_all(peers, own_id, first_members, rounds).await;
        rounds = rounds.saturating_add(1);
        // Born meanwhile: who answered last may have done so from the cluster that this began.
        if let Ok(born) = offers.try_recv() {
            return Ok(born);
        }
        // An id that was removed and is empty now has its log and vote lost, too.
        presence::refused(local).map_err(io::Error::other)?;
        if !planted(Bug::EmptiedNodeVotes) {
            refuse_if_lost(own_id, first_members, answers.values())?;
        }
        if lowest && answers.len() + 1 == first_members.len() {
            let identity = mint(own_id, first_members, answers.values());
            if offer_all(peers, own_id, first_members, &identity).await {
                identity.save(dir)?;
                local.set_identity(identity.clone());
                return Ok(identity);
            }
        }
    }
}

/// Accepts the offer of an identity: writes it down, then agrees.
fn acceptor(
    dir: std::path::PathBuf,
    local: Arc<Local>,
    offered: mpsc::Sender<Identity>,
) -> impl Fn(Identity) -> Result<(), String> + Send + Sync {
    move |offer: Identity| {
        let identity = Identity { node_id: local.node_id(), joined: false, ..offer };
        if let Some(known) = local.identity() {
            let same = known.cluster_id == identity.cluster_id;
            return if same { Ok(()) } else { Err("it was born into another cluster".to_owned()) };
        }
        identity.save(&dir).map_err(|error| format!("it cannot write its identity: {error}"))?;
        local.set_identity(identity.clone());
        let _already_born = offered.try_send(identity);
        Ok(())
    }
}

async fn probe_all(
    peers: &Arc<Peers>,
    own_id: NodeId,
    first_members: &BTreeMap<NodeId, Member>,
    rounds: u32,
) -> BTreeMap<NodeId, ProbeReply> {
    let mut answers = BTreeMap::new();
    for &id in first_members.keys().filter(|id| **id != own_id) {
        match peers.probe(id).await {
            Ok(reply) => {
                answers.insert(id, reply);
            }
            // Every ten seconds or so, one line: waiting for the others is normal at first.
            Err(error) if rounds % 64 == 63 => {
                tracing::info!(peer = id, %error, "waiting for all first members before forming the cluster");
            }
            Err(_) => {}
        }
    }
    answers
}

fn addresses(first_members: &BTreeMap<NodeId, Member>) -> Vec<(NodeId, String)> {
    first_members.iter().map(|(id, member)| (*id, member.peer_address.clone())).collect()
}

fn refuse_if_lost<'a>(
    own_id: NodeId,
    first_members: &BTreeMap<NodeId, Member>,
    answers: impl Iterator<Item = &'a ProbeReply>,
) -> io::Result<()> {
    for answer in answers {
        if let Some(identity) = &answer.identity
            && identity.joined
        {
            return Err(io::Error::other(format!(
                "node {} already runs cluster {:032x}, and the data directory of this node {own_id} \
                 is empty: its log and its vote are lost, so it must not vote under this id again. \
                 To bring the machine back, restore the directory, or give the node a new id and \
                 join it to the cluster as a new member",
                answer.node_id, identity.cluster_id
            )));
        }
        if answer.first_members != addresses(first_members) {
            return Err(io::Error::other(format!(
                "node {} is configured with other first members than this node: make the \
                 `members` lists equal on all nodes",
                answer.node_id
            )));
        }
    }
    Ok(())
}

/// The identity to offer: one that a crash left half way, or a new one.
fn mint<'a>(
    own_id: NodeId,
    first_members: &BTreeMap<NodeId, Member>,
    answers: impl Iterator<Item = &'a ProbeReply>,
) -> Identity {
    let mut begun = answers.filter_map(|answer| answer.identity.clone());
    if let Some(identity) = begun.next() {
        return Identity { node_id: own_id, joined: false, ..identity };
    }
    let with_instance = |member: &Member| Member { instance_id: random_u128(), ..member.clone() };
    Identity {
        cluster_id: random_u128(),
        node_id: own_id,
        members: first_members.iter().map(|(id, m)| (*id, with_instance(m))).collect(),
        joined: false,
        invited: false,
    }
}

async fn offer_all(
    peers: &Arc<Peers>,
    own_id: NodeId,
    first_members: &BTreeMap<NodeId, Member>,
    identity: &Identity,
) -> bool {
    for &id in first_members.keys().filter(|id| **id != own_id) {
        if let Err(error) = peers.offer_birth(id, identity.clone()).await {
            tracing::warn!(peer = id, %error, "a first member did not take its identity yet");
            return false;
        }
    }
    true
}

/// Random numbers that one call to the system brings: every acquire needs one.
const RANDOM_AT_ONCE: usize = 64;

thread_local! {
    /// Numbers that were not given out yet.
    static RANDOM: RefCell<Vec<u128>> = const { RefCell::new(Vec::new()) };
}

/// 128 random bits. Without randomness no identity can be minted, so this ends the process.
pub(crate) fn random_u128() -> u128 {
    RANDOM.with_borrow_mut(|unused| {
        loop {
            if let Some(number) = unused.pop() {
                return number;
            }
            let mut bytes = [0; 16 * RANDOM_AT_ONCE];
            let filled = getrandom::fill(&mut bytes);
            assert!(filled.is_ok(), "the system has no randomness: {filled:?}");
            unused.extend(bytes.as_chunks().0.iter().copied().map(u128::from_le_bytes));
        }
    })
}

#[cfg(test)]
mod tests;
