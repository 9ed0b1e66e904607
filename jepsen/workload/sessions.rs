//! Sessions: a lease lives as long as its session, which is renewed, now and then while it keeps a
//! lease, and then left.

use std::time::Duration;

use oarlock_client::wire::SessionRequest;

use super::Worker;
use super::calls::{Term, outcome};
use crate::history::{Answer, Call};

pub(super) async fn run(mut worker: Worker) {
    while worker.goes_on() {
        let (session, ttl_ms) = (worker.next_number(), worker.some_ttl_ms());
        let Some(session_id) = worker.open(session, ttl_ms).await else { continue };
        for _ in 0..=worker.chance.below(3) {
            let is_clear = hold(&mut worker, session, ttl_ms, &session_id).await;
            // A lease that may be held still would be taken again with its old token.
            if !is_clear || !worker.renew_session(session, ttl_ms, &session_id).await {
                break;
            }
        }
        if worker.once_in(2) {
            worker.close(session, &session_id).await;
        }
    }
}

/// Takes one lock under the session and gives it back, unless it is left to the session. Whether
/// nothing is held any more.
async fn hold(worker: &mut Worker, session: u64, ttl_ms: u64, session_id: &str) -> bool {
    let ask = worker.locks.exclusive(&mut worker.chance);
    let mut wanted = worker.wants(vec![ask]);
    wanted.wait_ms = 500;
    wanted.term = Term::Session(session, session_id.to_owned());
    let Some(held) = worker.acquire(0, &wanted).await else { return false };
    if worker.once_in(2) {
        worker.renew_session(session, ttl_ms, session_id).await;
    }
    let pause = Duration::from_millis(worker.chance.below(80));
    tokio::time::sleep(pause.min(held.trust.left().unwrap_or_default())).await;
    if held.believes() {
        worker.write(&held);
    }
    if worker.once_in(4) {
        worker.history.left();
        return false;
    }
    worker.release(held).await
}

impl Worker {
    async fn open(&self, session: u64, ttl_ms: u64) -> Option<String> {
        self.turn().await;
        let owner = format!("session of {}", self.number);
        let request = SessionRequest { owner, ttl_ms, request_id: None, metadata: None };
        let called_at = self.now();
        let result = self.clients[0].open_session(request).await;
        let call = Call::OpenSession { session, ttl_ms };
        self.record(0, (called_at, self.now()), call, outcome(&result, |_| Answer::Done));
        result.ok().map(|session| session.session_id)
    }

    async fn renew_session(&self, session: u64, ttl_ms: u64, session_id: &str) -> bool {
        self.turn().await;
        let called_at = self.now();
        let result = self.clients[0].renew_session(session_id).await;
        let call = Call::RenewSession { session, ttl_ms };
        self.record(0, (called_at, self.now()), call, outcome(&result, |_| Answer::Done));
        result.is_ok()
    }

    async fn close(&self, session: u64, session_id: &str) {
        self.count();
        let called_at = self.now();
        let result = self.clients[0].close_session(session_id).await;
        let call = Call::CloseSession { session };
        self.record(0, (called_at, self.now()), call, outcome(&result, |_| Answer::Done));
    }
}
