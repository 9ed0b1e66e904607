//! Log and snapshots of one node, cut together: what lies in one must never contradict the other.
//!
//! A follower builds a snapshot and purges its log up to it; it gets one from a later leader that
//! takes the place of entries which were never committed; it goes on from there. After each cut the
//! log is judged as by itself, the newest snapshot is the acknowledged one or the next, and:
//! nothing is missing between the two, and where both know an entry it is the same.

use std::sync::Arc;

use super::oracle::{Oracle, State};
use super::recorder::{Folder, Image, Progress, Recorder, Trace};
use super::script::{entry, id, vote};
use super::settings;
use super::snapshots::{content, receive};
use super::sweep::{Subject, run};
use crate::raft::store::log::LogOptions;
use crate::raft::store::log::driven::{Contents, DrivenLog, Preparation, Step};
use crate::raft::store::snapshot::SnapshotFile;
use crate::raft::store::snapshots::Snapshots;
use crate::raft::types::{LogId, SnapshotMeta, StoredMembership};

const CLUSTER: u128 = 6 << 80;

const NAME: &str = "together";

/// What a node does to its disk, each when the one before it was answered.
enum Does {
    Log(Step),
    /// As Raft asks for it before it installs a snapshot.
    CutsOff(LogId),
    Builds(LogId),
    Receives(LogId),
    Restarts,
}

struct Both {
    does: Vec<Does>,
    oracle: Oracle,
}

/// The two stores of a node.
struct Stores {
    log: DrivenLog,
    snapshots: Snapshots,
}

fn text(error: impl std::fmt::Display) -> String {
    format!("{error}")
}

fn append(term: u64, range: std::ops::Range<u64>) -> Does {
    Does::Log(Step::Append(range.map(|index| entry(term, index, 3)).collect()))
}

fn purge(upto: LogId) -> Does {
    Does::Log(Step::Purge(upto))
}

impl Stores {
    /// As a node starts: the log first, and the snapshots as the log needs them.
    fn open(recorder: &Recorder) -> Result<Self, String> {
        let folder = |name| Arc::new(Folder { recorder: recorder.clone(), name });
        let options = LogOptions { segment_bytes: 512, cache_bytes: 300 };
        let log = DrivenLog::open(folder("log"), options, Preparation::Early).map_err(text)?;
        let purged = log.contents().map_err(text)?.purged;
        let snapshots = Snapshots::open_in(folder("snapshots"), CLUSTER, purged).map_err(text)?;
        Ok(Self { log, snapshots })
    }

    fn take(&mut self, does: &Does) -> Result<(), String> {
        match does {
            Does::Log(step) => {
                let mut is_told = false;
                self.log.submit(1, step).map_err(text)?;
                self.log.write_group(false, |_| is_told = true).map_err(text)?;
                if is_told { Ok(()) } else { Err("it is written and nobody is told".to_owned()) }
            }
            Does::CutsOff(last) => self.log.truncate_as_raft(Some(*last)).map_err(text),
            Does::Builds(at) => {
                let built = build(&self.snapshots, *at)?;
                self.snapshots.put(&built).map_err(text)
            }
            Does::Receives(at) => {
                let disk = Folder { recorder: Recorder::default(), name: "elsewhere" };
                let elsewhere = Snapshots::open_in(Arc::new(disk), CLUSTER, None).map_err(text)?;
                receive(&self.snapshots, &content(&build(&elsewhere, *at)?)?, true)
            }
            Does::Restarts => Ok(()),
        }
    }

    /// What each says, and nothing missing or in contradiction between them.
    fn contents(&self) -> Result<(Contents, Option<LogId>), String> {
        let log = self.log.contents().map_err(text)?;
        let snapshot = self.snapshots.current().and_then(|file| file.meta().last_log_id);
        if log.purged > snapshot {
            return Err(format!(
                "the log begins after {:?}, the snapshot stands at {snapshot:?}",
                log.purged
            ));
        }
        let same =
            |entry: &LogId| snapshot.is_none_or(|it| it.index != entry.index || it == *entry);
        match log.entries.iter().map(|entry| entry.log_id).find(|entry| !same(entry)) {
            Some(other) => Err(format!("the log has {other} where the snapshot has {snapshot:?}")),
            None => Ok((log, snapshot)),
        }
    }
}

fn build(snapshots: &Snapshots, at: LogId) -> Result<SnapshotFile, String> {
    let (last_log_id, last_membership) = (Some(at), StoredMembership::default());
    let meta = SnapshotMeta { last_log_id, last_membership };
    let (key, row) = (at.index.to_le_bytes(), [7; 600]);
    let mut writer = snapshots.begin(meta, 1).map_err(text)?;
    writer.push(&key, &row).map_err(text)?;
    writer.finish(crate::raft::store::view::row_hash(&key, &row)).map_err(text)
}

impl Both {
    fn new() -> Self {
        use Does::{Builds, CutsOff, Log, Receives, Restarts};
        let does = vec![
            append(1, 0..1),
            Log(Step::Vote(vote(1))),
            append(1, 1..6),
            Builds(id(1, 3)),
            purge(id(1, 1)),
            append(1, 6..12),
            // Of those from 6 on another leader has others, and a snapshot that is further.
            Log(Step::Vote(vote(2))),
            CutsOff(id(1, 5)),
            Receives(id(2, 9)),
            purge(id(2, 9)),
            append(2, 10..14),
            Restarts,
            Builds(id(2, 12)),
            purge(id(2, 9)),
            append(2, 14..18),
            // One that is far ahead of all that the log has.
            Receives(id(3, 60)),
            purge(id(3, 60)),
            append(3, 61..63),
            Restarts,
            append(3, 63..64),
        ];
        let steps: Vec<Step> = does.iter().filter_map(log_step).collect();
        Self { does, oracle: Oracle::new(State::default(), None, &steps) }
    }

    /// Newest snapshot of the first so many.
    fn snapshot(&self, count: usize) -> Option<LogId> {
        let made = self.does[..count].iter().filter_map(|does| match does {
            Does::Builds(at) | Does::Receives(at) => Some(*at),
            Does::Log(_) | Does::CutsOff(_) | Does::Restarts => None,
        });
        made.max()
    }

    /// How many of the first so many are for the log.
    fn log_steps(&self, count: usize) -> usize {
        self.does[..count].iter().filter_map(log_step).count()
    }

    fn judge(&self, progress: Progress, stores: &Stores) -> Result<(), String> {
        let (log, snapshot) = stores.contents()?;
        let acknowledged = progress.acknowledged.unwrap_or(0);
        let possible = [self.snapshot(acknowledged), self.snapshot(progress.submitted)];
        if !possible.contains(&snapshot) {
            return Err(format!("the snapshot stands at {snapshot:?}, it may at {possible:?}"));
        }
        let of_log = Progress {
            acknowledged: Some(self.log_steps(acknowledged)),
            submitted: self.log_steps(progress.submitted),
        };
        self.oracle.judge(of_log, &log)
    }
}

fn log_step(does: &Does) -> Option<Step> {
    match does {
        Does::Log(step) => Some(step.clone()),
        Does::CutsOff(last) => Some(Step::TruncateAfter(Some(*last))),
        Does::Builds(_) | Does::Receives(_) | Does::Restarts => None,
    }
}

impl Subject for Both {
    type Second = ();

    fn name(&self) -> &str {
        NAME
    }

    fn record(&self) -> Trace {
        let recorder = Recorder::default();
        let mut stores = Stores::open(&recorder).expect("empty directories open");
        recorder.acknowledged(0);
        for (does, number) in self.does.iter().zip(1..) {
            recorder.submitted(number);
            stores.take(does).expect("no disk fails");
            recorder.acknowledged(number);
            if matches!(does, Does::Restarts) {
                stores.log.close().expect("no disk fails");
                stores = Stores::open(&recorder).expect("it opens again");
            }
        }
        recorder.trace()
    }

    /// What follows is each store's own test; the second cut is in the middle of the recovery.
    fn recover(&self, progress: Progress, disk: &Recorder) -> Result<(), String> {
        let stores = Stores::open(disk)?;
        self.judge(progress, &stores)?;
        disk.acknowledged(0);
        stores.log.close().map_err(text)
    }

    fn recover_again(
        &self,
        before: Progress,
        (): &(),
        _progress: Option<Progress>,
        image: Image,
    ) -> Result<(), String> {
        self.judge(before, &Stores::open(&Recorder::new(image))?)
    }
}

#[test]
fn a_cut_at_any_call_leaves_a_log_and_snapshots_that_fit_together() {
    if settings::only().is_none_or(|only| only.script == NAME) {
        run(&Both::new());
    }
}

#[test]
fn a_log_that_contradicts_its_snapshot_or_lacks_what_comes_before_it_is_found() {
    let made = |all: &[Does]| {
        let recorder = Recorder::default();
        let mut stores = Stores::open(&recorder).expect("empty directories open");
        for does in all {
            stores.take(does).expect("no disk fails");
        }
        stores.contents().map(drop)
    };
    let begins = || vec![append(1, 0..1), Does::Log(Step::Vote(vote(1))), append(1, 1..12)];
    let with = |more: Vec<Does>| made(&begins().into_iter().chain(more).collect::<Vec<_>>());
    assert_eq!(with(vec![Does::Builds(id(1, 9))]), Ok(()));
    // The end that the snapshot takes the place of was not cut off.
    let why = with(vec![Does::Receives(id(2, 9))]).expect_err("two entries 9");
    assert!(why.contains("where the snapshot has"), "{why}");
    let why = with(vec![Does::Builds(id(1, 3)), purge(id(1, 5))]).expect_err("4 and 5 are missing");
    assert!(why.contains("begins after"), "{why}");
}
