//! The bytes of every record of the log. A change here is a change of the format: logs of other
//! builds could not be read. It needs a new version, not a new expectation.

use super::*;
use crate::raft::store::log::record::{self, Header, Record};
use crate::raft::store::log::summary::Summary;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

#[test]
fn the_bytes_of_every_record_are_fixed() {
    let summary = Summary {
        vote: Some(vote(3)),
        purged: Some(log_id(2, 4)),
        committed: Some(log_id(3, 300)),
        first: Some(5),
        last: Some(log_id(3, 301)),
    };
    let records = [
        ("header", Record::header(&Header { sequence: 2, summary })),
        ("blank entry", Record::entry(&blank(3, 300))),
        ("vote", Record::vote(vote(3))),
        ("truncate", Record::truncate_after(Some(log_id(2, 4)))),
        ("truncate all", Record::truncate_after(None)),
        ("purge", Record::purge(log_id(2, 4))),
        ("committed", Record::committed(log_id(3, 300))),
        ("seal", Record::seal()),
    ];
    let mut segment = Vec::new();
    let mut found = Vec::new();
    for (name, record) in &records {
        let begin = segment.len();
        record.write(2, begin as u64, begin as u64 / 2, &mut segment);
        found.push(format!("{name} {}", hex(&segment[begin..])));
        record::read(&segment, 2, begin).expect("it reads back");
    }
    let expected = [
        "header 01011f0000000000000000000000020103010101020104010301fb2c010105010301fb2d01d9ef22ca",
        "blank entry 01020e00000014000000000000000301fb2c0100b8a74722",
        "vote 01030b0000002000000000000000030101806077cb",
        "truncate 01040c0000002b0000000000000001020104ce5eb4c1",
        "truncate all 010409000000360000000000000000f713762e",
        "purge 01050b0000003f0000000000000002010405ba58cb",
        "committed 01060d0000004a000000000000000301fb2c01e6e20b0e",
        "seal 0107080000005500000000000000247ca655",
    ];
    assert_eq!(found, expected, "{found:#?}");
}
