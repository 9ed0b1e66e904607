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

/// When the one that was behind comes back: shortly before the second offer of the leader.
const BACK_MS: u64 = 900;

/// The offer that finds nobody, the one that finds who has caught up, and its election.
const SERVED_AFTER_OFFERS_MS: u64 = 2 * ELECTION_MAX_MS + 200;

#[test]
fn who_comes_back_behind_is_offered_the_leadership_that_a_lost_node_was() {
    let mut world = World::new(&[]);
    assert!(world.runs_until(PATIENCE_MS, |world| world.cluster.agrees()), "nobody serves");
    let leader = world.cluster.serving().expect("it serves");
    let (lost, behind) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    let (survival, away_ms) = (Survival::Everything, PATIENCE_MS);
    world.cluster.step(HEALING, &Step::Crash { node: behind, survival, away_ms });
    let index = world.cluster.newest_index();
    let writes = move |world: &World| world.cluster.newest_index() > index + 50;
    assert!(world.runs_until(PATIENCE_MS, writes), "nothing is written by two of three");
    world.cluster.step(HEALING, &Step::Crash { node: lost, survival, away_ms });
    world.cluster.step(HEALING, &Step::Transfer { to: lost });
    let served = |world: &World| world.cluster.serving().is_some();
    world.runs_until(5, |_| false);
    assert!(!world.runs_until(BACK_MS, served), "somebody serves with one of three alive");
    // From here on its log renews the lease of the old leader, for whom it would not vote.
    world.cluster.step(HEALING, &Step::Start { node: behind });
    let left_ms = SERVED_AFTER_OFFERS_MS - BACK_MS;
    assert!(
        world.runs_until(left_ms, served),
        "nobody serves {left_ms} ms after node {behind} came"
    );
    assert_eq!(world.complaint(), None);
}
