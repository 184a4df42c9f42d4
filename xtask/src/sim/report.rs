//! The simulation's results as tables.

use anyhow::{Context, Result};
use serde_json::Value;

use crate::table;

/// A table of results.
pub(super) struct Set {
    /// What its outcomes are marked with, and the document's place for it.
    pub(super) name: &'static str,
    /// Its heading on a terminal.
    pub(super) title: &'static str,
    columns: &'static [Column],
}

/// Heading and content of a column.
type Column = (&'static str, fn(&Value) -> String);

const SCENARIO: Column = ("scenario", |o| text(&o["name"]));
const CHOSEN: Column = ("redundancy", |o| text(&o["redundancy"]));
const STORED: Column = ("stored per byte", |o| format!("{:.2}", number(&o["stored_per_byte"])));
const LOST: Column = ("groups lost", |o| format!("{} of {}", text(&o["lost"]), text(&o["groups"])));
const NETWORKS: Column = ("networks that lost data", |o| {
    format!("{} of {}", text(&o["networks_with_loss"]), text(&o["networks"]))
});
const READABLE: Column = ("readable", |o| percent(&o["available"]));
const WORST: Column = ("at the worst hour", |o| percent(&o["available_worst_hour"]));
const REPAIR: Column = ("repair MB/device/day", |o| format!("{:.0}", repair_megabytes(o)));
const REPAIRS: Column = ("repairs", |o| text(&o["repairs"]));

/// All tables.
pub(super) const SETS: &[Set] = &[
    Set {
        name: "large",
        title: "100,000 devices, one year",
        columns: &[SCENARIO, CHOSEN, STORED, LOST, READABLE, WORST, REPAIRS, REPAIR],
    },
    Set {
        name: "eight",
        title: "Networks of eight owners",
        columns: &[SCENARIO, CHOSEN, STORED, NETWORKS, READABLE, WORST, REPAIR],
    },
    Set {
        name: "owners",
        title: "What `auto` chooses for few owners",
        columns: &[SCENARIO, CHOSEN, STORED, NETWORKS, READABLE, WORST, REPAIR],
    },
    Set {
        name: "gone",
        title: "Days after which a device counts as gone",
        columns: &[SCENARIO, STORED, LOST, READABLE, REPAIRS, REPAIR],
    },
    Set {
        name: "try",
        title: "Tried",
        columns: &[SCENARIO, STORED, LOST, NETWORKS, READABLE, WORST, REPAIR],
    },
    Set { name: "cheaters", title: "Cheaters", columns: &[] },
];

/// A value as it is shown.
fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// A number, NaN where there is none.
pub(super) fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(f64::NAN)
}

fn percent(value: &Value) -> String {
    format!("{:.3} %", 100.0 * number(value))
}

/// Groups that were lost, of a million.
pub(super) fn per_million(outcome: &Value) -> f64 {
    1e6 * number(&outcome["lost"]) / number(&outcome["groups"])
}

pub(super) fn repair_megabytes(outcome: &Value) -> f64 {
    number(&outcome["repair_bytes_per_device_day"]) / 1e6
}

pub(super) fn audit_kilobytes(outcome: &Value) -> f64 {
    number(&outcome["audit_bytes_per_device_day"]) / 1e3
}

/// Percent that cheaters dropped, and what was noticed of them.
pub(super) fn cheaters(outcomes: &[Value]) -> Vec<(f64, &Value)> {
    let scenario = outcomes.iter().filter(|o| o["set"] == "cheaters");
    scenario
        .flat_map(|o| o["noticed"].as_array().into_iter().flatten())
        .map(|noticed| ((100.0 * number(&noticed["dropped"])).round(), noticed))
        .collect()
}

/// Heading and rows; no rows when nothing of the set was simulated.
fn rows(set: &Set, outcomes: &[Value]) -> (Vec<&'static str>, Vec<Vec<String>>) {
    if set.name == "cheaters" {
        let days = |value: &Value| value.as_f64().map_or("never".to_owned(), |days| format!("{days:.1}"));
        let row = |(dropped, noticed): (f64, &Value)| {
            let mut cells = vec![format!("{dropped} %"), text(&noticed["cheaters"])];
            for what in ["first_days", "distrusted_days"] {
                cells.extend([days(&noticed[what][0]), days(&noticed[what][1])]);
            }
            cells
        };
        let heading =
            vec!["dropped", "cheaters", "noticed after days", "95 %", "distrusted after days", "95 %"];
        return (heading, cheaters(outcomes).into_iter().map(row).collect());
    }
    let of_set = outcomes.iter().filter(|o| o["set"] == set.name);
    let row = |o: &Value| set.columns.iter().map(|(_, cell)| cell(o)).collect();
    (set.columns.iter().map(|(heading, _)| *heading).collect(), of_set.map(row).collect())
}

/// A table for the terminal.
pub(super) fn terminal(set: &Set, outcomes: &[Value]) -> Option<String> {
    let (heading, rows) = rows(set, outcomes);
    (!rows.is_empty()).then(|| table::render(&heading, &rows))
}

fn markdown(set: &Set, outcomes: &[Value]) -> String {
    let (heading, rows) = rows(set, outcomes);
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let mut out = line(heading.iter().map(ToString::to_string).collect());
    out += &line(heading.iter().map(|_| "---".to_owned()).collect());
    rows.into_iter().for_each(|row| out += &line(row));
    out
}

/// The document with its tables made anew: each stands between `<!-- NAME -->` and `<!-- end -->`.
pub(super) fn renew(document: &str, outcomes: &[Value]) -> Result<String> {
    let mut out = document.to_owned();
    for set in SETS.iter().filter(|set| set.name != "try") {
        out = place(&out, set.name, &markdown(set, outcomes))?;
    }
    Ok(out)
}

/// A document with one table replaced.
pub(super) fn place(document: &str, name: &str, table: &str) -> Result<String> {
    const END: &str = "<!-- end -->";
    let mark = format!("<!-- {name} -->\n");
    let mut out = document.to_owned();
    let from = out.find(&mark).with_context(|| format!("the document has no {}", mark.trim()))? + mark.len();
    let length = out[from..].find(END).with_context(|| format!("nothing ends the table {name}"))?;
    out.replace_range(from..from + length, &format!("\n{table}\n"));
    Ok(out)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tables_are_replaced_where_they_stand() {
        let outcomes = [
            json!({ "set": "eight", "name": "8 owners auto", "redundancy": "rs=2/5/6/8", "networks": 10,
                    "networks_with_loss": 1, "stored_per_byte": 2.5, "available": 0.5,
                    "available_worst_hour": 0.25, "repair_bytes_per_device_day": 2e6 }),
            json!({ "set": "cheaters", "noticed": [{ "dropped": 0.05, "cheaters": 3,
                    "first_days": [0.5, null], "distrusted_days": [2.0, 3.0] }] }),
        ];
        let marks = SETS.iter().map(|set| format!("<!-- {} -->\nold\n<!-- end -->\n", set.name));
        let document = format!("before\n{}after\n", marks.collect::<String>());
        let new = renew(&document, &outcomes).unwrap();
        assert!(
            new.contains("| 8 owners auto | rs=2/5/6/8 | 2.50 | 1 of 10 | 50.000 % | 25.000 % | 2 |"),
            "{new}"
        );
        assert!(new.contains("| 5 % | 3 | 0.5 | never | 2.0 | 3.0 |"), "{new}");
        assert_eq!(renew(&new, &outcomes).unwrap(), new, "twice changes nothing");
        assert!(renew("no marks", &outcomes).is_err());
    }

    #[test]
    fn what_was_not_simulated_has_no_table() {
        assert!(SETS.iter().all(|set| terminal(set, &[]).is_none()));
    }
}
