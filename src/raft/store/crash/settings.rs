//! Sizes of the runs, from the environment; `docs/testing.md` lists them.

use std::str::FromStr;

/// One cut: after so many calls, with the survival of that number; two of them for a second cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) script: String,
    pub(super) cuts: Vec<(usize, usize)>,
}

impl Place {
    pub(super) fn first(script: &str, cut: (usize, usize)) -> Self {
        Self { script: script.to_owned(), cuts: vec![cut] }
    }

    pub(super) fn then(&self, cut: (usize, usize)) -> Self {
        let mut next = self.clone();
        next.cuts.push(cut);
        next
    }

    /// The command that repeats exactly this.
    pub(super) fn command(&self) -> String {
        let cuts: Vec<String> =
            self.cuts.iter().map(|(at, what)| format!(":{at}:{what}")).collect();
        let (script, cuts) = (&self.script, cuts.concat());
        format!("OARLOCK_CRASH_POINT={script}{cuts} cargo test --lib raft::store::crash")
    }

    /// Whether a run that is to repeat `self` has to look at the beginning `other`.
    pub(super) fn begins_with(&self, other: &Self) -> bool {
        self.script == other.script && self.cuts.starts_with(&other.cuts)
    }
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split(':');
        let script = parts.next().unwrap_or_default().to_owned();
        let numbers = parts.map(str::parse).collect::<Result<Vec<usize>, _>>();
        let numbers = numbers.map_err(|error| format!("OARLOCK_CRASH_POINT={text}: {error}"))?;
        Ok(Self { script, cuts: numbers.chunks_exact(2).map(|it| (it[0], it[1])).collect() })
    }
}

fn number(name: &str, otherwise: usize) -> usize {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|error| panic!("{name}={text}: {error}")),
        Err(_) => otherwise,
    }
}

/// Only this place, if one is asked for.
pub(super) fn only() -> Option<Place> {
    let text = std::env::var("OARLOCK_CRASH_POINT").ok()?;
    Some(text.parse().unwrap_or_else(|error| panic!("{error}")))
}

/// Seed of what is made by chance; that of the first script, the others follow it.
pub(super) fn seed() -> usize {
    number("OARLOCK_CRASH_SEED", 1)
}

/// Does the work for each script made by chance, on all processors.
pub(super) fn for_each_seed(work: impl Fn(usize) + Sync) {
    let (first, scripts) = (seed(), number("OARLOCK_CRASH_SCRIPTS", 2));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let work = &work;
            scope.spawn(move || (first + thread..first + scripts).step_by(threads).for_each(work));
        }
    });
}

/// Of so many first cuts, one is followed by every second cut.
pub(super) fn stride() -> usize {
    number("OARLOCK_CRASH_STRIDE", 48).max(1)
}

/// Whether every first cut is followed by every second one.
pub(super) fn is_long() -> bool {
    stride() == 1
}

/// How many bits are flipped besides those of heads and headers.
pub(super) fn flips() -> usize {
    number("OARLOCK_FLIPS", 200)
}
