//! What a client does with what it holds: renew, ask the fence, repeat its request, write a value,
//! hand it over, take somebody else's away; and in the end give it back, or walk away.

use std::time::Duration;

use oarlock::service::replicator::{Call, Query, Reply, ReplyBody};
use oarlock_core::command::{Command, ForceTarget, HandOver, LeaseTerm};
use oarlock_core::ids::{LeaseId, LockName, Owner, Reason, RequestId, Value};
use oarlock_core::outcome::{Grant, Outcome};
use oarlock_core::time::{LockDelay, Ttl};
use tokio::time::sleep;

use super::conclude::{conclude_claim, conclude_refusal, conclude_release, outcome};
use super::work::{Client, PATIENT, Request, metadata, name_of};
use crate::invariants::{DELAY_KEY, FORCED_FOR_MS, FORCED_GENTLY, Told, noted};

impl Client {
    /// Holds for a while, and then gives back, or walks away.
    pub(super) async fn hold(&mut self, request: &Request, mut grants: Vec<Grant>) {
        for _ in 0..self.random.within(0, 4) {
            sleep(Duration::from_millis(self.random.within(1, 500))).await;
            if grants.is_empty() {
                return;
            }
            let at = self.random.within(0, grants.len() as u64) as usize;
            let grant = grants[at].clone();
            match self.random.within(0, 20) {
                0..6 => self.renew(&grant).await,
                6..9 => self.check_fence(&grant).await,
                9..12 if request.request_id.is_some() => {
                    // A repeat of what is held is answered with the same grant.
                    let call = Call::Propose(self.command(request));
                    let again = request.repeated();
                    self.ask(call, PATIENT, |reply| conclude_claim(&again, reply)).await;
                }
                12..15 => self.write(&grant).await,
                15..17 => {
                    grants.remove(at);
                    grants.extend(self.hand_over(&grant).await);
                }
                _ => self.look().await,
            }
        }
        if self.random.per_mille(200) {
            return;
        }
        for grant in grants {
            let lease_id = grant.lease_id;
            self.outside.tell(self.id, self.outside.now.ms(), Told::GivesUp { lease_id });
            let call = Call::Propose(Command::Release { lease_id });
            self.ask(call, PATIENT, |reply| conclude_release(lease_id, reply)).await;
        }
    }

    async fn renew(&mut self, grant: &Grant) {
        let lease_id = grant.lease_id;
        let (None, Some(ttl_ms)) = (grant.session_id, grant.ttl_ms) else {
            return self.renew_session().await;
        };
        let _in_flight = self.outside.evidence.renewing();
        let call = Call::Propose(Command::Renew { lease_id });
        let conclude = |reply: &Reply| match outcome(reply) {
            Some(Outcome::Renewed(_)) => Told::Renewed { lease_id, ttl_ms },
            other => conclude_refusal(lease_id, other),
        };
        self.ask(call, PATIENT, conclude).await;
    }

    async fn check_fence(&mut self, grant: &Grant) {
        let (name, token) = (grant.name.clone(), grant.token);
        let call = Call::Read(Query::Fence { name: name.clone(), token });
        let conclude = move |reply: &Reply| match &reply.body {
            ReplyBody::Fence(holder) => Told::Fence { name, token, held: holder.is_some() },
            other => Told::Refused(format!("{other:?}")),
        };
        self.ask(call, PATIENT, conclude).await;
    }

    /// Writes a text that nobody else writes.
    async fn write(&mut self, grant: &Grant) {
        self.claims += 1;
        let (name, lease_id) = (grant.name.clone(), grant.lease_id);
        let text = format!("v{}-{}", self.id, self.claims);
        let value = Some(Value::new(&text).expect("a value"));
        let writes = Told::Writes { name: name.clone(), text };
        self.outside.tell(self.id, self.outside.now.ms(), writes);
        let command = Command::SetValue { name: name.clone(), lease_id, value };
        let conclude = move |reply: &Reply| match outcome(reply) {
            Some(Outcome::ValueSet(Some(value))) => Told::Written { name, value: value.clone() },
            other => conclude_refusal(lease_id, other),
        };
        self.ask(Call::Propose(command), PATIENT, conclude).await;
    }

    /// Gives the lock to a lease of another label; whoever asks for that trusts the old one no
    /// more.
    async fn hand_over(&mut self, grant: &Grant) -> Option<Grant> {
        self.claims += 1;
        let lease_id = grant.lease_id;
        let delay_ms = noted(grant, DELAY_KEY).and_then(|text| text.parse().ok()).unwrap_or(0);
        let request = Request {
            label: format!("h{}-{}", self.id, self.claims),
            names: vec![grant.name.clone()],
            modes: vec![grant.mode],
            term: LeaseTerm::Ttl(Ttl::new(self.random.within(600, 4_000)).expect("a TTL")),
            wait_ms: 0,
            delay_ms,
            request_id: Some(RequestId(self.random.next_u128())),
            first_asked_at: self.outside.now.ms(),
            repeats: false,
        };
        self.outside.tell(self.id, self.outside.now.ms(), Told::GivesUp { lease_id });
        let command = Command::HandOver(HandOver {
            lease_id,
            new_lease_id: LeaseId(self.random.next_u128()),
            owner: Owner::new(&request.label).expect("an owner"),
            term: request.term,
            request_id: request.request_id,
            metadata: metadata(&request.label, delay_ms),
        });
        let call = Call::Propose(command);
        let told = self.ask(call, PATIENT, |reply| conclude_claim(&request, reply)).await;
        match told {
            Told::Granted { grants, .. } => grants.into_iter().next(),
            _ => None,
        }
    }

    /// Takes a lock away from one holder or from all, at once or for what remains of the lease; or
    /// deletes the value of one that nobody holds.
    pub(super) async fn operate(&mut self) {
        let name = name_of(self.random.within(0, self.locks));
        if self.random.per_mille(300) {
            let call = Call::Propose(Command::DeleteValue { name });
            let conclude = |reply: &Reply| Told::Refused(format!("{:?}", outcome(reply)));
            self.ask(call, PATIENT, conclude).await;
            return;
        }
        let Some(target) = self.target(&name).await else { return };
        let delay_ms = self.random.per_mille(500).then(|| self.random.within(0, 1_500));
        let reason =
            delay_ms.map_or_else(|| FORCED_GENTLY.to_owned(), |ms| format!("{FORCED_FOR_MS}{ms}"));
        let command = Command::ForceRelease {
            name,
            target,
            reason: Reason::new(&reason).expect("a reason"),
            lock_delay: delay_ms.map(|ms| LockDelay::new(ms).expect("a delay")),
        };
        let conclude = |reply: &Reply| match outcome(reply) {
            Some(Outcome::ForceReleased(ended)) => Told::Forced { ended: ended.clone() },
            other => Told::Refused(format!("{other:?}")),
        };
        self.ask(Call::Propose(command), PATIENT, conclude).await;
    }

    /// Whom an operator would see to hold the lock.
    async fn target(&mut self, name: &LockName) -> Option<ForceTarget> {
        if self.random.per_mille(300) {
            return Some(ForceTarget::All);
        }
        let call = Call::Read(Query::Lock { name: name.clone(), waiters_max: 0 });
        let told = self.ask(call, PATIENT, conclude_look).await;
        let Told::Look(view) = told else { return None };
        view.holders.first().map(|holder| ForceTarget::Token(holder.token))
    }

    pub(super) async fn look(&mut self) {
        let name = name_of(self.random.within(0, self.locks));
        let call = Call::Read(Query::Lock { name, waiters_max: 10 });
        self.ask(call, PATIENT, conclude_look).await;
    }
}

fn conclude_look(reply: &Reply) -> Told {
    match &reply.body {
        ReplyBody::Lock(view) => Told::Look(Box::new(view.clone())),
        other => Told::Refused(format!("{other:?}")),
    }
}
