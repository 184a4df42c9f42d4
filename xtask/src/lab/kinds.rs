//! Scenario `nat-kinds`: whether the lab's NATs are what they are called. It needs no `ioex`.

use anyhow::{Context, Result};
use serde_json::json;

use super::{
    Options, Outcome, ioex,
    nat::Nat,
    world::{Host, World},
};

/// Builds one host of each kind and looks at it from outside.
pub(super) fn run(_: &Options) -> Result<Outcome> {
    let mut world = World::new(ioex())?;
    world.serve_probes()?;
    let mut outcome = Outcome {
        heading: &["host", "measured"],
        rows: Vec::new(),
        notes: Vec::new(),
        json: json!({}),
        failures: Vec::new(),
    };
    for nat in Nat::ALL {
        let host = Host::build(&mut world, nat, "a")?;
        let seen = host.probe().with_context(|| format!("probing {}", host.name))?;
        outcome.rows.push(vec![nat.to_string(), seen.words()]);
        outcome.json[nat.name()] = seen.json();
        if seen != nat.behaviour() {
            let should = nat.behaviour().words();
            outcome.failures.push(format!("{nat} is {} instead of {should}", seen.words()));
        }
    }
    Ok(outcome)
}
