//! Who may speak with whom, and what the others are told.

use std::sync::Arc;

use oarlock_core::command::LEVEL;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use super::fake::{CLUSTER, Node, identity, member, peers, peers_as};
use crate::raft::store::identity::Identity;
use crate::raft::transport::frame::FrameReader;
use crate::raft::transport::marks::is_removal;
use crate::raft::transport::peers::{Local, Peers};
use crate::raft::transport::wire::{
    self, Hello, HelloReply, KIND_HELLO, KIND_WELCOME, PROTOCOL, Purpose, Welcome,
};
use crate::service::replicator::{Call, ForwardError, Query};

fn call() -> Call {
    Call::Read(Query::Locks { prefix: String::new(), after: None, limit: 1 })
}

/// Why a call could not be sent.
async fn refusal(peers: &Peers) -> String {
    match peers.forward(2, call()).await {
        Err(ForwardError::NotSent(why)) => why,
        other => panic!("it was sent: {other:?}"),
    }
}

#[tokio::test]
async fn a_node_of_another_cluster_is_refused_with_the_reason() {
    let node = Node::start(2).await;
    let why = refusal(&peers_as(1, Some(identity(1, 8)), 2, &node.address)).await;
    assert!(why.contains("it refused this node: node 1 belongs to another cluster"), "{why}");
}

#[tokio::test]
async fn a_node_under_another_number_is_refused_with_the_reason() {
    let node = Node::start(3).await;
    let why = refusal(&peers_as(1, Some(identity(1, CLUSTER)), 2, &node.address)).await;
    assert!(why.contains("it looks for node 2, this is node 3"), "{why}");
    let why = refusal(&peers_as(3, Some(identity(3, CLUSTER)), 2, &node.address)).await;
    assert!(why.contains("it looks for node 2"), "{why}");
    let node = Node::start(2).await;
    let why = refusal(&peers_as(2, Some(identity(2, CLUSTER)), 2, &node.address)).await;
    assert!(why.contains("it calls itself node 2, as this node does"), "{why}");
}

#[tokio::test]
async fn a_node_that_lost_its_disk_is_refused_with_the_reason() {
    let node = Node::start(2).await;
    let mut another = identity(1, CLUSTER);
    another.members[0].1.instance_id = 999;
    let why = refusal(&peers_as(1, Some(another), 2, &node.address)).await;
    assert!(why.contains("formed with another disk"), "{why}");
}

#[tokio::test]
async fn the_instance_of_a_node_that_joined_later_is_what_the_membership_says() {
    let node = Node::start(2).await;
    let joined = |instance_id| {
        let mut identity = identity(9, CLUSTER);
        identity.members.push((9, crate::raft::types::Member { instance_id, ..member(9) }));
        peers_as(9, Some(identity), 2, &node.address)
    };
    let why = refusal(&joined(1)).await;
    assert!(why.contains("formed with another disk"), "{why}");
    let sent = joined(member(9).instance_id).forward(2, call()).await;
    assert!(matches!(sent, Err(ForwardError::Remote(_))), "{sent:?}");
}

#[tokio::test]
async fn a_member_that_was_removed_is_cut_off_and_told_for_good() {
    let node = Node::start(2).await;
    let local = Local::new(1, vec![(2, node.address.clone())], Some(identity(1, CLUSTER)));
    let peers = Peers::new(Arc::clone(&local));
    let sent = peers.forward(2, call()).await;
    assert!(matches!(sent, Err(ForwardError::Remote(_))), "{sent:?}");
    node.local.set_removed([3].into());
    let sent = peers.forward(2, call()).await;
    assert!(matches!(sent, Err(ForwardError::Remote(_))), "another one was: {sent:?}");
    assert_eq!(local.refusal(), None);

    node.local.set_removed([1, 3].into());
    let why = loop {
        // The connection that there was breaks, and the next one is refused.
        match peers.forward(2, call()).await {
            Err(ForwardError::NotSent(why)) => break why,
            Err(ForwardError::Broken(_) | ForwardError::Remote(_)) | Ok(_) => {}
        }
    };
    assert!(why.contains("it was removed from this cluster"), "{why}");
    assert!(is_removal(&local.refusal().expect("it stops")));
    let probed = peers.probe(2).await.expect_err("not for that either").to_string();
    assert!(probed.contains("it was removed"), "{probed}");
}

#[tokio::test]
async fn a_removed_member_is_forgotten() {
    let node = Node::start(2).await;
    let peers = peers(&node);
    let sent = peers.forward(2, call()).await;
    assert!(matches!(sent, Err(ForwardError::Remote(_))), "{sent:?}");
    peers.set_removed([2].into());
    peers.set_members([(2, &member(2))].into_iter());
    assert!(refusal(&peers).await.contains("no such member"));
}

#[tokio::test]
async fn nothing_but_birth_is_spoken_of_before_birth() {
    let unborn = Node::start_as(2, None, "127.0.0.1:0").await;
    let why = refusal(&peers(&unborn)).await;
    assert!(why.contains("this node is not part of a cluster yet"), "{why}");
    let reply = peers(&unborn).probe(2).await.expect("a reply");
    assert_eq!((reply.node_id, reply.identity), (2, None));
    assert_eq!(reply.first_members, [(2, unborn.address.clone())]);

    let born = Node::start(2).await;
    let why = refusal(&peers_as(1, None, 2, &born.address)).await;
    assert!(why.contains("node 1 is not part of a cluster yet"), "{why}");
    let reply = peers_as(1, None, 2, &born.address).probe(2).await.expect("a reply");
    assert_eq!(reply.identity, Some(identity(2, CLUSTER)));
}

#[tokio::test]
async fn a_node_takes_calls_on_the_same_link_once_it_is_born() {
    let node = Node::start_as(2, None, "127.0.0.1:0").await;
    let peers = peers(&node);
    refusal(&peers).await;
    node.local.set_identity(identity(2, CLUSTER));
    let sent = peers.forward(2, call()).await;
    assert!(matches!(sent, Err(ForwardError::Remote(_))), "{sent:?}");
}

#[tokio::test]
async fn an_offer_of_birth_is_accepted_again_after_a_restart() {
    let offer = |cluster| Identity { joined: false, ..identity(1, cluster) };
    let node = Node::start_as(2, None, "127.0.0.1:0").await;
    let (heard, mut offers) = tokio::sync::mpsc::channel(1);
    let accept = move |identity| heard.try_send(identity).map_err(|error| error.to_string());
    assert!(node.handlers.birth.set(Box::new(accept)).is_ok());
    let unborn = peers_as(1, None, 2, &node.address);
    unborn.offer_birth(2, offer(CLUSTER)).await.expect("accepted");
    assert_eq!(offers.recv().await, Some(offer(CLUSTER)));

    // Restarted with the identity, it has no handler any more.
    let node = Node::start_as(2, Some(identity(2, CLUSTER)), "127.0.0.1:0").await;
    let unborn = peers_as(1, None, 2, &node.address);
    unborn.offer_birth(2, offer(CLUSTER)).await.expect("accepted");
    let error = unborn.offer_birth(2, offer(8)).await.expect_err("another cluster");
    assert!(error.to_string().contains("another cluster"), "{error}");
}

#[tokio::test]
async fn the_one_who_connects_checks_who_answers() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address").to_string();
    let answers = [
        (Some(CLUSTER), 3, 103, LEVEL, "node 3 answers there instead of node 2"),
        (Some(8), 2, 102, LEVEL, "node 2 belongs to another cluster"),
        (None, 2, 0, LEVEL, "node 2 is not part of a cluster yet"),
        (Some(CLUSTER), 2, 999, LEVEL, "node 2 was formed with another disk"),
        (Some(CLUSTER), 2, 102, LEVEL - 1, "node 2 knows behaviour levels up to 0"),
    ];
    let serving = tokio::spawn(async move {
        for (cluster_id, node_id, instance_id, level, _) in answers {
            let (mut stream, _) = listener.accept().await.expect("accept");
            let reply: HelloReply =
                Ok(Welcome { cluster_id, node_id, instance_id, mark: None, level });
            stream.write_all(&wire::frame(KIND_WELCOME, 0, &reply)).await.expect("write");
        }
    });
    let peers = peers_as(1, Some(identity(1, CLUSTER)), 2, &address);
    for (.., expected) in answers {
        let why = refusal(&peers).await;
        assert!(why.contains(expected), "{why}");
    }
    serving.await.expect("served");
}

#[tokio::test]
async fn whoever_speaks_another_protocol_is_told() {
    let node = Node::start(2).await;
    let hello = Hello {
        protocol: PROTOCOL + 1,
        purpose: Purpose::Control,
        cluster_id: Some(CLUSTER),
        from: 1,
        instance_id: 101,
        to: 2,
        mark: None,
        level: LEVEL,
    };
    let newer = wire::frame(KIND_HELLO, 0, &hello);
    for (bytes, expected) in [
        (newer, "it speaks protocol 7, this node 6"),
        (b"GET / HTTP/1.1\r\nHost: oarlock\r\n\r\n".to_vec(), "not a hello of this protocol"),
    ] {
        let mut stream = TcpStream::connect(&node.address).await.expect("connect");
        stream.write_all(&bytes).await.expect("write");
        let mut reader = FrameReader::new(stream, 1024, std::time::Duration::from_secs(5));
        let (_, reply) = reader.next::<HelloReply>(KIND_WELCOME).await.expect("a reply");
        let why = reply.expect_err("a refusal");
        assert!(why.contains(expected), "{why}");
    }
}
