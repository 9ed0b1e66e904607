//! Who held what when: a lane for each lock, bars for holders, bands for faults.
//!
//! A long run does not fit a screen, so the picture shows the stretch with most going on: faults,
//! expiries, calls of unknown outcome. The text says which.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use super::escaped;
use crate::claims::{Claim, Claims};
use crate::history::{Call, Mode, Outcome, Records};

/// Longest stretch shown; a bar of a tenth of a second is then two pixels wide.
const STRETCH_S: u64 = 60;
/// Most lanes shown.
const LANES: usize = 24;
/// Holders of one lock drawn beneath each other.
const ROWS: usize = 3;
const ROW: usize = 7;
const LANE: usize = ROWS * ROW + 5;
const LABEL: f64 = 140.0;
const WIDTH: f64 = 1_200.0;
const TOP: usize = 18;

pub(super) fn section(claims: &Claims<'_>, records: &Records) -> String {
    let end = records.operations.iter().map(|operation| operation.returned_at).max();
    let end_s = end.unwrap_or_default().as_secs() + 1;
    let from_s = busiest(claims, records, end_s);
    let upto_s = end_s.min(from_s + STRETCH_S);
    let picture = Picture { from_s, upto_s };
    let mut lanes: BTreeMap<&str, Vec<&Claim>> = BTreeMap::new();
    for claim in claims.values() {
        if picture.shows(claim.returned_at, claim.believed_until.max(claim.held_at)) {
            lanes.entry(&claim.lock).or_default().push(claim);
        }
    }
    let count = lanes.len();
    let mut lanes: Vec<(&str, Vec<&Claim>)> = lanes.into_iter().collect();
    lanes.sort_by_key(|(_, claims)| Reverse(claims.len()));
    lanes.truncate(LANES);
    lanes.sort_by_key(|(name, _)| *name);
    let note = if upto_s - from_s < end_s || lanes.len() < count {
        format!(
            "The stretch from {from_s} s to {upto_s} s of {end_s} s, which has most going on, and \
             {} of {count} locks.",
            lanes.len()
        )
    } else {
        "The whole run.".to_owned()
    };
    format!(
        "<h2>Holders</h2><p>{note} Bars: <span style='color:#2f6fb5'>alone</span>, \
         <span style='color:#2e8b57'>together</span>, <span style='color:#7a5ab5'>permits</span>, from \
         the answer until the client stopped believing; a <span class=bad>red end</span> was never \
         released and ran out. Orange ticks: acquires of unknown outcome. Bands: faults.</p>\n{}",
        picture.draw(&lanes, records)
    )
}

/// Where the stretch with most going on begins.
fn busiest(claims: &Claims<'_>, records: &Records, end_s: u64) -> u64 {
    let mut weight: BTreeMap<u64, usize> = BTreeMap::new();
    let mut add = |at: Duration, much: usize| *weight.entry(at.as_secs()).or_default() += much;
    for claim in claims.values().filter(|claim| claim.released_at.is_none()) {
        add(claim.expires_from.min(Duration::from_secs(end_s)), 1);
    }
    for operation in &records.operations {
        if matches!(operation.outcome, Outcome::Unknown(_)) {
            add(operation.returned_at, 3);
        }
    }
    for fault in &records.faults {
        add(fault.began_at, 20);
    }
    let within =
        |from: u64| -> usize { weight.range(from..from + STRETCH_S).map(|(_, much)| much).sum() };
    let starts = (0..end_s.saturating_sub(STRETCH_S).max(1)).step_by(5);
    starts.max_by_key(|from| (within(*from), Reverse(*from))).unwrap_or(0)
}

struct Picture {
    from_s: u64,
    upto_s: u64,
}

impl Picture {
    fn shows(&self, from: Duration, upto: Duration) -> bool {
        upto >= Duration::from_secs(self.from_s) && from <= Duration::from_secs(self.upto_s)
    }

    fn x(&self, at: Duration) -> f64 {
        let (from, upto) = (Duration::from_secs(self.from_s), Duration::from_secs(self.upto_s));
        let part = at.clamp(from, upto).saturating_sub(from);
        LABEL + part.div_duration_f64(upto.saturating_sub(from)) * (WIDTH - LABEL)
    }

    fn draw(&self, lanes: &[(&str, Vec<&Claim>)], records: &Records) -> String {
        let height = TOP + LANE * lanes.len() + 4;
        let mut svg = format!("<svg width='{WIDTH}' height='{height}'>\n");
        self.draw_faults(&mut svg, records, height);
        self.draw_seconds(&mut svg, height);
        for (lane, (name, claims)) in lanes.iter().enumerate() {
            let top = TOP + lane * LANE;
            let label = top + LANE / 2 + 3;
            let _infallible = writeln!(
                svg,
                "<line x1='0' x2='{WIDTH}' y1='{top}' y2='{top}' stroke='#e4e4e4'/>\
                 <text x='4' y='{label}'>{}</text>",
                escaped(name)
            );
            self.draw_lane(&mut svg, claims, top);
            self.draw_unknown(&mut svg, records, (name, top));
        }
        svg + "</svg>"
    }

    fn draw_faults(&self, svg: &mut String, records: &Records, height: usize) {
        for fault in records.faults.iter().filter(|it| self.shows(it.began_at, it.ended_at)) {
            let (from, upto) = (self.x(fault.began_at), self.x(fault.ended_at));
            let (width, what) = ((upto - from).max(1.0), escaped(&fault.what));
            let _infallible = writeln!(
                svg,
                "<rect x='{from:.1}' y='0' width='{width:.1}' height='{height}' fill='#f3b6b0' \
                 fill-opacity='.45'><title>{what}</title></rect>\
                 <text x='{:.1}' y='12' style='font-size:9px'>{what}</text>",
                from + 2.0
            );
        }
    }

    fn draw_seconds(&self, svg: &mut String, height: usize) {
        for second in (self.from_s..=self.upto_s).step_by(5) {
            let x = self.x(Duration::from_secs(second));
            let _infallible = writeln!(
                svg,
                "<line x1='{x:.1}' x2='{x:.1}' y1='{TOP}' y2='{height}' stroke='#ddd'/>\
                 <text x='{x:.1}' y='{height}' dy='-1' style='font-size:9px'>{second} s</text>"
            );
        }
    }

    fn draw_lane(&self, svg: &mut String, claims: &[&Claim], top: usize) {
        let mut claims = claims.to_vec();
        claims.sort_by_key(|claim| claim.returned_at);
        let mut rows = [Duration::ZERO; ROWS];
        for claim in claims {
            let upto = claim.believed_until.max(claim.returned_at);
            // Beneath who holds it together with others, as far as there are rows.
            let free = rows.iter().position(|taken| *taken <= claim.returned_at);
            let row = free.unwrap_or(ROWS - 1);
            rows[row] = rows[row].max(upto);
            let (x, width) =
                (self.x(claim.returned_at), (self.x(upto) - self.x(claim.returned_at)).max(1.0));
            let colour = match claim.mode {
                Mode::Exclusive => "#2f6fb5",
                Mode::Shared => "#2e8b57",
                Mode::Permits { .. } => "#7a5ab5",
            };
            let y = top + 3 + row * ROW;
            let bar = ROW - 1;
            let _infallible = writeln!(
                svg,
                "<rect x='{x:.1}' y='{y}' width='{width:.1}' height='{bar}' fill='{colour}'>\
                 <title>token {}, request {:x}, {:?} to {upto:?}</title></rect>",
                claim.token, claim.request, claim.returned_at
            );
            if claim.released_at.is_none() {
                let _infallible = writeln!(
                    svg,
                    "<rect x='{:.1}' y='{y}' width='3' height='{bar}' fill='#c62828'/>",
                    x + width
                );
            }
        }
    }

    fn draw_unknown(&self, svg: &mut String, records: &Records, (name, top): (&str, usize)) {
        let unknown = records.operations.iter().filter(|operation| {
            matches!(operation.outcome, Outcome::Unknown(_))
                && matches!(&operation.call, Call::Acquire { asks, .. }
                    if asks.iter().any(|ask| ask.lock == *name))
                && self.shows(operation.returned_at, operation.returned_at)
        });
        for operation in unknown {
            let x = self.x(operation.returned_at);
            let _infallible = writeln!(
                svg,
                "<rect x='{x:.1}' y='{top}' width='2' height='{LANE}' fill='#e08a00'/>"
            );
        }
    }
}
