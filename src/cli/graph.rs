//! `oarlock list --graph`: who waits for whom.
//!
//! Made of what the API shows to everybody, lock by lock, and therefore of several moments: a
//! picture for people, not a proof of a deadlock.

use std::fmt::Write as _;

use oarlock_client::wire::Lock;
use serde::Serialize;

use crate::cli::Failure;
use crate::cli::locks::{Target, for_people};

/// Locks with a queue that are shown; more of them are said, not shown.
const LOCKS_MAX: usize = 1_000;
/// Names that are looked at, page by page, until the graph says that there are more.
const PAGES_MAX: usize = 1_000;

/// A waiter, the lock it waits for, and whom.
#[derive(Debug, Serialize)]
struct Edge {
    owner: String,
    waits_for: String,
    position: u64,
    waiting_ms: u64,
    held_by: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Graph {
    edges: Vec<Edge>,
    /// Whether locks or waiters are missing because there are too many.
    more: bool,
}

pub(super) async fn show(target: &Target, prefix: &str) -> Result<(), Failure> {
    let client = target.client();
    let (mut names, mut cursor, mut pages) = (Vec::new(), None, 0);
    let mut more = loop {
        let page = client.list(prefix, 1000, cursor.as_deref()).await?;
        let waited_for = page.locks.into_iter().filter(|lock| lock.queue_length > 0);
        names.extend(waited_for.map(|lock| lock.lock));
        (cursor, pages) = (page.cursor, pages + 1);
        if cursor.is_none() || names.len() > LOCKS_MAX || pages == PAGES_MAX {
            break cursor.is_some() || names.len() > LOCKS_MAX;
        }
    };
    names.truncate(LOCKS_MAX);
    let mut edges = Vec::new();
    for name in names {
        let lock = client.inspect(&name, false).await?;
        more |= lock.queue_length > lock.waiters.len() as u64;
        edges.extend(edges_of(&lock));
    }
    target.show(&Graph { edges, more }, text);
    Ok(())
}

fn edges_of(lock: &Lock) -> impl Iterator<Item = Edge> {
    let held_by: Vec<String> = lock.holders.iter().map(|holder| holder.owner.clone()).collect();
    lock.waiters.iter().map(move |waiter| Edge {
        owner: waiter.owner.clone(),
        waits_for: lock.lock.clone(),
        position: waiter.position,
        waiting_ms: waiter.waiting_ms,
        held_by: held_by.clone(),
    })
}

fn text(graph: &Graph) -> String {
    if graph.edges.is_empty() {
        return "nobody waits\n".to_owned();
    }
    let (mut text, mut last) = (String::new(), "");
    for edge in &graph.edges {
        if edge.waits_for != last {
            last = &edge.waits_for;
            let holders = match edge.held_by.as_slice() {
                [] => "nobody: it is closed, or about to be granted".to_owned(),
                owners => owners.join(", "),
            };
            let _infallible = writeln!(text, "{last}  held by {holders}");
        }
        let waited = for_people(edge.waiting_ms);
        let _infallible = writeln!(text, "  <- {}. {}  for {waited}", edge.position, edge.owner);
    }
    if graph.more {
        text.push_str("there are more; narrow it down with a prefix\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_lock_is_followed_by_its_waiters_in_order() {
        let edge = |owner: &str, position| Edge {
            owner: owner.to_owned(),
            waits_for: "deploy".to_owned(),
            position,
            waiting_ms: 2_000,
            held_by: vec!["ci-1".to_owned()],
        };
        let graph = Graph { edges: vec![edge("ci-2", 1), edge("ci-3", 2)], more: false };
        let expected = "deploy  held by ci-1\n  <- 1. ci-2  for 2s\n  <- 2. ci-3  for 2s\n";
        assert_eq!(text(&graph), expected);
    }
}
