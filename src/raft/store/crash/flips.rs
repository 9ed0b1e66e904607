//! Single flipped bits in a log: what was acknowledged is there exactly, or the log is refused in a
//! sentence and left as it was. Never is it a little different.
//!
//! The one exception is a last group without its witness, as a power cut may leave it: damage there
//! looks like a write that was torn.

use oarlock_core::planted;

use std::io::Write;

use super::disk::{Moment, Survival};
use super::log::Log;
use super::oracle::State;
use super::recorder::{Image, Progress, Recorder};
use super::script::{Script, record};
use super::settings;
use crate::raft::store::files::memory::Random;
use crate::raft::store::log::driven::Contents;

/// Bytes of a record before its body: version, kind, length, and up to where all was synced.
const HEAD_BYTES: usize = 14;
const CHECKSUM_BYTES: usize = 4;

/// Where a record lies, read without the code of the store.
struct Found {
    offset: usize,
    end: usize,
    durable_upto: usize,
}

fn records(segment: &[u8]) -> Vec<Found> {
    let mut records = Vec::new();
    let mut offset = 0;
    while segment.get(offset) == Some(&1) {
        let number = |from: usize, bytes: usize| {
            let digits = segment[offset + from..offset + from + bytes].iter().rev();
            digits.fold(0, |sum, byte| sum << 8 | usize::from(*byte))
        };
        let end = offset + 6 + number(2, 4) + CHECKSUM_BYTES;
        records.push(Found { offset, end, durable_upto: number(6, 8) });
        offset = end;
    }
    records
}

/// The segment that was written last, and from where on nothing vouches for its records.
fn unvouched(image: &Image) -> (String, usize) {
    let used = image.iter().rev().find(|(_, bytes)| !records(bytes).is_empty());
    let (name, bytes) = used.expect("a segment");
    let upto = records(bytes).iter().map(|record| record.durable_upto).max();
    (name.clone(), upto.unwrap_or(0))
}

/// Every bit of every head, checksum and segment header, and some of all the others.
fn bits(image: &Image) -> Vec<(String, usize)> {
    let mut bits = Vec::new();
    let mut random = Random::new(settings::seed() as u64);
    for (name, bytes) in image {
        for Found { offset, end, .. } in records(bytes) {
            let whole = offset == 0;
            let head = offset..if whole { end } else { offset + HEAD_BYTES };
            let checksum = end - CHECKSUM_BYTES..end;
            let at = head.chain(checksum).flat_map(|byte| byte * 8..byte * 8 + 8);
            bits.extend(at.map(|bit| (name.clone(), bit)));
        }
        let share = settings::flips().div_ceil(image.len());
        bits.extend((0..share).map(|_| (name.clone(), random.below(bytes.len() * 8))));
    }
    bits
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Verdicts {
    exact: usize,
    refused: usize,
    excused: usize,
}

struct Flips {
    log: Log,
    image: Image,
    whole: Contents,
    /// All but the last group.
    vouched: Progress,
}

impl Flips {
    /// The image of a script: closed, or cut when all of it was on the disk but the last witness.
    fn of(script: Script, closed: bool) -> Self {
        let trace = record(&script);
        let end = trace.calls.len();
        let Progress { acknowledged, submitted } = trace.progress_after(end);
        let is_told = |at: &usize| trace.progress_after(*at).acknowledged == acknowledged;
        let told = (0..=end).find(is_told).unwrap_or(end);
        let image = Moment::after(&trace, if closed { end } else { told }).image(Survival::All);
        let earlier = (0..told).filter_map(|at| trace.progress_after(at).acknowledged).max();
        let vouched = Progress { acknowledged: earlier, submitted };
        let log = Log::new(script);
        let whole = log.read(&Recorder::new(image.clone())).expect("it is whole");
        Self { log, image, whole, vouched }
    }

    fn judge(&self, name: &str, bit: usize, verdicts: &mut Verdicts) -> Result<(), String> {
        let mut image = self.image.clone();
        if let Some(bytes) = image.get_mut(name) {
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        let recorder = Recorder::new(image);
        let found = match self.log.read(&recorder) {
            Ok(found) => found,
            Err(why) => {
                verdicts.refused += 1;
                let is_sentence = why.contains("the log is damaged")
                    && why.contains("rebuild this node from its peers");
                let untouched = recorder.trace().calls.is_empty();
                return if is_sentence && untouched { Ok(()) } else { Err(why) };
            }
        };
        if State::of(&found) == State::of(&self.whole) && found.last == self.whole.last {
            verdicts.exact += 1;
        } else {
            let (last, from) = unvouched(&self.image);
            if name != last || bit / 8 < from {
                return Err(format!("a silent difference: {found:?}"));
            }
            self.log.oracle.judge(self.vouched, &found)?;
            verdicts.excused += 1;
        }
        if !bit.is_multiple_of(8) {
            return Ok(());
        }
        // The first start has repaired what it took for torn; the second finds the same and goes on.
        let go_on = |again: &Contents| {
            if again == &found {
                Ok(())
            } else {
                Err(format!("the second start differs: {again:?}"))
            }
        };
        self.log.go_on(&Recorder::new(recorder.image()), go_on).map(|_| ())
    }

    fn run(&self) -> Verdicts {
        let mut verdicts = Verdicts::default();
        for (name, bit) in bits(&self.image) {
            self.judge(&name, bit, &mut verdicts).unwrap_or_else(|why| {
                let (script, seed, flips) =
                    (&self.log.script.name, settings::seed(), settings::flips());
                panic!(
                    "{script}, bit {bit} of {name}: {why}\n  OARLOCK_CRASH_SEED={seed} \
                     OARLOCK_FLIPS={flips} cargo test --lib raft::store::crash::flips"
                )
            });
        }
        verdicts
    }
}

/// Flips bits of the script's log, closed and cut.
fn flip(script: &Script) {
    for closed in [true, false] {
        let verdicts = Flips::of(script.clone(), closed).run();
        let _no_terminal =
            writeln!(std::io::stderr(), "{}, closed {closed}: {verdicts:?}", script.name);
        assert!(verdicts.exact > 0 && verdicts.refused > 0, "{verdicts:?}");
        assert!(!closed || verdicts.excused == 0, "{verdicts:?}");
    }
}

#[test]
fn a_flipped_bit_is_recovered_from_exactly_or_refused() {
    planted::choose(std::env::var(planted::VARIABLE).ok()).expect("a planted bug");
    [Script::singly(), Script::in_groups(), Script::large()].iter().for_each(flip);
    if settings::is_long() {
        settings::for_each_seed(|seed| flip(&Script::random(seed)));
    }
}
