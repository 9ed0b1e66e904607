//! The directory of snapshots, cut at every call, and every kind of damaged bit in it.
//!
//! What counts is what a node starts from: the newest snapshot that was acknowledged or a later
//! one, byte for byte; the one before it is kept; a cut never leaves a damaged file behind.

use std::io;
use std::sync::Arc;

use super::recorder::{Image, Progress, Recorder, Trace};
use super::script::id;
use super::settings;
use super::sweep::{Subject, run};
use crate::raft::store::files::memory::Random;
use crate::raft::store::files::{FileHandle, Files};
use crate::raft::store::snapshot::SnapshotFile;
use crate::raft::store::snapshots::Snapshots;
use crate::raft::types::{LogId, SnapshotMeta, StoredMembership};

const CLUSTER: u128 = 5 << 80;

/// A received snapshot comes in so many pieces. Every one is an unsynced write, and the cuts grow
/// with their square.
const PIECES: usize = 5;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Built,
    Received,
    /// Received up to the middle, then dropped.
    Aborted,
    /// Closed and opened again.
    Restart,
}

/// Snapshots in order of their positions; each is `rows` rows of up to `bytes` bytes.
struct Script {
    name: String,
    bytes: usize,
    steps: Vec<Way>,
}

fn position(number: usize) -> LogId {
    id(1 + number as u64 / 3, 10 * number as u64)
}

fn text(error: impl std::fmt::Display) -> String {
    format!("{error}")
}

fn open(recorder: &Recorder, last_purged: Option<LogId>) -> Result<Snapshots, String> {
    Snapshots::open_in(Arc::new(recorder.clone()), CLUSTER, last_purged).map_err(text)
}

/// Writes the snapshot of that number.
fn build(snapshots: &Snapshots, number: usize, bytes: usize) -> Result<SnapshotFile, String> {
    let mut random = Random::new(number as u64);
    let row_count = 1 + random.below(4);
    let meta = SnapshotMeta {
        last_log_id: Some(position(number)),
        last_membership: StoredMembership::default(),
    };
    let mut writer = snapshots.begin(meta, row_count as u64).map_err(text)?;
    let mut sum = 0_u64;
    for row in 0..row_count {
        let key = [row.to_le_bytes(), number.to_le_bytes()].concat();
        let length = 1 + random.below(bytes);
        let value: Vec<u8> = (0..length).map(|_| random.number().to_le_bytes()[0]).collect();
        sum = sum.wrapping_add(crate::raft::store::view::row_hash(&key, &value));
        writer.push(&key, &value).map_err(text)?;
    }
    writer.finish(sum).map_err(text)
}

pub(super) fn content(file: &SnapshotFile) -> Result<Vec<u8>, String> {
    let mut bytes = vec![0; usize::try_from(file.bytes()).map_err(text)?];
    file.read_at(&mut bytes, 0).map_err(text)?;
    Ok(bytes)
}

/// The bytes that snapshot has, made on a disk of its own.
fn original(number: usize, bytes: usize) -> Result<Vec<u8>, String> {
    content(&build(&open(&Recorder::default(), None)?, number, bytes)?)
}

pub(super) fn receive(snapshots: &Snapshots, bytes: &[u8], whole: bool) -> Result<(), String> {
    let mut incoming = snapshots.receive().map_err(text)?;
    let end = if whole { bytes.len() } else { bytes.len() / 2 };
    for piece in bytes[..end].chunks(bytes.len().div_ceil(PIECES)) {
        incoming.write(piece).map_err(text)?;
    }
    if whole { snapshots.put(&incoming.finish().map_err(text)?).map_err(text) } else { Ok(()) }
}

impl Script {
    fn usual() -> Self {
        use Way::{Aborted, Built, Received, Restart};
        let steps = vec![
            Built, Built, Aborted, Received, Restart, Built, Aborted, Restart, Received, Received,
        ];
        Self { name: "snapshots".to_owned(), bytes: 3_000, steps }
    }

    /// By chance.
    fn random(seed: usize) -> Self {
        let mut random = Random::new(seed as u64);
        let bytes = [10, 300, 2_000, 9_000][random.below(4)];
        let count = 4 + random.below(8);
        let way = |_| match random.below(6) {
            0..2 => Way::Built,
            2..4 => Way::Received,
            4 => Way::Aborted,
            _ => Way::Restart,
        };
        let steps = (0..count).map(way).collect();
        Self { name: format!("snapshots-{seed}"), bytes, steps }
    }

    fn named(name: &str) -> Option<Self> {
        match name {
            "snapshots" => Some(Self::usual()),
            other => Some(Self::random(other.strip_prefix("snapshots-")?.parse().ok()?)),
        }
    }

    /// Numbers of the snapshots that the first `steps` steps complete.
    fn completed(&self, steps: usize) -> Vec<usize> {
        let complete = |way: &Way| matches!(way, Way::Built | Way::Received);
        let numbered = self.steps.iter().zip(1..).take(steps);
        numbered.filter(|(way, _)| complete(way)).map(|(_, number)| number).collect()
    }

    fn step(&self, snapshots: &Snapshots, number: usize, way: Way) -> Result<(), String> {
        match way {
            Way::Built => snapshots.put(&build(snapshots, number, self.bytes)?).map_err(text),
            Way::Received | Way::Aborted => {
                receive(snapshots, &original(number, self.bytes)?, way == Way::Received)
            }
            Way::Restart => Ok(()),
        }
    }

    /// Every file in the directory is one of those that may be there, whole.
    fn judge(
        &self,
        recorder: &Recorder,
        current: Option<&SnapshotFile>,
        (kept, possible): (&[usize], &[usize]),
    ) -> Result<(), String> {
        let mut found = Vec::new();
        for name in recorder.list().map_err(text)? {
            let file = SnapshotFile::open(recorder, &name, CLUSTER);
            let file = file.map_err(|error| format!("{name}: {error}"))?;
            let is_it = |number: &&usize| Some(position(**number)) == file.meta().last_log_id;
            let Some(number) = possible.iter().find(is_it) else {
                return Err(format!("{name} was never made"));
            };
            if content(&file)? != original(*number, self.bytes)? {
                return Err(format!("{name} is not what was written"));
            }
            found.push(*number);
        }
        found.sort_unstable();
        let newest = found.last().map(|number| position(*number));
        if current.and_then(|file| file.meta().last_log_id) != newest {
            return Err(format!("{newest:?} is there and does not count"));
        }
        // Of those that were acknowledged the last, and beside it the one before it or one after.
        if found.last() < kept.last() || found.len() < kept.len().min(2) {
            return Err(format!("found {found:?}, acknowledged {kept:?}"));
        }
        Ok(())
    }
}

/// The number of a snapshot that is made after a recovery.
fn later(script: &Script) -> usize {
    script.steps.len() + 1
}

impl Subject for Script {
    /// The snapshots that were found.
    type Second = Vec<usize>;

    fn name(&self) -> &str {
        &self.name
    }

    fn record(&self) -> Trace {
        let recorder = Recorder::default();
        let mut snapshots = open(&recorder, None).expect("an empty directory opens");
        recorder.acknowledged(0);
        for (way, number) in self.steps.iter().zip(1..) {
            recorder.submitted(number);
            self.step(&snapshots, number, *way).expect("no disk fails");
            recorder.acknowledged(number);
            if *way == Way::Restart {
                snapshots = open(&recorder, None).expect("it opens again");
            }
        }
        recorder.trace()
    }

    fn recover(&self, progress: Progress, disk: &Recorder) -> Result<Vec<usize>, String> {
        let kept = self.completed(progress.acknowledged.unwrap_or(0));
        let possible = self.completed(progress.submitted);
        // The log may have been purged up to what was acknowledged.
        let snapshots = open(disk, kept.last().map(|number| position(*number)))?;
        self.judge(disk, snapshots.current().as_ref(), (&kept, &possible))?;
        let names = disk.list().map_err(text)?;
        let is_there = |number: &usize| {
            let LogId { leader_id, index } = position(*number);
            names.contains(&format!("snapshot-{}-{index}.osnap", leader_id.term))
        };
        let found = possible.into_iter().filter(is_there).collect();
        disk.acknowledged(0);
        disk.submitted(1);
        self.step(&snapshots, later(self), Way::Received)?;
        disk.acknowledged(1);
        Ok(found)
    }

    fn recover_again(
        &self,
        before: Progress,
        second: &Vec<usize>,
        progress: Option<Progress>,
        image: Image,
    ) -> Result<(), String> {
        let recorder = Recorder::new(image);
        let (kept, possible) = if let Some(progress) = progress {
            let with = |is_there: bool| {
                let later = is_there.then(|| later(self));
                second.iter().copied().chain(later).collect::<Vec<_>>()
            };
            (with(progress.acknowledged == Some(1)), with(progress.submitted == 1))
        } else {
            let kept = self.completed(before.acknowledged.unwrap_or(0));
            (kept, self.completed(before.submitted))
        };
        let snapshots = open(&recorder, kept.last().map(|number| position(*number)))?;
        self.judge(&recorder, snapshots.current().as_ref(), (&kept, &possible))
    }
}

#[test]
fn a_cut_at_any_call_leaves_the_newest_snapshot_and_the_one_before_it() {
    if let Some(only) = settings::only() {
        return Script::named(&only.script).iter().for_each(run);
    }
    run(&Script::usual());
    if settings::is_long() {
        settings::for_each_seed(|seed| run(&Script::random(seed)));
    }
}

#[test]
fn the_same_snapshots_make_the_same_calls() {
    for script in [Script::usual(), Script::random(3)] {
        let again = Script::named(&script.name).expect("a script has its name");
        assert!(script.record() == again.record(), "{} is not the same twice", script.name);
    }
}

#[test]
fn a_flipped_bit_in_a_snapshot_makes_the_one_before_it_count() {
    let script = Script::usual();
    let recorder = Recorder::default();
    let snapshots = open(&recorder, None).expect("it opens");
    for number in [1, 2] {
        script.step(&snapshots, number, Way::Built).expect("no disk fails");
    }
    let whole = recorder.image();
    let (newest, bytes) = whole.last_key_value().expect("a file");
    let mut random = Random::new(settings::seed() as u64);
    let (edge, end) = (200, bytes.len() * 8);
    let sample = (0..settings::flips()).map(|_| random.below(end));
    for bit in (0..edge * 8).chain(end - edge * 8..end).chain(sample.collect::<Vec<_>>()) {
        let mut image = whole.clone();
        if let Some(bytes) = image.get_mut(newest) {
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        let recorder = Recorder::new(image);
        let snapshots = open(&recorder, None).expect("the one before is good");
        let current = snapshots.current().expect("the one before counts");
        assert_eq!(current.meta().last_log_id, Some(position(1)), "bit {bit} of {newest}");
        assert_eq!(Ok(content(&current).expect("readable")), original(1, script.bytes));
        assert!(recorder.image().contains_key(&format!("{newest}.bad")), "it is kept");
    }
}

/// A directory whose files cannot be opened.
struct Unreadable(Recorder);

impl Files for Unreadable {
    fn list(&self) -> io::Result<Vec<String>> {
        self.0.list()
    }
    fn open(&self, _name: &str) -> io::Result<Arc<dyn FileHandle>> {
        Err(io::Error::other("the disk does not read"))
    }
    fn create(&self, name: &str) -> io::Result<Arc<dyn FileHandle>> {
        self.0.create(name)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.remove(name)
    }
    fn sync_dir(&self) -> io::Result<()> {
        self.0.sync_dir()
    }
}

#[test]
fn a_snapshot_that_cannot_be_read_now_is_not_set_aside() {
    let script = Script::usual();
    let recorder = Recorder::default();
    let snapshots = open(&recorder, None).expect("it opens");
    script.step(&snapshots, 1, Way::Built).expect("no disk fails");
    let whole = recorder.image();
    let files = Arc::new(Unreadable(recorder.clone()));
    let error = Snapshots::open_in(files, CLUSTER, None).err().expect("it is refused");
    assert!(error.to_string().contains("the disk does not read"), "{error}");
    assert_eq!(recorder.image(), whole);

    let mut image = whole.clone();
    let bytes = image.values_mut().next().expect("a file");
    let end = 6 + usize::from(bytes[2]);
    bytes[0] = 2;
    let checksum = crc32c::crc32c_append(0x4f53_4e41, &bytes[..end]);
    bytes[end..end + 4].copy_from_slice(&checksum.to_le_bytes());
    let recorder = Recorder::new(image.clone());
    let error = open(&recorder, None).err().expect("it is refused");
    assert!(error.contains("upgrade this node"), "{error}");
    assert_eq!(recorder.image(), image, "the newer build finds it again");
}
