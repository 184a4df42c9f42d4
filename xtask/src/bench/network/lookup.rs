//! Item `lookup`: a content address among 200 nodes of the directory.
//!
//! Two hundred whole nodes would measure this machine's memory, so `ioex lab-dht` runs the
//! directory parts of as many nodes in one process, on loopback.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::ioex;
use crate::{
    bench::{Bound, Figure},
    netns::Lab,
    sh,
};

const NODES: &str = "200";
const NODES_QUICK: &str = "50";

/// Starting 200 directories, asking them, ending 40% of them, asking again.
const LIMIT: Duration = Duration::from_secs(300);

pub(super) fn run(quick: bool) -> Result<Vec<Figure>> {
    let lab = Lab::open()?;
    let namespace = lab.namespace("dht")?;
    let mut command = namespace.command(ioex());
    command.args(["lab-dht", "--nodes", if quick { NODES_QUICK } else { NODES }, "--json"]);
    let told = sh::output(&mut command, LIMIT)?;
    let line = told.lines().next_back().context("`ioex lab-dht` printed nothing")?;
    let report: Value = serde_json::from_str(line).with_context(|| format!("no JSON: {line}"))?;
    let number = |key: &str| report[key].as_f64().with_context(|| format!("`ioex lab-dht` names no {key}"));
    let (all, left) = (number("lookup_ms_p95")?, number("first_answer_after_kill_ms_p95")?);
    Ok(vec![
        Figure::bounded("lookup: p95", all, "ms", Bound::AtMost(100.0)),
        Figure::bounded("lookup: first answer, 40% of nodes killed, p95", left, "ms", Bound::AtMost(300.0)),
    ])
}
