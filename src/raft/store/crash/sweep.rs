//! Cuts the power at every call of a trace, and again while what was recovered goes on.

use oarlock_core::planted;

use std::io::Write;

use super::disk::{Moment, Survival};
use super::recorder::{Call, Image, Progress, Recorder, Trace};
use super::settings::{self, Place};

/// A store and the script it runs.
pub(super) trait Subject {
    /// What a recovery found and did afterwards, as a model of the second cut.
    type Second;

    fn name(&self) -> &str;

    /// Runs the script on an empty disk that never fails.
    fn record(&self) -> Trace;

    /// Recovers from the first cut, judges what is found, goes on. The progress it notes on the
    /// disk begins when the store is open.
    fn recover(&self, progress: Progress, disk: &Recorder) -> Result<Self::Second, String>;

    /// Recovers from a second cut; `progress` is none if the first recovery was not yet done, and
    /// then whatever was allowed before still is.
    fn recover_again(
        &self,
        before: Progress,
        second: &Self::Second,
        progress: Option<Progress>,
        image: Image,
    ) -> Result<(), String>;
}

/// What a sweep looked at.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Count {
    calls: usize,
    cuts: usize,
    second_cuts: usize,
}

/// Cuts everywhere, or at the place asked for; one first cut in `stride` is followed by all second
/// ones, the others by those at the two moments that matter most.
pub(super) fn run(subject: &impl Subject) {
    planted::choose(std::env::var(planted::VARIABLE).ok()).expect("a planted bug");
    let only = settings::only();
    if only.as_ref().is_some_and(|only| only.script != subject.name()) {
        return;
    }
    let trace = subject.record();
    let mut count = Count { calls: trace.calls.len(), ..Count::default() };
    for at in 0..=trace.calls.len() {
        let moment = Moment::after(&trace, at);
        let progress = trace.progress_after(at);
        let images = moment.images().map(|(number, survival, image)| {
            (number, format!("{survival:?}"), Recorder::new(image), 0)
        });
        for (number, what, disk, from) in images.chain(kills(&trace, at, &moment)) {
            let place = Place::first(subject.name(), (at, number));
            if only.as_ref().is_some_and(|only| !only.begins_with(&place)) {
                continue;
            }
            count.cuts += 1;
            let deep = only.is_some()
                || count.cuts.is_multiple_of(settings::stride())
                || (from > 0 && moves_names(&trace, at));
            let judged = subject.recover(progress, &disk);
            let judged = judged.map_err(|why| format!("{why}\n  {}", place.command()));
            let again = judged.and_then(|second| {
                let trace = disk.trace();
                cut_again(subject, progress, (&second, &trace, from), &place, deep)
            });
            count.second_cuts += again
                .unwrap_or_else(|why| panic!("{}, {what} after {at} calls: {why}", subject.name()));
        }
    }
    // Straight to the terminal, so that a run of hours shows where it is.
    let _no_terminal = writeln!(std::io::stderr(), "{}: {count:?}", subject.name());
}

/// The machine goes on and only the process ends, by a kill or by a failed sync; numbered behind
/// the survivals. Answers from which call on a second cut is to be tried.
fn kills(
    trace: &Trace,
    at: usize,
    moment: &Moment<'_>,
) -> impl Iterator<Item = (usize, String, Recorder, usize)> {
    let first = moment.survivals().len();
    let fails = matches!(trace.calls.get(at), Some(Call::Sync { .. }));
    let failures = if fails { &[false, true][..] } else { &[false] };
    failures.iter().zip(first..).map(move |(sync_failed, number)| {
        let disk = Recorder::killed(trace, at, *sync_failed);
        let from = disk.trace().calls.len();
        (number, format!("killed, sync failed: {sync_failed}"), disk, from)
    })
}

/// Whether the last call leaves a name unsynced: what a killed process is most likely to forget.
fn moves_names(trace: &Trace, at: usize) -> bool {
    let last = at.checked_sub(1).map(|last| &trace.calls[last]);
    matches!(last, Some(Call::Remove { .. } | Call::Rename { .. }))
}

fn cut_again<S: Subject>(
    subject: &S,
    before: Progress,
    (second, trace, from): (&S::Second, &Trace, usize),
    place: &Place,
    deep: bool,
) -> Result<usize, String> {
    let only = settings::only().filter(|only| only.cuts.len() > place.cuts.len());
    let mut count = 0;
    let end = trace.calls.len();
    let opened = (from..=end).find(|at| trace.progress_after(*at).acknowledged.is_some());
    for at in (from..=end).filter(|at| deep || *at == end || Some(*at) == opened) {
        let progress = trace.progress_after(at);
        let progress = progress.acknowledged.is_some().then_some(progress);
        for (number, survival, image) in Moment::after(trace, at).images() {
            let again = place.then((at, number));
            let asked = only.as_ref().is_none_or(|only| only.begins_with(&again));
            if !asked || (!deep && survival != Survival::Nothing) {
                continue;
            }
            count += 1;
            subject.recover_again(before, second, progress, image).map_err(|why| {
                let call = trace.calls.get(at.wrapping_sub(1));
                let place = again.command();
                format!("second cut, {survival:?} after {at} calls ({call:.99?}): {why}\n  {place}")
            })?;
        }
    }
    Ok(count)
}
