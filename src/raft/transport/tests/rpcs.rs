//! What openraft sends: in order, answered in order, each over the connection meant for it.

use oarlock_core::planted;

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use openraft::errors::{RPCError, ReplicationClosed, StreamingError};
use openraft::network::v2::RaftNetworkV2;
use openraft::network::{RPCOption, RaftNetworkFactory};
use openraft::raft::{AppendEntriesRequest, TransferLeaderRequest, VoteRequest};
use openraft::type_config::alias::SnapshotOf;
use tokio::time::timeout;

use super::fake::{
    CLUSTER, Did, FakeRaft, Node, append, identity, log_id, member, peers, peers_as, snapshot, vote,
};
use crate::raft::store::snapshot::SnapshotFile;
use crate::raft::transport::NetworkFactory;
use crate::raft::transport::network::Network;
use crate::raft::transport::peers::Peers;
use crate::raft::types::{Member, TypeConfig};

const LONG: Duration = Duration::from_secs(5);

fn option() -> RPCOption {
    RPCOption::new(LONG)
}

fn place(node: &Node) -> Member {
    Member { peer_address: node.address.clone(), ..member(node.id) }
}

async fn client(peers: Arc<Peers>, node: &Node) -> Network {
    NetworkFactory(peers).new_client(node.id, &place(node)).await
}

fn heartbeat() -> AppendEntriesRequest<TypeConfig> {
    AppendEntriesRequest { prev_log_id: Some(log_id(3)), entries: vec![], ..append(4) }
}

#[tokio::test]
async fn every_request_of_raft_is_answered() {
    let node = Node::start(2).await;
    let peers = peers(&node);
    let mut network = client(Arc::clone(&peers), &node).await;
    let request = || VoteRequest::new(vote(), None);
    assert!(network.vote(request(), option()).await.expect("an answer").vote_granted);
    assert!(!network.pre_vote(request(), option()).await.expect("an answer").vote_granted);
    let transfer = TransferLeaderRequest::new(vote(), 2, None);
    assert_eq!(network.transfer_leader(transfer, option()).await.expect("an answer"), Ok(()));
    node.raft.flow();
    let answer = network.append_entries(append(1), option()).await.expect("an answer");
    assert!(answer.is_success());
    let mut beats = NetworkFactory(peers).new_heartbeat_client(2, &place(&node)).await;
    let input = stream::iter([heartbeat()]);
    let answers: Vec<_> =
        beats.stream_append(input, option()).await.expect("a stream").collect().await;
    assert!(
        matches!(answers.as_slice(), [Ok(Ok(last))] if *last == Some(log_id(3))),
        "{answers:?}"
    );
    let did = node.raft.did.lock().expect("unpoisoned").clone();
    let expected =
        [Did::Voted, Did::PreVoted, Did::Transferred, Did::Appended(Some(1)), Did::Appended(None)];
    assert_eq!(did, expected);
}

#[tokio::test]
async fn pipelined_appends_keep_their_order() {
    planted::choose(std::env::var(planted::VARIABLE).ok()).expect("a planted bug");
    let node = Node::start(2).await;
    let mut network = client(peers(&node), &node).await;
    let (sent, mut input) = tokio::sync::mpsc::channel(200);
    let input = stream::poll_fn(move |context| input.poll_recv(context));
    let mut answers = network.stream_append(input, option()).await.expect("a stream");
    // More than may be on their way at once, and none is answered yet.
    for index in 0..200 {
        sent.try_send(append(index)).expect("room");
    }
    let early = timeout(Duration::from_millis(300), answers.next()).await;
    assert!(early.is_err(), "the disk is slow: {early:?}");
    let expected: Vec<_> = (0..64).map(Some).collect();
    assert_eq!(node.raft.appended(), expected, "as many as may be on their way, in order");

    node.raft.flow();
    drop(sent);
    let answers: Vec<_> = answers.map(|answer| answer.expect("an answer")).collect().await;
    let expected: Vec<_> = (0..200).map(|index| Ok(Some(log_id(index)))).collect();
    assert_eq!(answers, expected);
    let expected: Vec<_> = (0..200).map(Some).collect();
    assert_eq!(node.raft.appended(), expected);
}

#[tokio::test]
async fn an_old_answer_does_not_vouch_for_a_later_request_that_ends_where_its_own_did() {
    let node = Node::start(2).await;
    let mut network = client(peers(&node), &node).await;
    let (sent, mut input) = tokio::sync::mpsc::channel(3);
    let input = stream::poll_fn(move |context| input.poll_recv(context));
    let mut answers = network.stream_append(input, option()).await.expect("a stream");
    sent.try_send(append(1)).expect("room");
    let early = timeout(Duration::from_millis(100), answers.next()).await;
    assert!(early.is_err(), "the disk is slow: {early:?}");
    // What is committed, told while the answer is on its way; then something new.
    let told = AppendEntriesRequest { prev_log_id: Some(log_id(1)), entries: vec![], ..append(1) };
    sent.try_send(told).expect("room");
    sent.try_send(append(2)).expect("room");
    drop(sent);
    let early = timeout(Duration::from_millis(100), answers.next()).await;
    assert!(early.is_err(), "the disk is slow: {early:?}");
    node.raft.flow();
    let answers: Vec<_> = answers.map(|answer| answer.expect("an answer")).collect().await;
    assert_eq!(answers, [Ok(Some(log_id(1))), Ok(Some(log_id(2)))], "once for both of the first");
}

#[tokio::test]
async fn votes_and_heartbeats_do_not_wait_for_appends() {
    let node = Node::start(2).await;
    let peers = peers(&node);
    let mut network = client(Arc::clone(&peers), &node).await;
    let mut answers =
        network.stream_append(stream::iter([append(1)]), option()).await.expect("a stream");
    let stuck = timeout(Duration::from_millis(100), answers.next()).await;
    assert!(stuck.is_err(), "{stuck:?}");
    let mut candidate = client(Arc::clone(&peers), &node).await;
    let granted = candidate.vote(VoteRequest::new(vote(), None), option()).await;
    assert!(granted.expect("an answer").vote_granted);
    let mut beats = NetworkFactory(peers).new_heartbeat_client(2, &place(&node)).await;
    let beat = beats.stream_append(stream::iter([heartbeat()]), option());
    let beat = beat.await.expect("a stream").next().await;
    assert!(matches!(beat, Some(Ok(Ok(_)))), "{beat:?}");
}

#[tokio::test]
async fn a_node_that_is_starting_or_gone_is_unreachable() {
    let starting = Node::start_as(2, Some(identity(2, CLUSTER)), "127.0.0.1:0").await;
    let mut network = client(peers(&starting), &starting).await;
    let answer = network.vote(VoteRequest::new(vote(), None), option()).await;
    let Err(RPCError::Unreachable(why)) = answer else { panic!("{answer:?}") };
    assert!(why.to_string().contains("starting"), "{why}");
    starting.kill().await;

    let input = stream::iter([append(1), append(2)]);
    let answers = network.stream_append(input, option()).await.expect("a stream");
    let answers: Vec<_> = answers.collect().await;
    assert_eq!(answers.len(), 1, "an error ends the stream: {answers:?}");
    let answer = network.pre_vote(VoteRequest::new(vote(), None), option()).await;
    assert!(matches!(answer, Err(RPCError::Unreachable(_))), "{answer:?}");
}

#[tokio::test]
async fn a_stream_of_appends_works_again_after_the_node_came_back() {
    let node = Node::start(2).await;
    node.raft.flow();
    let mut network = client(peers(&node), &node).await;
    let first = network.append_entries(append(1), option()).await;
    assert!(first.expect("an answer").is_success());
    let address = node.address.clone();
    node.kill().await;
    assert!(network.append_entries(append(2), option()).await.is_err());
    let node = Node::start_as(2, Some(identity(2, CLUSTER)), &address).await;
    assert!(node.handlers.raft.set(Arc::clone(&node.raft)));
    node.raft.flow();
    let again = network.append_entries(append(2), option()).await;
    assert!(again.expect("an answer").is_success());
}

fn of(file: SnapshotFile) -> SnapshotOf<TypeConfig, SnapshotFile> {
    SnapshotOf::<TypeConfig, _> { meta: file.meta().clone(), snapshot: file }
}

#[tokio::test]
async fn a_snapshot_arrives_whole() {
    let node = Node::start(2).await;
    let source = FakeRaft::new(std::collections::BTreeMap::new());
    // Some megabytes, and not a multiple of a piece.
    let file = snapshot(&source.snapshots, 5000);
    assert!(file.bytes() > 5_000_000);
    let mut network = client(peers(&node), &node).await;
    let sent = network.full_snapshot(vote(), of(file.clone()), std::future::pending(), option());
    assert_eq!(sent.await.expect("installed").vote, vote());
    let installed = node.raft.installed.lock().expect("unpoisoned").take().expect("a snapshot");
    assert_eq!((installed.bytes(), installed.row_count()), (file.bytes(), 5000));
    let (mut sent, mut received) = (vec![0; 5_000_000], vec![0; 5_000_000]);
    file.read_at(&mut sent, 0).expect("read");
    installed.read_at(&mut received, 0).expect("read");
    assert!(sent == received, "the same bytes");
    assert_eq!(*node.raft.did.lock().expect("unpoisoned"), [Did::Installed(file.meta().clone())]);
}

#[tokio::test]
async fn a_snapshot_that_is_not_what_was_announced_is_not_installed() {
    let node = Node::start(2).await;
    let source = FakeRaft::new(std::collections::BTreeMap::new());
    let other = snapshot(&source.snapshots, 10).meta().clone();
    let mut wrong = of(snapshot(&source.snapshots, 2000));
    wrong.meta = other;
    let mut network = client(peers(&node), &node).await;
    let sent = network.full_snapshot(vote(), wrong, std::future::pending(), option()).await;
    let Err(StreamingError::Unreachable(why)) = sent else { panic!("{sent:?}") };
    assert!(why.to_string().contains("not the one that was announced"), "{why}");
    assert!(node.raft.installed.lock().expect("unpoisoned").is_none());
}

#[tokio::test]
async fn a_snapshot_can_be_called_off() {
    let node = Node::start(2).await;
    let source = FakeRaft::new(std::collections::BTreeMap::new());
    let file = snapshot(&source.snapshots, 100);
    let mut network = client(peers(&node), &node).await;
    let called_off = std::future::ready(ReplicationClosed::new("another leader"));
    let sent = network.full_snapshot(vote(), of(file), called_off, option()).await;
    assert!(matches!(sent, Err(StreamingError::Closed(_))), "{sent:?}");
}

#[tokio::test]
async fn a_node_of_another_cluster_gets_no_snapshot() {
    let node = Node::start(2).await;
    let source = FakeRaft::new(std::collections::BTreeMap::new());
    let file = snapshot(&source.snapshots, 100);
    let foreign = peers_as(1, Some(identity(1, 8)), 2, &node.address);
    let mut network = client(foreign, &node).await;
    let sent = network.full_snapshot(vote(), of(file), std::future::pending(), option()).await;
    let Err(StreamingError::Unreachable(why)) = sent else { panic!("{sent:?}") };
    assert!(why.to_string().contains("another cluster"), "{why}");
}
