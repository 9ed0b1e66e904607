//! The bytes of everything that the store keeps beside the log: rows and position in sled, a whole
//! snapshot, the pointer to the view, the identity. A change here is a change of the format: a node
//! could not read its own disk after an upgrade. It needs a new version, not a new expectation.

use std::collections::BTreeSet;
use std::fmt::Write;

use oarlock_core::command::{AcquireMany, Claim, Expected, ForceTarget, OpenSession};
use oarlock_core::ids::{Permits, Reason, RecordKey, RecordValue, SessionId, Value};
use openraft::Membership;

use super::*;
use crate::raft::store::files::Files;
use crate::raft::store::identity::Identity;
use crate::raft::store::snapshot::{Header, SnapshotWriter};
use crate::raft::types::{Member, StoredMembership};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _never_fails = write!(text, "{byte:02x}");
        text
    })
}

fn name(text: &str) -> LockName {
    LockName::new(text).expect("a name")
}

fn acquire(lease: u128, lock: &str, mode: Mode, term: LeaseTerm) -> Acquire {
    Acquire {
        lease_id: LeaseId(lease),
        name: name(lock),
        owner: Owner::new("me").expect("an owner"),
        mode,
        term,
        wait: Wait::new(9_000).expect("a wait"),
        grace: Grace::new(500).expect("a grace"),
        request_id: None,
        metadata: Metadata::default(),
        lock_delay: LockDelay::new(0).expect("a lock-delay"),
    }
}

/// Few rows, of every kind and in every state.
fn machine() -> Machine {
    let ttl = Ttl::new(60_000).expect("a ttl");
    let owner = || Owner::new("me").expect("an owner");
    let session_id = SessionId(1 << 100);
    let session = OpenSession {
        session_id,
        owner: owner(),
        ttl,
        request_id: Some(RequestId(90)),
        metadata: Metadata::default(),
    };
    let remembered =
        |acquire| Command::Acquire(Acquire { request_id: Some(RequestId(91)), ..acquire });
    let own = LeaseTerm::Ttl(ttl);
    let permits = Mode::Permits(Permits::new(2, 3).expect("permits"));
    let claim = |lease, lock| Claim {
        lease_id: LeaseId(lease),
        name: name(lock),
        mode: Mode::Exclusive,
        lock_delay: LockDelay::new(0).expect("a lock-delay"),
    };
    let many = AcquireMany {
        claims: vec![claim(6, "m"), claim(7, "n")],
        owner: owner(),
        term: LeaseTerm::Forever,
        wait: Wait::new(9_000).expect("a wait"),
        grace: Grace::new(500).expect("a grace"),
        request_id: None,
        metadata: Metadata::default(),
    };
    let commands = [
        Command::OpenSession(session),
        Command::Acquire(acquire(1, "s", Mode::Shared, LeaseTerm::Session(session_id))),
        Command::Acquire(acquire(2, "p", permits, LeaseTerm::Forever)),
        Command::Acquire(acquire(3, "p", permits, own)),
        Command::Detach { lease_id: LeaseId(3) },
        remembered(acquire(4, "v", Mode::Exclusive, own)),
        Command::SetValue {
            name: name("v"),
            lease_id: LeaseId(4),
            value: Some(Value::new("x").expect("a value")),
        },
        Command::Release { lease_id: LeaseId(4) },
        Command::Acquire(acquire(5, "f", Mode::Exclusive, own)),
        Command::ForceRelease {
            name: name("f"),
            target: ForceTarget::All,
            reason: Reason::new("because").expect("a reason"),
            lock_delay: Some(LockDelay::new(700).expect("a lock-delay")),
        },
        Command::AcquireMany(many),
        Command::PutRecord {
            key: RecordKey::new("a/1").expect("a key"),
            value: RecordValue::new(&[1, 0xff]).ok(),
            expected: Expected::Absent,
        },
    ];
    let commands = (300..).map(LeaseTime).zip(commands).collect();
    let mut machine = Machine::new();
    machine.apply(&Entry { level: LEVEL, wall_ms: 250, commands }).expect("a known level");
    machine
}

fn position() -> Position {
    let member = Member {
        peer_address: "p:1".to_owned(),
        api_address: "a:2".to_owned(),
        instance_id: 1 << 100,
    };
    let nodes = std::collections::BTreeMap::from([(1, member.clone()), (2, member)]);
    let membership = Membership::new(vec![BTreeSet::from([1])], nodes).expect("a membership");
    Position {
        last_applied: Some(id(300)),
        membership: StoredMembership::new(Some(id(7)), membership),
    }
}

/// Key and value of each; the names of what is no row are text.
const ROWS: [&str; 24] = [
    "meta/checksum 13fdac6ce271afdd8781fd2a5af0a82a9a27d9",
    "meta/cluster 00000000000000000060010000000000",
    "meta/format 01",
    "meta/last_applied 010401fb2c01",
    "meta/membership 01010107010101020103703a3103613a32fe0000000000000000000000001000\
     00000203703a3103613a32fe00000000000000000000000010000000",
    "7200 010001fb3701060b",
    "72010166 010101040901fc95af0a00",
    "7201016d 010101050a00",
    "7201016e 010101060b00",
    "72010170 010101020400",
    "72010173 010101010200",
    "72010176 010101030700",
    "720201 01020173026d65000102fe00000000000000000000000010000000fbf40100fddede6bd86\
     42c2f0efb2d0100000101fb2d01fafb2d010000",
    "720202 01020170026d650002020301fbf40100fdde082105c94d3299fb2e0100000102fb2e01faf\
     b2e010000",
    "720203 01020170026d650002020300fb60eafbf40100fd9399eaf667348553fb2f0100000000fc6\
     f55890001fc50a20700",
    "720206 0102016d026d65000001fbf40100fd63a206d468bcb67efb36010001000206070105fb360\
     1fafb36010000",
    "720207 0102016e026d65000001fbf40100fd63a206d468bcb67efb3601000101060106fb3601faf\
     b36010000",
    "7203fe00000000000000000000000010000000 0103026d6500fb60ea015afde3d39ab611234df7f\
     b2c01fb2c01fc2c889303",
    "720400 010401015bfdc850c7b1f5cfc6d500040176010300fb3301",
    "720500 01040100fd38ed259f43a61a6b00050166010402fb3501",
    "72060176 0105017803026d65fa06",
    "720700 010602017603026d650000fa00000100fa00016604026d650000fa00000102fa010762656\
     361757365",
    "7208 010701",
    "720903612f31 01080201ff01",
];

#[test]
fn the_bytes_of_every_row_in_sled_are_fixed() {
    let dir = directory();
    let path = dir.path().join("view");
    let options = ViewOptions { cluster_id: CLUSTER, cache_bytes: 1 << 20 };
    let rows = image(&machine());
    let view = View::build(&path, options, rows.clone().into_iter().map(Ok), &position());
    view.expect("build").close();
    let db = open_unlocked(&sled::Config::new().path(path)).expect("sled");
    let found = db.iter().map(|item| {
        let (key, value) = item.expect("readable");
        let key = match key.strip_prefix(b"meta/") {
            Some(name) => format!("meta/{}", String::from_utf8_lossy(name)),
            None => hex(&key),
        };
        format!("{key} {}", hex(&value))
    });
    assert_eq!(found.collect::<Vec<_>>(), ROWS);

    // And no kind of row is missing.
    let tags = |tag: fn(&(RowKey, Row)) -> Vec<u8>| -> BTreeSet<u8> {
        rows.iter().map(|row| tag(row)[0]).collect()
    };
    let keys = tags(|(key, _)| codec::encode(key));
    let values = tags(|(_, row)| codec::encode(&row.value));
    assert_eq!((keys, values), ((0..10).collect(), (0..9).collect()));
    let beyond = codec::decode::<RowKey>(&[10]).expect_err("a key that is not listed");
    assert!(beyond.to_string().contains("expected variant"), "{beyond}");
    let beyond = codec::decode::<Row>(&[1, 9]).expect_err("a row that is not listed");
    assert!(beyond.to_string().contains("expected variant"), "{beyond}");
}

#[test]
fn the_bytes_of_a_snapshot_are_fixed() {
    let dir = directory();
    let files: Arc<dyn Files> = Arc::new(Disk::open(dir.path()).expect("open"));
    let Position { last_applied: last_log_id, membership: last_membership } = position();
    let meta = SnapshotMeta { last_log_id, last_membership };
    let header = Header::new(CLUSTER, meta, 2);
    let mut writer = SnapshotWriter::create(&files, "file".to_owned(), header).expect("create");
    let mut sum = 0_u64;
    for (key, value) in [(&b"k"[..], &b"value"[..]), (b"l", b"")] {
        writer.push(key, value).expect("push");
        sum = sum.wrapping_add(crate::raft::store::view::row_hash(key, value));
    }
    let file = writer.finish(sum).expect("finish");
    let mut bytes = vec![0; usize::try_from(file.bytes()).expect("small")];
    file.read_at(&mut bytes, 0).expect("read");
    let mut parts = Vec::new();
    while !bytes.is_empty() {
        let length = u32::from_le_bytes([bytes[2], bytes[3], bytes[4], bytes[5]]) as usize;
        let rest = bytes.split_off(length + codec::FRAME_BYTES);
        parts.push(hex(&bytes));
        bytes = rest;
    }
    assert_eq!(
        parts,
        [
            "01485600000001fe00000000000000000060010000000000010401fb2c0101010107010101020103\
         703a3103613a32fe000000000000000000000000100000000203703a3103613a32fe000000000000\
         0000000000001000000000026d7ab65e",
            "014217000000010000006b0500000076616c7565010000006c00000000f62f624c",
            "01540b00000002fd8e0ba18b11c5578781c9e8b021"
        ]
    );
}

#[test]
fn the_bytes_of_the_pointer_and_of_an_identity_are_fixed() {
    let dir = directory();
    let home = crate::raft::store::home::Home::open(dir.path()).expect("open");
    home.switch(&dir.path().join("state-12")).expect("switch");
    let pointer = std::fs::read(dir.path().join("CURRENT")).expect("read");
    assert_eq!(hex(&pointer), "01430800000073746174652d3132d7ac2bc5");

    let members = position().membership.nodes().map(|(id, node)| (*id, node.clone())).collect();
    let identity =
        Identity { cluster_id: CLUSTER, node_id: 2, members, joined: true, invited: false };
    identity.save(dir.path()).expect("save");
    let written = std::fs::read(dir.path().join("identity")).expect("read");
    assert_eq!(
        hex(&written),
        "014148000000fe0000000000000000006001000000000002020103703a3103613a32fe0000000000\
         00000000000000100000000203703a3103613a32fe000000000000000000000000100000000129bc\
         b435"
    );
    let invited = Identity { invited: true, ..identity };
    invited.save(dir.path()).expect("save");
    let written = std::fs::read(dir.path().join("identity")).expect("read");
    assert!(hex(&written).starts_with("014a48000000fe00"), "{}", hex(&written));
}
