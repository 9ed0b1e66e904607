//! What travels between nodes, and its framing:
//! `[length u32 LE][frame of the codec: request id, message]`.

use std::io;
use std::time::Duration;

use oarlock_core::time::LeaseTime;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::raft::store::codec;
use crate::raft::store::identity::Identity;
use crate::raft::types::{SnapshotMeta, TypeConfig, Vote};
use crate::service::error::ServiceError;
use crate::service::replicator::{Call, NodeId, Reply};

/// Version of the protocol; both sides must speak the same.
pub(super) const PROTOCOL: u16 = 1;

/// Largest frame. An append carries at most some hundred entries of bounded size.
const FRAME_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Bytes of a snapshot in one frame.
pub(super) const CHUNK_BYTES: usize = 512 * 1024;

/// How long the rest of a frame may take once its length was read.
const FRAME_DEADLINE: Duration = Duration::from_secs(10);

const KIND_MESSAGE: u8 = 0x71;

/// First frame of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    pub protocol: u16,
    /// `None` before birth.
    pub cluster_id: Option<u128>,
    pub from: NodeId,
    pub instance_id: u128,
    pub to: NodeId,
}

/// Answer to a hello: nothing to add, or why the connection is refused.
pub type HelloReply = Result<(), String>;

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
}

/// Asked of a peer.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Request {
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
        bytes: Vec<u8>,
    },
    Call(Call),
    /// The caller of that request is gone. No answer.
    Cancel,
    /// No answer.
    Beacon(Beacon),
    Probe,
    Birth(Identity),
}

/// Answered by a peer.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Response {
    Append(AppendEntriesResponse<TypeConfig>),
    Vote(VoteResponse<TypeConfig>),
    Transfer(TransferLeaderResponse<TypeConfig>),
    SnapshotWanted,
    Snapshot(SnapshotResponse<TypeConfig>),
    Call(Result<Reply, ServiceError>),
    Probe(ProbeReply),
    Birth(Result<(), String>),
    /// The peer could not: it is stopping, or its disk failed.
    Failed(String),
}

/// A whole frame with its length, ready to be written.
pub(super) fn frame<T: Serialize>(id: u64, message: &T) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    codec::frame(KIND_MESSAGE, 0, &mut bytes, |out| {
        out.extend_from_slice(&id.to_le_bytes());
        codec::encode_into(message, out);
    });
    let length = u32::try_from(bytes.len() - 4).unwrap_or(u32::MAX);
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    bytes
}

/// Reads one frame; waits for its first byte without a deadline, for the rest with one.
pub(super) async fn read<T: DeserializeOwned>(
    stream: &mut (impl AsyncRead + Unpin),
    buffer: &mut Vec<u8>,
) -> io::Result<(u64, T)> {
    let length = stream.read_u32_le().await? as usize;
    if length > FRAME_BYTES_MAX {
        return Err(io::Error::other(format!("a frame of {length} bytes is over the bound")));
    }
    // Grows with what really arrives, not with what the length claims.
    buffer.clear();
    let mut rest = stream.take(length as u64);
    let read = tokio::time::timeout(FRAME_DEADLINE, rest.read_to_end(buffer)).await;
    let read = read.map_err(|_| io::Error::other("a frame stalled half way"))??;
    if read != length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let frame = codec::parse(buffer, 0)?;
    let (id, body) = frame.payload.split_first_chunk::<8>().ok_or(codec::CodecError::Short)?;
    Ok((u64::from_le_bytes(*id), codec::decode(body)?))
}
