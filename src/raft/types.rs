//! The types with which oarlock instantiates openraft: what the log carries, what applying it
//! answers, and what the membership knows of a node.

use std::fmt;

use oarlock_core::command::Entry as CoreEntry;
use oarlock_core::outcome::Outcome;
use openraft::raft::responder::Responder;
use serde::{Deserialize, Serialize};

/// openraft, as this project uses it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct TypeConfig;

/// tokio, with the jitter of elections drawn from a seed.
pub(crate) type SeededRuntime =
    openraft::rt::deterministic_rng::DeterministicRng<openraft::impls::TokioRuntime>;

// Written out because the macro has no room for a responder of our own.
impl openraft::RaftTypeConfig for TypeConfig {
    type D = Proposal;
    type R = Outcomes;
    type NodeId = u64;
    type Node = Member;
    type Term = u64;
    type LeaderId = openraft::impls::leader_id_adv::LeaderId<u64, u64>;
    type Vote = openraft::impls::Vote<Self::LeaderId>;
    type Payload = openraft::EntryPayload<Proposal, u64, Member>;
    type Entry =
        openraft::Entry<<Self::LeaderId as openraft::vote::RaftLeaderId>::Committed, Self::Payload>;
    // Its chance comes from a seed that `settings::build` is given, so that a simulation repeats.
    type AsyncRuntime = SeededRuntime;
    type Responder<T>
        = Callback<T>
    where
        T: openraft::OptionalSend + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: openraft::OptionalSend + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

/// A node as the membership records it. Persisted in the log and in snapshots.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Member {
    /// `host:port` of the peer listener.
    pub peer_address: String,
    /// `host:port` of the HTTP API, as clients should be told.
    pub api_address: String,
    /// Minted at birth. A node that answers under this id with another instance lost its disk and
    /// must not vote.
    pub instance_id: u128,
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.peer_address)
    }
}

/// The application part of a log entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal(pub CoreEntry);

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} commands", self.0.commands.len())
    }
}

/// One outcome per command of the entry, in order; empty for blank and membership entries.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Outcomes(pub Vec<Outcome>);

impl fmt::Display for Outcomes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} outcomes", self.0.len())
    }
}

/// openraft's handle over our state machine.
pub type LogId = openraft::type_config::alias::LogIdOf<TypeConfig>;
/// A vote of this configuration.
pub type Vote = openraft::type_config::alias::VoteOf<TypeConfig>;
/// An entry of the log.
pub type LogEntry = openraft::type_config::alias::EntryOf<TypeConfig>;
/// Membership with the log id that set it.
pub type StoredMembership = openraft::type_config::alias::StoredMembershipOf<TypeConfig>;
/// What a snapshot says of itself.
pub type SnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<TypeConfig>;
/// Identifies one leadership.
pub type CommittedLeaderId = openraft::type_config::alias::CommittedLeaderIdOf<TypeConfig>;

/// Hears the result of a write where it is applied, without another task in between.
pub struct Callback<T>(Box<dyn FnOnce(T) + Send>);

impl<T> Callback<T> {
    /// `tell` runs inside apply: it must be short and must not block.
    pub(crate) fn new(tell: impl FnOnce(T) + Send + 'static) -> Self {
        Self(Box::new(tell))
    }
}

impl<T: Send + 'static> Responder<TypeConfig, T> for Callback<T> {
    fn on_complete(self, result: T) {
        (self.0)(result);
    }
}

/// openraft over our state machine.
pub type RaftHandle = openraft::Raft<TypeConfig, crate::raft::store::machine::StateMachine>;
