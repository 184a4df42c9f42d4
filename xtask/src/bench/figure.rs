//! A measured number and what it has to be.

use serde_json::{Value, json};

use crate::table;

/// What a figure has to be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Bound {
    /// This or more.
    AtLeast(f64),
    /// This or less.
    AtMost(f64),
}

impl Bound {
    fn words(self) -> String {
        match self {
            Self::AtLeast(limit) => format!("at least {limit}"),
            Self::AtMost(limit) => format!("at most {limit}"),
        }
    }
}

/// A measured number.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Figure {
    name: String,
    /// Absent when it could not be measured.
    value: Option<f64>,
    unit: &'static str,
    bound: Option<Bound>,
}

impl Figure {
    /// A number for information.
    pub(crate) fn plain(name: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self { name: name.into(), value: Some(value), unit, bound: None }
    }

    /// A number with a bound.
    pub(crate) fn bounded(name: impl Into<String>, value: f64, unit: &'static str, bound: Bound) -> Self {
        Self { name: name.into(), value: Some(value), unit, bound: Some(bound) }
    }

    /// A part of a bench that gave no number.
    pub(crate) fn failed(name: &str) -> Self {
        Self { name: name.into(), value: None, unit: "", bound: None }
    }

    /// What was measured.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Whether it was measured and is within its bound.
    pub(crate) fn holds(&self) -> bool {
        match (self.value, self.bound) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(value), Some(Bound::AtLeast(limit))) => value >= limit,
            (Some(value), Some(Bound::AtMost(limit))) => value <= limit,
        }
    }

    fn json(&self) -> Value {
        json!({
            "name": self.name,
            "value": self.value.map(rounded),
            "unit": self.unit,
            "bound": self.bound.map(Bound::words),
            "holds": self.holds(),
        })
    }

    fn row(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            self.value.map_or_else(|| "not measured".into(), |value| rounded(value).to_string()),
            self.unit.into(),
            self.bound.map(Bound::words).unwrap_or_default(),
            if self.holds() { "yes".into() } else { "NO".into() },
        ]
    }
}

/// Three digits behind the point are more than any of this is worth.
fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

/// The object that `--json` prints.
pub(crate) fn json(bench: &str, figures: &[Figure]) -> Value {
    json!({ "bench": bench, "figures": figures.iter().map(Figure::json).collect::<Vec<_>>() })
}

/// The table for people.
pub(crate) fn table(figures: &[Figure]) -> String {
    let rows: Vec<Vec<String>> = figures.iter().map(Figure::row).collect();
    table::render(&["figure", "value", "unit", "bound", "holds"], &rows)
}

/// The middle one of several measurements.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The value that 95 of 100 measurements do not exceed (nearest rank).
pub(crate) fn p95(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let rank = (values.len() * 95).div_ceil(100);
    values.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_holds_within_its_bound_only() {
        let least = |value| Figure::bounded("speed", value, "", Bound::AtLeast(2.0)).holds();
        let most = |value| Figure::bounded("cpu", value, "s", Bound::AtMost(2.0)).holds();
        assert!(least(2.0) && !least(1.9) && !least(f64::NAN));
        assert!(most(2.0) && !most(2.1) && !most(f64::NAN));
        assert!(Figure::plain("size", 1.0, "B").holds());
        assert!(!Figure::failed("direct").holds());
    }

    #[test]
    fn json_has_the_agreed_form() {
        let figure = Figure::bounded("cpu", 1.23456, "s", Bound::AtMost(4.5));
        let value = json("network", &[figure, Figure::failed("lookup")]);
        assert_eq!(value["bench"], "network");
        let first =
            json!({ "name": "cpu", "value": 1.235, "unit": "s", "bound": "at most 4.5", "holds": true });
        assert_eq!(value["figures"][0], first);
        assert_eq!(value["figures"][1]["value"], Value::Null);
    }

    #[test]
    fn ranks() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(p95((1..=20).map(f64::from).collect()), 19.0);
        assert_eq!(p95(vec![7.0]), 7.0);
        assert!(p95(Vec::new()).is_nan());
    }
}
