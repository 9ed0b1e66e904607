//! Frames: gathered on the way out, bounded and checked on the way in.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::fake::{CLUSTER, Node, identity};
use crate::raft::transport::frame::{FrameReader, write_frames};
use crate::raft::transport::peers::Local;
use crate::raft::transport::wire::{
    self, Bytes, HelloReply, KIND_HELLO, KIND_REQUEST, KIND_RESPONSE, KIND_WELCOME, Purpose,
    Request, Response,
};

const LONG: Duration = Duration::from_secs(5);

/// Remembers each write.
#[derive(Clone, Default)]
struct Writes(Arc<Mutex<Vec<usize>>>);

impl AsyncWrite for Writes {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.0.lock().expect("unpoisoned").push(bytes.len());
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn frames_queued_at_once_go_out_in_one_write() {
    let (frames, queue) = mpsc::channel(1000);
    for id in 0..1000 {
        frames.try_send(wire::request(id, &Request::Ping)).expect("room");
    }
    drop(frames);
    let writes = Writes::default();
    write_frames(queue, writes.clone()).await.expect("written");
    let bytes = 1000 * wire::request(0, &Request::Ping).len();
    assert_eq!(*writes.0.lock().expect("unpoisoned"), [bytes]);
}

#[tokio::test]
async fn a_large_frame_does_not_wait_to_be_gathered() {
    let (frames, queue) = mpsc::channel(10);
    let large = vec![7; 1024 * 1024];
    for frame in [vec![1; 10], vec![2; 10], large.clone(), vec![3; 10]] {
        frames.try_send(frame).expect("room");
    }
    drop(frames);
    let writes = Writes::default();
    write_frames(queue, writes.clone()).await.expect("written");
    assert_eq!(*writes.0.lock().expect("unpoisoned"), [20 + large.len(), 10]);
}

#[tokio::test]
async fn frames_in_pieces_are_read_as_they_were_written() {
    let (mut near, far) = tokio::io::duplex(7);
    let bytes = vec![9; 5000];
    let chunk = || Request::SnapshotChunk { offset: 3, bytes: Bytes(vec![9; 5000]) };
    let writing = tokio::spawn(async move {
        for id in 1..=3 {
            near.write_all(&wire::request(id, &chunk())).await.expect("write");
        }
    });
    let mut reader = FrameReader::new(far, 10_000, LONG);
    for expected in 1..=3 {
        let (id, request) = reader.next::<Request>(KIND_REQUEST).await.expect("a frame");
        assert_eq!(id, expected);
        assert!(
            matches!(request, Request::SnapshotChunk { offset: 3, bytes: Bytes(b) } if b == bytes)
        );
    }
    writing.await.expect("writer");
    let end = reader.next::<Request>(KIND_REQUEST).await.expect_err("the end");
    assert_eq!(end.kind(), io::ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn every_damaged_bit_of_a_frame_is_noticed() {
    let good = wire::request(5, &Request::Ping);
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        let mut reader = FrameReader::new(bad.as_slice(), 10_000, LONG);
        let error = reader.next::<Request>(KIND_REQUEST).await.expect_err("damage");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "bit {bit}: {error}");
    }
}

#[tokio::test]
async fn a_frame_of_another_kind_is_not_decoded() {
    let frame = wire::response(5, &Response::Pong);
    let mut reader = FrameReader::new(frame.as_slice(), 10_000, LONG);
    let error = reader.next::<Request>(KIND_REQUEST).await.expect_err("another kind");
    assert!(error.to_string().contains("kind"), "{error}");
}

/// A connection that said hello.
async fn greeted(node: &Node, purpose: Purpose) -> TcpStream {
    let mut stream = TcpStream::connect(&node.address).await.expect("connect");
    let local = Local::new(1, vec![], Some(identity(1, CLUSTER)));
    let hello = wire::frame(KIND_HELLO, 0, &local.hello(node.id, purpose));
    stream.write_all(&hello).await.expect("hello");
    let mut reader = FrameReader::new(&mut stream, 1024, LONG);
    let (_, reply) = reader.next::<HelloReply>(KIND_WELCOME).await.expect("a reply");
    reply.expect("welcome");
    stream
}

async fn assert_closed(mut stream: TcpStream) {
    let mut rest = Vec::new();
    let closed = tokio::time::timeout(LONG, stream.read_to_end(&mut rest)).await;
    // A reset is as good: it happens when the other end leaves bytes unread.
    let _read = closed.expect("the node hangs up");
    assert!(rest.is_empty(), "nothing is answered");
}

#[tokio::test]
async fn an_oversized_frame_is_refused_by_its_length_alone() {
    let node = Node::start(2).await;
    for (purpose, length) in
        [(Purpose::Control, u32::MAX), (Purpose::Append, 33 << 20), (Purpose::Snapshot, 2 << 20)]
    {
        let mut stream = greeted(&node, purpose).await;
        let mut header = vec![1, KIND_REQUEST];
        header.extend_from_slice(&length.to_le_bytes());
        stream.write_all(&header).await.expect("write");
        assert_closed(stream).await;
    }
}

#[tokio::test]
async fn a_damaged_frame_ends_the_connection() {
    let node = Node::start(2).await;
    let mut stream = greeted(&node, Purpose::Control).await;
    let mut frame = wire::request(1, &Request::Ping);
    let last = frame.len() - 1;
    frame[last] ^= 1;
    stream.write_all(&frame).await.expect("write");
    assert_closed(stream).await;
}

#[tokio::test]
async fn a_connection_is_only_for_what_it_was_opened_for() {
    let node = Node::start(2).await;
    let mut stream = greeted(&node, Purpose::Append).await;
    stream.write_all(&wire::request(1, &Request::Probe)).await.expect("write");
    assert_closed(stream).await;

    let mut stream = greeted(&node, Purpose::Birth).await;
    let vote = openraft::raft::VoteRequest::new(super::fake::vote(), None);
    stream.write_all(&wire::request(1, &Request::Vote(vote))).await.expect("write");
    let mut reader = FrameReader::new(&mut stream, 1024, LONG);
    let (_, response) = reader.next::<Response>(KIND_RESPONSE).await.expect("an answer");
    assert!(matches!(response, Response::Failed(_)), "{response:?}");
    assert!(node.raft.did.lock().expect("unpoisoned").is_empty());
}
