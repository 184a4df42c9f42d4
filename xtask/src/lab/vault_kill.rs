//! Scenario `vault-kill`: the tests that kill and stop nodes and fill disks, at many points instead
//! of the few that `cargo test` has time for. It needs no namespace.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use super::{Options, Outcome};
use crate::sh;

/// See `crates/ioex/tests/it/harm.rs`.
const POINTS_VARIABLE: &str = "IOEX_KILL_POINTS";
/// Points of each kind.
const POINTS: &str = "6";
/// With `--quick`.
const POINTS_QUICK: &str = "2";
/// Modules of the tests.
const TESTS: [&str; 5] = ["kill_super::", "kill_device::", "stall::", "disk_full::", "device_full::"];
/// All of it, with a build, on a busy machine.
const LIMIT: Duration = Duration::from_secs(3_600);

/// Runs the tests.
pub(super) fn run(options: &Options) -> Result<Outcome> {
    let points = if options.quick { POINTS_QUICK } else { POINTS };
    // The whole workspace, as continuous integration builds it: with one package its features, and with
    // them everything below it, would be built anew.
    let mut command = sh::cargo(["test", "--workspace", "--test", "it", "--"]);
    command.args(TESTS).args(["--test-threads", "2"]).env(POINTS_VARIABLE, points);
    let ran = sh::collect(&mut command, LIMIT)?;
    let text = String::from_utf8_lossy(&ran.stdout);
    let mut rows = Vec::new();
    let mut failures = Vec::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("test ")) {
        let Some((name, result)) = line.split_once(" ... ") else { continue };
        rows.push(vec![name.to_owned(), result.to_owned()]);
        if result != "ok" {
            failures.push(format!("{name}: {result}"));
        }
    }
    if !ran.status.success() {
        let told = text.lines().chain(std::str::from_utf8(&ran.stderr).context("no text")?.lines());
        let panics: Vec<&str> = told.skip_while(|line| !line.contains("panicked")).take(LINES_MAX).collect();
        failures.push(format!("{}\n{}", ran.status, panics.join("\n")));
    }
    if rows.is_empty() {
        failures.push("no test ran".to_owned());
    }
    let json = json!({ "points": points, "tests": rows.len() });
    Ok(Outcome {
        heading: &["test", "result"],
        rows,
        notes: vec![format!("{points} points of each kind")],
        json,
        failures,
    })
}

/// Lines of what went wrong that are repeated.
const LINES_MAX: usize = 40;
