//! The log, cut at every call of a trace and once more while it recovers and goes on.

use std::io::Write;

use super::disk::{Moment, Survival};
use super::oracle::{Oracle, State};
use super::recorder::{Image, Progress, Recorder, Trace};
use super::script::{Script, entry, record, vote};
use super::settings::{self, Place};
use crate::raft::store::log::driven::{Contents, Step};

/// What a sweep looked at.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Count {
    calls: usize,
    cuts: usize,
    second_cuts: usize,
}

/// Cuts the power at every point of the script, or at the one asked for.
fn sweep(script: &Script, stride: usize) -> Count {
    let only = settings::only();
    let trace = record(script);
    let oracle = Oracle::new(State::default(), None, &script.steps);
    let mut count = Count { calls: trace.calls.len(), ..Count::default() };
    for at in 0..=trace.calls.len() {
        let moment = Moment::after(&trace, at);
        let progress = trace.progress_after(at);
        for (number, survival, image) in moment.images() {
            let place = Place::first(&script.name, (at, number));
            if only.as_ref().is_some_and(|only| !only.begins_with(&place)) {
                continue;
            }
            count.cuts += 1;
            let deep = only.is_some() || count.cuts.is_multiple_of(stride);
            let judged = recover(script, &oracle, progress, image)
                .and_then(|second| second.check(script, &oracle, progress, &place, deep));
            count.second_cuts += judged.unwrap_or_else(|why| {
                let last = at.checked_sub(1).map(|last| &trace.calls[last]);
                let command = place.command();
                panic!("{survival:?} after {last:.200?} of {script:.0?}\n{why}\n  {command}")
            });
        }
    }
    count
}

/// A log that was recovered after the first cut and went on.
struct Second {
    trace: Trace,
    found: Contents,
    /// From what was found through what came after.
    oracle: Oracle,
}

fn read(script: &Script, image: Image) -> Result<(Recorder, Contents), String> {
    let recorder = Recorder::new(image);
    let log = script.open(&recorder).map_err(|error| format!("it is refused: {error}"))?;
    let contents = log.contents().map_err(|error| format!("it cannot be read: {error}"))?;
    Ok((recorder, contents))
}

fn recover(
    script: &Script,
    oracle: &Oracle,
    progress: Progress,
    image: Image,
) -> Result<Second, String> {
    let recorder = Recorder::new(image);
    let mut log = script.open(&recorder).map_err(|error| format!("it is refused: {error}"))?;
    let found = log.contents().map_err(|error| format!("it cannot be read: {error}"))?;
    oracle.judge(progress, &found)?;
    recorder.acknowledged(0);
    let steps = later_steps(&found);
    for (at, step) in steps.iter().enumerate() {
        let number = at + 1;
        recorder.submitted(number);
        log.submit(number, step).map_err(|error| format!("{step:?} is refused: {error}"))?;
        log.write_group(|number| recorder.acknowledged(number))
            .map_err(|error| format!("{step:?} is not written: {error}"))?;
    }
    let oracle = Oracle::new(State::of(&found), found.committed, &steps);
    let end = log.contents().map_err(|error| format!("at the end: {error}"))?;
    if State::of(&end) != *oracle.end() {
        return Err(format!("what came after the recovery is not there: {end:?}"));
    }
    Ok(Second { trace: recorder.trace(), found, oracle })
}

/// Goes on as any follower might: a vote, entries, some of them taken back, a purge.
fn later_steps(found: &Contents) -> Vec<Step> {
    let term = found.vote.map_or(0, |vote| vote.leader_id.term) + 1;
    let next = found.last.map_or(0, |last| last.index + 1);
    let mut steps = vec![
        Step::Vote(vote(term)),
        Step::Append(vec![entry(term, next, 2), entry(term, next + 1, 70)]),
        Step::Vote(vote(term + 1)),
    ];
    let first = entry(term, next, 0).log_id;
    steps.push(Step::TruncateAfter(Some(first)));
    steps.push(Step::Append(vec![entry(term + 1, next + 1, 5)]));
    steps.push(Step::Purge(first));
    steps
}

impl Second {
    /// Cuts it again: at the end, right after the recovery, and if `deep` everywhere.
    fn check(
        &self,
        script: &Script,
        before: &Oracle,
        progress: Progress,
        place: &Place,
        deep: bool,
    ) -> Result<usize, String> {
        let only = settings::only().filter(|only| only.cuts.len() > place.cuts.len());
        let mut count = 0;
        let end = self.trace.calls.len();
        let opened = (0..=end).find(|at| self.trace.progress_after(*at).acknowledged.is_some());
        for at in (0..=end).filter(|at| deep || *at == end || Some(*at) == opened) {
            let moment = Moment::after(&self.trace, at);
            let again = self.trace.progress_after(at);
            for (number, survival, image) in moment.images() {
                let second = place.then((at, number));
                if only.as_ref().is_some_and(|only| !only.begins_with(&second)) {
                    continue;
                }
                if !deep && survival != Survival::Nothing {
                    continue;
                }
                count += 1;
                let judged = read(script, image).and_then(|(_, found)| match again.acknowledged {
                    Some(_) => self.oracle.judge(again, &found),
                    None => before.judge(progress, &found),
                });
                judged.map_err(|why| {
                    let command = second.command();
                    let first = &self.found.last;
                    format!("second cut, {survival:?} after call {at} of {end}, first found {first:?}:\n{why}\n  {command}")
                })?;
            }
        }
        Ok(count)
    }
}

fn run(script: &Script) {
    if settings::only().is_some_and(|only| only.script != script.name) {
        return;
    }
    let count = sweep(script, settings::stride());
    // Straight to the terminal, so that a run of hours shows where it is.
    let _no_terminal = writeln!(std::io::stderr(), "{}: {count:?}", script.name);
}

#[test]
fn the_same_script_makes_the_same_calls_and_the_same_cuts() {
    let scripts = [Script::singly(), Script::in_groups(), Script::large(), Script::random(7)];
    for script in scripts {
        let again = Script::named(&script.name).expect("a script has its name");
        let (one, other) = (record(&script), record(&again));
        assert!(one == other, "{} is not the same twice", script.name);
        for at in 0..=one.calls.len() {
            let (one, other) = (Moment::after(&one, at), Moment::after(&other, at));
            assert_eq!(one.survivals(), other.survivals());
            assert!(one.images().eq(other.images()));
        }
    }
}

#[test]
fn a_cut_at_any_call_keeps_what_was_acknowledged_singly() {
    run(&Script::singly());
}

#[test]
fn a_cut_at_any_call_keeps_what_was_acknowledged_in_groups() {
    run(&Script::in_groups());
}

#[test]
fn a_cut_at_any_call_keeps_what_was_acknowledged_in_large_writes() {
    run(&Script::large());
}

#[test]
fn a_cut_at_any_call_of_scripts_made_by_chance_keeps_what_was_acknowledged() {
    for seed in settings::seed()..settings::seed() + settings::scripts() {
        run(&Script::random(seed));
    }
    if let Some(only) = settings::only()
        && only.script.starts_with("random-")
    {
        run(&Script::named(&only.script).expect("OARLOCK_CRASH_POINT names a script"));
    }
}
