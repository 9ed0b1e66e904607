//! A vote that a node gave is on its disk before anybody hears of it: whatever becomes of the node,
//! it comes back knowing that vote or a later one.

use std::collections::BTreeMap;

use oarlock::raft::types::Vote;

use super::Invariant;

#[derive(Default)]
pub(super) struct Votes {
    given: BTreeMap<u64, Vote>,
}

impl Invariant for Votes {
    fn name(&self) -> &'static str {
        "votes"
    }

    fn voted(&mut self, node: u64, vote: Vote) -> Result<(), String> {
        // Answers may leave in another order than that in which they were given.
        let given = self.given.entry(node).or_insert(vote);
        if *given < vote {
            *given = vote;
        }
        Ok(())
    }

    fn restarted(&mut self, node: u64, vote: Option<Vote>) -> Result<(), String> {
        match (self.given.get(&node), vote) {
            (Some(given), Some(vote)) if *given <= vote => Ok(()),
            (Some(given), vote) => {
                Err(format!("node {node} granted {given} and came back with {vote:?}"))
            }
            (None, _) => Ok(()),
        }
    }
}
