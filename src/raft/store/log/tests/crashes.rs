//! A crash at every call to the disk, with every kind of loss: what was acknowledged is there, and
//! what is there is what was submitted, up to some point at or after the last acknowledgement.
//!
//! The model here is written apart from the code it judges: it keeps the whole history.

use std::collections::BTreeMap;

use super::memory::Survival;
use super::*;

#[derive(Debug, Clone, Copy)]
enum Step {
    Vote(u64),
    /// Appends `count` entries of a term from an index on.
    Append(u64, u64, u64),
    TruncateAfter(u64, u64),
    Purge(u64, u64),
}

/// What the log should say after some of the steps.
#[derive(Debug, Clone, PartialEq, Default)]
struct Expected {
    vote: Option<Vote>,
    purged: Option<LogId>,
    entries: BTreeMap<u64, LogId>,
}

impl Expected {
    fn after(&self, step: Step) -> Self {
        let mut next = self.clone();
        match step {
            Step::Vote(term) => next.vote = Some(vote(term)),
            Step::Append(term, from, count) => {
                next.entries.extend((from..from + count).map(|index| (index, log_id(term, index))));
            }
            Step::TruncateAfter(_, index) => next.entries.retain(|at, _| *at <= index),
            Step::Purge(term, index) => {
                next.entries.retain(|at, _| *at > index);
                next.purged = Some(log_id(term, index));
            }
        }
        next
    }

    fn read(store: &LogStore) -> Self {
        let summary = store.shared.state().summary;
        let entries = ids(store).into_iter().map(|id| (id.index, id)).collect();
        Self { vote: summary.vote, purged: summary.purged, entries }
    }
}

fn trace() -> Vec<Step> {
    let mut steps = vec![Step::Append(0, 0, 1), Step::Vote(1)];
    steps.extend((0..8).map(|n| Step::Append(1, 1 + n * 5, 5)));
    steps.extend([Step::Vote(2), Step::TruncateAfter(1, 33), Step::Append(2, 34, 9)]);
    steps.extend([Step::Purge(1, 20), Step::Append(2, 43, 12), Step::Vote(3)]);
    steps.extend([Step::TruncateAfter(2, 50), Step::Append(3, 51, 1), Step::Purge(2, 49)]);
    steps.extend((0..6).map(|n| Step::Append(3, 52 + n * 4, 4)));
    steps.extend([Step::Purge(3, 90), Step::Append(4, 91, 3), Step::Vote(5)]);
    steps
}

/// Runs the trace until the disk fails. Answers how many steps were acknowledged and submitted.
fn run(files: &MemoryFiles, steps: &[Step], pipelined: bool) -> (usize, usize) {
    let Ok(mut store) = try_open(files, SMALL) else { return (0, 0) };
    let (mut acknowledged, mut submitted) = (0, 0);
    for (at, step) in steps.iter().enumerate() {
        let (sender, receiver) = oneshot::channel();
        let result = match *step {
            Step::Vote(term) => store.shared.submit(Record::vote(vote(term)), Done::Caller(sender)),
            Step::Append(term, from, count) => {
                let entries = (from..from + count).map(|index| blank(term, index)).collect();
                store.shared.submit_entries(entries, Done::Caller(sender))
            }
            Step::TruncateAfter(term, index) => {
                let record = Record::truncate_after(Some(log_id(term, index)));
                store.shared.submit(record, Done::Caller(sender))
            }
            Step::Purge(term, index) => {
                store.shared.submit(Record::purge(log_id(term, index)), Done::Caller(sender))
            }
        };
        if result.is_err() {
            break;
        }
        submitted = at + 1;
        now(store.save_committed(store.bounds().0)).unwrap();
        if !pipelined || at % 4 == 3 {
            if !matches!(now(receiver), Ok(Ok(()))) {
                break;
            }
            acknowledged = at + 1;
        }
    }
    (acknowledged, submitted)
}

/// What may be found between two steps: of several entries appended at once, a crash may keep the
/// first few. Answers all states in order, and which of them each count of whole steps ends at.
fn history(steps: &[Step]) -> (Vec<Expected>, Vec<usize>) {
    let mut history = vec![Expected::default()];
    let mut ends = vec![0];
    for step in steps {
        let parts = match *step {
            Step::Append(term, from, count) => {
                (from..from + count).map(|index| Step::Append(term, index, 1)).collect()
            }
            Step::Vote(_) | Step::TruncateAfter(..) | Step::Purge(..) => vec![*step],
        };
        for part in parts {
            history.push(history[history.len() - 1].after(part));
        }
        ends.push(history.len() - 1);
    }
    (history, ends)
}

fn survivals(nth: u64) -> Vec<Survival> {
    let mut all = vec![Survival::Synced, Survival::Everything];
    all.extend([1, 9, 40, 77, 300, 513].map(Survival::Prefix));
    all.extend((0..12).map(|n| Survival::Sectors(nth * 100 + n)));
    all
}

fn check(files: &MemoryFiles, allowed: &[Expected], case: &str) -> Expected {
    let store = try_open(files, SMALL).unwrap_or_else(|error| panic!("{case}: {error}"));
    let found = Expected::read(&store);
    assert!(allowed.contains(&found), "{case}: found {found:#?}\nallowed {allowed:#?}");
    found
}

fn crash_everywhere(pipelined: bool) {
    let steps = trace();
    let (history, ends) = history(&steps);
    for nth in 1.. {
        let files = MemoryFiles::new();
        files.fail_from(nth);
        let (acknowledged, submitted) = run(&files, &steps, pipelined);
        let allowed = &history[ends[acknowledged]..=ends[submitted]];
        for survival in survivals(nth) {
            let case = format!("call {nth}, {survival:?}, pipelined {pipelined}");
            let crashed = files.crash(survival);
            let found = check(&crashed.crash(Survival::Everything), allowed, &case);
            // What a start found must not be lost by a crash right after it.
            let store = open(&crashed);
            drop(store);
            let again = check(&crashed.crash(Survival::Synced), allowed, &case);
            assert_eq!(again, found, "{case}: found, then lost");
            crash_while_recovering(&files.crash(survival), allowed, &case);
        }
        // The process died and the machine did not: the new one reads what was never synced.
        files.heal();
        let found = check(&files, allowed, &format!("call {nth}, killed"));
        let again = check(&files.crash(Survival::Synced), allowed, &format!("call {nth}, killed"));
        assert_eq!(again, found, "call {nth}: read from the page cache, then lost");
        if submitted == steps.len() && acknowledged == submitted {
            return;
        }
    }
}

fn crash_while_recovering(files: &MemoryFiles, allowed: &[Expected], case: &str) {
    for nth in 1..=3 {
        let files = files.crash(Survival::Everything);
        files.fail_from(nth);
        drop(try_open(&files, SMALL));
        for survival in [Survival::Synced, Survival::Everything, Survival::Sectors(nth)] {
            check(
                &files.crash(survival),
                allowed,
                &format!("{case}; again at {nth}, {survival:?}"),
            );
        }
    }
}

#[test]
fn a_crash_at_any_call_keeps_what_was_acknowledged() {
    crash_everywhere(false);
}

#[test]
fn a_crash_at_any_call_keeps_what_was_acknowledged_in_groups() {
    crash_everywhere(true);
}
