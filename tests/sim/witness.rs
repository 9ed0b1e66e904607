//! Sees every applied entry of every node and every answer to a client, and shows them to the
//! invariants. The first complaint is kept.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use oarlock::raft::store::codec;
use oarlock::raft::store::machine::MachineHandle;
use oarlock_core::event::Event;
use oarlock_core::outcome::Outcome;

use crate::invariants::{self, Answer, Entry, Invariant, Told};
use crate::trace::{Now, Trace, hash};

/// Every so many entries the whole state is hashed and checked, not only what an entry did.
const WHOLE_EVERY: u64 = 16;

/// What was counted, for the report.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counts {
    pub(crate) entries: u64,
    pub(crate) events: u64,
    pub(crate) expiries: u64,
    pub(crate) grants: u64,
    pub(crate) answers: u64,
    pub(crate) unknown: u64,
    /// Requests that were repeated and granted.
    pub(crate) repeats: u64,
}

/// See the module.
pub(crate) struct Witness {
    now: Now,
    trace: Trace,
    invariants: Vec<Box<dyn Invariant>>,
    /// What each entry did, by its index.
    effects: BTreeMap<u64, u64>,
    /// The whole state after some of them.
    states: BTreeMap<u64, u64>,
    newest: u64,
    complaint: Option<String>,
    pub(crate) counts: Counts,
}

impl Witness {
    pub(crate) fn new(now: Now, trace: Trace) -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Self {
            now,
            trace,
            invariants: invariants::all(),
            effects: BTreeMap::new(),
            states: BTreeMap::new(),
            newest: 0,
            complaint: None,
            counts: Counts::default(),
        }))
    }

    #[expect(clippy::needless_pass_by_value, reason = "callers make the text for this")]
    pub(crate) fn complain(&mut self, why: String) {
        let at = self.now.ms();
        self.complaint.get_or_insert_with(|| format!("at {at} ms: {why}"));
    }

    pub(crate) fn complaint(&self) -> Option<String> {
        self.complaint.clone()
    }

    fn ask(&mut self, ask: impl Fn(&mut dyn Invariant) -> Result<(), String>) {
        let mut complaints = Vec::new();
        for invariant in &mut self.invariants {
            if let Err(why) = ask(invariant.as_mut()) {
                complaints.push(format!("{}: {why}", invariant.name()));
            }
        }
        for why in complaints {
            self.complain(why);
        }
    }

    /// A node applied an entry that carried commands.
    pub(crate) fn applied(
        &mut self,
        node: u64,
        machine: &MachineHandle,
        events: &[Event],
        outcomes: &[Outcome],
    ) {
        let index = machine.with_position(|_, at| at.last_applied.map_or(0, |id| id.index));
        let effect = hash(&codec::encode(&(events, outcomes)));
        self.trace.note("apply", &[node, index], effect);
        // Replicas agree: the same entry has the same effect on every node, at every replay.
        if *self.effects.entry(index).or_insert(effect) != effect {
            self.complain(format!("replicas: entry {index} did something else on node {node}"));
        }
        if index.is_multiple_of(WHOLE_EVERY) {
            self.look_at_all(node, index, machine);
        }
        if index > self.newest {
            self.newest = index;
            self.counts.entries += 1;
            self.counts.events += events.len() as u64;
            let entry = Entry { index, at_ms: self.now.ms(), events };
            self.counts.grants += entry.grants().count() as u64;
            self.counts.expiries += entry.expiries().count() as u64;
            self.ask(|invariant| invariant.applied(&entry));
        }
    }

    /// Compares the whole state, and asks the core for its own invariants.
    pub(crate) fn look_at_all(&mut self, node: u64, index: u64, machine: &MachineHandle) {
        let (state, checked) = machine.with(|machine| {
            let rows = machine.rows().map(|row| hash(&codec::encode(&row)));
            (rows.fold(0_u64, |sum, row| sum.rotate_left(5) ^ row), machine.check())
        });
        if let Err(why) = checked {
            self.complain(format!("core: {why} at entry {index} on node {node}"));
        }
        if *self.states.entry(index).or_insert(state) != state {
            self.complain(format!("replicas: another state after entry {index} on node {node}"));
        }
    }

    /// A client was answered.
    pub(crate) fn answered(&mut self, answer: &Answer) {
        let carried = match &answer.what {
            Told::Refused(why) | Told::Unknown(why) => hash(why.as_bytes()),
            told => hash(format!("{told:?}").as_bytes()),
        };
        self.trace.note("answer", &[answer.client, answer.asked_at], carried);
        self.counts.answers += 1;
        match &answer.what {
            Told::Unknown(_) => self.counts.unknown += 1,
            Told::Granted { repeats: true, .. } => self.counts.repeats += 1,
            _ => {}
        }
        self.ask(|invariant| invariant.answered(answer));
    }

    /// No majority could work together in this time: the lease clock counts little of it.
    pub(crate) fn outage(&mut self, from_ms: u64, upto_ms: u64) {
        self.ask(|invariant| {
            invariant.outage(from_ms, upto_ms);
            Ok(())
        });
    }

    /// The run is over and everything has come to rest.
    pub(crate) fn rest(&mut self) {
        self.ask(|invariant| invariant.rest());
    }
}
