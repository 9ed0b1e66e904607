//! What travels between nodes. Every message is one frame of the codec, whose payload is a request
//! id and the message; the module `frame` moves frames over a stream.
//!
//! Variants and fields are part of the protocol: a change of either is a new `PROTOCOL`.

use std::fmt;
use std::io;

use oarlock_core::time::LeaseTime;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::raft::size::ENTRY_BYTES_MAX;
use crate::raft::store::codec;
use crate::raft::store::identity::Identity;
use crate::raft::transport::marks::Mark;
use crate::raft::types::{SnapshotMeta, TypeConfig, Vote};
use crate::service::error::ServiceError;
use crate::service::members::{Join, MembersReply};
use crate::service::replicator::{Call, NodeId, Reply};

/// Version of the protocol; both sides must speak the same.
pub const PROTOCOL: u16 = 6;

/// Kinds of frames, so that none is taken for another before it is decoded.
pub const KIND_HELLO: u8 = 0x68;
pub(super) const KIND_WELCOME: u8 = 0x77;
pub const KIND_REQUEST: u8 = 0x71;
pub const KIND_RESPONSE: u8 = 0x72;

/// Bytes of a snapshot in one frame: half of what such a frame may have.
pub(super) const CHUNK_BYTES: usize = 512 * 1024;

/// What a connection is for; it carries nothing else, so that nothing small waits behind
/// something large.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Purpose {
    /// Log entries, in order.
    Append,
    /// Votes, heartbeats, transfers of leadership, forwarded calls and beacons.
    Control,
    /// Snapshots, in order.
    Snapshot,
    /// Questions and offers before there is a cluster.
    Birth,
}

impl Purpose {
    /// Largest frame; a longer one is refused by its length alone.
    ///
    /// An append holds at least one entry, so a bound below the largest would stop replication for
    /// good; what is above it leaves room for the entries that share a read of the log.
    pub(super) const fn frame_bytes_max(self) -> usize {
        match self {
            Self::Append => 32 * 1024 * 1024,
            Self::Control => 16 * 1024 * 1024,
            Self::Snapshot | Self::Birth => 1024 * 1024,
        }
    }
}

const _: () = assert!(2 * ENTRY_BYTES_MAX < Purpose::Append.frame_bytes_max(), "an entry fits");

/// First frame of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    pub protocol: u16,
    pub purpose: Purpose,
    /// `None` before birth.
    pub cluster_id: Option<u128>,
    pub from: NodeId,
    /// Zero if it has none or does not know it.
    pub instance_id: u128,
    pub to: NodeId,
    /// What it has durably; `None` if it does not say.
    pub mark: Option<Mark>,
    /// The highest behaviour level that its build knows.
    pub level: u16,
}

/// Who answered the hello.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// `None` before birth.
    pub cluster_id: Option<u128>,
    pub node_id: NodeId,
    /// Zero if it has none or does not know it.
    pub instance_id: u128,
    /// What it has durably; `None` if it does not say.
    pub mark: Option<Mark>,
    /// The highest behaviour level that its build knows.
    pub level: u16,
}

/// Answer to a hello, or why the connection is refused.
pub type HelloReply = Result<Welcome, String>;

/// What a node says of itself before there is a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeReply {
    pub node_id: NodeId,
    /// The configured first members, as text to compare.
    pub first_members: Vec<(NodeId, String)>,
    /// What it was born as, if it was.
    pub identity: Option<Identity>,
}

/// Leader to followers, every heartbeat interval.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beacon {
    pub leader_id: NodeId,
    pub term: u64,
    /// Time since a majority acknowledged the leader.
    pub quorum_age_ms: Option<u64>,
    pub lease_time: LeaseTime,
    /// Index of the newest entry that the leader has applied: who has applied less knows less.
    pub applied_index: u64,
}

/// Asked of a peer.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    Append(AppendEntriesRequest<TypeConfig>),
    Vote(VoteRequest<TypeConfig>),
    PreVote(VoteRequest<TypeConfig>),
    Transfer(TransferLeaderRequest<TypeConfig>),
    SnapshotBegin {
        vote: Vote,
        meta: SnapshotMeta,
        bytes: u64,
    },
    SnapshotChunk {
        offset: u64,
        bytes: Bytes,
    },
    Call(Call),
    /// The caller of that request is gone. No answer.
    Cancel,
    /// No answer.
    Beacon(Beacon),
    Probe,
    Birth(Identity),
    /// Nothing to ask; the answer shows that the peer lives.
    Ping,
    /// Of a machine with an invitation; whoever hears it asks its leader.
    Join(Box<Join>),
    /// A call in the name of whoever showed that credential.
    CallAs(String, Call),
}

/// Answered by a peer.
#[derive(Debug, Serialize, Deserialize)]
pub enum Response {
    Append(AppendEntriesResponse<TypeConfig>),
    Vote(VoteResponse<TypeConfig>),
    Transfer(TransferLeaderResponse<TypeConfig>),
    SnapshotWanted,
    Snapshot(SnapshotResponse<TypeConfig>),
    Call(Result<Reply, ServiceError>),
    Probe(ProbeReply),
    Birth(Result<(), String>),
    /// The peer could not: it is starting or stopping, or its disk failed.
    Failed(String),
    Pong,
    Join(JoinReply),
}

/// What the leader said, or why it could not be asked: then the same may be asked again.
pub type JoinReply = Result<MembersReply, String>;

impl Response {
    /// What an answer means that was not the one to come.
    pub(super) fn unexpected(self) -> io::Error {
        match self {
            Self::Failed(why) => io::Error::other(why),
            Self::Append(_)
            | Self::Vote(_)
            | Self::Transfer(_)
            | Self::SnapshotWanted
            | Self::Snapshot(_)
            | Self::Call(_)
            | Self::Probe(_)
            | Self::Birth(_)
            | Self::Join(_)
            | Self::Pong => io::Error::other("the answer is of another kind"),
        }
    }
}

/// Bytes that are encoded as one piece; serde takes a `Vec<u8>` for a list of numbers.
#[derive(Debug, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_byte_buf(BytesVisitor)
    }
}

struct BytesVisitor;

impl Visitor<'_> for BytesVisitor {
    type Value = Bytes;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bytes")
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Bytes, E> {
        Ok(Bytes(bytes.to_owned()))
    }

    fn visit_byte_buf<E: Error>(self, bytes: Vec<u8>) -> Result<Bytes, E> {
        Ok(Bytes(bytes))
    }
}

/// A message as a whole frame, ready to be written.
pub(super) fn frame<T: Serialize>(kind: u8, id: u64, message: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    codec::frame(kind, 0, &mut bytes, |out| {
        out.extend_from_slice(&id.to_le_bytes());
        codec::encode_into(message, out);
    });
    bytes
}

/// A request as a frame.
pub(super) fn request(id: u64, request: &Request) -> Vec<u8> {
    frame(KIND_REQUEST, id, request)
}

/// A response as a frame.
pub(super) fn response(id: u64, response: &Response) -> Vec<u8> {
    frame(KIND_RESPONSE, id, response)
}
