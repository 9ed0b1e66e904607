//! A cluster of three for one written course of events, beside those that a seed draws.

use std::sync::{Arc, Mutex};

use oarlock_core::command::LEVEL;

use crate::cluster::Cluster;
use crate::evidence::Evidence;
use crate::net::Net;
use crate::node::Common;
use crate::random::Random;
use crate::trace::{Now, Trace, lock};
use crate::witness::Witness;

/// Longer than anything here takes.
pub(crate) const PATIENCE_MS: u64 = 60_000;

pub(crate) struct World {
    pub(crate) cluster: Cluster,
    witness: Arc<Mutex<Witness>>,
}

impl World {
    /// Three nodes, of which these are of a newer build.
    pub(crate) fn new(newer: &[u64]) -> Self {
        let (now, evidence) = (Now::default(), Evidence::default());
        let trace = Trace::new(now.clone(), false);
        let witness = Witness::new(now.clone(), trace.clone(), &evidence);
        let mut random = Random::new(1);
        let common = Common {
            members: vec![1, 2, 3],
            net: Net::new(now.clone(), trace.clone(), random.fork(), evidence.clone()),
            trace,
            witness: Arc::clone(&witness),
            evidence,
            forwarded: Arc::default(),
            snapshot_log_entries: 100,
            segment_bytes: 16 * 1024,
            builds: Arc::new(Mutex::new(newer.iter().map(|id| (*id, LEVEL + 1)).collect())),
        };
        Self { cluster: Cluster::new(common, &[], now, random), witness }
    }

    /// Lets time pass and whoever serves write, until the condition holds; whether it did in time.
    pub(crate) fn runs_until(&mut self, ms: u64, condition: impl Fn(&Self) -> bool) -> bool {
        for _ in 0..ms {
            self.cluster.tick();
            self.cluster.propose();
            if condition(self) {
                return true;
            }
        }
        false
    }

    pub(crate) fn complaint(&self) -> Option<String> {
        lock(&self.witness).complaint()
    }
}
