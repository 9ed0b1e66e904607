//! Runs a layer against a bug and judges what it says. A bug counts as killed only by the verdict
//! that is expected of the layer: not by a test that does not start, hangs or fails otherwise.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use oarlock_core::planted::{Bug, VARIABLE};

use crate::cases::Layer;

/// A process that has said nothing by then is ended, and its bug survives.
const PATIENCE: &str = "300";

/// As in `.ci/run`, so that nothing is built twice.
const FEATURES: &str = "oarlock/proof,oarlock/otel";

/// Seeds that a process of the simulation runs, one after the other.
const SEEDS_AT_ONCE: u64 = 16;

/// Simulated seconds of faults in each seed.
const SECONDS: &str = "20";

/// The simulation gives up after so many seeds.
const SEEDS_MAX: u64 = 512;

/// A test of a part runs so often: what a bug in the order of tasks does is a matter of chance.
const PART_TRIES: u32 = 24;

/// Targets whose tests stand beside their code.
const LIBRARIES: [&str; 2] = ["oarlock", "oarlock_client"];

/// Who looks at every bug in the long form.
pub(crate) const EVERYWHERE: [Layer; 2] = [Layer::Script(""), Layer::Model];

/// Rounds of faults: the program, and how it is called besides the faults that are named.
const ROUNDS: &str = "oarlock-jepsen";
const ROUNDS_ARGUMENTS: [&str; 6] = ["run", "--loopback", "--rounds", "2", "--seed", "1"];

/// Seeds of the run without a bug.
const SEEDS_CLEAN: u64 = 8;

/// The tests, built with the planted bugs: by the name of the target, where they run and what runs.
pub(crate) struct Binaries(BTreeMap<String, (PathBuf, PathBuf)>);

impl Binaries {
    /// Builds those that these layers run.
    pub(crate) fn build(layers: &[Layer]) -> Result<Self, String> {
        let mut targets: BTreeSet<&str> = layers.iter().map(|layer| layer.tests().0).collect();
        let mut all = BTreeMap::new();
        if targets.remove(ROUNDS) {
            all.append(&mut built("build", &["--bin", "oarlock", "--bin", ROUNDS])?);
        }
        let mut wanted = vec!["--no-run"];
        if targets.iter().any(|target| LIBRARIES.contains(target)) {
            wanted.push("--lib");
        }
        for test in targets.iter().filter(|target| !LIBRARIES.contains(target)) {
            wanted.extend(["--test", test]);
        }
        if !targets.is_empty() {
            all.append(&mut built("test", &wanted)?);
        }
        Ok(Self(all))
    }

    /// Runs tests of a target in a process with this bug, or with none; answers whether they passed,
    /// and all that was said.
    fn run(&self, target: &str, filter: &[&str], bug: Option<Bug>, seeds: Option<&str>) -> Told {
        let Some((folder, executable)) = self.0.get(target) else {
            return Told { passed: false, text: format!("no tests are called {target}") };
        };
        // In a group of its own, so that whatever it starts ends with it.
        let mut process = Command::new("timeout");
        process.args(["--kill-after=5", PATIENCE]).arg(executable).args(filter);
        if target != ROUNDS {
            process.args(["--nocapture", "--test-threads=2"]);
        }
        process.current_dir(folder);
        process.env_remove(VARIABLE).env_remove("OARLOCK_SEED").env_remove("OARLOCK_SEEDS");
        process.envs(bug.map(|bug| (VARIABLE, format!("{bug:?}"))));
        process.envs(seeds.map(|seeds| ("OARLOCK_SEEDS", seeds)));
        // As many bugs at once as there are processors, so one thread for each.
        process.env("OARLOCK_SIM_SECONDS", SECONDS).env("OARLOCK_SIM_THREADS", "1");
        match process.output() {
            Ok(output) => {
                let said = [output.stdout, output.stderr].concat();
                let text = String::from_utf8_lossy(&said).into_owned();
                Told { passed: output.status.success() && !text.contains(" 0 passed"), text }
            }
            Err(error) => Told { passed: false, text: format!("{target} did not run: {error}") },
        }
    }
}

/// What cargo makes of these targets, built with the planted bugs.
fn built(command: &str, targets: &[&str]) -> Result<BTreeMap<String, (PathBuf, PathBuf)>, String> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let mut build = Command::new(cargo);
    build.args([command, "--workspace", "--locked", "--features", FEATURES]).args(targets);
    build.args(["--message-format", "json-render-diagnostics"]);
    let output = build.stderr(std::process::Stdio::inherit()).output();
    let output = output.map_err(|error| format!("run cargo: {error}"))?;
    if !output.status.success() {
        return Err("the tests do not build with planted bugs".to_owned());
    }
    let lines = String::from_utf8_lossy(&output.stdout);
    let messages = lines.lines().filter_map(|line| serde_json::from_str(line).ok());
    Ok(messages.filter_map(|message: serde_json::Value| executable(&message)).collect())
}

/// A test, or the program of the rounds: the other program is for the nodes of both.
fn executable(message: &serde_json::Value) -> Option<(String, (PathBuf, PathBuf))> {
    let built = PathBuf::from(message["executable"].as_str()?);
    let folder = Path::new(message["manifest_path"].as_str()?).parent()?.to_owned();
    let is_test = message["profile"]["test"].as_bool()?;
    let name = message["target"]["name"].as_str()?.to_owned();
    (is_test || name == ROUNDS).then_some((name, (folder, built)))
}

/// What a process said.
struct Told {
    passed: bool,
    text: String,
}

/// How a bug fared.
pub(crate) enum Fate {
    /// What it took: seeds, or the name of the test.
    Killed(String),
    Survived(String),
}

impl Layer {
    /// The tests that the layer runs: their target and filter.
    fn tests(self) -> (&'static str, Vec<&'static str>) {
        match self {
            Self::Seeds(_) => ("sim", vec!["seeds", "--exact"]),
            Self::Script(_) => {
                ("scripts", vec!["every_script_gives_its_recorded_answers", "--exact"])
            }
            Self::Model => ("model", Vec::new()),
            Self::Cuts(test, _) | Self::Part(test, _) => ("oarlock", vec![test]),
            Self::Client(test, _) => ("oarlock_client", vec![test]),
            Self::Nodes(test, _) => ("it", vec![test]),
            Self::Rounds(faults, _) => {
                (ROUNDS, [&ROUNDS_ARGUMENTS[..], &["--faults", faults]].concat())
            }
        }
    }

    /// The tests in words: layers with the same words run the same.
    pub(crate) fn tests_named(self) -> String {
        let (target, test) = self.tests();
        format!("{target} {}", test.join(" "))
    }

    /// Runs the layer without a bug: then it has nothing to complain of.
    pub(crate) fn is_clean(self, binaries: &Binaries) -> Result<(), String> {
        let (target, test) = self.tests();
        let seeds = format!("1..{}", 1 + SEEDS_CLEAN);
        let told = binaries.run(target, &test, None, Some(&seeds));
        if told.passed { Ok(()) } else { Err(end_of(&told.text)) }
    }

    /// Runs the layer against the bug.
    pub(crate) fn meets(self, bug: Bug, binaries: &Binaries) -> Fate {
        let (target, test) = self.tests();
        let expected: &[&str] = match &self {
            Self::Seeds(judges) => return seeds(bug, judges, binaries),
            Self::Script(script) => &[script],
            Self::Model => &["minimal failing input"],
            Self::Cuts(_, said)
            | Self::Part(_, said)
            | Self::Client(_, said)
            | Self::Nodes(_, said)
            | Self::Rounds(_, said) => &[said],
        };
        let tries = if let Self::Part(..) = self { PART_TRIES } else { 1 };
        for attempt in 1..=tries {
            let told = binaries.run(target, &test, Some(bug), None);
            if told.passed {
                continue;
            }
            let verdict = if target == ROUNDS { "repeat with: " } else { "test result: FAILED" };
            let failed = told.text.contains(verdict);
            if !failed || !expected.iter().all(|said| told.text.contains(said)) {
                return Fate::Survived(format!("it died otherwise: {}", end_of(&told.text)));
            }
            let by = match self {
                Self::Script(script) => format!("`{script}`"),
                Self::Model => "random commands".to_owned(),
                Self::Seeds(_)
                | Self::Cuts(..)
                | Self::Part(..)
                | Self::Client(..)
                | Self::Nodes(..) => format!("`{}`", test.join(" ")),
                Self::Rounds(_, said) => format!("\"{said}\""),
            };
            let times = if attempt > 1 { format!(", run {attempt} times") } else { String::new() };
            return Fate::Killed(by + &times);
        }
        Fate::Survived(format!("{} sees nothing", test.join(" ")))
    }
}

/// Seeds in their order until one of the judges complains.
fn seeds(bug: Bug, judges: &[&str], binaries: &Binaries) -> Fate {
    let (target, test) = Layer::Seeds(&[]).tests();
    // Few at first: most bugs do not get far.
    let (mut from, mut upto) = (1, 2);
    while from <= SEEDS_MAX {
        let range = format!("{from}..{upto}");
        (from, upto) = (upto, (2 * upto).min(upto + SEEDS_AT_ONCE));
        let told = binaries.run(target, &test, Some(bug), Some(&range));
        if told.passed {
            continue;
        }
        let Some((seed, complaint)) = complaint(&told.text) else {
            return Fate::Survived(format!("it died otherwise: {}", end_of(&told.text)));
        };
        if judges.iter().any(|judge| complaint.starts_with(&format!("{judge}: "))) {
            let seeds = if seed == 1 { "1 seed".to_owned() } else { format!("{seed} seeds") };
            let judge = complaint.split(':').next().unwrap_or_default();
            return Fate::Killed(format!("{seeds}, `{judge}`"));
        }
        return Fate::Survived(format!("seed {seed} died otherwise: {complaint}"));
    }
    Fate::Survived(format!("{SEEDS_MAX} seeds see nothing"))
}

/// The lowest seed that failed, and what was said of it: `seed 7: at 123 ms: judge: why`, or
/// `seed 7: panicked: why`.
fn complaint(text: &str) -> Option<(u64, String)> {
    let of_line = |line: &str| {
        let (seed, rest) = line.strip_prefix("seed ")?.split_once(": ")?;
        let complaint = match rest.strip_prefix("at ") {
            Some(judged) => judged.split_once(" ms: ")?.1,
            None => rest.starts_with("panicked: ").then_some(rest)?,
        };
        Some((seed.parse().ok()?, complaint.to_owned()))
    };
    text.lines().filter_map(of_line).min()
}

/// The last lines of what was said, without the summary of the test runner.
fn end_of(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(30)..].join("\n    ")
}

/// Whether the golden scripts, and whether the naive model notice a bug.
pub(crate) fn also_seen_by(bug: Bug, binaries: &Binaries) -> Vec<&'static str> {
    let sees = |layer: &Layer| {
        let (target, test) = layer.tests();
        !binaries.run(target, &test, Some(bug), None).passed
    };
    EVERYWHERE.into_iter().filter(sees).map(Layer::name).collect()
}
