//! A peer that says hello as it should and then anything: it is answered or cut, and the listener
//! lives on. The first byte chooses what the connection is for, the rest is the message; the frame
//! around it is whole, so that the message is decoded.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use oarlock::raft::store::codec;
use oarlock::raft::store::identity::Identity;
use oarlock::raft::transport::Beacon;
use oarlock::raft::transport::inbound::{Handlers, listen};
use oarlock::raft::transport::peers::Local;
use oarlock::raft::transport::wire::{Hello, Purpose};
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
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).enable_all().build().expect("a runtime");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
        let address = listener.local_addr().expect("an address");
        let local = Local::new(1, vec![(1, "a".to_owned()), (2, "b".to_owned())], Some(identity()));
        runtime.spawn(listen(listener, local, Arc::new(Handlers::default())));
        (runtime, address)
    })
}

pub(crate) fn run(data: &[u8]) {
    let (purpose, message) = data.split_first().unwrap_or((&0, &[]));
    let purpose = match purpose % 4 {
        0 => Purpose::Append,
        1 => Purpose::Control,
        2 => Purpose::Snapshot,
        _ => Purpose::Birth,
    };
    let hello = Hello {
        protocol: 2,
        purpose,
        cluster_id: Some(CLUSTER),
        from: 2,
        instance_id: 22,
        to: 1,
        mark: None,
    };
    let mut sent = frame(HELLO, &codec::encode(&hello));
    sent.extend(frame(REQUEST, message));
    let (runtime, address) = node();
    let heard = runtime.block_on(async {
        let mut stream = TcpStream::connect(address).await.expect("it listens");
        let _may_be_cut = stream.write_all(&sent).await;
        let _may_be_cut = stream.shutdown().await;
        let mut heard = Vec::new();
        let _may_be_cut =
            tokio::time::timeout(PATIENCE, stream.read_to_end(&mut heard)).await.expect("an end");
        heard
    });
    assert!(!heard.is_empty(), "at least the hello is answered");
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
    ]
}
