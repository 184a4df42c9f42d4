//! `cargo xtask lab`: what crosses machines, tried between network namespaces.
//!
//! [`nat`] has the kinds of NAT, [`world`] builds the internet, routers and hosts, and each
//! scenario is a file of its own.

mod clamav;
mod expiry;
mod kinds;
pub(crate) mod maker;
pub(crate) mod nat;
mod pairs;
mod qemu;
mod relay;
mod restart;
mod roam;
mod swarm;
mod vault_kill;
pub(crate) mod world;

use std::time::Instant;

use anyhow::{Result, bail};
use serde_json::{Value, json};

use crate::{install, table, up};

/// What to run.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Scenarios: nat-kinds, nat, roam, relay-killed, bootstrap-restart, mapping-expiry,
    /// clamav, vault-kill, swarm, qemu [default: all]
    scenarios: Vec<String>,
    /// Only these programs in `swarm`
    #[arg(long, value_delimiter = ',')]
    programs: Vec<String>,
    /// Only these cases of `swarm`, by their number from 1
    #[arg(long, value_delimiter = ',')]
    cases: Vec<usize>,
    /// Only a few pairs of NATs
    #[arg(long)]
    quick: bool,
    /// Take the binary that is there instead of building it
    #[arg(long, hide = true)]
    built: bool,
    /// One JSON object instead of tables
    #[arg(long)]
    json: bool,
}

/// How a scenario went.
pub(crate) struct Outcome {
    heading: &'static [&'static str],
    rows: Vec<Vec<String>>,
    /// Lines under the table.
    notes: Vec<String>,
    /// The same for programs.
    json: Value,
    /// What should have held and did not.
    failures: Vec<String>,
}

type Scenario = fn(&Options) -> Result<Outcome>;

const SCENARIOS: &[(&str, Scenario)] = &[
    ("nat-kinds", kinds::run),
    ("nat", pairs::run),
    ("roam", roam::run),
    ("relay-killed", relay::run),
    ("bootstrap-restart", restart::run),
    ("mapping-expiry", expiry::run),
    ("clamav", clamav::run),
    ("vault-kill", vault_kill::run),
    ("swarm", swarm::run),
    ("qemu", qemu::run),
];

/// Scenarios that need no program of ours, or build another one than the tests'.
const OTHERWISE_BUILT: [&str; 2] = ["nat-kinds", "swarm"];

/// Runs the scenarios that were named, or all (with `--quick`: the NATs and a few pairs only).
pub(crate) fn run(options: &Options) -> Result<()> {
    let chosen = choose(options)?;
    install::ensure(install::BUILD)?;
    install::ensure(install::LAB)?;
    crate::netns::possible()?;
    if !options.built && chosen.iter().any(|(name, _)| !OTHERWISE_BUILT.contains(name)) {
        up::build()?;
    }
    let mut results = serde_json::Map::new();
    let mut failures = Vec::new();
    for (name, scenario) in chosen {
        let start = Instant::now();
        let seconds = || (start.elapsed().as_secs_f64() * 10.0).round() / 10.0;
        match scenario(options) {
            Ok(outcome) => {
                if !options.json {
                    println!("\n{name} ({} s)\n{}", seconds(), table::render(outcome.heading, &outcome.rows));
                    outcome.notes.iter().for_each(|note| println!("{note}"));
                }
                results.insert(name.to_string(), json!({ "seconds": seconds(), "result": outcome.json }));
                failures.extend(outcome.failures.into_iter().map(|failure| format!("{name}: {failure}")));
            }
            Err(error) => {
                failures.push(format!("{name}: {error:#}"));
                results.insert(name.to_string(), json!({ "seconds": seconds(), "result": Value::Null }));
            }
        }
    }
    if options.json {
        println!("{}", json!({ "lab": results, "failures": failures }));
    }
    if !failures.is_empty() {
        bail!("lab:\n  {}", failures.join("\n  "));
    }
    Ok(())
}

fn choose(options: &Options) -> Result<Vec<(&'static str, Scenario)>> {
    let known = || SCENARIOS.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    if options.scenarios.is_empty() {
        let count = if options.quick { 2 } else { SCENARIOS.len() };
        return Ok(SCENARIOS[..count].to_vec());
    }
    let mut chosen = Vec::new();
    for wanted in &options.scenarios {
        match SCENARIOS.iter().find(|(name, _)| name == wanted) {
            Some(scenario) => chosen.push(*scenario),
            None => bail!("no scenario {wanted}; there are: {}", known()),
        }
    }
    Ok(chosen)
}

/// The binary that scenarios run: the one that [`run`] has built.
fn ioex() -> std::path::PathBuf {
    crate::sh::target_dir().join("debug/ioex")
}

/// Milliseconds for a table; `-` for what did not happen.
fn millis(duration: Option<std::time::Duration>) -> String {
    duration.map_or_else(|| "-".into(), |duration| format!("{:.0}", duration.as_secs_f64() * 1e3))
}

/// Milliseconds for programs.
fn millis_json(duration: Option<std::time::Duration>) -> Value {
    duration.map_or(Value::Null, |duration| json!((duration.as_secs_f64() * 1e4).round() / 10.0))
}
