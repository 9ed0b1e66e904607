//! Bytes of the disk decode to what encodes to them again, or are refused; and whatever commands
//! decode can be applied (the core is total).

use oarlock::raft::store::codec;
use oarlock_core::command::{Acquire, Command, Entry, LEVEL, LeaseTerm, Mode};
use oarlock_core::ids::{LeaseId, LockName, Metadata, Owner, RequestId};
use oarlock_core::image::{Row, RowKey};
use oarlock_core::machine::Machine;
use oarlock_core::time::{Grace, LeaseTime, LockDelay, Ttl, Wait};

pub(crate) fn run(data: &[u8]) {
    if let Ok(frame) = codec::parse(data, 0) {
        let mut again = Vec::new();
        codec::frame(frame.kind, 0, &mut again, |bytes| bytes.extend_from_slice(frame.payload));
        assert!(data.starts_with(&again), "a frame has one form");
    }
    if let Ok(key) = codec::decode::<RowKey>(data) {
        assert_eq!(codec::decode::<RowKey>(&codec::encode(&key)).ok(), Some(key));
    }
    if let Ok(row) = codec::decode::<Row>(data) {
        assert_eq!(codec::decode::<Row>(&codec::encode(&row)).ok(), Some(row));
    }
    if let Ok(entry) = codec::decode::<Entry>(data) {
        assert_eq!(codec::decode::<Entry>(&codec::encode(&entry)).ok().as_ref(), Some(&entry));
        let mut machine = Machine::new();
        if machine.apply(&entry).is_ok() {
            machine.check().expect("the invariants hold after any entry");
        }
    }
}

/// An entry with a command of each size.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let acquire = |id: u128| {
        Command::Acquire(Acquire {
            lease_id: LeaseId(id),
            name: LockName::new("deploy/prod").expect("a name"),
            owner: Owner::new("me").expect("an owner"),
            mode: if id.is_multiple_of(2) { Mode::Shared } else { Mode::Exclusive },
            term: LeaseTerm::Ttl(Ttl::new(1_000).expect("a TTL")),
            wait: Wait::new(5_000).expect("a wait"),
            grace: Grace::new(100).expect("a grace"),
            request_id: Some(RequestId(id + 7)),
            metadata: Metadata::default(),
            lock_delay: LockDelay::new(50).expect("a lock-delay"),
        })
    };
    let commands = vec![
        (LeaseTime(1), acquire(1)),
        (LeaseTime(2), acquire(2)),
        (LeaseTime(3), Command::Renew { lease_id: LeaseId(1) }),
        (LeaseTime(4), Command::Release { lease_id: LeaseId(1) }),
        (LeaseTime(900_000), Command::Advance),
        (LeaseTime(900_000), Command::DetachAll),
    ];
    let entry = codec::encode(&Entry { level: LEVEL, wall_ms: 0, commands });
    let mut frame = Vec::new();
    codec::frame(1, 0, &mut frame, |bytes| bytes.extend_from_slice(&entry));
    vec![entry, frame]
}
