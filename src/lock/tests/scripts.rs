//! Golden scripts: one scenario a file, named as the sentence that it proves.
//!
//! A line `@1000 acquire db id=1` is an entry with one command at 1000 ms of lease time; a line
//! that begins with `+@` adds a command to the entry above it; `? lock db` asks; `limits …` at the
//! top sets smaller bounds. Indented lines are what the machine answered (`->` outcomes, `*`
//! events, `=` answers). `OARLOCK_REGENERATE=1 cargo test -p oarlock-core` writes them anew; read
//! the difference before accepting it.
//!
//! After every entry the invariants are checked, and the machine is compared with one rebuilt from
//! the rows that were drained so far, which then runs the next entry beside it.

mod language;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use oarlock_core::command::{Entry, LEVEL};
use oarlock_core::image::{Row, RowKey};
use oarlock_core::limits::Limits;
use oarlock_core::machine::Machine;
use oarlock_core::planted;

use language::{parse, show};

fn scripts() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let entries = fs::read_dir(folder).expect("the scripts' folder");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("a script").path()).collect();
    paths.sort();
    paths
}

/// The machine of a script, its rows as a store would have them, and a machine made of those.
struct Run {
    machine: Machine,
    stored: BTreeMap<RowKey, Row>,
    limits: Limits,
}

impl Run {
    fn new(limits: Limits) -> Self {
        Self { machine: Machine::with_limits(limits), stored: BTreeMap::new(), limits }
    }

    fn apply(&mut self, entry: &Entry) -> Vec<String> {
        let mut twin = self.rebuilt();
        let applied = self.machine.apply(entry).expect("a known level");
        if let Some(twin) = &mut twin {
            let again = twin.apply(entry).expect("a known level");
            assert_eq!(applied, again, "a machine made of rows behaves otherwise");
            assert!(twin.rows().eq(self.machine.rows()), "it has other rows afterwards");
        }
        for (key, row) in self.machine.take_changes() {
            match row {
                Some(row) => self.stored.insert(key, row),
                None => self.stored.remove(&key),
            };
        }
        self.machine.check().unwrap_or_else(|broken| panic!("broken invariant: {broken}"));
        assert!(
            self.machine.rows().eq(self.stored.clone()),
            "the drained changes do not add up to the image"
        );
        let outcomes = applied.outcomes.iter().map(show::outcome);
        let events = applied.events.iter().map(show::event);
        let outcomes = outcomes.map(|line| format!("  -> {line}"));
        outcomes.chain(events.map(|line| format!("  * {line}"))).collect()
    }

    fn rebuilt(&self) -> Option<Machine> {
        if self.stored.is_empty() {
            return None;
        }
        let rows = self.stored.clone().into_iter().rev();
        let twin = Machine::from_rows_with_limits(rows, self.limits).expect("a valid image");
        twin.check().unwrap_or_else(|broken| panic!("broken after a rebuild: {broken}"));
        Some(twin)
    }
}

/// Runs a script and gives it back with the answers of today. `wall_ms` is asked for each entry.
fn run(text: &str, mut wall_ms: impl FnMut() -> u64) -> String {
    let mut lines = text.lines().filter(|line| !line.starts_with("  ")).peekable();
    let mut output: Vec<String> = Vec::new();
    let mut run = Run::new(Limits::default());
    while let Some(line) = lines.next() {
        output.push(line.to_string());
        if let Some(first) = line.strip_prefix('@') {
            let mut commands = vec![parse::command(first)];
            while let Some(line) = lines.next_if(|line| line.starts_with("+@")) {
                output.push(line.to_string());
                commands.push(parse::command(line.trim_start_matches("+@")));
            }
            let entry = Entry { level: LEVEL, wall_ms: wall_ms(), commands };
            output.extend(run.apply(&entry));
        } else if let Some(question) = line.strip_prefix("? ") {
            let answers = show::answer(&run.machine, question);
            output.extend(answers.into_iter().map(|line| format!("  = {line}")));
        } else if line.starts_with("limits ") {
            run = Run::new(parse::limits(line));
        } else {
            assert!(line.is_empty() || line.starts_with('#'), "not a script line: {line}");
        }
    }
    output.join("\n") + "\n"
}

#[test]
fn every_script_gives_its_recorded_answers() {
    planted::choose(std::env::var(planted::VARIABLE).ok()).expect("a planted bug");
    let regenerate = std::env::var_os("OARLOCK_REGENERATE").is_some();
    let mut wrong = Vec::new();
    for path in scripts() {
        let recorded = fs::read_to_string(&path).expect("a readable script");
        let ran = std::panic::catch_unwind(|| run(&recorded, || 0));
        match ran {
            Ok(today) if today == recorded => {}
            Ok(today) if regenerate => fs::write(&path, today).expect("a writable script"),
            Ok(today) => {
                wrong.push(format!("{}\n{}", path.display(), difference(&recorded, &today)));
            }
            Err(_) => wrong.push(format!("{}\n  panicked, see above", path.display())),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_wall_clock_that_jumps_by_years_changes_no_answer() {
    let jumps = [0, u64::MAX, 1_767_225_600_000, 1, 4_000_000_000_000];
    for path in scripts() {
        let recorded = fs::read_to_string(&path).expect("a readable script");
        let mut jumps = jumps.iter().cycle().copied();
        let today = run(&recorded, || jumps.next().unwrap_or_default());
        assert!(today == recorded, "{}\n{}", path.display(), difference(&recorded, &today));
    }
}

/// The first line that differs.
fn difference(recorded: &str, today: &str) -> String {
    let pairs = recorded.lines().zip(today.lines());
    let first = pairs.enumerate().find(|(_, (a, b))| a != b);
    first.map_or("  one of them is longer".to_string(), |(number, (recorded, today))| {
        format!("  line {}:\n  recorded {recorded}\n  today    {today}", number + 1)
    })
}

#[test]
fn every_rejection_and_every_end_appears_in_some_script() {
    let texts: Vec<String> =
        scripts().iter().map(|path| fs::read_to_string(path).expect("a readable script")).collect();
    let answers: Vec<&str> =
        texts.iter().flat_map(|text| text.lines()).filter(|line| line.starts_with("  ")).collect();
    for name in show::REJECTIONS {
        let shown = format!("  -> rejected {name}");
        assert!(answers.iter().any(|line| line.starts_with(&shown)), "no script shows {name}");
    }
    for how in show::END_REASONS {
        let shown = format!(" {how} @");
        let ended = |line: &&&str| line.starts_with("  * ") && line.contains(&shown);
        assert!(answers.iter().any(|line| ended(&line)), "no script shows {how}");
    }
}

#[test]
fn there_is_a_script_for_every_rule() {
    assert!(scripts().len() >= 50, "only {} scripts", scripts().len());
}
