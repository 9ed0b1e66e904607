//! What a listener needs of Raft, so that it depends on no state machine and tests can stand in.

use std::fmt;
use std::io;
use std::sync::{Arc, OnceLock};

use futures_util::FutureExt;
use openraft::async_runtime::WatchReceiver;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::type_config::alias::SnapshotOf;

use crate::raft::store::log::Synced;
use crate::raft::store::snapshot::{Incoming, SnapshotFile};
use crate::raft::store::snapshots::Snapshots;
use crate::raft::types::{LogId, Member, RaftHandle, SnapshotMeta, TypeConfig, Vote};
use crate::service::replicator::{BoxFuture, NodeId};

/// Raft on this node, as its peers reach it. An error says that Raft stops.
pub trait RaftPeer: Send + Sync + 'static {
    /// Requests count as received in the order in which the returned futures are first polled.
    fn append(
        &self,
        rpc: AppendEntriesRequest<TypeConfig>,
    ) -> BoxFuture<io::Result<AppendEntriesResponse<TypeConfig>>>;
    fn vote(&self, rpc: VoteRequest<TypeConfig>)
    -> BoxFuture<io::Result<VoteResponse<TypeConfig>>>;
    fn pre_vote(
        &self,
        rpc: VoteRequest<TypeConfig>,
    ) -> BoxFuture<io::Result<VoteResponse<TypeConfig>>>;
    fn transfer(
        &self,
        rpc: TransferLeaderRequest<TypeConfig>,
    ) -> BoxFuture<io::Result<TransferLeaderResponse<TypeConfig>>>;
    /// Where a snapshot can be received. Blocks for the disk.
    fn receive(&self) -> io::Result<Incoming>;
    /// Installs a snapshot that was received and verified.
    fn install(
        &self,
        vote: Vote,
        meta: SnapshotMeta,
        snapshot: SnapshotFile,
    ) -> BoxFuture<io::Result<SnapshotResponse<TypeConfig>>>;
    /// What the membership knows of a node.
    fn member(&self, id: NodeId) -> Option<Member>;
}

/// openraft, where its snapshots go, and what waits for its log.
impl RaftPeer for (RaftHandle, Arc<Snapshots>, Synced) {
    fn append(
        &self,
        rpc: AppendEntriesRequest<TypeConfig>,
    ) -> BoxFuture<io::Result<AppendEntriesResponse<TypeConfig>>> {
        let raft = self.0.clone();
        async move { raft.append_entries(rpc).await.map_err(io::Error::other) }.boxed()
    }

    fn vote(
        &self,
        rpc: VoteRequest<TypeConfig>,
    ) -> BoxFuture<io::Result<VoteResponse<TypeConfig>>> {
        let raft = self.0.clone();
        async move { raft.vote(rpc).await.map_err(io::Error::other) }.boxed()
    }

    fn pre_vote(
        &self,
        rpc: VoteRequest<TypeConfig>,
    ) -> BoxFuture<io::Result<VoteResponse<TypeConfig>>> {
        let raft = self.0.clone();
        async move { raft.pre_vote(rpc).await.map_err(io::Error::other) }.boxed()
    }

    fn transfer(
        &self,
        rpc: TransferLeaderRequest<TypeConfig>,
    ) -> BoxFuture<io::Result<TransferLeaderResponse<TypeConfig>>> {
        let raft = self.0.clone();
        async move { raft.handle_transfer_leader(rpc).await.map_err(io::Error::other) }.boxed()
    }

    fn receive(&self) -> io::Result<Incoming> {
        self.1.receive()
    }

    fn install(
        &self,
        vote: Vote,
        meta: SnapshotMeta,
        snapshot: SnapshotFile,
    ) -> BoxFuture<io::Result<SnapshotResponse<TypeConfig>>> {
        let (raft, snapshots) = (self.0.clone(), Arc::clone(&self.1));
        let synced = Arc::clone(&self.2);
        async move {
            let upto = meta.last_log_id;
            let snapshot = SnapshotOf::<TypeConfig, SnapshotFile> { meta, snapshot };
            let installed = raft.install_full_snapshot(vote, snapshot).await;
            let answer = installed.map_err(io::Error::other)?;
            if answer.vote == vote {
                until_durable(&synced, &snapshots, upto).await?;
            }
            Ok(answer)
        }
        .boxed()
    }

    fn member(&self, id: NodeId) -> Option<Member> {
        let metrics = self.0.server_metrics();
        let metrics = metrics.borrow_watched();
        let mut nodes = metrics.membership_config.nodes();
        nodes.find(|(known, _)| **known == id).map(|(_, member)| member.clone())
    }
}

/// An error unless this node would still have everything up to an entry after a loss of power.
/// openraft installs no snapshot of what it knows to be committed, and answers at once, while the log
/// up to there may still be on its way to the disk; its leader takes the answer for durable, and asks
/// for ever for what is not there when this node comes back with less.
async fn until_durable(
    synced: &Synced,
    snapshots: &Snapshots,
    upto: Option<LogId>,
) -> io::Result<()> {
    let held = snapshots.current().and_then(|file| file.meta().last_log_id);
    if held >= upto || synced().await? >= upto {
        return Ok(());
    }
    Err(io::Error::other("not all that the snapshot stands for is on this disk"))
}

/// Holds Raft once this node runs it.
#[derive(Default)]
pub struct RaftSlot(OnceLock<Arc<dyn RaftPeer>>);

impl RaftSlot {
    /// Raft is there. False if it was before.
    pub fn set(&self, raft: impl RaftPeer) -> bool {
        self.0.set(Arc::new(raft)).is_ok()
    }

    pub(super) fn get(&self) -> io::Result<&Arc<dyn RaftPeer>> {
        self.0.get().ok_or_else(|| io::Error::other("this node is starting"))
    }
}

impl fmt::Debug for RaftSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RaftSlot({})", if self.0.get().is_some() { "running" } else { "empty" })
    }
}

#[cfg(test)]
mod tests {
    use openraft::vote::RaftLeaderIdExt;
    use tokio::sync::oneshot;

    use super::*;
    use crate::raft::types::StoredMembership;

    type LeaderId = <TypeConfig as openraft::RaftTypeConfig>::LeaderId;

    fn id(index: u64) -> LogId {
        LogId::new(LeaderId::new_committed(1, 1), index)
    }

    /// A log that is synced up to there, or cannot be.
    fn log(synced: Result<Option<LogId>, &'static str>) -> Synced {
        Arc::new(move || std::future::ready(synced.map_err(io::Error::other)).boxed())
    }

    #[tokio::test]
    async fn a_snapshot_is_answered_for_only_when_log_or_snapshots_hold_it_durably() {
        let dir = tempfile::tempdir().expect("a directory");
        let snapshots = Snapshots::open(dir.path(), 7, None).expect("snapshots");
        let upto = Some(id(9));
        for (synced, is_durable) in [
            (Ok(None), false),
            (Ok(Some(id(8))), false),
            (Ok(upto), true),
            (Ok(Some(id(10))), true),
            (Err("the disk failed"), false),
        ] {
            let answer = until_durable(&log(synced), &snapshots, upto).await;
            assert_eq!(answer.is_ok(), is_durable, "{synced:?}: {answer:?}");
        }
        // Of nothing nothing is asked.
        until_durable(&log(Ok(None)), &snapshots, None).await.expect("nothing is to be kept");

        let last_membership = StoredMembership::default();
        let meta = SnapshotMeta { last_log_id: upto, last_membership };
        let written = snapshots.begin(meta, 0).and_then(|writer| writer.finish(0));
        snapshots.put(&written.expect("a snapshot")).expect("it is kept");
        let fails = log(Err("the log need not be asked"));
        until_durable(&fails, &snapshots, upto).await.expect("the snapshot holds it");
        until_durable(&fails, &snapshots, Some(id(10))).await.expect_err("one entry more");
    }

    #[tokio::test]
    async fn the_answer_waits_for_the_disk() {
        let dir = tempfile::tempdir().expect("a directory");
        let snapshots = Snapshots::open(dir.path(), 7, None).expect("snapshots");
        let (finish, disk) = oneshot::channel::<()>();
        let disk = Arc::new(std::sync::Mutex::new(Some(disk)));
        let synced: Synced = Arc::new(move || {
            let disk = disk.lock().expect("unpoisoned").take();
            async move {
                let disk = disk.ok_or_else(|| io::Error::other("asked once"))?;
                disk.await.map_err(io::Error::other)?;
                Ok(Some(id(9)))
            }
            .boxed()
        });
        let mut answer = until_durable(&synced, &snapshots, Some(id(9))).boxed();
        assert!((&mut answer).now_or_never().is_none(), "the disk has not finished");
        finish.send(()).expect("it waits");
        answer.await.expect("it is durable");
    }
}
