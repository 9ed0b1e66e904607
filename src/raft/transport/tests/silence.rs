//! Peers that stop in the middle of something: every wait ends. Time is simulated, and the network
//! is in memory, so that no test waits for a deadline.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use oarlock_core::command::LEVEL;
use openraft::errors::RPCError;
use openraft::network::v2::RaftNetworkV2;
use openraft::network::{RPCOption, RaftNetworkFactory};
use openraft::raft::VoteRequest;
use tokio::io::{AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::fake::{CLUSTER, Memory, append, halves, identity, member, vote};
use crate::raft::transport::NetworkFactory;
use crate::raft::transport::frame::FrameReader;
use crate::raft::transport::inbound::{Handlers, listen};
use crate::raft::transport::peers::{Local, Peers};
use crate::raft::transport::stream::{Acceptor, Stream};
use crate::raft::transport::wire::{
    self, Hello, HelloReply, KIND_HELLO, KIND_REQUEST, KIND_RESPONSE, KIND_WELCOME, Purpose,
    Request, Response, Welcome,
};
use crate::service::replicator::{Call, ForwardError, Query};

fn call() -> Call {
    Call::Read(Query::Locks { prefix: String::new(), after: None, limit: 1 })
}

/// Node 1, and the far ends of its connections to node 2.
fn node() -> (Arc<Peers>, mpsc::Receiver<DuplexStream>) {
    let (memory, far) = Memory::new();
    let local = Local::new(1, vec![(2, "node2:1".to_owned())], Some(identity(1, CLUSTER)));
    (Peers::with_connector(local, memory), far)
}

/// Answers the hello as node 2 would, and then nothing more.
async fn welcome(far: &mut mpsc::Receiver<DuplexStream>) -> (Purpose, FrameReader<DuplexStream>) {
    let stream = far.recv().await.expect("a connection");
    let mut reader = FrameReader::new(stream, 1024 * 1024, Duration::from_hours(1));
    let (_, hello) = reader.next::<Hello>(KIND_HELLO).await.expect("hello");
    let reply: HelloReply = Ok(Welcome {
        cluster_id: Some(CLUSTER),
        node_id: 2,
        instance_id: member(2).instance_id,
        mark: None,
        level: LEVEL,
    });
    let frame = wire::frame(KIND_WELCOME, 0, &reply);
    reader.stream_mut().write_all(&frame).await.expect("write");
    (hello.purpose, reader)
}

fn after(begun: Instant) -> Duration {
    Instant::now() - begun
}

#[tokio::test(start_paused = true)]
async fn who_never_answers_a_hello_is_not_sent_anything() {
    let (peers, mut far) = node();
    let begun = Instant::now();
    let answer = peers.forward(2, call()).await;
    assert!(matches!(answer, Err(ForwardError::NotSent(_))), "{answer:?}");
    assert!(after(begun) <= Duration::from_secs(1));
    drop(far.recv().await);
}

#[tokio::test(start_paused = true)]
async fn a_call_breaks_when_the_peer_answers_no_pings() {
    let (peers, mut far) = node();
    let begun = Instant::now();
    let silent = tokio::spawn(async move {
        let (_, reader) = welcome(&mut far).await;
        (reader, far.recv().await)
    });
    let answer = peers.forward(2, call()).await;
    assert!(matches!(answer, Err(ForwardError::Broken(_))), "{answer:?}");
    assert_eq!(after(begun).as_secs(), 3);
    silent.abort();
}

#[tokio::test(start_paused = true)]
async fn a_call_may_wait_as_long_as_the_peer_answers_pings() {
    let (peers, mut far) = node();
    let peer = tokio::spawn(async move {
        let (purpose, mut reader) = welcome(&mut far).await;
        assert_eq!(purpose, Purpose::Control);
        let begun = Instant::now();
        let mut waiting = None;
        loop {
            let (id, request) = reader.next::<Request>(KIND_REQUEST).await.expect("a request");
            let answer = match request {
                Request::Ping => wire::response(id, &Response::Pong),
                Request::Call(_) => {
                    waiting = Some(id);
                    continue;
                }
                other => panic!("{other:?}"),
            };
            reader.stream_mut().write_all(&answer).await.expect("write");
            if let Some(id) = waiting.filter(|_| begun.elapsed() > Duration::from_hours(1)) {
                let done = wire::response(id, &Response::Failed("done".to_owned()));
                reader.stream_mut().write_all(&done).await.expect("write");
                return reader;
            }
        }
    });
    let answer = peers.forward(2, call()).await;
    assert_eq!(answer, Err(ForwardError::Broken("done".to_owned())));
    drop(peer.await);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_stuck_in_a_full_queue_was_not_sent() {
    let (peers, mut far) = node();
    let silent = tokio::spawn(async move { welcome(&mut far).await });
    let (_, reader) = {
        let first = tokio::spawn({
            let peers = Arc::clone(&peers);
            async move { peers.forward(2, call()).await }
        });
        let welcomed = silent.await.expect("welcomed");
        // Nothing is read any more: the stream, then the queue of frames fill up.
        let mut long = Vec::new();
        for _ in 0..20_000 {
            let peers = Arc::clone(&peers);
            long.push(tokio::spawn(async move { peers.forward(2, call()).await }));
        }
        let mut not_sent = 0;
        for task in long {
            match task.await.expect("joined") {
                Err(ForwardError::NotSent(_)) => not_sent += 1,
                Err(ForwardError::Broken(_)) => {}
                other => panic!("{other:?}"),
            }
        }
        assert!(not_sent > 5000, "{not_sent}");
        assert!(matches!(first.await.expect("joined"), Err(ForwardError::Broken(_))));
        welcomed
    };
    drop(reader);
}

#[tokio::test(start_paused = true)]
async fn a_vote_ends_by_the_deadline_that_openraft_gives_it() {
    let (peers, mut far) = node();
    let mut network = NetworkFactory(peers).new_client(2, &member(2)).await;
    let begun = Instant::now();
    let option = RPCOption::new(Duration::from_millis(400));
    let answer = network.vote(VoteRequest::new(vote(), None), option).await;
    assert!(matches!(answer, Err(RPCError::Unreachable(_))), "{answer:?}");
    assert_eq!(after(begun).as_millis(), 300, "the soft limit, connecting included");
    drop(far.recv().await);
}

#[tokio::test(start_paused = true)]
async fn a_slow_connection_is_made_although_no_caller_waits_for_it() {
    let (peers, mut far) = node();
    let mut network = NetworkFactory(peers).new_client(2, &member(2)).await;
    let option = || RPCOption::new(Duration::from_millis(100));
    let vote = || VoteRequest::new(vote(), None);
    assert!(network.vote(vote(), option()).await.is_err());
    assert!(network.vote(vote(), option()).await.is_err());
    let (_, mut reader) = welcome(&mut far).await;
    let answering = async {
        loop {
            let (id, request) = reader.next::<Request>(KIND_REQUEST).await.expect("a request");
            if let Request::Vote(rpc) = request {
                let granted = openraft::raft::VoteResponse::new(rpc.vote, None, true);
                let frame = wire::response(id, &Response::Vote(granted));
                reader.stream_mut().write_all(&frame).await.expect("write");
            }
        }
    };
    tokio::select! {
        () = answering => {}
        answer = network.vote(vote(), option()) => assert!(answer.expect("an answer").vote_granted),
    }
    assert!(far.try_recv().is_err(), "one connection was enough");
}

#[tokio::test(start_paused = true)]
async fn a_stream_of_appends_without_progress_is_given_up_with_its_connection() {
    let (peers, mut far) = node();
    let mut network = NetworkFactory(peers).new_client(2, &member(2)).await;
    let begun = Instant::now();
    let peer = tokio::spawn(async move {
        let (purpose, mut reader) = welcome(&mut far).await;
        assert_eq!(purpose, Purpose::Append);
        // The first two are answered slowly, which is progress; the third never.
        for index in 0..3 {
            let id = loop {
                let (id, request) = reader.next::<Request>(KIND_REQUEST).await.expect("a request");
                if matches!(request, Request::Append(_)) {
                    break id;
                }
            };
            if index < 2 {
                tokio::time::sleep(Duration::from_millis(900)).await;
                let answer = Response::Append(openraft::raft::AppendEntriesResponse::Success);
                let frame = wire::response(id, &answer);
                reader.stream_mut().write_all(&frame).await.expect("write");
            }
        }
        // The other end hangs up.
        loop {
            if let Err(error) = reader.next::<Request>(KIND_REQUEST).await {
                return error.kind();
            }
        }
    });
    let option = RPCOption::new(Duration::from_millis(100));
    let input = stream::iter((1..=3).map(append));
    let answers = network.stream_append(input, option).await.expect("a stream");
    let answers: Vec<_> = answers.collect().await;
    assert!(
        matches!(answers.as_slice(), [Ok(Ok(_)), Ok(Ok(_)), Err(RPCError::Timeout(_))]),
        "{answers:?}"
    );
    assert_eq!(after(begun).as_millis(), 2800);
    assert_eq!(peer.await.expect("joined"), io::ErrorKind::UnexpectedEof);
}

/// A listener over a network in memory.
struct Ends(mpsc::Receiver<DuplexStream>);

impl Acceptor for Ends {
    fn accept(&mut self) -> futures_util::future::BoxFuture<'_, io::Result<(Stream, String)>> {
        Box::pin(async move {
            match self.0.recv().await {
                Some(stream) => Ok((halves(stream), "memory:1".to_owned())),
                None => std::future::pending().await,
            }
        })
    }
}

/// Node 2 as a listener, and a way to connect to it.
fn listener() -> (mpsc::Sender<DuplexStream>, tokio::task::JoinHandle<()>) {
    let (sender, receiver) = mpsc::channel(16);
    let local = Local::new(2, vec![], Some(identity(2, CLUSTER)));
    let serving = listen(Ends(receiver), local, Arc::new(Handlers::default()));
    (sender, tokio::spawn(serving))
}

async fn hangs_up(reader: &mut FrameReader<DuplexStream>) -> bool {
    let ended = reader.next::<Response>(KIND_RESPONSE);
    matches!(timeout(Duration::from_mins(10), ended).await, Ok(Err(_)))
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_says_no_hello_is_cut() {
    let (connect, serving) = listener();
    let (near, far) = tokio::io::duplex(1024);
    connect.send(far).await.expect("sent");
    let begun = Instant::now();
    let mut reader = FrameReader::new(near, 1024, Duration::from_hours(1));
    assert!(hangs_up(&mut reader).await);
    assert_eq!(after(begun).as_secs(), 5);
    serving.abort();
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_stalls_inside_or_between_frames_is_cut() {
    let (connect, serving) = listener();
    for bytes in [5, 0] {
        let (mut near, far) = tokio::io::duplex(1024);
        connect.send(far).await.expect("sent");
        let local = Local::new(1, vec![], Some(identity(1, CLUSTER)));
        let hello = wire::frame(KIND_HELLO, 0, &local.hello(2, Purpose::Control));
        near.write_all(&hello).await.expect("write");
        let mut reader = FrameReader::new(near, 1024, Duration::from_hours(1));
        let (_, reply) = reader.next::<HelloReply>(KIND_WELCOME).await.expect("a reply");
        reply.expect("welcome");
        let half = &wire::request(1, &Request::Ping)[..bytes];
        reader.stream_mut().write_all(half).await.expect("write");
        let begun = Instant::now();
        assert!(hangs_up(&mut reader).await);
        assert_eq!(after(begun).as_secs(), 10);
    }
    serving.abort();
}
