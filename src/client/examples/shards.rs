//! Several clusters behind one program: each lock lives in the cluster that its name chooses.
//!
//! `cargo run -p oarlock-client --example shards` shows how names spread, and which of them move when
//! a cluster is added; `docs/scaling.md` says what to mind then. The choice is rendezvous hashing: the
//! cluster with the highest score for a name has it. Programs that know the same cluster names
//! agree, in whatever order they list them, and a new cluster takes names from all others but moves none
//! between those.

#![expect(clippy::print_stdout, reason = "an example talks to whoever runs it")]

use oarlock_client::{Client, Options};

/// The clusters, by names that never change; addresses may.
struct Shards(Vec<(String, Client)>);

impl Shards {
    fn new(clusters: &[(&str, &[&str])]) -> Self {
        let client = |endpoints: &[&str]| {
            let endpoints = endpoints.iter().map(|&endpoint| endpoint.to_owned()).collect();
            Client::new(Options { endpoints, ..Options::default() })
        };
        let named = |(name, endpoints): &(&str, &[&str])| ((*name).to_owned(), client(endpoints));
        Self(clusters.iter().map(named).collect())
    }

    /// Where a lock lives, and the client to ask for it.
    fn of(&self, lock: &str) -> Option<&(String, Client)> {
        self.0.iter().max_by_key(|(cluster, _)| score(cluster, shard_key(lock)))
    }
}

/// What of a name chooses. Locks with the same first part share a cluster, so that they can be taken
/// together and by one session; a program that never does so may use the whole name.
fn shard_key(lock: &str) -> &str {
    lock.split('/').next().unwrap_or(lock)
}

/// FNV-1a of both names, then the last steps of `MurmurHash3`, without which names that differ in
/// their last letter would score alike. Every program must compute the same, for ever.
fn score(cluster: &str, key: &str) -> u64 {
    let bytes = cluster.bytes().chain([0]).chain(key.bytes());
    let fnv = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let mixed = (fnv ^ fnv >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let mixed = (mixed ^ mixed >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    mixed ^ mixed >> 33
}

const THREE: [(&str, &[&str]); 3] = [
    ("red", &["10.0.1.1:7400", "10.0.1.2:7400", "10.0.1.3:7400"]),
    ("green", &["10.0.2.1:7400", "10.0.2.2:7400", "10.0.2.3:7400"]),
    ("blue", &["10.0.3.1:7400", "10.0.3.2:7400", "10.0.3.3:7400"]),
];
const FOURTH: (&str, &[&str]) = ("amber", &["10.0.4.1:7400", "10.0.4.2:7400", "10.0.4.3:7400"]);
const NAMES: u32 = 100_000;

fn cluster_of<'a>(shards: &'a Shards, lock: &str) -> &'a str {
    shards.of(lock).map_or("", |(cluster, _)| cluster)
}

/// How many of the names each cluster has, in the order of the list.
fn shares(shards: &Shards) -> Vec<(&str, usize)> {
    let names: Vec<String> = (0..NAMES).map(|number| format!("service-{number}/deploy")).collect();
    let count =
        |cluster: &str| names.iter().filter(|name| cluster_of(shards, name) == cluster).count();
    shards.0.iter().map(|(cluster, _)| (cluster.as_str(), count(cluster))).collect()
}

/// How many names change their cluster from one list to the other, and how many of those go to
/// this one.
fn moved(from: &Shards, to: &Shards, cluster: &str) -> (usize, usize) {
    let names = (0..NAMES).map(|number| format!("service-{number}/deploy"));
    let moves = names.filter(|name| cluster_of(from, name) != cluster_of(to, name));
    let moves: Vec<String> = moves.collect();
    (moves.len(), moves.iter().filter(|name| cluster_of(to, name) == cluster).count())
}

fn main() {
    let (three, four) = (Shards::new(&THREE), Shards::new(&[&THREE[..], &[FOURTH]].concat()));
    println!("{NAMES} names over three clusters: {:?}", shares(&three));
    println!("and over four:                  {:?}", shares(&four));
    let (all, to_fourth) = moved(&three, &four, FOURTH.0);
    println!("{all} names moved, {to_fourth} of them to {}", FOURTH.0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stays_where_it_is_whatever_the_order_of_the_list() {
        let (mut list, shards) = (THREE, Shards::new(&THREE));
        list.reverse();
        let reversed = Shards::new(&list);
        assert_eq!(moved(&shards, &reversed, "").0, 0);
        // A change of these would let two programs lock one name in two clusters.
        let chosen = ["deploy/prod", "deploy/test", "cron", "a", "b"];
        let chosen = chosen.map(|lock| cluster_of(&shards, lock));
        assert_eq!(chosen, ["blue", "blue", "green", "green", "red"]);
        assert_eq!(score("red", "deploy"), 767_972_496_269_683_503);
    }

    #[test]
    fn clusters_have_about_the_same_and_a_new_one_takes_its_share_from_all() {
        let (three, four) = (Shards::new(&THREE), Shards::new(&[&THREE[..], &[FOURTH]].concat()));
        for (shards, parts) in [(&three, 3), (&four, 4)] {
            let even = NAMES as usize / parts;
            for (cluster, count) in shares(shards) {
                assert!(count.abs_diff(even) < even / 50, "{cluster} has {count}");
            }
        }
        let (all, to_fourth) = moved(&three, &four, FOURTH.0);
        assert_eq!(all, to_fourth, "none moves between the old ones");
        assert!(all.abs_diff(NAMES as usize / 4) < NAMES as usize / 200);
    }
}
