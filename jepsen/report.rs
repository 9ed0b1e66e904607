//! A run as a page: verdict, counts, and a picture of holders, faults and latencies over time.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use crate::history::{Claim, Mode, Records};

const WIDTH: u64 = 1_600;
const LANE: u64 = 26;
const LATENCY: u64 = 160;
/// Of the latency axis; what took longer is drawn at its top.
const LATENCY_MAX: Duration = Duration::from_secs(5);

/// Writes `report.html` and `history.edn` into the directory.
pub(crate) fn write(
    dir: &Path,
    heading: &str,
    verdict: &Result<(), String>,
    records: &Records,
) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("write the report to {}: {error}", dir.display());
    std::fs::create_dir_all(dir).map_err(failed)?;
    std::fs::write(dir.join("history.edn"), records.edn()).map_err(failed)?;
    std::fs::write(dir.join("report.html"), page(heading, verdict, records)).map_err(failed)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn page(heading: &str, verdict: &Result<(), String>, records: &Records) -> String {
    let verdict = match verdict {
        Ok(()) => "<b style='color:#080'>no violation found</b>".to_owned(),
        Err(why) => format!("<b style='color:#b00'>violation</b><pre>{}</pre>", escaped(why)),
    };
    let faults: String = records.faults.iter().fold(String::new(), |mut rows, fault| {
        let _infallible = write!(
            rows,
            "<tr><td>{}</td><td>{:.2?}</td><td>{:.2?}</td></tr>",
            escaped(&fault.what),
            fault.began_at,
            fault.ended_at
        );
        rows
    });
    format!(
        "<!doctype html><meta charset=utf-8><title>oarlock under faults</title>\n\
         <style>body{{font:14px sans-serif;margin:2em}}td{{padding:0 1em 0 0}}</style>\n\
         <h1>{}</h1><p>{verdict}</p>\n\
         <p>{} grants, {} never released, {} of unknown outcome, {} reads, {} faults.</p>\n\
         {}\n<h2>Faults</h2><table><tr><th>what<th>from<th>to</tr>{faults}</table>\n",
        escaped(heading),
        records.grants(),
        records.expiries(),
        records.unknown(),
        records.looks.len(),
        records.faults.len(),
        picture(records)
    )
}

/// Lanes of holders, one for each lock, over bands of faults; below, the latency of each call.
fn picture(records: &Records) -> String {
    let end = records.claims.iter().map(|claim| claim.returned_at.max(claim.believed_until)).max();
    let end = end.unwrap_or_default().as_millis().max(1);
    let x = |at: Duration| at.as_millis() * u128::from(WIDTH) / end;
    let mut lanes: BTreeMap<&str, Vec<&Claim>> = BTreeMap::new();
    for claim in &records.claims {
        lanes.entry(&claim.name).or_default().push(claim);
    }
    let lanes_height = LANE * lanes.len() as u64;
    let height = lanes_height + LATENCY + 20;
    let mut svg = format!("<svg width='{WIDTH}' height='{height}' style='background:#fafafa'>\n");
    for fault in &records.faults {
        let (from, to) = (x(fault.began_at), x(fault.ended_at));
        let _infallible = writeln!(
            svg,
            "<rect x='{from}' y='0' width='{}' height='{height}' fill='#fbb' fill-opacity='.5'>\
             <title>{}</title></rect>",
            (to - from.min(to)).max(1),
            escaped(&fault.what)
        );
    }
    for (lane, (name, claims)) in (0_u64..).zip(&lanes) {
        let top = lane * LANE;
        for claim in claims {
            draw_claim(&mut svg, claim, top, (x(claim.returned_at), x(claim.believed_until)));
            let took = claim.returned_at.saturating_sub(claim.called_at).min(LATENCY_MAX);
            let up = took.as_millis() * u128::from(LATENCY) / LATENCY_MAX.as_millis();
            let y = u128::from(height) - 10 - up;
            let colour = if claim.token.is_some() { "#246" } else { "#d60" };
            let at = x(claim.returned_at);
            let _infallible = writeln!(svg, "<circle cx='{at}' cy='{y}' r='1.5' fill='{colour}'/>");
        }
        let y = top + LANE / 2;
        let _infallible =
            writeln!(svg, "<text x='4' y='{y}' font-size='11'>{}</text>", escaped(name));
    }
    svg + "</svg><p>Bars: who believed to hold (blue alone, green together). Red: faults. Dots: \
           latency of each acquire up to 5 s, orange if its outcome is unknown.</p>"
}

fn draw_claim(svg: &mut String, claim: &Claim, top: u64, (from, to): (u128, u128)) {
    let Some(token) = claim.token else { return };
    let (colour, y) = match claim.mode {
        Mode::Exclusive => ("#48c", top + 4),
        Mode::Shared => ("#4a6", top + 14),
    };
    let _infallible = writeln!(
        svg,
        "<rect x='{from}' y='{y}' width='{}' height='8' fill='{colour}'>\
         <title>token {token}</title></rect>",
        (to - from.min(to)).max(1)
    );
}
