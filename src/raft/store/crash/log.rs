//! The log, cut at every call of a script.

use super::disk::Moment;
use super::oracle::{Oracle, State};
use super::recorder::{Image, Progress, Recorder, Trace};
use super::script::{Script, entry, record, vote};
use super::settings;
use super::sweep::{Subject, run};
use crate::raft::store::log::driven::{Contents, Step};

/// A script with the model of what it leads to.
pub(super) struct Log {
    pub(super) script: Script,
    pub(super) oracle: Oracle,
}

impl Log {
    pub(super) fn new(script: Script) -> Self {
        let oracle = Oracle::new(State::default(), None, &script.steps);
        Self { script, oracle }
    }

    /// Opens the log of an image and reads all of it.
    pub(super) fn read(&self, recorder: &Recorder) -> Result<Contents, String> {
        let log = self.script.open(recorder).map_err(|error| format!("it is refused: {error}"))?;
        log.contents().map_err(|error| format!("it cannot be read: {error}"))
    }

    /// Opens the log, reads it and goes on; answers what was found, and the model of what follows.
    pub(super) fn go_on(
        &self,
        recorder: &Recorder,
        judge: impl FnOnce(&Contents) -> Result<(), String>,
    ) -> Result<Oracle, String> {
        let open = self.script.open(recorder);
        let mut log = open.map_err(|error| format!("it is refused: {error}"))?;
        let found = log.contents().map_err(|error| format!("it cannot be read: {error}"))?;
        judge(&found)?;
        recorder.acknowledged(0);
        let steps = later_steps(&found);
        for (at, step) in steps.iter().enumerate() {
            let number = at + 1;
            recorder.submitted(number);
            log.submit(number, step).map_err(|error| format!("{step:?} is refused: {error}"))?;
            log.write_group(at % 3 == 1, |number| recorder.acknowledged(number))
                .map_err(|error| format!("{step:?} is not written: {error}"))?;
        }
        let oracle = Oracle::new(State::of(&found), found.committed, &steps);
        let end = log.contents().map_err(|error| format!("at the end: {error}"))?;
        if State::of(&end) != *oracle.end() {
            return Err(format!("what came after the recovery is not there: {end:?}"));
        }
        Ok(oracle)
    }
}

/// Goes on as any follower might: a vote, entries, some of them taken back, a purge.
fn later_steps(found: &Contents) -> Vec<Step> {
    let term = found.vote.map_or(0, |vote| vote.leader_id.term) + 1;
    let next = found.last.map_or(0, |last| last.index + 1);
    let first = entry(term, next, 2).log_id;
    vec![
        Step::Vote(vote(term)),
        Step::Append(vec![entry(term, next, 2), entry(term, next + 1, 70)]),
        Step::Vote(vote(term + 1)),
        Step::TruncateAfter(Some(first)),
        Step::Append(vec![entry(term + 1, next + 1, 5)]),
        Step::Purge(first),
    ]
}

impl Subject for Log {
    type Second = Oracle;

    fn name(&self) -> &str {
        &self.script.name
    }

    fn record(&self) -> Trace {
        record(&self.script)
    }

    fn recover(&self, progress: Progress, disk: &Recorder) -> Result<Oracle, String> {
        self.go_on(disk, |found| self.oracle.judge(progress, found))
    }

    fn recover_again(
        &self,
        before: Progress,
        second: &Oracle,
        progress: Option<Progress>,
        image: Image,
    ) -> Result<(), String> {
        let found = self.read(&Recorder::new(image))?;
        match progress {
            Some(progress) => second.judge(progress, &found),
            None => self.oracle.judge(before, &found),
        }
    }
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
    run(&Log::new(Script::singly()));
}

#[test]
fn a_cut_at_any_call_keeps_what_was_acknowledged_in_groups() {
    run(&Log::new(Script::in_groups()));
}

#[test]
fn a_cut_at_any_call_keeps_what_was_acknowledged_in_large_writes() {
    run(&Log::new(Script::large()));
}

#[test]
fn a_cut_at_any_call_of_scripts_made_by_chance_keeps_what_was_acknowledged() {
    if let Some(only) = settings::only().filter(|only| only.script.starts_with("random-")) {
        let script = Script::named(&only.script).expect("OARLOCK_CRASH_POINT names a script");
        return run(&Log::new(script));
    }
    settings::for_each_seed(|seed| run(&Log::new(Script::random(seed))));
}
