//! Changes of the members of a running cluster: who is invited, who may join, who leaves.
//!
//! ```text
//!  invite  -> an id that was never given, and a secret of which the log has the hash alone
//!  join    -> the gate: cluster, secret, expiry; bound to one instance; then a learner
//!  promote -> caught up? then a voter      remove, replace -> a safe quorum left? then removed for good
//! ```
//! What must be remembered is in the records of the core: `member-id`, the highest id ever given;
//! `invite/<id>`; `leaving/<id>`, before a member is taken out; `removed/<id>`, afterwards. Each step may
//! be repeated, so that a call which lost its leader half way goes on at the next one, and that leader
//! records by itself what is left of a removal. The decisions are at the leader; replication says what the
//! quorum allows.

mod address;
mod gate;
pub mod token;

use std::time::Duration;

use oarlock_core::command::{Command, Expected};
use oarlock_core::ids::{RecordKey, RecordValue, Revision};
use oarlock_core::machine::Machine;
use oarlock_core::outcome::{Outcome, Rejection};
use serde::{Deserialize, Serialize};

use self::gate::{Gate, Invitation};
use self::token::{JoinToken, Secret};
use crate::service::REQUEST_DEADLINE;
use crate::service::error::ServiceError;
use crate::service::handle::Service;
use crate::service::replicator::{Call, MemberStatus, NodeId, Replicator, Reply, ReplyBody};

/// How long an invitation is good for, if nobody says.
pub const INVITATION_MS_DEFAULT: u64 = 15 * 60 * 1000;

/// The longest that it may be: a word that lies about for longer is found by somebody.
pub const INVITATION_MS_MAX: u64 = 24 * 60 * 60 * 1000;

/// The shortest: a machine needs a moment to start.
pub const INVITATION_MS_MIN: u64 = 1_000;

/// The keys of those that were removed begin so.
pub const REMOVED: &str = "removed/";

const INVITE: &str = "invite/";
const LEAVING: &str = "leaving/";
const HIGHEST: &str = "member-id";

/// An id that is asked for is at most so far above the next one: they are never used again, and
/// must not run out.
const IDS_AHEAD_MAX: u64 = 1_000;

/// How often a leader looks for removals that nobody finished.
const REMOVALS_LOOK: Duration = Duration::from_secs(1);

/// Invitations at once compete for the next id; beyond so many tries this one gives up.
const INVITE_TRIES_MAX: u32 = 8;

/// Asked about the members. Sent between nodes: variants and fields are appended, never reordered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MembersCall {
    /// An invitation for one machine, under the next id or this one.
    Invite { node_id: Option<NodeId>, ttl_ms: u64 },
    /// A machine with an invitation asks to be taken in.
    Join(Box<Join>),
    /// Make a learner a voter, once it has caught up.
    Promote(NodeId),
    /// Take a member out for good.
    Remove { node_id: NodeId, force: bool },
    /// Make one a voter and take the other out, in one change.
    Replace { old: NodeId, new: NodeId },
}

/// What a machine says that asks to be taken in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Join {
    pub token: JoinToken,
    /// Minted by the machine, and written down before it asks.
    pub instance_id: u128,
    pub peer_address: String,
    pub api_address: String,
}

/// A member with the instance that must answer under its id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownMember {
    pub node_id: NodeId,
    pub peer_address: String,
    pub api_address: String,
    pub instance_id: u128,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MembersReply {
    Invited {
        token: JoinToken,
        expires_in_ms: u64,
    },
    /// It is a member now, among these.
    Joined(Vec<KnownMember>),
    /// It is as was asked for.
    Changed,
    /// Nothing changed, and this is why.
    Refused(MembersRefusal),
}

/// A change of the members that replication makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberChange {
    /// As a learner. Does not wait for it to catch up.
    Add(KnownMember),
    Promote(NodeId),
    Remove {
        node_id: NodeId,
        force: bool,
    },
    Replace {
        old: NodeId,
        new: NodeId,
    },
}

/// Why the members stay as they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MembersRefusal {
    NoSuchMember(NodeId),
    /// Ids are never used again; this one is free.
    IdUsed {
        next: NodeId,
    },
    /// Its log is so many entries short of what the leader had when it was asked; `None` if nothing
    /// was heard of it at all.
    Behind {
        node_id: NodeId,
        entries: Option<u64>,
    },
    /// Another change is under way.
    Busy,
    /// So few voters would be left.
    TooFew {
        left: u64,
    },
    /// Of the voters that would be left only so many answer, and so many must.
    OutOfTouch {
        answer: u64,
        needed: u64,
    },
    /// A token that opens nothing.
    Token(TokenProblem),
    /// So far above what was given that numbers could run out.
    IdTooHigh {
        highest: NodeId,
    },
    /// Nobody should be sent to this address of a machine that joins.
    Address(String),
}

/// What is wrong with a join token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TokenProblem {
    OtherCluster,
    /// Never given, taken back, or with another secret: who guesses learns no more.
    Unknown,
    Expired,
    /// By another instance.
    Used,
    /// Its id joined and was removed.
    Removed,
}

fn key(prefix: &str, node_id: NodeId) -> Result<RecordKey, ServiceError> {
    RecordKey::new(&format!("{prefix}{node_id}")).map_err(|invalid| unexpected(&invalid.0))
}

fn unexpected(why: &str) -> ServiceError {
    ServiceError::Unknown(format!("a record of the cluster cannot be used: {why}"))
}

/// The id that a key of removed members names.
pub fn removed_id(key: &RecordKey) -> Option<NodeId> {
    key.as_str().strip_prefix(REMOVED)?.parse().ok()
}

fn known(member: &MemberStatus) -> KnownMember {
    KnownMember {
        node_id: member.id,
        peer_address: member.peer_address.clone(),
        api_address: member.api_address.clone(),
        instance_id: member.instance_id,
    }
}

impl<R: Replicator> Service<R> {
    /// Passes on what a machine asks that wants to join, to whoever leads.
    pub async fn join_elsewhere(&self, join: Join) -> Result<MembersReply, ServiceError> {
        let call = Call::Members(MembersCall::Join(Box::new(join)));
        match self.call(call, REQUEST_DEADLINE).await?.body {
            ReplyBody::Members(reply) => Ok(reply),
            _ => Err(unexpected("another answer came back")),
        }
    }

    /// Answers a call about the members, as leader.
    pub(super) async fn members(&self, call: MembersCall) -> Result<Reply, ServiceError> {
        // One decision at a time: each is made from what the last one left. Invitations compete by
        // compare and set.
        let turn = self.members_turn.try_acquire();
        if turn.is_err() && !matches!(call, MembersCall::Invite { .. }) {
            let busy = ReplyBody::Members(MembersReply::Refused(MembersRefusal::Busy));
            return Ok(Reply { now: self.replicator.lease_now(), body: busy });
        }
        // What is decided here is decided by all that was acknowledged before.
        self.replicator.read_barrier().await?;
        let reply = match call {
            MembersCall::Invite { node_id, ttl_ms } => self.invite(node_id, ttl_ms).await?,
            MembersCall::Join(join) => self.join(*join).await?,
            MembersCall::Promote(node_id) => self.change(MemberChange::Promote(node_id)).await?,
            MembersCall::Remove { node_id, force } => self.remove(node_id, force).await?,
            MembersCall::Replace { old, new } => self.replace(old, new).await?,
        };
        Ok(Reply { now: self.replicator.lease_now(), body: ReplyBody::Members(reply) })
    }

    async fn invite(
        &self,
        wanted: Option<NodeId>,
        ttl_ms: u64,
    ) -> Result<MembersReply, ServiceError> {
        let cluster_id = self.replicator.status().cluster_id.unwrap_or_default();
        for _ in 0..INVITE_TRIES_MAX {
            let (highest, expected) = self.highest_id()?;
            let Some(next) = highest.checked_add(1) else {
                return Err(ServiceError::Overloaded("no ids are left".to_owned()));
            };
            let node_id = wanted.unwrap_or(next);
            if node_id < next {
                return Ok(MembersReply::Refused(MembersRefusal::IdUsed { next }));
            }
            if node_id - next >= IDS_AHEAD_MAX {
                let highest = next.saturating_add(IDS_AHEAD_MAX - 1);
                return Ok(MembersReply::Refused(MembersRefusal::IdTooHigh { highest }));
            }
            if !self.put(HIGHEST, Some(&node_id.to_string()), expected).await? {
                continue;
            }
            let secret = Secret((self.ids)());
            let expires_at = self.replicator.lease_now().plus_ms(ttl_ms);
            let invitation = Invitation { hash: secret.hash(), expires_at, instance_id: None };
            let under = key(INVITE, node_id)?;
            self.put(under.as_str(), Some(&invitation.to_string()), Expected::Anything).await?;
            tracing::info!(node = node_id, ttl_ms, "a new member is invited");
            let token = JoinToken { cluster_id, node_id, secret };
            return Ok(MembersReply::Invited { token, expires_in_ms: ttl_ms });
        }
        Err(ServiceError::Overloaded("others ask for invitations at the same time".to_owned()))
    }

    /// The highest id that was ever given, and what the record of it must be when it changes.
    fn highest_id(&self) -> Result<(NodeId, Expected), ServiceError> {
        let under = RecordKey::new(HIGHEST).map_err(|invalid| unexpected(&invalid.0))?;
        let (recorded, removed) = self.replicator.with_machine(|machine| {
            let removed = machine.cluster_records(REMOVED).filter_map(|(key, _)| removed_id(key));
            (machine.cluster_record(&under).cloned(), removed.max())
        });
        let text = recorded.as_ref().map(|it| String::from_utf8_lossy(it.value.as_bytes()));
        let given = text.map(|text| text.parse::<NodeId>().map_err(|_| unexpected(HIGHEST)));
        let members = self.replicator.status().members.into_iter().map(|member| member.id);
        let highest = members.chain(removed).chain(given.transpose()?).max().unwrap_or_default();
        Ok((highest, expected(recorded.map(|record| record.revision))))
    }

    async fn join(&self, join: Join) -> Result<MembersReply, ServiceError> {
        let node_id = join.token.node_id;
        let (invited, gone) = (key(INVITE, node_id)?, key(REMOVED, node_id)?);
        let (record, removed) = self.replicator.with_machine(|machine| {
            (machine.cluster_record(&invited).cloned(), machine.cluster_record(&gone).is_some())
        });
        let status = self.replicator.status();
        let gate = Gate {
            cluster_id: status.cluster_id.unwrap_or_default(),
            invitation: record.as_ref().and_then(|it| Invitation::parse(it.value.as_bytes())),
            removed,
            now: self.replicator.lease_now(),
        };
        let bound = match gate.admit(&join.token, join.instance_id) {
            Ok(bound) => bound,
            Err(problem) => {
                tracing::warn!(node = node_id, ?problem, "a machine with a bad token was refused");
                return Ok(MembersReply::Refused(MembersRefusal::Token(problem)));
            }
        };
        if let Some(refused) = misleading(&join, &status.members) {
            tracing::warn!(
                node = node_id,
                refused,
                "a machine with a misleading address was refused"
            );
            return Ok(MembersReply::Refused(MembersRefusal::Address(refused.to_owned())));
        }
        if let Some(bound) = bound {
            let expected = expected(record.map(|record| record.revision));
            if !self.put(invited.as_str(), Some(&bound.to_string()), expected).await? {
                // Another machine was quicker, or the same one over another node; asking again tells.
                return Ok(MembersReply::Refused(MembersRefusal::Busy));
            }
        }
        let wanted = KnownMember {
            node_id,
            peer_address: join.peer_address,
            api_address: join.api_address,
            instance_id: join.instance_id,
        };
        let there = status.members.iter().map(known).any(|member| member == wanted);
        if !there {
            let changed = self.change(MemberChange::Add(wanted)).await?;
            if changed != MembersReply::Changed {
                return Ok(changed);
            }
            tracing::info!(node = node_id, "a new member joined, as a learner");
        }
        Ok(MembersReply::Joined(self.replicator.status().members.iter().map(known).collect()))
    }

    async fn remove(&self, node_id: NodeId, force: bool) -> Result<MembersReply, ServiceError> {
        let is_member = self.is_member(node_id);
        let (highest, _) = self.highest_id()?;
        if !is_member && (node_id == 0 || node_id > highest) {
            return Ok(MembersReply::Refused(MembersRefusal::NoSuchMember(node_id)));
        }
        if is_member {
            return self.take_out(node_id, MemberChange::Remove { node_id, force }).await;
        }
        // Of one that is gone already: whoever removed it may have been lost before this.
        self.record_removed(node_id).await
    }

    async fn replace(&self, old: NodeId, new: NodeId) -> Result<MembersReply, ServiceError> {
        self.take_out(old, MemberChange::Replace { old, new }).await
    }

    /// Takes a member out. That it leaves is written down first: if this leader is lost after the
    /// change, the next one records what became of it. The note stays of a change that is refused,
    /// because another one may be half way; of who stays a member it means nothing.
    async fn take_out(
        &self,
        node_id: NodeId,
        change: MemberChange,
    ) -> Result<MembersReply, ServiceError> {
        let leaving = key(LEAVING, node_id)?;
        let noted = |machine: &Machine| machine.cluster_record(&leaving).is_some();
        if self.is_member(node_id) && !self.replicator.with_machine(noted) {
            self.put(leaving.as_str(), Some("1"), Expected::Anything).await?;
        }
        let changed = self.change(change).await?;
        if changed != MembersReply::Changed {
            return Ok(changed);
        }
        self.record_removed(node_id).await
    }

    fn is_member(&self, node_id: NodeId) -> bool {
        self.replicator.status().members.iter().any(|it| it.id == node_id)
    }

    /// Records removals that lost their leader between the change and its record; for ever. The
    /// record follows the change in the log of this leader, so it is not committed without it.
    pub(super) async fn finish_removals(&self) {
        loop {
            tokio::time::sleep(REMOVALS_LOOK).await;
            let leaving: Vec<NodeId> = self.replicator.with_machine(|machine| {
                let leaving = machine.cluster_records(LEAVING);
                leaving
                    .filter_map(|(key, _)| key.as_str().strip_prefix(LEAVING)?.parse().ok())
                    .collect()
            });
            for node_id in leaving.into_iter().filter(|id| !self.is_member(*id)) {
                if let Ok(_turn) = self.members_turn.try_acquire() {
                    let _next_time_if_not = self.record_removed(node_id).await;
                }
            }
        }
    }

    /// From now on nobody listens to it, and its invitation opens nothing.
    async fn record_removed(&self, node_id: NodeId) -> Result<MembersReply, ServiceError> {
        let (gone, invited) = (key(REMOVED, node_id)?, key(INVITE, node_id)?);
        let leaving = key(LEAVING, node_id)?;
        let is_there = |key: &RecordKey| {
            self.replicator.with_machine(|machine| machine.cluster_record(key).is_some())
        };
        if !is_there(&gone) {
            self.put(gone.as_str(), Some("1"), Expected::Anything).await?;
            tracing::info!(node = node_id, "a member was removed for good");
        }
        for done_with in [invited, leaving] {
            if is_there(&done_with) {
                self.put(done_with.as_str(), None, Expected::Anything).await?;
            }
        }
        Ok(MembersReply::Changed)
    }

    async fn change(&self, change: MemberChange) -> Result<MembersReply, ServiceError> {
        let changed = self.replicator.change_members(change).await?;
        Ok(changed.map_or_else(MembersReply::Refused, |()| MembersReply::Changed))
    }

    /// Whether the record was as expected, and is now as given.
    pub(super) async fn put(
        &self,
        under: &str,
        text: Option<&str>,
        expected: Expected,
    ) -> Result<bool, ServiceError> {
        let key = RecordKey::new(under).map_err(|invalid| unexpected(&invalid.0))?;
        let value = text.map(|text| RecordValue::new(text.as_bytes())).transpose();
        let value = value.map_err(|invalid| unexpected(&invalid.0))?;
        match self.replicator.propose(Command::PutRecord { key, value, expected }).await? {
            Outcome::RecordPut(_) => Ok(true),
            Outcome::Rejected(Rejection::RecordChanged { .. }) => Ok(false),
            Outcome::Rejected(Rejection::RecordsFull { limit }) => {
                Err(ServiceError::Overloaded(format!("the cluster keeps {limit} records already")))
            }
            _ => Err(unexpected("another answer came back")),
        }
    }
}

/// An address of the machine that nobody should be sent to.
fn misleading<'a>(join: &'a Join, members: &[MemberStatus]) -> Option<&'a str> {
    let peers = members.iter().map(|it| it.peer_address.as_str());
    let apis = members.iter().map(|it| it.api_address.as_str());
    let peer = Some(join.peer_address.as_str()).filter(|it| address::is_refused(it, peers));
    peer.or_else(|| Some(join.api_address.as_str()).filter(|it| address::is_refused(it, apis)))
}

fn expected(revision: Option<Revision>) -> Expected {
    revision.map_or(Expected::Absent, Expected::At)
}
