//! A peer that says hello as it should and then anything: it is answered or cut, no task of the node
//! panics, and the listener lives on. The first byte chooses what the connection is for, the rest is
//! the message; the frame around it is whole, so that the message is decoded. Two values of the first
//! byte are for peers that say no hello: their first frame holds anything, or there is no frame.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::panic;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use oarlock::raft::store::codec;
use oarlock::raft::store::identity::Identity;
use oarlock::raft::transport::Beacon;
use oarlock::raft::transport::inbound::{Handlers, listen};
use oarlock::raft::transport::peers::Local;
use oarlock::raft::transport::wire::{Hello, PROTOCOL, Purpose};
use oarlock::raft::types::Member;
use oarlock::service::replicator::{Call, Query};
use oarlock_core::ids::LeaseId;
use oarlock_core::time::LeaseTime;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

const HELLO: u8 = 0x68;
const REQUEST: u8 = 0x71;
const CLUSTER: u128 = 7;
/// First bytes of an input without a proper hello: the frame of one with anything in it, or nothing
/// but the bytes.
const ANY_HELLO: u8 = 0xfe;
const ANY_BYTES: u8 = 0xff;

/// Threads of the node; a panic of one of its tasks is no panic of ours.
const NODE_THREADS: &str = "the node of peers";

static PANICS: AtomicUsize = AtomicUsize::new(0);

/// Far longer than an answer takes.
const PATIENCE: Duration = Duration::from_secs(20);

fn identity() -> Identity {
    let member = |instance_id| Member { instance_id, ..Member::default() };
    let members = BTreeMap::from([(1, member(11)), (2, member(22))]);
    let members = members.into_iter().collect();
    Identity { cluster_id: CLUSTER, node_id: 1, members, joined: true, invited: false }
}

fn frame(kind: u8, message: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    codec::frame(kind, 0, &mut bytes, |out| {
        out.extend_from_slice(&9_u64.to_le_bytes());
        out.extend_from_slice(message);
    });
    bytes
}

fn node() -> &'static (Runtime, SocketAddr) {
    static NODE: OnceLock<(Runtime, SocketAddr)> = OnceLock::new();
    NODE.get_or_init(|| {
        let tells = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if std::thread::current().name() == Some(NODE_THREADS) {
                PANICS.fetch_add(1, Ordering::SeqCst);
            }
            tells(info);
        }));
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        runtime.thread_name(NODE_THREADS);
        let runtime = runtime.worker_threads(1).enable_all().build().expect("a runtime");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
        let address = listener.local_addr().expect("an address");
        let local = Local::new(1, vec![(1, "a".to_owned()), (2, "b".to_owned())], Some(identity()));
        runtime.spawn(listen(listener, local, Arc::new(Handlers::default())));
        (runtime, address)
    })
}

fn hello(purpose: Purpose) -> Hello {
    Hello {
        protocol: PROTOCOL,
        purpose,
        cluster_id: Some(CLUSTER),
        from: 2,
        instance_id: 22,
        to: 1,
        mark: None,
    }
}

/// What the peer sends, and whether it begins with a proper hello.
fn said(data: &[u8]) -> (Vec<u8>, bool) {
    let (purpose, message) = data.split_first().unwrap_or((&0, &[]));
    if *purpose == ANY_BYTES {
        return (message.to_vec(), false);
    }
    if *purpose == ANY_HELLO {
        let mut bytes = Vec::new();
        codec::frame(HELLO, 0, &mut bytes, |out| out.extend_from_slice(message));
        return (bytes, false);
    }
    let purpose = match purpose % 4 {
        0 => Purpose::Append,
        1 => Purpose::Control,
        2 => Purpose::Snapshot,
        _ => Purpose::Birth,
    };
    let mut sent = frame(HELLO, &codec::encode(&hello(purpose)));
    sent.extend(frame(REQUEST, message));
    (sent, true)
}

pub(crate) fn run(data: &[u8]) {
    let (sent, is_peer) = said(data);
    let (runtime, address) = node();
    let panics = PANICS.load(Ordering::SeqCst);
    let heard = runtime.block_on(async {
        let mut stream = TcpStream::connect(address).await.expect("it listens");
        let _may_be_cut = stream.write_all(&sent).await;
        let _may_be_cut = stream.shutdown().await;
        let mut heard = Vec::new();
        let _may_be_cut =
            tokio::time::timeout(PATIENCE, stream.read_to_end(&mut heard)).await.expect("an end");
        heard
    });
    assert!(!is_peer || !heard.is_empty(), "at least the hello is answered");
    // It is counted before the connection ends.
    assert_eq!(PANICS.load(Ordering::SeqCst), panics, "a task of the node panicked");
}

/// One message of each shape: the byte after the purpose is the variant of the request.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let with = |purpose: u8, variant: u8, body: Vec<u8>| [vec![purpose, variant], body].concat();
    let lease_time = LeaseTime(5);
    let beacon =
        Beacon { leader_id: 2, term: 3, quorum_age_ms: Some(4), lease_time, applied_index: 6 };
    vec![
        with(1, 6, codec::encode(&Call::Read(Query::Lease(LeaseId(3))))),
        with(1, 8, codec::encode(&beacon)),
        with(3, 10, codec::encode(&identity())),
        with(3, 9, Vec::new()),
        with(2, 5, codec::encode(&(0_u64, b"bytes".as_slice()))),
        [vec![ANY_HELLO], codec::encode(&hello(Purpose::Append))].concat(),
        [
            vec![ANY_HELLO],
            [9_u64.to_le_bytes().to_vec(), codec::encode(&hello(Purpose::Birth))].concat(),
        ]
        .concat(),
        [vec![ANY_BYTES], frame(HELLO, &codec::encode(&hello(Purpose::Control)))].concat(),
    ]
}
