//! Forwarded calls and beacons: what a caller learns, and what the other node learns of the caller.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;
use oarlock_core::time::LeaseTime;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

use super::fake::{CLUSTER, Node, identity, peers, peers_as};
use crate::raft::transport::Beacon;
use crate::service::error::ServiceError;
use crate::service::replicator::{Call, ForwardError, Query, Reply, ReplyBody};

const LONG: Duration = Duration::from_secs(5);

fn call(limit: u32) -> Call {
    Call::Read(Query::Locks { prefix: "deploy/".to_owned(), after: None, limit })
}

fn reply(now: u64) -> Reply {
    Reply { now: LeaseTime(now), body: ReplyBody::Fence(None) }
}

/// What a handler of calls did.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Begun(u32),
    Dropped(u32),
}

/// Tells when it is dropped.
struct Guard(u32, mpsc::Sender<Seen>);

impl Drop for Guard {
    fn drop(&mut self) {
        let _test_may_be_over = self.1.try_send(Seen::Dropped(self.0));
    }
}

/// Answers calls with their limit as the time; each needs a permit.
fn answer_calls(node: &Node) -> (Arc<Semaphore>, mpsc::Receiver<Seen>) {
    let permits = Arc::new(Semaphore::new(0));
    let (seen, seeing) = mpsc::channel(4096);
    let gate = Arc::clone(&permits);
    let answer = move |_by: Option<String>, call: Call| {
        let (gate, seen) = (Arc::clone(&gate), seen.clone());
        async move {
            let Call::Read(Query::Locks { limit, .. }) = call else {
                return Err(ServiceError::NoLeader);
            };
            assert_ne!(limit, u32::MAX, "a handler that panics");
            let _test_may_be_over = seen.try_send(Seen::Begun(limit));
            let _guard = Guard(limit, seen);
            gate.acquire().await.expect("open").forget();
            Ok(reply(u64::from(limit)))
        }
        .boxed()
    };
    assert!(node.handlers.call.set(Box::new(answer)).is_ok());
    (permits, seeing)
}

#[tokio::test]
async fn calls_are_answered_out_of_order_on_one_connection() {
    let node = Node::start(2).await;
    let peers = peers(&node);
    let without_service = peers.forward(2, call(1)).await;
    assert_eq!(without_service, Err(ForwardError::Remote(ServiceError::NotLeader(None))));

    let (permits, mut seeing) = answer_calls(&node);
    let waiting = tokio::spawn({
        let peers = Arc::clone(&peers);
        async move { peers.forward(2, call(1)).await }
    });
    assert_eq!(seeing.recv().await, Some(Seen::Begun(1)));
    // The first one waits; another kind of call passes it.
    let command = Call::Propose(oarlock_core::command::Command::Advance);
    let refused = peers.forward(2, command).await;
    assert_eq!(refused, Err(ForwardError::Remote(ServiceError::NoLeader)));
    permits.add_permits(1);
    assert_eq!(waiting.await.expect("joined"), Ok(reply(1)));

    permits.add_permits(1000);
    let all = join_all((0..1000).map(|limit| peers.forward(2, call(limit)))).await;
    let expected: Vec<_> = (0..1000).map(|limit| Ok(reply(limit))).collect();
    assert_eq!(all, expected);
}

#[tokio::test]
async fn dropping_a_call_drops_its_handler() {
    let node = Node::start(2).await;
    let (permits, mut seeing) = answer_calls(&node);
    let peers = peers(&node);
    let mut given_up = Box::pin(peers.forward(2, call(1)));
    tokio::select! {
        answer = &mut given_up => panic!("it was answered: {answer:?}"),
        seen = seeing.recv() => assert_eq!(seen, Some(Seen::Begun(1))),
    }
    drop(given_up);
    let seen = timeout(LONG, seeing.recv()).await;
    assert_eq!(seen.expect("the cancel arrives"), Some(Seen::Dropped(1)));
    // The connection is as good as before.
    permits.add_permits(1);
    assert_eq!(peers.forward(2, call(2)).await, Ok(reply(2)));
}

#[tokio::test]
async fn losing_the_connection_drops_the_handlers_of_its_calls() {
    let node = Node::start(2).await;
    let (_permits, mut seeing) = answer_calls(&node);
    let peers = peers(&node);
    let waiting = tokio::spawn(async move { peers.forward(2, call(1)).await });
    assert_eq!(seeing.recv().await, Some(Seen::Begun(1)));
    waiting.abort();
    // With the task goes the last handle of the connection.
    let seen = timeout(LONG, seeing.recv()).await;
    assert_eq!(seen.expect("the handler is dropped"), Some(Seen::Dropped(1)));
}

#[tokio::test]
async fn a_call_is_broken_if_the_node_dies_with_it() {
    let node = Node::start(2).await;
    let (_permits, mut seeing) = answer_calls(&node);
    let peers = peers(&node);
    let waiting = tokio::spawn({
        let peers = Arc::clone(&peers);
        async move { peers.forward(2, call(1)).await }
    });
    assert_eq!(seeing.recv().await, Some(Seen::Begun(1)));
    let address = node.address.clone();
    node.kill().await;
    let answer = timeout(LONG, waiting).await.expect("it ends").expect("joined");
    assert!(matches!(answer, Err(ForwardError::Broken(_))), "{answer:?}");

    let answer = peers.forward(2, call(2)).await;
    assert!(matches!(answer, Err(ForwardError::NotSent(_))), "{answer:?}");

    // Back at the same place, it is found again by itself.
    let node = Node::start_as(2, Some(identity(2, CLUSTER)), &address).await;
    let (permits, _seeing) = answer_calls(&node);
    permits.add_permits(1);
    assert_eq!(peers.forward(2, call(3)).await, Ok(reply(3)));
}

#[tokio::test]
async fn a_handler_that_panics_breaks_its_call() {
    let node = Node::start(2).await;
    let (_permits, _seeing) = answer_calls(&node);
    let answer = timeout(LONG, peers(&node).forward(2, call(u32::MAX))).await.expect("it ends");
    assert!(matches!(answer, Err(ForwardError::Broken(_))), "{answer:?}");
}

#[tokio::test]
async fn a_call_is_not_sent_where_nobody_listens() {
    // Bound and given up: nobody listens there.
    let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = free.local_addr().expect("address").to_string();
    drop(free);
    let peers = peers_as(1, Some(identity(1, CLUSTER)), 2, &address);
    let answer = peers.forward(2, call(1)).await;
    assert!(matches!(answer, Err(ForwardError::NotSent(_))), "{answer:?}");
    let answer = peers.forward(7, call(1)).await;
    assert_eq!(answer, Err(ForwardError::NotSent("no such member is known".to_owned())));
}

#[tokio::test]
async fn a_member_is_found_where_the_membership_says() {
    let node = Node::start(2).await;
    let (permits, _seeing) = answer_calls(&node);
    permits.add_permits(1);
    let peers = peers_as(1, Some(identity(1, CLUSTER)), 2, "127.0.0.1:1");
    assert!(peers.forward(2, call(1)).await.is_err());
    let mut member = super::fake::member(2);
    member.peer_address.clone_from(&node.address);
    peers.set_members([(1, &member), (2, &member)].into_iter());
    assert_eq!(peers.forward(2, call(1)).await, Ok(reply(1)));
}

#[tokio::test]
async fn beacons_reach_connected_peers_and_wait_for_nobody() {
    let node = Node::start(2).await;
    let (heard, mut beacons) = mpsc::channel(16);
    let hear = move |beacon| heard.try_send(beacon).expect("room");
    assert!(node.handlers.beacon.set(Box::new(hear)).is_ok());
    let peers = peers(&node);
    let beacon = |term| Beacon {
        leader_id: 1,
        term,
        quorum_age_ms: Some(7),
        lease_time: LeaseTime(1_000_000),
        applied_index: 3,
    };
    peers.broadcast_beacon(&beacon(1));
    assert!(peers.forward(2, call(1)).await.is_err(), "no service, but a connection");
    peers.broadcast_beacon(&beacon(2));
    let beacon_heard = timeout(LONG, beacons.recv()).await.expect("in time");
    assert_eq!(beacon_heard, Some(beacon(2)), "the first found no connection");
}
