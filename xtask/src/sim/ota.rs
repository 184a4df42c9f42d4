//! `cargo xtask sim ota`: tables and the drawing of `docs/sim-ota.md`.

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{
    Options,
    plot::{self, Axis, Frame, Series},
    program,
    report::{number, place},
    write,
};
use crate::{
    bench::{
        Bound::{AtLeast, AtMost},
        Figure, figure,
    },
    sh, table,
};

/// The drawing, relative to the root.
const PLOT: &str = "docs/sim-ota.svg";
/// The document whose tables are results.
const DOCUMENT: &str = "docs/sim-ota.md";
/// What a million downloads cost from file servers: 100 TB.
const SERVERS_BYTES: f64 = 1e14;

/// Heading and content of a column.
type Column = (&'static str, fn(&Value) -> String);

const SWARMS: &[Column] = &[
    ("rules", |o| text(&o["name"])),
    ("devices", |o| text(&o["devices"])),
    ("50 %, s", |o| format!("{:.1}", number(&o["seconds"][0]))),
    ("95 %, s", |o| format!("{:.1}", number(&o["seconds"][1]))),
    ("99 %, s", |o| format!("{:.1}", number(&o["seconds"][2]))),
    ("all, s", |o| format!("{:.1}", number(&o["seconds"][3]))),
    ("copies from the origin", |o| format!("{:.2}", number(&o["origin_copies"]))),
    ("over relays", |o| format!("{:.1} %", 100.0 * number(&o["relayed"]))),
    ("uplinks in use", |o| format!("{:.0} %", 100.0 * number(&o["efficiency"]))),
];

const FLEETS: &[Column] = &[
    ("rollout", |o| text(&o["name"])),
    ("devices", |o| text(&o["devices"])),
    ("50 %, h", |o| hours(&o["hours"][0])),
    ("95 %, h", |o| hours(&o["hours"][1])),
    ("99 %, h", |o| hours(&o["hours"][2])),
    ("from the maker, GB", |o| format!("{:.1}", number(&o["maker_bytes"]) / 1e9)),
    ("at the paper's price, US$", |o| format!("{:.2}", number(&o["dollars"]))),
    ("each bootstrap relays, GB", |o| format!("{:.0}", number(&o["relay_bytes"]) / 1e9)),
    ("at most, Mbit/s", |o| format!("{:.0}", number(&o["relay_mbit"]))),
];

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn hours(value: &Value) -> String {
    value.as_f64().map_or("never".to_owned(), |hours| format!("{hours:.2}"))
}

/// Runs it; an error when a figure is out of its bound.
pub(super) fn run(options: &Options) -> Result<()> {
    if options.only.is_some() || !options.tries.is_empty() {
        bail!("the simulation of updates is run as a whole: leave --only and --try out");
    }
    if options.quick && options.write {
        bail!("the document has the results of a whole run: leave --write or --quick out");
    }
    let results = program(options, &["--ota"])?;
    let list = |name: &str| results[name].as_array().cloned().with_context(|| format!("no {name} came"));
    let (swarms, fleets) = (list("swarms")?, list("fleets")?);
    let figures = figures(&swarms, &fleets, !options.quick);
    if options.json {
        println!("{}", figure::json("sim-ota", &figures));
    } else {
        for (title, columns, rows) in [("Shard by shard", SWARMS, &swarms), ("The fleet", FLEETS, &fleets)] {
            let heading: Vec<&str> = columns.iter().map(|(heading, _)| *heading).collect();
            println!("{title}\n\n{}", table::render(&heading, &cells(columns, rows)));
        }
        print!("{}", figure::table(&figures));
    }
    if options.write {
        write("sim-ota.svg", PLOT, &draw(&fleets))?;
        let old =
            std::fs::read_to_string(sh::root().join(DOCUMENT)).with_context(|| format!("no {DOCUMENT}"))?;
        let new = place(&old, "swarms", &markdown(SWARMS, &swarms))?;
        write("its tables", DOCUMENT, &place(&new, "fleets", &markdown(FLEETS, &fleets))?)?;
    }
    let missed: Vec<&str> = figures.iter().filter(|f| !f.holds()).map(|f| f.name()).collect();
    if !missed.is_empty() {
        bail!("out of bounds: {}", missed.join(", "));
    }
    Ok(())
}

fn cells(columns: &[Column], rows: &[Value]) -> Vec<Vec<String>> {
    rows.iter().map(|row| columns.iter().map(|(_, cell)| cell(row)).collect()).collect()
}

fn markdown(columns: &[Column], rows: &[Value]) -> String {
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let mut out = line(columns.iter().map(|(heading, _)| (*heading).to_owned()).collect());
    out += &line(columns.iter().map(|_| "---".to_owned()).collect());
    cells(columns, rows).into_iter().for_each(|row| out += &line(row));
    out
}

/// What a whole run has to reach.
fn figures(swarms: &[Value], fleets: &[Value], whole: bool) -> Vec<Figure> {
    let figure = |what: &str, value: f64, unit, bound| {
        if whole { Figure::bounded(what, value, unit, bound) } else { Figure::plain(what, value, unit) }
    };
    let first = |list: &[Value]| list.first().cloned().unwrap_or_default();
    let (swarm, fleet) = (first(swarms), first(fleets));
    let copies = number(&swarm["origin_copies"]);
    let used = 100.0 * number(&swarm["efficiency"]);
    let saved = 100.0 * (1.0 - number(&fleet["maker_bytes"]) / SERVERS_BYTES);
    vec![
        figure("copies from the origin for 2,000 devices", copies, "copies", AtMost(12.0)),
        figure("uplinks in use until half have it", used, "%", AtLeast(50.0)),
        figure("bytes that the maker does not send", saved, "%", AtLeast(99.9)),
    ]
}

/// How much of the fleet has it over time.
fn draw(fleets: &[Value]) -> String {
    let mut out = plot::begin(
        "A fleet that updates itself",
        "Share of a million devices that have a package of 100 MB, over the hours since it was published.",
        420.0,
    );
    let series: Vec<Series> = fleets
        .iter()
        .enumerate()
        .map(|(colour, fleet)| {
            let curve = fleet["curve"].as_array().into_iter().flatten().map(|part| 100.0 * number(part));
            let mut points: Vec<(f64, f64)> =
                curve.enumerate().map(|(quarter, part)| (quarter as f64 / 4.0, part)).collect();
            // Who has it keeps it.
            points.push((96.0, points.last().map_or(0.0, |(_, part)| *part)));
            Series { name: text(&fleet["name"]), colour, dashed: colour == 1, points }
        })
        .collect();
    let time = Axis::linear(96.0, &[0.0, 24.0, 48.0, 72.0, 96.0]);
    let part = Axis::linear(100.0, &[0.0, 25.0, 50.0, 75.0, 100.0]);
    let frame = Frame { left: 70.0, top: 50.0, width: 560.0, height: 300.0 };
    plot::panel(&mut out, &frame, ["Devices that have it, %", "hours"], [&time, &part], &series);
    out += "</svg>\n";
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_maker_that_sends_too_much_is_out_of_bounds() {
        let swarm = json!({ "origin_copies": 3.0, "efficiency": 0.7 });
        let holds = |bytes: f64| {
            figures(std::slice::from_ref(&swarm), &[json!({ "maker_bytes": bytes })], true)
                .iter()
                .all(Figure::holds)
        };
        assert!(holds(4e9) && !holds(4e12));
        assert!(figures(&[], &[], true).iter().any(|f| !f.holds()), "what is missing is out of bounds");
    }

    #[test]
    fn every_rollout_has_a_line() {
        let drawing = draw(&[json!({ "name": "at once", "curve": [0.0, 0.5, 1.0] })]);
        assert!(drawing.starts_with("<svg") && drawing.ends_with("</svg>\n"));
        assert_eq!(drawing.matches(">at once<").count(), 1);
    }
}
