//! Sessions: opened, renewed, closed, or forgotten until they expire.

use oarlock::service::replicator::{Call, Reply};
use oarlock_core::command::{Command, OpenSession};
use oarlock_core::ids::{Metadata, Owner, RequestId, SessionId};
use oarlock_core::outcome::{Outcome, Rejection};
use oarlock_core::time::Ttl;

use super::conclude::outcome;
use super::work::{Client, PATIENT};
use crate::invariants::Told;

impl Client {
    pub(super) async fn renew_session(&mut self) {
        let Some((session_id, ttl_ms)) = self.session else { return };
        let _in_flight = self.outside.evidence.renewing();
        let call = Call::Propose(Command::RenewSession { session_id });
        let conclude = |reply: &Reply| match outcome(reply) {
            Some(Outcome::SessionRenewed(_)) => Told::Session { session_id, ttl_ms },
            other => Told::Refused(format!("{other:?}")),
        };
        self.ask(call, PATIENT, conclude).await;
    }

    /// Opens a session, or renews, closes or forgets the one it has.
    pub(super) async fn change_session(&mut self) {
        let Some((session_id, _)) = self.session else { return self.open_session().await };
        match self.random.within(0, 10) {
            0..6 => self.renew_session().await,
            6..8 => {
                self.session = None;
                let call = Call::Propose(Command::CloseSession { session_id });
                let conclude = |reply: &Reply| match outcome(reply) {
                    Some(Outcome::SessionClosed { .. }) => Told::SessionClosed { session_id },
                    other => Told::Refused(format!("{other:?}")),
                };
                self.ask(call, PATIENT, conclude).await;
            }
            _ => self.session = None,
        }
    }

    async fn open_session(&mut self) {
        self.claims += 1;
        let (session_id, ttl_ms) =
            (SessionId(self.random.next_u128()), self.random.within(1_500, 5_000));
        let label = format!("s{}-{}", self.id, self.claims);
        let command = Command::OpenSession(OpenSession {
            session_id,
            owner: Owner::new(&label).expect("an owner"),
            ttl: Ttl::new(ttl_ms).expect("a TTL"),
            request_id: Some(RequestId(self.random.next_u128())),
            metadata: Metadata::default(),
        });
        let conclude = |reply: &Reply| match outcome(reply) {
            Some(Outcome::SessionOpened(_)) => Told::Session { session_id, ttl_ms },
            // An earlier try had opened it.
            Some(Outcome::Rejected(Rejection::SessionGone { .. })) => {
                Told::SessionClosed { session_id }
            }
            other => Told::Refused(format!("{other:?}")),
        };
        let told = self.ask(Call::Propose(command), PATIENT, conclude).await;
        if matches!(told, Told::Session { .. }) {
            self.session = Some((session_id, ttl_ms));
        }
    }
}
