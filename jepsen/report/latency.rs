//! How long calls took, over the whole run: a dot for each, its height by the logarithm of its time.

use std::fmt::Write as _;
use std::time::Duration;

use crate::history::{Operation, Outcome, Records};

/// Dots drawn at most. Of the quick ones some are left out then, of the slow ones none.
const DOTS: usize = 6_000;
/// A call that took longer is drawn however many there are.
const SLOW: Duration = Duration::from_secs(1);
const WIDTH: f64 = 1_200.0;
const HEIGHT: f64 = 220.0;
/// The axis goes from a tenth of a millisecond, five powers of ten up.
const DECADES: f64 = 5.0;

pub(super) fn section(records: &Records) -> String {
    let end = records.operations.iter().map(|operation| operation.returned_at).max();
    let end_s = end.unwrap_or_default().as_secs_f64().max(1.0);
    let x = |at: Duration| at.as_secs_f64() / end_s * WIDTH;
    let mut svg = format!("<svg width='{WIDTH}' height='{HEIGHT}'>\n");
    for fault in &records.faults {
        let (from, upto) = (x(fault.began_at), x(fault.ended_at));
        let _infallible = writeln!(
            svg,
            "<rect x='{from:.1}' y='0' width='{:.1}' height='{HEIGHT}' fill='#f3b6b0' \
             fill-opacity='.45'/>",
            (upto - from).max(1.0)
        );
    }
    for (ms, label) in [(1.0, "1 ms"), (10.0, "10 ms"), (100.0, "100 ms"), (1e3, "1 s")] {
        let y = height_of(ms / 1e3);
        let _infallible = writeln!(
            svg,
            "<line x1='0' x2='{WIDTH}' y1='{y:.1}' y2='{y:.1}' stroke='#ddd'/>\
             <text x='2' y='{y:.1}' dy='-2'>{label}</text>"
        );
    }
    let every = records.operations.len().div_ceil(DOTS).max(1);
    for (number, operation) in records.operations.iter().enumerate() {
        let took = operation.returned_at.saturating_sub(operation.called_at);
        if number % every != 0 && took < SLOW {
            continue;
        }
        let colour = match &operation.outcome {
            Outcome::Ok(_) => "#2f6fb5",
            Outcome::Failed(_) => "#999",
            Outcome::Unknown(_) => "#e08a00",
        };
        let (x, y) = (x(operation.returned_at), height_of(took.as_secs_f64()));
        let _infallible =
            writeln!(svg, "<circle cx='{x:.1}' cy='{y:.1}' r='1.3' fill='{colour}'/>");
    }
    let shown = if every == 1 { "Every call" } else { "A sample of the calls, and all above 1 s" };
    format!(
        "<h2>Latencies</h2><p>{shown}, over {end_s:.0} s: <span style='color:#2f6fb5'>ok</span>, \
         <span class=dim>refused</span>, <span style='color:#e08a00'>unknown</span>. Waiting for a \
         holder counts.</p>\n{svg}</svg>"
    )
}

fn height_of(seconds: f64) -> f64 {
    let decades = (seconds.max(1e-4) / 1e-4).log10().min(DECADES);
    HEIGHT - 4.0 - decades / DECADES * (HEIGHT - 14.0)
}

/// How long the calls took that were answered ok.
pub(super) fn sorted<'a>(operations: impl Iterator<Item = &'a Operation>) -> Vec<Duration> {
    let ok = operations.filter(|operation| matches!(operation.outcome, Outcome::Ok(_)));
    let mut took: Vec<Duration> =
        ok.map(|operation| operation.returned_at.saturating_sub(operation.called_at)).collect();
    took.sort_unstable();
    took
}

/// Of times in their order, the one below which so many per cent lie.
pub fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let at = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(at).copied().unwrap_or_default()
}
