//! What a healthy cluster must give everybody.

use oarlock::service::replicator::Call;
use oarlock_core::command::{Acquire, Command, LeaseTerm, Mode};
use oarlock_core::ids::{LeaseId, Owner, RequestId};
use oarlock_core::outcome::Outcome;
use oarlock_core::time::{Grace, LockDelay, Ttl, Wait};

use super::Outside;
use super::conclude::outcome;
use super::work::{PATIENT, metadata, name_of};
use crate::invariants::Told;
use crate::random::Random;

/// Takes a lock and gives it back, patiently: nothing is in the way for ever.
pub(crate) async fn probe(outside: Outside, number: u64, mut random: Random) {
    let label = format!("probe-{number}");
    let command = Command::Acquire(Acquire {
        lease_id: LeaseId(random.next_u128()),
        name: name_of(number),
        owner: Owner::new(&label).expect("an owner"),
        mode: Mode::Exclusive,
        term: LeaseTerm::Ttl(Ttl::new(5_000).expect("a TTL")),
        wait: Wait::new(10_000).expect("a wait"),
        grace: Grace::new(2_000).expect("a grace"),
        request_id: Some(RequestId(random.next_u128())),
        metadata: metadata(&label, 0),
        lock_delay: LockDelay::new(0).expect("a delay"),
    });
    let node = *random.pick(&outside.nodes);
    let asked_at = outside.now.ms();
    let answer = outside.call(node, Call::Propose(command), PATIENT, &mut random).await;
    let grant = match answer.as_ref().map(outcome) {
        Ok(Some(Outcome::Granted(grant))) => grant.clone(),
        other => {
            let why = format!("progress: {} could not be taken: {other:?}", name_of(number));
            return crate::trace::lock(&outside.witness).complain(why);
        }
    };
    let (lease_id, grants) = (grant.lease_id, vec![*grant]);
    let told = Told::Granted { label, first_asked_at: asked_at, repeats: false, grants };
    outside.tell(number, asked_at, told);
    outside.tell(number, outside.now.ms(), Told::GivesUp { lease_id });
    let call = Call::Propose(Command::Release { lease_id });
    let released = outside.call(node, call, PATIENT, &mut random).await;
    if !matches!(released.as_ref().map(outcome), Ok(Some(Outcome::Released(_)))) {
        let why = format!("progress: {} was not released: {released:?}", name_of(number));
        crate::trace::lock(&outside.witness).complain(why);
    }
}
