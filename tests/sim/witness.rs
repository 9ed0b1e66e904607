//! Sees every applied entry of every node and every answer to a client, and shows them to the
//! invariants. What the whole state was after each entry is kept, so that every replay, snapshot and
//! restart can be compared with it. The first complaint is kept.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use oarlock::raft::store::codec;
use oarlock::raft::store::machine::MachineHandle;
use oarlock::raft::types::Vote;
use oarlock_core::event::{Event, EventKind};
use oarlock_core::image::{Row, RowKey};
use oarlock_core::outcome::Outcome;

use crate::evidence::Evidence;
use crate::invariants::{self, Answer, Entry, Invariant, Seen, Told};
use crate::trace::{Now, Trace, hash};

/// Every so many entries the core is asked for its own invariants.
const CHECKED_EVERY: u64 = 16;

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
    /// The whole state after each entry that carried commands.
    states: BTreeMap<u64, u64>,
    newest: u64,
    complaint: Option<String>,
    /// Calm time so far, which [`Invariant::passes`] counts.
    calm_ms: u64,
    /// Who waits after the newest entry.
    pub(crate) waiters: u64,
    /// When the next lease, wait or delay ends, if the lease clock goes on.
    pub(crate) due_at_ms: Option<u64>,
    pub(crate) counts: Counts,
}

impl Witness {
    pub(crate) fn new(now: Now, trace: Trace, evidence: &Evidence) -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Self {
            now,
            trace,
            invariants: invariants::all(evidence),
            effects: BTreeMap::new(),
            states: BTreeMap::new(),
            newest: 0,
            complaint: None,
            calm_ms: 0,
            waiters: 0,
            due_at_ms: None,
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
        let shown = || format!("[{node}, {index}] {effect:x} {events:?}");
        self.trace.note_as("apply", &[node, index], effect, shown);
        // Replicas agree: the same entry has the same effect on every node, at every replay.
        if *self.effects.entry(index).or_insert(effect) != effect {
            self.complain(format!("replicas: entry {index} did something else on node {node}"));
        }
        let sum = machine.with(|it| sum_of(it.rows()));
        if index > self.newest {
            self.states.insert(index, sum);
        } else {
            self.compare(node, index, sum, "state");
        }
        if index.is_multiple_of(CHECKED_EVERY) {
            self.check_core(node, index, machine);
        }
        if index > self.newest {
            self.newest = index;
            self.note_business(machine, events);
            self.counts.entries += 1;
            self.counts.events += events.len() as u64;
            let (at_ms, calm_ms) = (self.now.ms(), self.calm_ms);
            let entry = Entry { index, at_ms, calm_ms, events, outcomes };
            self.counts.grants += entry.grants().count() as u64;
            self.counts.expiries += entry.expiries().count() as u64;
            self.ask(|invariant| invariant.applied(&entry));
        }
    }

    fn note_business(&mut self, machine: &MachineHandle, events: &[Event]) {
        for event in events {
            match &event.kind {
                EventKind::Queued { .. } => self.waiters += 1,
                EventKind::Granted { queued: true, .. } => {
                    self.waiters = self.waiters.saturating_sub(1);
                }
                EventKind::Ended { ended, .. } if ended.token.is_none() => {
                    self.waiters = self.waiters.saturating_sub(1);
                }
                _ => {}
            }
        }
        let due_in_ms = machine.with(|it| it.next_due().map(|due| due.ms_since(it.now())));
        self.due_at_ms = due_in_ms.map(|ms| self.now.ms() + ms);
    }

    /// Compares a state, whatever it was made from, with the one that the log makes.
    pub(crate) fn compare(&mut self, node: u64, index: u64, sum: u64, what: &str) {
        // Entries without commands change nothing.
        let known = self.states.range(..=index).next_back().map(|(_, sum)| *sum);
        if known.is_some_and(|known| known != sum) {
            self.complain(format!("replicas: another {what} at entry {index} on node {node}"));
        }
    }

    fn check_core(&mut self, node: u64, index: u64, machine: &MachineHandle) {
        if let Err(why) = machine.with(oarlock_core::machine::Machine::check) {
            self.complain(format!("core: {why} at entry {index} on node {node}"));
        }
    }

    /// Compares the whole state of a node, and asks the core for its own invariants.
    pub(crate) fn look_at_all(&mut self, node: u64, index: u64, machine: &MachineHandle) {
        let sum = machine.with(|it| sum_of(it.rows()));
        self.compare(node, index, sum, "state");
        self.check_core(node, index, machine);
    }

    /// A node granted a vote.
    pub(crate) fn granted(&mut self, node: u64, vote: Vote) {
        self.trace.note("vote", &[node], hash(format!("{vote}").as_bytes()));
        self.ask(|invariant| invariant.voted(node, vote));
    }

    /// A node started again, and its disk says that it voted so.
    pub(crate) fn restarted(&mut self, node: u64, vote: Option<Vote>) {
        self.ask(|invariant| invariant.restarted(node, vote));
    }

    /// A watcher was shown an event, or told that it missed what lies before a revision.
    pub(crate) fn watched(&mut self, watcher: u64, seen: &Seen<'_>) {
        self.ask(|invariant| invariant.watched(watcher, seen));
    }

    /// A client was answered.
    pub(crate) fn answered(&mut self, answer: &Answer) {
        let carried = match &answer.what {
            Told::Refused(why) | Told::Unknown(why) => hash(why.as_bytes()),
            told => hash(format!("{told:?}").as_bytes()),
        };
        let shown = || format!("{answer:?}");
        self.trace.note_as("answer", &[answer.client, answer.asked_at], carried, shown);
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

    /// One more millisecond was calm.
    pub(crate) fn passes_calmly(&mut self) {
        self.calm_ms += 1;
        let calm_ms = self.calm_ms;
        self.ask(|invariant| invariant.passes(calm_ms));
    }

    /// The run is over and everything has come to rest.
    pub(crate) fn rest(&mut self) {
        self.ask(|invariant| invariant.rest());
    }
}

/// A state as one number, in whatever order its rows come.
pub(crate) fn sum_of(rows: impl IntoIterator<Item = (RowKey, Row)>) -> u64 {
    let mut bytes = Vec::new();
    rows.into_iter().fold(0, |sum, row| {
        bytes.clear();
        codec::encode_into(&row, &mut bytes);
        sum.wrapping_add(hash(&bytes))
    })
}
