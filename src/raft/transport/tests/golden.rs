//! The bytes of every peer message. A change here is a change of the protocol: nodes of two builds
//! would no longer understand each other. It needs a new `PROTOCOL`, not a new expectation.
//!
//! The bodies of commands and outcomes are the log's and the core's; each is here once, inside the
//! message that carries it.

use std::collections::BTreeMap;
use std::fmt::Debug;

use oarlock_core::command::{Command, Entry, LEVEL, Mode};
use oarlock_core::history::{HistoryPage, PastEnd, PastGrant};
use oarlock_core::ids::{LeaseId, LockName, Metadata, Owner, SessionId, Token};
use oarlock_core::outcome::{EndReason, Holder, Outcome};
use oarlock_core::query::{LeaseView, LockPage, LockView, SessionView};
use oarlock_core::time::LeaseTime;
use openraft::raft::{
    AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, VoteRequest, VoteResponse,
};
use openraft::{EntryPayload, Membership};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::fake::{append, identity, log_id, vote};
use crate::raft::store::codec;
use crate::raft::transport::marks::Mark;
use crate::raft::transport::wire::{
    self, Beacon, Bytes, Hello, HelloReply, KIND_HELLO, KIND_WELCOME, PROTOCOL, ProbeReply,
    Purpose, Request, Response, Welcome,
};
use crate::raft::types::{LogEntry, Member, Proposal, SnapshotMeta, StoredMembership};
use crate::service::error::ServiceError;
use crate::service::members::token::{JoinToken, Secret};
use crate::service::members::{
    Join, KnownMember, MembersCall, MembersRefusal, MembersReply, TokenProblem,
};
use crate::service::replicator::{Call, Query, Reply, ReplyBody, Transfer};
use crate::service::tokens::{TokensCall, TokensRefusal, TokensReply};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// Every message encodes as it is written here, and reads back as itself. `T` has no variant
/// beyond those listed.
fn assert_golden<T: Serialize + DeserializeOwned + Debug>(golden: &[(T, &str)]) {
    let (mut tags, mut wrong) = (Vec::new(), Vec::new());
    for (message, expected) in golden {
        let bytes = codec::encode(message);
        tags.extend(bytes.first().copied());
        if hex(&bytes) != *expected {
            wrong.push(format!("{message:?}\n  is \"{}\"\n not \"{expected}\"", hex(&bytes)));
        }
        let again: T = codec::decode(&bytes).expect("it decodes");
        assert_eq!(format!("{again:?}"), format!("{message:?}"));
    }
    assert!(wrong.is_empty(), "the protocol changed:\n{}", wrong.join("\n"));
    tags.dedup();
    let count = u8::try_from(tags.len()).expect("few");
    assert_eq!(tags, (0..count).collect::<Vec<_>>(), "each variant is listed, in order");
    let beyond = codec::decode::<T>(&[count]).expect_err("no such variant").to_string();
    let unknown = beyond.contains("expected variant") || beyond.contains("`Ok` or `Err`");
    assert!(unknown, "a variant is not listed: {beyond}");
}

fn name() -> LockName {
    LockName::new("a/b").expect("a name")
}

fn owner() -> Owner {
    Owner::new("me").expect("an owner")
}

fn join() -> Join {
    Join {
        token: JoinToken { cluster_id: 7, node_id: 4, secret: Secret(8) },
        instance_id: 101,
        peer_address: "z:1".to_owned(),
        api_address: "a:2".to_owned(),
    }
}

fn meta() -> SnapshotMeta {
    let node = |id: u64| {
        let (peer_address, api_address) = (format!("p{id}:1"), format!("a{id}:2"));
        (id, Member { peer_address, api_address, instance_id: u128::from(id) << 64 })
    };
    let nodes: BTreeMap<_, _> = (1..=2).map(node).collect();
    let membership = Membership::new(vec![[1].into()], nodes).expect("a membership");
    let last_membership = StoredMembership::new(Some(log_id(4)), membership);
    SnapshotMeta { last_log_id: Some(log_id(300)), last_membership }
}

#[test]
fn the_bytes_of_a_hello_and_its_answers_are_fixed() {
    let hello = |purpose| Hello {
        protocol: PROTOCOL,
        purpose,
        cluster_id: Some(7),
        from: 1,
        instance_id: 101,
        to: 2,
        mark: None,
        level: 1,
    };
    let frame = wire::frame(KIND_HELLO, 5, &hello(Purpose::Append));
    assert_eq!(hex(&frame), "01681100000005000000000000000600010701650200011e77a742");
    let welcome: HelloReply =
        Ok(Welcome { cluster_id: Some(7), node_id: 2, instance_id: 102, mark: None, level: 1 });
    assert_eq!(
        hex(&wire::frame(KIND_WELCOME, 0, &welcome)),
        "01770f00000000000000000000000001070266000159f08d23"
    );
    assert_golden(&[(welcome, "00010702660001"), (Err("no".to_owned()), "01026e6f")]);
    assert_golden(&[
        (Purpose::Append, "00"),
        (Purpose::Control, "01"),
        (Purpose::Snapshot, "02"),
        (Purpose::Birth, "03"),
    ]);
    let mark = Mark { process: 7, vote: Some(vote()), last: Some(log_id(9)) };
    assert_eq!(hex(&codec::encode(&mark)), "070103010101030109");
    assert_eq!(hex(&codec::encode(&Mark::default())), "000000");
    let unborn = Hello { cluster_id: None, ..hello(Purpose::Birth) };
    assert_eq!(hex(&codec::encode(&unborn)), "0603000165020001");
}

#[test]
fn the_bytes_of_a_request_are_fixed() {
    let frame = wire::request(5, &Request::Ping);
    assert_eq!(hex(&frame), "01710900000005000000000000000bf1d666db");
    let commands = vec![(LeaseTime(5), Command::DetachAll)];
    let proposal = Proposal(Entry { level: LEVEL, wall_ms: 250, commands });
    let entry = |index, payload| LogEntry { log_id: log_id(index), payload };
    let mut appended = append(8);
    appended.leader_commit = Some(log_id(7));
    appended.entries.push(entry(9, EntryPayload::Normal(proposal)));
    let members = meta().last_membership.membership().clone();
    appended.entries.push(entry(10, EntryPayload::Membership(members)));
    let mut asked = VoteRequest::new(vote(), Some(log_id(9)));
    asked.leadership_transfer = true;
    assert_golden(&[
        (
            Request::Append(appended),
            "000301010103010703030108000301090101fa01050403010a0201010102010470313a310461313a32fe0000\
             0000000000000100000000000000020470323a310461323a32fe000000000000000002000000000000000103\
             0107",
        ),
        (Request::Vote(asked), "010301010103010901"),
        (Request::PreVote(VoteRequest::new(vote(), None)), "020301010000"),
        (
            Request::Transfer(TransferLeaderRequest::new(vote(), 2, Some(log_id(9)))),
            "030301010201030109",
        ),
        (
            Request::SnapshotBegin { vote: vote(), meta: meta(), bytes: 70_000 },
            "04030101010301fb2c010103010401010102010470313a310461313a32fe0000000000000000010000000000\
             0000020470323a310461323a32fe0000000000000000020000000000000000fc70110100",
        ),
        (Request::SnapshotChunk { offset: 300, bytes: Bytes(vec![1, 0xff]) }, "05fb2c010201ff"),
        (
            Request::Call(Call::Read(Query::Lease(LeaseId(1 << 100)))),
            "060102fe00000000000000000000000010000000",
        ),
        (Request::Cancel, "07"),
        (
            Request::Beacon(Beacon {
                leader_id: 1,
                term: 3,
                quorum_age_ms: Some(20),
                lease_time: LeaseTime(1_000_000),
                applied_index: 9,
            }),
            "0801030114fc40420f0009",
        ),
        (Request::Probe, "09"),
        (Request::Birth(identity(1, 7)), "0a07010301000065020000660300006701"),
        (Request::Ping, "0b"),
        (Request::Join(Box::new(join())), "0c07040865037a3a3103613a32"),
        (Request::CallAs("ab".to_owned(), Call::Position), "0d02616202"),
    ]);
}

#[test]
fn the_bytes_of_a_response_are_fixed() {
    let frame = wire::response(5, &Response::Pong);
    assert_eq!(hex(&frame), "017209000000050000000000000009cc5954c6");
    let probe = ProbeReply {
        node_id: 2,
        first_members: vec![(1, "h:1".to_owned())],
        identity: Some(identity(2, 7)),
    };
    let reply = Reply { now: LeaseTime(5), body: ReplyBody::Outcome(Outcome::Done) };
    assert_golden(&[
        (Response::Append(AppendEntriesResponse::Success), "0000"),
        (Response::Append(AppendEntriesResponse::PartialSuccess(Some(log_id(9)))), "000101030109"),
        (Response::Append(AppendEntriesResponse::Conflict), "0002"),
        (Response::Append(AppendEntriesResponse::HigherVote(vote())), "0003030101"),
        (Response::Vote(VoteResponse::new(vote(), Some(log_id(9)), true)), "010301010101030109"),
        (Response::Transfer(Ok(())), "0200"),
        (Response::SnapshotWanted, "03"),
        (Response::Snapshot(SnapshotResponse::new(vote())), "04030101"),
        (Response::Call(Ok(reply)), "0500050000"),
        (Response::Call(Err(ServiceError::Leaving)), "050105"),
        (Response::Probe(probe), "0602010103683a310107020301000065020000660300006701"),
        (Response::Birth(Ok(())), "0700"),
        (Response::Birth(Err("no".to_owned())), "0701026e6f"),
        (Response::Failed("no".to_owned()), "08026e6f"),
        (Response::Pong, "09"),
        (Response::Join(Ok(MembersReply::Changed)), "0a0002"),
        (Response::Join(Err("no".to_owned())), "0a01026e6f"),
    ]);
}

#[test]
fn the_bytes_of_a_forwarded_call_are_fixed() {
    assert_golden(&[
        (Call::Propose(Command::Release { lease_id: LeaseId(9) }), "000609"),
        (Call::Read(Query::Token(Token(300))), "0106fb2c01"),
        (Call::Position, "02"),
        (Call::TransferLeader(Some(2)), "030102"),
        (Call::Members(MembersCall::Promote(4)), "040204"),
        (Call::Tokens(TokensCall::Revoke { id: "ab".to_owned() }), "0501026162"),
    ]);
    assert_golden(&[
        (Query::Lock { name: name(), waiters_max: 300 }, "0003612f62fb2c01"),
        (
            Query::Locks { prefix: "a".to_owned(), after: Some("a/b".to_owned()), limit: 7 },
            "0101610103612f6207",
        ),
        (Query::Lease(LeaseId(9)), "0209"),
        (Query::Session(SessionId(9)), "0309"),
        (Query::Fence { name: name(), token: Token(300) }, "0403612f62fb2c01"),
        (
            Query::History { name: name(), before: Some(Token(300)), limit: 7 },
            "0503612f6201fb2c0107",
        ),
        (Query::Token(Token(300)), "06fb2c01"),
    ]);
    assert_golden(&[
        (ServiceError::NoLeader, "00"),
        (ServiceError::Overloaded("o".to_owned()), "01016f"),
        (ServiceError::ShuttingDown, "02"),
        (ServiceError::Unknown("u".to_owned()), "030175"),
        (ServiceError::NotLeader(Some(2)), "040102"),
        (ServiceError::Leaving, "05"),
        (ServiceError::Unauthenticated("u".to_owned()), "060175"),
        (ServiceError::Forbidden("f".to_owned()), "070166"),
        (ServiceError::Revoked, "08"),
        (ServiceError::OverQuota { what: "w".to_owned(), limit: 300 }, "090177fb2c01"),
    ]);
}

#[test]
fn the_bytes_of_a_reply_are_fixed() {
    let holder = Holder {
        owner: owner(),
        mode: Mode::Shared,
        token: Token(300),
        granted_at: LeaseTime(5),
        since_wall_ms: 250,
        renewed_at: LeaseTime(6),
        deadline: Some(LeaseTime(7)),
        metadata: Metadata::default(),
        in_session: true,
    };
    let lock = LockView {
        name: name(),
        holders: vec![holder.clone()],
        holder_count: 1,
        waiters: vec![],
        queue_length: 0,
        last_token: Some(Token(300)),
        token_ceiling: Token(301),
        revision: None,
        now: LeaseTime(6),
        closed_until: None,
        value: None,
    };
    let page = LockPage { locks: vec![], next: Some(name()), now: LeaseTime(6) };
    let end = PastEnd { how: EndReason::Forced, wall_ms: 251, reason: None };
    let past = PastGrant {
        name: name(),
        token: Token(300),
        owner: owner(),
        mode: Mode::Exclusive,
        metadata: Metadata::default(),
        granted_wall_ms: 250,
        waited_ms: 1,
        held_ms: 2,
        end: Some(end),
    };
    assert_golden(&[
        (ReplyBody::Outcome(Outcome::Done), "0000"),
        (
            ReplyBody::Lock(lock),
            "0103612f6201026d6501fb2c0105fa060107000101000001fb2c01fb2d0100060000",
        ),
        (ReplyBody::Locks(page), "02000103612f6206"),
        (ReplyBody::Lease(LeaseView::Unknown), "0303"),
        (ReplyBody::Session(SessionView::Ended { how: EndReason::SessionExpired }), "040104"),
        (ReplyBody::Fence(Some(holder)), "0501026d6501fb2c0105fa0601070001"),
        (
            ReplyBody::History(HistoryPage { grants: vec![], next: Some(Token(300)) }),
            "060001fb2c01",
        ),
        (ReplyBody::Grant(Some(past)), "070103612f62fb2c01026d650000fa01020102fbfb0000"),
        (ReplyBody::Position(300), "08fb2c01"),
        (ReplyBody::Transfer(Transfer::To(3)), "090003"),
        (ReplyBody::Members(MembersReply::Changed), "0a02"),
        (ReplyBody::Tokens(TokensReply::Created), "0b00"),
    ]);
}

#[test]
fn the_bytes_of_changes_of_the_credentials_are_fixed() {
    let create = TokensCall::Create {
        id: "ab".to_owned(),
        name: "n".to_owned(),
        hash: Some([1; 32]),
        rights: vec!["admin".to_owned()],
        ttl_ms: Some(300),
        waiting: None,
        streams: None,
        requests_per_second: Some(7),
        locks: Some(9),
        sessions: None,
        first: true,
    };
    assert_golden(&[
        (
            create,
            "00026162016e01010101010101010101010101010101010101010101010101010101010101010101056164\
             6d696e01fb2c010000010701090001",
        ),
        (TokensCall::Revoke { id: "ab".to_owned() }, "01026162"),
    ]);
    assert_golden(&[
        (TokensReply::Created, "00"),
        (TokensReply::Revoked { existed: true }, "0101"),
        (TokensReply::Refused(TokensRefusal::LastAdmin), "0201"),
    ]);
    assert_golden(&[
        (TokensRefusal::Exists, "00"),
        (TokensRefusal::LastAdmin, "01"),
        (TokensRefusal::TooMany { limit: 300 }, "02fb2c01"),
        (TokensRefusal::TooLarge, "03"),
    ]);
}

#[test]
fn the_bytes_of_changes_of_the_members_are_fixed() {
    let token = join().token;
    assert_golden(&[
        (MembersCall::Invite { node_id: Some(4), ttl_ms: 300 }, "000104fb2c01"),
        (MembersCall::Join(Box::new(join())), "0107040865037a3a3103613a32"),
        (MembersCall::Promote(4), "0204"),
        (MembersCall::Remove { node_id: 4, force: true }, "030401"),
        (MembersCall::Replace { old: 1, new: 4 }, "040104"),
    ]);
    let known = KnownMember {
        node_id: 4,
        peer_address: "z:1".to_owned(),
        api_address: "a:2".to_owned(),
        instance_id: 101,
    };
    assert_golden(&[
        (MembersReply::Invited { token, expires_in_ms: 300 }, "00070408fb2c01"),
        (MembersReply::Joined(vec![known]), "010104037a3a3103613a3265"),
        (MembersReply::Changed, "02"),
        (MembersReply::Refused(MembersRefusal::Busy), "0303"),
    ]);
    assert_golden(&[
        (MembersRefusal::NoSuchMember(4), "0004"),
        (MembersRefusal::IdUsed { next: 5 }, "0105"),
        (MembersRefusal::Behind { node_id: 4, entries: Some(300) }, "020401fb2c01"),
        (MembersRefusal::Busy, "03"),
        (MembersRefusal::TooFew { left: 2 }, "0402"),
        (MembersRefusal::OutOfTouch { answer: 1, needed: 2 }, "050102"),
        (MembersRefusal::Token(TokenProblem::Used), "0603"),
        (MembersRefusal::IdTooHigh { highest: 9 }, "0709"),
        (MembersRefusal::Address("a:0".to_owned()), "0803613a30"),
    ]);
    assert_golden(&[
        (TokenProblem::OtherCluster, "00"),
        (TokenProblem::Unknown, "01"),
        (TokenProblem::Expired, "02"),
        (TokenProblem::Used, "03"),
        (TokenProblem::Removed, "04"),
    ]);
}
