//! Receiving a snapshot: pieces in order into a temporary file, which is verified as a whole
//! before Raft hears of it. What is given up half way leaves no file.

use std::io;
use std::sync::Arc;

use crate::raft::store::snapshot::Incoming;
use crate::raft::transport::blocking::blocking;
use crate::raft::transport::raft_peer::RaftPeer;
use crate::raft::transport::wire::{Bytes, Request, Response};
use crate::raft::types::{SnapshotMeta, Vote};

/// The snapshot that comes over one connection, if one does.
#[derive(Default)]
pub(super) struct Receiver(Option<Receiving>);

/// Whose it is, what it stands for, how long it will be, and what has come.
struct Receiving {
    vote: Vote,
    meta: SnapshotMeta,
    total: u64,
    incoming: Incoming,
}

impl Receiver {
    /// Takes the next piece. An error gives the snapshot up.
    pub(super) async fn take(
        &mut self,
        request: Request,
        raft: &Arc<dyn RaftPeer>,
    ) -> io::Result<Response> {
        match request {
            Request::SnapshotBegin { vote, meta, bytes } => {
                // What was begun before is given up first: there may be room for one only.
                self.0 = None;
                let raft = Arc::clone(raft);
                let incoming = blocking(move || raft.receive()).await?;
                self.0 = Some(Receiving { vote, meta, total: bytes, incoming });
                Ok(Response::SnapshotWanted)
            }
            Request::SnapshotChunk { offset, bytes } => {
                let begun = self.0.take();
                let begun = begun.ok_or_else(|| io::Error::other("no snapshot was announced"))?;
                let receiving = begun.write(offset, bytes).await?;
                if receiving.incoming.bytes() < receiving.total {
                    self.0 = Some(receiving);
                    return Ok(Response::SnapshotWanted);
                }
                receiving.install(raft).await
            }
            Request::Append(_)
            | Request::Vote(_)
            | Request::PreVote(_)
            | Request::Transfer(_)
            | Request::Call(_)
            | Request::CallAs(..)
            | Request::Cancel
            | Request::Beacon(_)
            | Request::Probe
            | Request::Birth(_)
            | Request::Join(_)
            | Request::Ping => Err(io::Error::other("this connection is not for that")),
        }
    }
}

impl Receiving {
    async fn write(self, offset: u64, Bytes(bytes): Bytes) -> io::Result<Self> {
        let Self { vote, meta, total, mut incoming } = self;
        if incoming.bytes() != offset {
            return Err(io::Error::other("a piece of the snapshot is missing"));
        }
        if bytes.is_empty() || offset.saturating_add(bytes.len() as u64) > total {
            return Err(io::Error::other("the snapshot is not as long as announced"));
        }
        let incoming = blocking(move || incoming.write(&bytes).map(|()| incoming)).await?;
        Ok(Self { vote, meta, total, incoming })
    }

    async fn install(self, raft: &Arc<dyn RaftPeer>) -> io::Result<Response> {
        let Self { vote, meta, incoming, .. } = self;
        let snapshot = blocking(move || incoming.finish()).await?;
        if *snapshot.meta() != meta {
            return Err(io::Error::other("the snapshot is not the one that was announced"));
        }
        raft.install(vote, meta, snapshot).await.map(Response::Snapshot)
    }
}
