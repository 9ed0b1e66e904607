//! What a leader does about members by itself.

use oarlock_core::command::Expected;
use oarlock_core::ids::{RecordKey, RecordValue};

use super::*;

async fn put(service: &Service<Solo>, under: &str) {
    let key = RecordKey::new(under).expect("a key");
    let value = Some(RecordValue::new(b"1").expect("a value"));
    let command = Command::PutRecord { key, value, expected: Expected::Absent };
    let put = service.replicator.propose(command).await.expect("proposed");
    assert!(matches!(put, Outcome::RecordPut(_)), "{put:?}");
}

fn is_there(service: &Service<Solo>, under: &str) -> bool {
    let key = RecordKey::new(under).expect("a key");
    service.replicator.with_machine(|machine| machine.cluster_record(&key).is_some())
}

#[tokio::test(start_paused = true)]
async fn a_removal_that_lost_its_leader_before_its_record_is_recorded_by_the_next() {
    let (_solo, service) = leader();
    for under in ["leaving/1", "leaving/4", "invite/4"] {
        put(&service, under).await;
    }
    let recorded = async {
        while is_there(&service, "leaving/4") {
            sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), recorded).await.expect("in time");
    assert!(is_there(&service, "removed/4") && !is_there(&service, "invite/4"));
    // This one is a member still: its removal was refused, or is yet to come.
    assert!(is_there(&service, "leaving/1") && !is_there(&service, "removed/1"));
}
