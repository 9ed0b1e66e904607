//! An upgrade, node by node: nodes of a build that announces a level which no build here knows. What
//! they write shows at once, because whoever applies it halts.

use oarlock_core::command::LEVEL;

use crate::disk::Survival;
use crate::evidence::HEALING;
use crate::faults::Step;
use crate::trace::lock;
use crate::world::{PATIENCE_MS, World};

fn upgrade(world: &mut World, node: u64) {
    lock(&world.cluster.common.builds).insert(node, LEVEL + 1);
    let (survival, away_ms) = (Survival::Everything, 10);
    world.cluster.step(HEALING, &Step::Crash { node, survival, away_ms });
}

#[test]
fn the_level_rises_when_the_last_member_is_upgraded_and_who_does_not_know_it_halts() {
    let mut world = World::new(&[1, 2]);
    assert!(world.runs_until(PATIENCE_MS, |world| world.cluster.agrees()), "nobody serves");
    let settled = world.runs_until(3_000, |world| world.complaint().is_some());
    assert!(!settled, "with one member of the older build: {:?}", world.complaint());
    upgrade(&mut world, 3);
    assert!(world.runs_until(PATIENCE_MS, |world| world.complaint().is_some()), "it stays");
    let why = world.complaint().unwrap_or_default();
    assert!(why.contains(&format!("has level {}, this build knows", LEVEL + 1)), "{why}");
}

#[test]
fn a_member_that_is_away_holds_the_level() {
    let mut world = World::new(&[1, 2, 3]);
    // Before anybody heard of it.
    world.cluster.step(HEALING, &Step::Cut(vec![(1, 3), (3, 1), (2, 3), (3, 2)]));
    let risen = world.runs_until(10_000, |world| world.complaint().is_some());
    assert!(!risen, "{:?}", world.complaint());
    assert!(world.cluster.newest_index() > 100, "two of three write all the time");
    world.cluster.step(HEALING, &Step::Mend(vec![(1, 3), (3, 1), (2, 3), (3, 2)]));
    assert!(world.runs_until(PATIENCE_MS, |world| world.complaint().is_some()), "it stays");
}
