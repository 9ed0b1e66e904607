//! What a leader does about members by itself.

use oarlock_core::command::Expected;
use oarlock_core::ids::{RecordKey, RecordValue};

use super::*;
use crate::service::members::{Join, MembersCall, MembersReply};

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

#[tokio::test(start_paused = true)]
async fn that_a_member_leaves_is_noted_before_the_change_is_asked_for() {
    for call in
        [MembersCall::Remove { node_id: 1, force: false }, MembersCall::Replace { old: 1, new: 2 }]
    {
        let (_solo, service) = leader();
        let reply = service.call(Call::Members(call), REQUEST_DEADLINE).await.expect("answered");
        // It refuses what would come after the note, and leaves the note: a change may be half way.
        let refused = matches!(reply.body, ReplyBody::Members(MembersReply::Refused(_)));
        assert!(refused, "{:?}", reply.body);
        assert!(is_there(&service, "leaving/1") && !is_there(&service, "removed/1"));
    }
    // Who is no member leaves no note.
    let (_solo, service) = leader();
    let call = Call::Members(MembersCall::Remove { node_id: 9, force: false });
    service.call(call, REQUEST_DEADLINE).await.expect("answered");
    assert!(!is_there(&service, "leaving/9") && !is_there(&service, "removed/9"));
}

#[tokio::test(start_paused = true)]
async fn f94_a_machine_with_a_misleading_address_is_refused_and_may_ask_again() {
    let (_solo, service) = leader();
    let ask = async |call| {
        let reply = service.call(Call::Members(call), REQUEST_DEADLINE).await.expect("answered");
        let ReplyBody::Members(reply) = reply.body else { panic!("{reply:?}") };
        reply
    };
    let invite = MembersCall::Invite { node_id: None, ttl_ms: 60_000 };
    let MembersReply::Invited { token, .. } = ask(invite).await else { panic!("not invited") };
    let join = |instance_id, peer: &str, api: &str| {
        let (peer_address, api_address) = (peer.to_owned(), api.to_owned());
        MembersCall::Join(Box::new(Join {
            token: token.clone(),
            instance_id,
            peer_address,
            api_address,
        }))
    };
    let (good, inside) = ("node-2:7401", "169.254.169.254:80");
    for (peer, api) in [(good, inside), (inside, good)] {
        let refused = ask(join(101, peer, api)).await;
        let address = MembersRefusal::Address(inside.to_owned());
        assert_eq!(refused, MembersReply::Refused(address));
    }
    // Its invitation is not used up by that.
    let joined = ask(join(102, good, "node-2:7400")).await;
    assert!(matches!(joined, MembersReply::Joined(_)), "{joined:?}");
}
