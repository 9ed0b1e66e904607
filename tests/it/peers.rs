//! Defects of peers that no other test recreates; docs/peers-defects.md lists all of them.

use crate::cluster::{Cluster, eventually};
use crate::http::ask;
use std::time::Duration;

const LONG: Duration = Duration::from_mins(1);

#[test]
fn f2_a_node_cut_from_its_majority_never_grants() {
    let mut cluster = Cluster::start();
    let leader = cluster.leader(None);
    let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    cluster.kill(leader);
    cluster.kill(others[0]);
    for n in 0..5 {
        let path = format!("/v1/locks/cut/{n}");
        let answer =
            ask(cluster.api(others[1]), "POST", &path, r#"{"owner":"a","ttl_ms":1000}"#, LONG);
        let status = answer.expect("it does not hang").status;
        assert!(status == 503 || status == 504, "{status}");
    }
}

#[test]
fn f3_a_waiter_is_granted_when_its_holder_dies_and_nothing_else_moves() {
    let cluster = Cluster::start();
    let held = cluster.acquire("quiet", r#"{"owner":"dead","ttl_ms":1500}"#);
    assert_eq!(held.status, 200);
    let granted = cluster.acquire("quiet", r#"{"owner":"next","ttl_ms":60000,"wait_ms":30000}"#);
    assert_eq!(granted.status, 200, "{granted:?}");
    assert!(granted.number("token") > held.number("token"));
}

#[test]
fn f7_a_lock_is_not_released_by_a_get_or_by_a_stranger() {
    let cluster = Cluster::start();
    let held = cluster.acquire("mine", r#"{"owner":"me","ttl_ms":600000}"#);
    let lease = format!("/v1/leases/{}", held.text("lease_id"));
    assert_eq!(cluster.insist("GET", &lease, "").status, 200);
    assert_eq!(cluster.insist("DELETE", "/v1/locks/mine", "").status, 400);
    let unknown = "/v1/leases/00000000000000000000000000000000";
    assert_eq!(cluster.insist("DELETE", unknown, "").status, 404);
    let look = cluster.insist("GET", "/v1/locks/mine", "");
    assert_eq!(look.body["holders"][0]["owner"], "me");
    // Who may not prove to be the holder takes it by force, says why, and that is on record.
    let force = format!("/v1/locks/mine?token={}&reason=the+job+hung", held.number("token"));
    assert_eq!(cluster.insist("DELETE", &force.replace('+', "%20"), "").status, 200);
    let told = (1..=3).any(|id| {
        let audited = |line: &str| line.contains("force release") && line.contains("the job hung");
        cluster.log(id).lines().any(audited)
    });
    assert!(told, "no log tells of it");
    let past = cluster.insist("GET", "/v1/history/mine", "");
    assert_eq!(past.body["grants"][0]["reason"], "the job hung");
}

#[test]
fn f11_a_queue_moves_on_past_waiters_whose_connections_died() {
    let cluster = Cluster::start();
    let held = cluster.acquire("queue", r#"{"owner":"first","ttl_ms":600000}"#);
    let body = r#"{"owner":"dead","ttl_ms":1000,"wait_ms":600000,"grace_ms":200}"#;
    let dead: Vec<_> = (1..=3)
        .map(|id| crate::http::send_only(cluster.api(id), "POST", "/v1/locks/queue", body))
        .collect();
    eventually("they wait", || {
        let lock = cluster.get(1, "/v1/locks/queue").ok()?;
        (lock.number("queue_length") == 3).then_some(())
    });
    drop(dead);
    cluster.insist("DELETE", &format!("/v1/leases/{}", held.text("lease_id")), "");
    let next = cluster.acquire("queue", r#"{"owner":"alive","ttl_ms":60000,"wait_ms":30000}"#);
    assert_eq!(next.status, 200, "{next:?}");
}

#[test]
fn f22_a_refusal_names_the_holder_and_not_the_one_who_asks() {
    let cluster = Cluster::start();
    cluster.acquire("taken", r#"{"owner":"holder","ttl_ms":600000}"#);
    for id in 1..=3 {
        let asking = r#"{"owner":"asker","ttl_ms":1000}"#;
        let refused = ask(cluster.api(id), "POST", "/v1/locks/taken", asking, LONG);
        let refused = refused.expect("an answer");
        assert_eq!((refused.status, &refused.body["holders"][0]["owner"]), (409, &"holder".into()));
        assert!(
            refused.text("detail").contains("holder") && !refused.text("detail").contains("asker")
        );
    }
}
