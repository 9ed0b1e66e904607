//! Cuts between groups of nodes: a minority, one way only, or all but a ring.

use super::{Step, Timed, pick_minority};
use crate::random::Random;

fn cut(random: &mut Random, at: u64, links: Vec<(u64, u64)>) -> Vec<Timed> {
    let until = at + random.within(300, 8_000);
    vec![(at, Step::Cut(links.clone())), (until, Step::Mend(links))]
}

/// Some nodes and the rest do not hear each other.
pub(super) fn minority(random: &mut Random, nodes: &[u64], at: u64) -> Vec<Timed> {
    let some = pick_minority(random, nodes);
    let others = nodes.iter().filter(|node| !some.contains(node));
    let pairs = others.flat_map(|other| some.iter().map(move |one| (*one, *other)));
    let links = pairs.flat_map(|(a, b)| [(a, b), (b, a)]).collect();
    cut(random, at, links)
}

/// One node is mute, or deaf.
pub(super) fn one_way(random: &mut Random, nodes: &[u64], at: u64) -> Vec<Timed> {
    let one = *random.pick(nodes);
    let mute = random.per_mille(500);
    let others = nodes.iter().filter(|node| **node != one);
    let links = others.map(|other| if mute { (one, *other) } else { (*other, one) }).collect();
    cut(random, at, links)
}

/// Every node reaches its neighbours only; of three, one link is cut.
pub(super) fn ring(random: &mut Random, nodes: &[u64], at: u64) -> Vec<Timed> {
    let count = nodes.len();
    let mut links = Vec::new();
    for (a, b) in (0..count).flat_map(|a| (0..count).map(move |b| (a, b))) {
        let near = (a + 1) % count == b || (b + 1) % count == a;
        let last = (a, b) == (0, count - 1) || (b, a) == (0, count - 1);
        if a != b && (!near || (count == 3 && last)) {
            links.push((nodes[a], nodes[b]));
        }
    }
    cut(random, at, links)
}
