//! What the log is made to do: a few written scripts, and any number made by chance from a seed.

use oarlock_core::command::{Command, Entry as CoreEntry};
use oarlock_core::time::LeaseTime;
use openraft::RaftTypeConfig;
use openraft::entry::RaftEntry;
use openraft::vote::{RaftLeaderId, RaftLeaderIdExt, RaftVote};

use super::recorder::{Recorder, Trace};
use crate::raft::store::files::memory::Random;
use crate::raft::store::log::LogOptions;
use crate::raft::store::log::driven::{DrivenLog, Preparation, Step};
use crate::raft::types::{LogEntry, LogId, Proposal, TypeConfig, Vote};

type LeaderId = <TypeConfig as RaftTypeConfig>::LeaderId;

/// Steps, and how they are fed to the log.
#[derive(Debug, Clone)]
pub(super) struct Script {
    pub(super) name: String,
    pub(super) options: LogOptions,
    pub(super) preparation: Preparation,
    /// So many steps are queued before the writer gets its turn.
    pub(super) group: usize,
    /// Whether some groups follow at once on the one before.
    busy: bool,
    /// After so many steps the log is closed and opened again.
    restart_after: usize,
    pub(super) steps: Vec<Step>,
}

/// Runs a script on an empty disk that never fails.
pub(super) fn record(script: &Script) -> Trace {
    let recorder = Recorder::default();
    let mut log = script.open(&recorder).expect("an empty directory opens");
    recorder.acknowledged(0);
    for (at, step) in script.steps.iter().enumerate() {
        let number = at + 1;
        recorder.submitted(number);
        log.submit(number, step).expect("the step follows the one before");
        if number % script.group == 0 || number == script.restart_after {
            let busy = script.busy && number % 2 == 0;
            log.write_group(busy, |number| recorder.acknowledged(number)).expect("no disk fails");
        }
        if number == script.restart_after {
            log.close().expect("no disk fails");
            log = script.open(&recorder).expect("it opens again");
        }
    }
    log.write_group(false, |number| recorder.acknowledged(number)).expect("no disk fails");
    log.close().expect("no disk fails");
    recorder.trace()
}

impl Script {
    pub(super) fn open(&self, recorder: &Recorder) -> std::io::Result<DrivenLog> {
        DrivenLog::open(std::sync::Arc::new(recorder.clone()), self.options, self.preparation)
    }

    fn new(name: &str, segment_bytes: u64, group: usize, steps: Vec<Step>) -> Self {
        Self {
            name: name.to_owned(),
            // Little is kept in memory, so that most entries are read back from the disk.
            options: LogOptions { segment_bytes, cache_bytes: 300 },
            preparation: Preparation::Early,
            group,
            busy: false,
            restart_after: steps.len() * 2 / 3,
            steps,
        }
    }

    /// One step at a time, in segments of one sector.
    pub(super) fn singly() -> Self {
        Self::new("singly", 512, 1, written(1))
    }

    /// Several steps in one write, the next segment made at the last moment.
    pub(super) fn in_groups() -> Self {
        let script = Self::new("in-groups", 2048, 4, written(3));
        Self { preparation: Preparation::Late, busy: true, ..script }
    }

    /// Writes of many sectors and some pages.
    pub(super) fn large() -> Self {
        Self::new("large", 16 * 1024, 3, written(160))
    }

    /// By chance.
    pub(super) fn random(seed: usize) -> Self {
        let mut random = Random::new(seed as u64);
        let segment_bytes = [512, 1024, 4096, 16 * 1024][random.below(4)];
        let group = 1 + random.below(5);
        let count = 12 + random.below(24);
        let steps = chance(&mut random, count, segment_bytes);
        let late = random.below(2) == 1;
        let preparation = if late { Preparation::Late } else { Preparation::Early };
        let name = format!("random-{seed}");
        let busy = random.below(2) == 1;
        Self { preparation, busy, ..Self::new(&name, segment_bytes as u64, group, steps) }
    }

    /// The script of that name.
    pub(super) fn named(name: &str) -> Option<Self> {
        match name {
            "singly" => Some(Self::singly()),
            "in-groups" => Some(Self::in_groups()),
            "large" => Some(Self::large()),
            other => Some(Self::random(other.strip_prefix("random-")?.parse().ok()?)),
        }
    }
}

pub(super) fn id(term: u64, index: u64) -> LogId {
    LogId::new(LeaderId::new_committed(term, 1), index)
}

pub(super) fn vote(term: u64) -> Vote {
    Vote::from_leader_id(LeaderId::new(term, 1), true)
}

/// An entry of about ten bytes for each command, no two alike.
pub(super) fn entry(term: u64, index: u64, commands: usize) -> LogEntry {
    if commands == 0 {
        return LogEntry::new_blank(id(term, index));
    }
    let mut random = Random::new(term << 32 | index);
    let command = |_| (LeaseTime(random.number()), Command::Advance);
    let commands = (0..commands).map(command).collect();
    LogEntry::new_normal(
        id(term, index),
        Proposal(CoreEntry { level: 1, wall_ms: index, commands }),
    )
}

fn append(term: u64, from: u64, count: u64, commands: usize) -> Step {
    Step::Append((from..from + count).map(|index| entry(term, index, commands)).collect())
}

/// Everything a log goes through: birth, elections, a conflicting suffix, purges of a part and of
/// all, a snapshot from ahead. Entries have up to `size` commands.
fn written(size: usize) -> Vec<Step> {
    let committed = |term, index| Step::Committed(id(term, index));
    vec![
        append(1, 0, 1, size),
        Step::Vote(vote(1)),
        append(1, 1, 5, size),
        committed(1, 4),
        append(1, 6, 1, 4 * size),
        append(1, 7, 4, 0),
        Step::Vote(vote(2)),
        Step::TruncateAfter(Some(id(1, 8))),
        append(2, 9, 4, size),
        Step::Purge(id(1, 6)),
        committed(2, 10),
        append(2, 13, 3, size),
        Step::Vote(vote(3)),
        append(3, 16, 1, 12 * size),
        Step::Vote(vote(4)),
        Step::TruncateAfter(Some(id(2, 13))),
        append(4, 14, 6, size),
        Step::Purge(id(4, 18)),
        append(4, 20, 4, size),
        committed(4, 23),
        Step::Purge(id(5, 60)),
        append(5, 61, 3, size),
        Step::Vote(vote(6)),
        append(6, 64, 2, size),
    ]
}

fn chance(random: &mut Random, count: usize, segment_bytes: usize) -> Vec<Step> {
    let mut steps = vec![append(1, 0, 1, 1), Step::Vote(vote(1))];
    // The term of each entry from `first` on.
    let (mut term, mut first, mut terms) = (1, 0, vec![1]);
    let at = |first: u64, terms: &[u64], offset: usize| id(terms[offset], first + offset as u64);
    while steps.len() < count {
        let next = first + terms.len() as u64;
        match random.below(12) {
            0..6 => {
                let entries = 1 + random.below(4);
                let commands = match random.below(8) {
                    0 => segment_bytes / 8,
                    1..3 => random.below(60),
                    _ => random.below(8),
                };
                steps.push(append(term, next, entries as u64, commands));
                terms.extend(vec![term; entries]);
            }
            6..8 => {
                term += 1;
                steps.push(Step::Vote(vote(term)));
            }
            8 if terms.len() > 1 => {
                let kept = 1 + random.below(terms.len() - 1);
                term += 1;
                steps.push(Step::Vote(vote(term)));
                steps.push(Step::TruncateAfter(Some(at(first, &terms, kept - 1))));
                terms.truncate(kept);
            }
            9 if terms.len() > 1 => {
                let gone = 1 + random.below(terms.len() - 1);
                steps.push(Step::Purge(at(first, &terms, gone - 1)));
                terms.drain(..gone);
                first += gone as u64;
            }
            10 if !terms.is_empty() => {
                steps.push(Step::Committed(at(first, &terms, random.below(terms.len()))));
            }
            11 if random.below(3) == 0 => {
                let upto = next + random.below(40) as u64;
                steps.push(Step::Purge(id(term, upto)));
                (first, terms) = (upto + 1, Vec::new());
            }
            _ => {}
        }
    }
    steps
}
