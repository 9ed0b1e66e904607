//! Leadership that is offered to a node which is lost just then.

use crate::disk::Survival;
use crate::evidence::HEALING;
use crate::faults::Step;
use crate::node::ELECTION_MAX_MS;
use crate::world::{PATIENCE_MS, World};

/// An offer is made again after a leader lease; who is asked then stands for election at once. The rest
/// is for an election by the others, which may be quicker.
const SERVED_WITHIN_MS: u64 = 4 * ELECTION_MAX_MS;

/// How long the lost node stays away: for good, or until the leader has waited for it in vain.
const AWAY_MS: [u64; 4] = [PATIENCE_MS, 200, 1_000, 2_500];

#[test]
fn leadership_that_was_offered_to_a_lost_node_is_taken_by_another() {
    for away_ms in AWAY_MS {
        let mut world = World::new(&[]);
        assert!(world.runs_until(PATIENCE_MS, |world| world.cluster.agrees()), "nobody serves");
        let leader = world.cluster.serving().expect("it serves");
        let lost = leader % 3 + 1;
        let survival = Survival::Everything;
        world.cluster.step(HEALING, &Step::Crash { node: lost, survival, away_ms });
        world.cluster.step(HEALING, &Step::Transfer { to: lost });
        let stops = world.runs_until(100, |world| world.cluster.serving().is_none());
        assert!(stops, "node {leader} serves although it gave its leadership away");
        let served = world.runs_until(SERVED_WITHIN_MS, |world| world.cluster.serving().is_some());
        assert!(served, "nobody serves with node {lost} away for {away_ms} ms");
        // And goes on to.
        let index = world.cluster.newest_index();
        let writes = move |world: &World| world.cluster.newest_index() > index + 50;
        assert!(world.runs_until(PATIENCE_MS, writes), "nothing is written any more");
        assert_eq!(world.complaint(), None);
    }
}
