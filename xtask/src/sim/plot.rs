//! The drawing of `docs/sim-vault.svg`: three panels, written as text so that no library is needed.

use std::fmt::Write;

use serde_json::Value;

use super::report::{number, per_million, repair_megabytes};

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 760.0;

/// One colour for each policy, in light and in dark; the names are classes of the drawing.
const COLOURS: &[(&str, &str, &str)] = &[
    ("a", "#0969da", "#58a6ff"),
    ("b", "#8250df", "#bc8cff"),
    ("c", "#bf3989", "#f778ba"),
    ("d", "#bc4c00", "#ffa657"),
    ("e", "#1a7f37", "#3fb950"),
];

/// A line.
pub(super) struct Series {
    pub(super) name: String,
    pub(super) colour: usize,
    pub(super) dashed: bool,
    pub(super) points: Vec<(f64, f64)>,
}

/// An axis from `from` to `to` with marks; logarithmic ones begin with a zero below `from`.
pub(super) struct Axis {
    from: f64,
    to: f64,
    log: bool,
    marks: Vec<(f64, String)>,
}

impl Axis {
    pub(super) fn linear(to: f64, marks: &[f64]) -> Self {
        Self {
            from: 0.0,
            to,
            log: false,
            marks: marks.iter().map(|mark| (*mark, mark.to_string())).collect(),
        }
    }

    /// Decades from `from` to `to`, and zero one decade below.
    fn decades(from: f64, to: f64) -> Self {
        let mut marks = vec![(0.0, "0".to_owned())];
        let mut mark = from;
        while mark <= to {
            marks.push((mark, mark.to_string()));
            mark *= 10.0;
        }
        Self { from: from / 10.0, to, log: true, marks }
    }

    /// Where a value lies, from 0 to 1.
    fn at(&self, value: f64) -> f64 {
        let at = if self.log {
            (value.max(self.from) / self.from).log10() / (self.to / self.from).log10()
        } else {
            (value - self.from) / (self.to - self.from)
        };
        if at.is_finite() { at.clamp(0.0, 1.0) } else { 0.0 }
    }
}

/// Where a panel lies.
pub(super) struct Frame {
    pub(super) left: f64,
    pub(super) top: f64,
    pub(super) width: f64,
    pub(super) height: f64,
}

pub(super) fn panel(out: &mut String, frame: &Frame, titles: [&str; 2], axes: [&Axis; 2], series: &[Series]) {
    let [title, below] = titles;
    let [x_axis, y_axis] = axes;
    let x = |value| frame.left + frame.width * x_axis.at(value);
    let y = |value| frame.top + frame.height * (1.0 - y_axis.at(value));
    let (right, bottom) = (frame.left + frame.width, frame.top + frame.height);
    let mut line = |text: String| {
        let _ = writeln!(out, "  {text}");
    };
    line(format!(r#"<text class="name" x="{}" y="{}">{title}</text>"#, frame.left - 40.0, frame.top - 14.0));
    for (mark, text) in &y_axis.marks {
        let at = y(*mark);
        line(format!(r#"<path class="grid" d="M{} {at:.1}H{right}"/>"#, frame.left));
        line(format!(r#"<text class="soft end" x="{}" y="{:.1}">{text}</text>"#, frame.left - 8.0, at + 4.0));
    }
    for (mark, text) in &x_axis.marks {
        line(format!(r#"<text class="soft middle" x="{:.1}" y="{}">{text}</text>"#, x(*mark), bottom + 20.0));
    }
    let middle = (frame.left + right) / 2.0;
    line(format!(r#"<text class="soft middle" x="{middle}" y="{}">{below}</text>"#, bottom + 40.0));
    for (number, one) in series.iter().enumerate() {
        let (class, ..) = COLOURS[one.colour % COLOURS.len()];
        let dashed = if one.dashed { " dashed" } else { "" };
        let points: Vec<String> =
            one.points.iter().map(|(at, value)| format!("{:.1} {:.1}", x(*at), y(*value))).collect();
        line(format!(r#"<path class="line {class}{dashed}" d="M{}"/>"#, points.join("L")));
        let (from, at) = (right + 14.0, frame.top + 8.0 + 20.0 * number as f64);
        line(format!(r#"<path class="line {class}{dashed}" d="M{from} {at}h26"/>"#));
        line(format!(r#"<text class="soft" x="{}" y="{}">{}</text>"#, from + 32.0, at + 4.0, one.name));
    }
}

/// Losses over the year of one population.
fn losses(outcomes: &[Value], population: &str) -> Vec<Series> {
    let of_set = outcomes.iter().filter(|o| o["set"] == "large" && o["population"] == population);
    of_set
        .enumerate()
        .map(|(number_of, outcome)| {
            let groups = number(&outcome["groups"]);
            let days = outcome["lost_by_day"].as_array().into_iter().flatten();
            // Every fifth day is as fine as the drawing.
            let points =
                days.enumerate().step_by(5).map(|(day, lost)| (day as f64, 1e6 * number(lost) / groups));
            Series {
                name: outcome["redundancy"].as_str().unwrap_or_default().to_owned(),
                colour: number_of,
                dashed: false,
                points: points.collect(),
            }
        })
        .collect()
}

/// A value over the days after which devices count as gone.
fn gone(outcomes: &[Value], value: fn(&Value) -> f64) -> Vec<Series> {
    let mut out: Vec<Series> = Vec::new();
    for outcome in outcomes.iter().filter(|o| o["set"] == "gone") {
        let redundancy = outcome["redundancy"].as_str().unwrap_or_default();
        let short = if redundancy.starts_with("replicas") { "copies" } else { "code" };
        let name = format!("{}: {short}", outcome["population"].as_str().unwrap_or_default());
        let point = (number(&outcome["gone_after_days"]), value(outcome));
        match out.iter_mut().find(|series| series.name == name) {
            Some(series) => series.points.push(point),
            None => out.push(Series {
                colour: if short == "copies" { 3 } else { 0 },
                dashed: name.starts_with("volunteers"),
                name,
                points: vec![point],
            }),
        }
    }
    out
}

/// The beginning of a drawing, up to its paper.
pub(super) fn begin(title: &str, about: &str, height: f64) -> String {
    let mut out = String::new();
    let _ = writeln!(
        out,
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" aria-labelledby="title desc" font-family="system-ui, -apple-system, 'Segoe UI', sans-serif" font-size="14">
  <title id="title">{title}</title>
  <desc id="desc">{about}</desc>
  <style>
    .paper {{ fill: #ffffff; }} text {{ fill: #1f2328; }} .soft {{ fill: #59636e; font-size: 12px; }}
    .name {{ font-weight: 600; }} .middle {{ text-anchor: middle; }} .end {{ text-anchor: end; }}
    .grid {{ stroke: #d8dee4; fill: none; }} .line {{ fill: none; stroke-width: 2.5; stroke-linejoin: round; }} .dashed {{ stroke-dasharray: 7 5; }}"#
    );
    for (class, light, _) in COLOURS {
        let _ = writeln!(out, "    .{class} {{ stroke: {light}; }}");
    }
    out += "    @media (prefers-color-scheme: dark) {\n      .paper { fill: #12161c; } text { fill: #e6edf3; } .soft { fill: #9aa5b1; } .grid { stroke: #2d333b; }\n";
    for (class, _, dark) in COLOURS {
        let _ = writeln!(out, "      .{class} {{ stroke: {dark}; }}");
    }
    let _ =
        writeln!(out, "    }}\n  </style>\n  <rect class=\"paper\" width=\"{WIDTH}\" height=\"{height}\"/>");
    out
}

/// The whole drawing.
pub(super) fn draw(outcomes: &[Value]) -> String {
    let mut out = begin(
        "What the vault's rules come to",
        "Groups lost during a year for five policies, in homes and among volunteers, and repair traffic and losses over the days after which a device counts as gone. The numbers stand in docs/sim-vault.md.",
        HEIGHT,
    );
    let year = Axis::linear(365.0, &[0.0, 60.0, 120.0, 180.0, 240.0, 300.0, 360.0]);
    let lost = Axis::decades(100.0, 1e6);
    let days = Axis::linear(22.0, &[1.0, 4.0, 7.0, 10.0, 14.0, 21.0]);
    let traffic = Axis::linear(250.0, &[0.0, 50.0, 100.0, 150.0, 200.0, 250.0]);
    let frame = |column: f64, row: f64| Frame {
        left: 70.0 + 480.0 * column,
        top: 50.0 + 370.0 * row,
        width: 240.0,
        height: 260.0,
    };
    let lost_titles = |title| [title, "day of the year"];
    panel(
        &mut out,
        &frame(0.0, 0.0),
        lost_titles("Homes: groups lost of a million"),
        [&year, &lost],
        &losses(outcomes, "homes"),
    );
    panel(
        &mut out,
        &frame(1.0, 0.0),
        lost_titles("Volunteers: groups lost of a million"),
        [&year, &lost],
        &losses(outcomes, "volunteers"),
    );
    let gone_titles = |title| [title, "days until a device counts as gone"];
    panel(
        &mut out,
        &frame(0.0, 1.0),
        gone_titles("Groups lost of a million in a year"),
        [&days, &lost],
        &gone(outcomes, per_million),
    );
    panel(
        &mut out,
        &frame(1.0, 1.0),
        gone_titles("Repair, MB per device and day"),
        [&days, &traffic],
        &gone(outcomes, repair_megabytes),
    );
    out += "</svg>\n";
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_lie_where_they_belong() {
        let axis = Axis::linear(10.0, &[0.0, 5.0]);
        assert_eq!([axis.at(0.0), axis.at(5.0), axis.at(20.0), axis.at(f64::NAN)], [0.0, 0.5, 1.0, 0.0]);
        let axis = Axis::decades(10.0, 1000.0);
        assert_eq!([axis.at(0.0), axis.at(1.0), axis.at(1000.0)], [0.0, 0.0, 1.0]);
        assert!((axis.at(10.0) - 1.0 / 3.0).abs() < 1e-9);
    }

    #[test]
    fn every_policy_has_a_line() {
        let outcomes = [
            json!({ "set": "large", "population": "homes", "redundancy": "replicas=3", "groups": 10,
                    "lost_by_day": [0, 1, 2] }),
            json!({ "set": "gone", "population": "homes", "redundancy": "rs=1/2/3/3", "gone_after_days": 4.0,
                    "lost": 1, "groups": 10, "repair_bytes_per_device_day": 1e6 }),
        ];
        let drawing = draw(&outcomes);
        assert!(drawing.starts_with("<svg") && drawing.ends_with("</svg>\n"));
        assert_eq!(drawing.matches(">replicas=3<").count(), 1);
        assert_eq!(drawing.matches(">homes: code<").count(), 2);
    }
}
