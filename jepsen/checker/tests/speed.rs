//! A long history gets a verdict. How long that takes is printed: a second is the aim for 2,000 calls on one
//! lock, but no test fails because a machine is slow.

use super::generated::legal;
use super::*;

#[test]
fn two_thousand_calls_on_one_lock_get_a_verdict() {
    let records = legal(7, 1, 2_000);
    assert!(records.operations.len() >= 2_000, "{}", records.operations.len());
    let began = std::time::Instant::now();
    let verdict = check(&records);
    let took = began.elapsed();
    assert_eq!(verdict.as_result(), Ok(()));
    eprintln!("2,000 calls on one lock were judged in {took:.1?}");
}
