//! The latency distribution as a picture (SVG), written by hand: nothing else in here draws.
//!
//! The axis of percentiles is stretched so that each further nine gets the same room (0, 90, 99,
//! 99.9 … per cent), and latency is on a logarithmic scale: the tail is what a picture is for.

use std::fmt::Write as _;

use crate::bench::report::{Curve, Latency, Report};

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 540.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 870.0;
const TOP: f64 = 70.0;
const BOTTOM: f64 = 440.0;

/// Told apart also by those who see colours differently.
const COLOURS: [&str; 6] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];

/// Percentiles with a line of their own, and the share that lies above each.
const TICKS: [(&str, f64); 7] = [
    ("0", 1.0),
    ("50", 0.5),
    ("90", 0.1),
    ("99", 0.01),
    ("99.9", 0.001),
    ("99.99", 0.000_1),
    ("99.999", 0.000_01),
];

/// Where things are.
struct Frame {
    /// How many nines the axis of percentiles has.
    nines: f64,
    /// Powers of ten of microseconds at the lower and the upper edge.
    low: i32,
    high: i32,
}

impl Frame {
    #[expect(clippy::cast_precision_loss, reason = "a picture is not that exact")]
    #[expect(clippy::cast_possible_truncation, reason = "powers of ten up to 10")]
    fn of(curves: &[Curve]) -> Self {
        let points = || curves.iter().flat_map(|curve| &curve.points);
        let least = points().map(|point| point.us).min().unwrap_or(1).max(1);
        let most = points().map(|point| point.us).max().unwrap_or(1).max(1);
        let count = curves.iter().map(|curve| curve.latency.count).max().unwrap_or(1).max(1);
        let low = (least as f64).log10().floor() as i32;
        let high = (most as f64).log10().ceil() as i32;
        Self { nines: (count as f64).log10().clamp(1.0, 5.0), low, high: high.max(low + 1) }
    }

    /// Of the point above which this share lies.
    fn x(&self, above: f64) -> f64 {
        let nines = -above.max(1e-9).log10();
        LEFT + (RIGHT - LEFT) * (nines / self.nines).clamp(0.0, 1.0)
    }

    fn y(&self, us: f64) -> f64 {
        let (low, high) = (f64::from(self.low), f64::from(self.high));
        BOTTOM - (BOTTOM - TOP) * ((us.max(1.0).log10() - low) / (high - low)).clamp(0.0, 1.0)
    }

    fn grid(&self, svg: &mut String) {
        for (label, above) in TICKS.iter().filter(|tick| -tick.1.log10() <= self.nines) {
            let x = self.x(*above);
            line(svg, (x, TOP), (x, BOTTOM));
            text(svg, (x, BOTTOM + 18.0), "middle", &format!("{label} %"));
        }
        for power in self.low..=self.high {
            let us = 10_f64.powi(power);
            let y = self.y(us);
            line(svg, (LEFT, y), (RIGHT, y));
            text(svg, (LEFT - 8.0, y + 4.0), "end", &time(us));
        }
        let middle = f64::midpoint(LEFT, RIGHT);
        text(svg, (middle, BOTTOM + 38.0), "middle", "so many requests were at least that fast");
    }

    #[expect(clippy::cast_precision_loss, reason = "a picture is not that exact")]
    fn curve(&self, svg: &mut String, curve: &Curve, colour: &str) {
        let mut path = String::new();
        let mut from = 1.0;
        for point in &curve.points {
            // A step: up to this share all were at least that fast.
            let above = point.above as f64 / point.of.max(1) as f64;
            let y = self.y(point.us as f64);
            let _infallible = write!(path, "{:.1},{y:.1} ", self.x(from));
            // The last one alone would reach infinitely many nines.
            from = if point.above == 0 { 0.5 / point.of.max(1) as f64 } else { above };
            let _infallible = write!(path, "{:.1},{y:.1} ", self.x(from));
        }
        let path = path.trim_end();
        let _infallible = writeln!(
            svg,
            r#"<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>"#
        );
        let latency = &curve.latency;
        let marks = [(0.5, latency.p50_us), (0.1, latency.p90_us), (0.01, latency.p99_us)];
        for (above, us) in marks.into_iter().chain([(0.001, latency.p999_us)]) {
            if -f64::log10(above) <= self.nines {
                let (x, y) = (self.x(above), self.y(us as f64));
                let _infallible =
                    writeln!(svg, r#"<circle cx="{x:.1}" cy="{y:.1}" r="3.5" fill="{colour}"/>"#);
            }
        }
    }
}

/// The picture of a report.
pub fn draw(report: &Report) -> String {
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         width=\"{WIDTH}\" height=\"{HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    let (title, subtitle) = titles(report);
    let _infallible = writeln!(svg, "<title>{}</title>", escaped(&title));
    let _infallible = writeln!(
        svg,
        r#"<text x="{LEFT}" y="28" font-size="17" font-weight="bold">{}</text>"#,
        escaped(&title)
    );
    text(&mut svg, (LEFT, 48.0), "start", &subtitle);
    let frame = Frame::of(&report.curves);
    frame.grid(&mut svg);
    for (place, (curve, colour)) in report.curves.iter().zip(COLOURS).enumerate() {
        frame.curve(&mut svg, curve, colour);
        legend(&mut svg, place, curve, colour);
    }
    if report.curves.is_empty() {
        text(&mut svg, (LEFT + 20.0, TOP + 40.0), "start", "nothing was measured");
    }
    svg.push_str("</svg>\n");
    svg
}

fn titles(report: &Report) -> (String, String) {
    let title = format!(
        "{}: {:.0} operations/s with {} clients",
        report.workload, report.operations_per_s, report.clients
    );
    let when = report.rate_per_s.map_or_else(
        || "each client asks again once it is answered (closed loop)".to_owned(),
        |rate| format!("{rate} operations/s were meant to begin; latency counts from then"),
    );
    let live = match report.live_locks {
        0 => String::new(),
        count => format!(", {count} live locks"),
    };
    (title, format!("{:.0} s, {} errors{live}; {when}", report.seconds, report.errors))
}

fn legend(svg: &mut String, place: usize, curve: &Curve, colour: &str) {
    let row = u8::try_from(place / 2).unwrap_or(0);
    let column = if place.is_multiple_of(2) { LEFT } else { f64::midpoint(LEFT, RIGHT) };
    let y = BOTTOM + 56.0 + 16.0 * f64::from(row) - 4.0;
    let _infallible = writeln!(
        svg,
        r#"<rect x="{column:.1}" y="{:.1}" width="10" height="10" fill="{colour}"/>"#,
        y - 9.0
    );
    let Latency { p50_us, p99_us, p999_us, max_us, .. } = curve.latency;
    let [p50, p99, p999, max] = [p50_us, p99_us, p999_us, max_us].map(short);
    let label =
        format!("{}: p50 {p50}, p99 {p99}, p99.9 {p999}, max {max}", curve.name.replace('_', " "));
    text(svg, (column + 16.0, y), "start", &label);
}

fn line(svg: &mut String, from: (f64, f64), to: (f64, f64)) {
    let ((x1, y1), (x2, y2)) = (from, to);
    let _infallible = writeln!(
        svg,
        r##"<line x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}" stroke="#dddddd"/>"##
    );
}

fn text(svg: &mut String, (x, y): (f64, f64), anchor: &str, words: &str) {
    let words = escaped(words);
    let _infallible =
        writeln!(svg, r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{words}</text>"#);
}

/// A power of ten of microseconds.
fn time(us: f64) -> String {
    match us {
        us if us < 1_000.0 => format!("{us:.0} us"),
        us if us < 1_000_000.0 => format!("{:.0} ms", us / 1_000.0),
        us => format!("{:.0} s", us / 1_000_000.0),
    }
}

/// A latency with its unit, as people say it.
#[expect(clippy::cast_precision_loss, reason = "latencies are far below 2^52 us")]
pub fn short(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} us"),
        1_000..1_000_000 => format!("{:.2} ms", us as f64 / 1_000.0),
        _ => format!("{:.2} s", us as f64 / 1_000_000.0),
    }
}

fn escaped(words: &str) -> String {
    words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::plan::tests::plan;
    use crate::bench::report::tests::report;

    /// Every element that is opened is closed in its turn, and nothing else is a bracket.
    fn assert_is_well_formed(svg: &str) {
        let mut open = Vec::new();
        for part in svg.split('<').skip(1) {
            let (tag, text) = part.split_once('>').expect("a tag ends");
            assert!(!text.contains('>'), "a bare bracket: {text}");
            assert!(tag.matches('"').count().is_multiple_of(2), "quotes pair: {tag}");
            let name = tag.trim_start_matches('/').split([' ', '/']).next().unwrap_or_default();
            if tag.starts_with('/') {
                assert_eq!(open.pop(), Some(name), "</{name}>");
            } else if !tag.ends_with('/') {
                open.push(name);
            }
        }
        assert!(open.is_empty(), "left open: {open:?}");
    }

    #[test]
    fn the_picture_is_well_formed_and_shows_the_percentiles() {
        let report = report(&plan());
        let svg = draw(&report);
        assert_is_well_formed(&svg);
        for word in
            ["90 %", "99 %", "99.9 %", "10 us", "100 ms", "1 s", "acquire: p50 50", "release"]
        {
            assert!(svg.contains(word), "{word} is not in:\n{svg}");
        }
        assert_eq!(svg.matches("<polyline").count(), report.curves.len());
        assert!(!svg.contains("99.99 %"), "a thousand values say nothing about that");
    }

    #[test]
    fn curves_rise_to_the_right_and_stay_inside() {
        let svg = draw(&report(&plan()));
        for line in svg.lines().filter_map(|line| line.strip_prefix("<polyline points=\"")) {
            let points = line.split('"').next().expect("points");
            let mut last = (LEFT, BOTTOM);
            for point in points.split(' ') {
                let (x, y) = point.split_once(',').expect("a pair");
                let (x, y): (f64, f64) = (x.parse().expect("x"), y.parse().expect("y"));
                assert!(x >= last.0 && y <= last.1, "{point} after {last:?}");
                assert!(x <= RIGHT && y >= TOP, "{point} is outside");
                last = (x, y);
            }
        }
    }

    #[test]
    fn nothing_measured_is_a_picture_too() {
        let mut report = report(&plan());
        report.curves.clear();
        let svg = draw(&report);
        assert_is_well_formed(&svg);
        assert!(svg.contains("nothing was measured"));
        assert_eq!(escaped("a < b & c > d"), "a &lt; b &amp; c &gt; d");
    }

    #[test]
    fn latencies_are_told_in_the_unit_that_fits() {
        let told = [999, 1_000, 1_234_567].map(short);
        assert_eq!(told, ["999 us", "1.00 ms", "1.23 s"]);
    }
}
