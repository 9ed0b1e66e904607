//! A run as a page: what was judged and found, counts, and pictures of holders, faults and latencies
//! over time. One file that needs no other, to be opened anywhere and kept.

mod latency;
mod timeline;

pub use self::latency::percentile;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use crate::checker::{Found, Verdict};
use crate::claims::{self, Claims};
use crate::edn;
use crate::history::{Operation, Outcome, Records};

const STYLE: &str = "\
body{font:14px/1.4 system-ui,sans-serif;margin:2em auto;max-width:1240px;color:#222}
h1{font-size:20px}h2{font-size:16px;margin:1.6em 0 .4em}
table{border-collapse:collapse}td,th{padding:.1em 1.2em .1em 0;text-align:left;vertical-align:top}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
.ok{color:#17702a}.bad{color:#b3261e}.dim{color:#777}
pre{background:#f5f5f5;padding:.6em;white-space:pre-wrap;overflow-wrap:anywhere}
svg{background:#fafafa;border:1px solid #ddd;display:block}
svg text{font:11px system-ui,sans-serif;fill:#444}";

/// What a page is about.
#[derive(Debug)]
pub struct Heading<'a> {
    pub title: &'a str,
    /// What repeats the run, or looks closer; one command a line.
    pub commands: &'a str,
    pub verdict: &'a Verdict,
    /// Whatever failed besides the rules, as that the nodes did not agree.
    pub problem: Option<&'a str>,
}

/// How many grants the cluster ended by itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Expiries {
    pub all: usize,
    /// Those that fell due while a fault was going on.
    pub under_faults: usize,
}

/// Writes `report.html` and `history.edn` into the directory.
pub fn write(dir: &Path, heading: &Heading<'_>, records: &Records) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("write the report to {}: {error}", dir.display());
    std::fs::create_dir_all(dir).map_err(failed)?;
    std::fs::write(dir.join("history.edn"), edn::history(records)).map_err(failed)?;
    std::fs::write(dir.join("report.html"), page(heading, records)).map_err(failed)
}

/// Counts what was left to its TTL.
pub fn expiries(records: &Records) -> Expiries {
    of_claims(&claims::of(records), records)
}

fn of_claims(claims: &Claims<'_>, records: &Records) -> Expiries {
    let mut expiries = Expiries::default();
    for claim in claims.values().filter(|claim| claim.released_at.is_none()) {
        let due = claim.expires_from;
        let during = records.faults.iter().any(|it| it.began_at <= due && due <= it.ended_at);
        expiries.all += 1;
        expiries.under_faults += usize::from(during);
    }
    expiries
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('\'', "&#39;")
}

fn page(heading: &Heading<'_>, records: &Records) -> String {
    let claims = claims::of(records);
    let title = escaped(heading.title);
    let sections = [
        verdict(heading),
        counts(&claims, records),
        timeline::section(&claims, records),
        latency::section(records),
        operations(records),
        faults(records),
        format!("<h2>Commands</h2><pre>{}</pre>", escaped(heading.commands)),
    ];
    format!(
        "<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title>\n\
         <style>{STYLE}</style>\n<h1>{title}</h1>\n{}\n</html>\n",
        sections.join("\n")
    )
}

fn verdict(heading: &Heading<'_>) -> String {
    let mut text = String::new();
    let problem = heading.problem.map(|why| ("failed", why));
    let problem = heading.verdict.violation().map(|why| ("violation", why)).or(problem);
    let problem = problem.or(heading.verdict.unknown().map(|why| ("no verdict", why)));
    let _infallible = match problem {
        None => writeln!(text, "<p class=ok><b>No violation found.</b></p>"),
        Some((what, why)) => {
            writeln!(text, "<p class=bad><b>{what}</b></p><pre>{}</pre>", escaped(why))
        }
    };
    text.push_str("<table><tr><th>rule<th>found<th>judged</tr>");
    for (rule, found) in &heading.verdict.rules {
        let (class, word, what) = match found {
            Found::Nothing(what) => ("ok", "kept", what.as_str()),
            Found::Violation(_) => ("bad", "broken", "see above"),
            Found::Unknown(_) => ("bad", "unknown", "counts as a failure"),
        };
        let _infallible = write!(
            text,
            "<tr><td>{}<td class={class}>{word}<td class=dim>{}</tr>",
            escaped(rule),
            escaped(what)
        );
    }
    text + "</table>"
}

fn counts(claims: &Claims<'_>, records: &Records) -> String {
    let Expiries { all, under_faults } = of_claims(claims, records);
    let took = records.operations.iter().map(|operation| operation.returned_at).max();
    let rows = [
        ("time", format!("{:.1} s", took.unwrap_or_default().as_secs_f64())),
        ("operations", records.operations.len().to_string()),
        ("of unknown outcome", records.unknown().to_string()),
        ("grants", claims.len().to_string()),
        ("ended by expiry", format!("{all}, {under_faults} of them due during a fault")),
        ("longest time without a grant", format!("{:.2} s", records.longest_gap().as_secs_f64())),
        ("faults", records.faults.len().to_string()),
    ];
    let mut text = String::from("<h2>Counts</h2><table>");
    for (what, value) in rows {
        let _infallible = write!(text, "<tr><td>{what}<td>{value}</tr>");
    }
    text + "</table>"
}

/// A row for each kind of call.
fn operations(records: &Records) -> String {
    let mut kinds: BTreeMap<&str, Vec<&Operation>> = BTreeMap::new();
    for operation in &records.operations {
        kinds.entry(operation.kind()).or_default().push(operation);
    }
    let mut text = String::from(
        "<h2>Calls</h2><table><tr><th>call<th class=n>ok<th class=n>refused<th class=n>unknown\
         <th class=n>p50 ms<th class=n>p99 ms<th class=n>max ms<th>refused with</tr>",
    );
    for (kind, operations) in kinds {
        let count = |wanted: fn(&Outcome) -> bool| {
            operations.iter().filter(|operation| wanted(&operation.outcome)).count()
        };
        let ok = count(|outcome| matches!(outcome, Outcome::Ok(_)));
        let refused = count(|outcome| matches!(outcome, Outcome::Failed(_)));
        let latencies = latency::sorted(operations.iter().copied());
        let at = |percent: usize| percentile(&latencies, percent).as_secs_f64() * 1e3;
        let _infallible = write!(
            text,
            "<tr><td>{kind}<td class=n>{ok}<td class=n>{refused}<td class=n>{}\
             <td class=n>{:.1}<td class=n>{:.1}<td class=n>{:.1}<td class=dim>{}</tr>",
            operations.len() - ok - refused,
            at(50),
            at(99),
            at(100),
            escaped(&reasons(&operations))
        );
    }
    text + "</table><p class=dim>Latencies are those of calls that were answered ok; an acquire \
            that waits for its lock waits for the holder too.</p>"
}

/// Why calls were refused, the most frequent first.
fn reasons(operations: &[&Operation]) -> String {
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    for operation in operations {
        if let Outcome::Failed(refusal) = &operation.outcome {
            *reasons.entry(&refusal.kind).or_default() += 1;
        }
    }
    let mut reasons: Vec<(usize, &str)> = reasons.into_iter().map(|(why, n)| (n, why)).collect();
    reasons.sort_unstable_by(|one, other| other.cmp(one));
    let words: Vec<String> = reasons.iter().map(|(n, why)| format!("{why} {n}")).collect();
    words.join(", ")
}

fn faults(records: &Records) -> String {
    if records.faults.is_empty() {
        return String::new();
    }
    let seconds = |at: Duration| at.as_secs_f64();
    let mut rows = String::new();
    for fault in &records.faults {
        let _infallible = write!(
            rows,
            "<tr><td>{}<td class=n>{:.1}<td class=n>{:.1}</tr>",
            escaped(&fault.what),
            seconds(fault.began_at),
            seconds(fault.ended_at)
        );
    }
    format!(
        "<h2>Faults</h2><table><tr><th>what<th class=n>from s<th class=n>to s</tr>{rows}</table>"
    )
}
