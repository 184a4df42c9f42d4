//! `cargo xtask arm`: the device program and the C library for ARM with Debian's compilers, and both under emulation.
//!
//! Debian's Rust compiler knows ARM but has no standard library for it; the library is built from Debian's source
//! of it. What was built runs with the emulator for single programs (qemu-user), in a namespace of its own, in a
//! network of this machine's nodes: it keeps shards ([`shards`]) and updates its device ([`update`], [`firmware`]).

mod firmware;
mod machine;
mod memory;
mod shards;
mod update;

use std::{path::Path, time::Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use self::machine::Machine;
use crate::{device, install, netns, sh, table, up};

/// What to build and try.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Machines: aarch64, armv7 [default: both]
    machines: Vec<String>,
    /// Build only
    #[arg(long)]
    build_only: bool,
    /// Take what was built before instead of building it
    #[arg(long, hide = true)]
    built: bool,
    /// One JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// What came out for a machine.
struct Column {
    machine: &'static Machine,
    /// What is measured, and what came out: the same rows for every machine.
    rows: Vec<(String, String)>,
    json: Value,
}

/// Builds, and tries what was built.
pub(crate) fn run(options: &Options) -> Result<()> {
    let machines = machine::choose(&options.machines)?;
    if !options.build_only {
        netns::possible()?;
        install::ensure(install::LAB)?;
    }
    machine::ensure_tools()?;
    let ioex = match options {
        Options { build_only: true, .. } => None,
        Options { built: true, .. } => Some(sh::target_dir().join("debug/ioex")),
        _ => Some(up::build()?),
    };
    let mut columns = Vec::new();
    for machine in machines {
        let start = Instant::now();
        if !options.built {
            machine.build().with_context(|| format!("building for {}", machine.triple))?;
        }
        eprintln!("{}: built in {:.0} s", machine.triple, start.elapsed().as_secs_f64());
        columns.push(Column::of(machine, ioex.as_deref())?);
    }
    if options.json {
        let told: serde_json::Map<_, _> =
            columns.into_iter().map(|column| (column.machine.name.to_owned(), column.json)).collect();
        println!("{}", Value::Object(told));
    } else {
        print!("{}", render(&columns));
    }
    Ok(())
}

impl Column {
    /// Looks at what was built, and tries it with `ioex`, this machine's program, if there is one.
    fn of(machine: &'static Machine, ioex: Option<&Path>) -> Result<Self> {
        let (bytes, version) = (device::size(&machine.program())?, machine.version()?);
        let built = firmware::compile(machine)?;
        let mut rows = vec![("ioex: bytes".to_owned(), bytes.to_string())];
        rows.extend(built.rows());
        let mut json = json!({ "triple": machine.triple, "version": version, "bytes": bytes });
        json["library"] = built.json();
        if let Some(ioex) = ioex {
            let kept = shards::keep(machine, ioex)
                .with_context(|| format!("a node for {} that keeps shards", machine.triple))?;
            rows.push(("ioex: shards kept".to_owned(), kept.shards.to_string()));
            rows.push((
                "ioex: private memory with them (with the emulator's)".to_owned(),
                kept.memory.cell(),
            ));
            json["shards"] = json!({ "shards": kept.shards, "memory": kept.memory.json() });
            let node = update::of_node(machine, ioex)
                .with_context(|| format!("a node for {} that updates", machine.triple))?;
            let firmware = firmware::update(machine, &built, ioex)
                .with_context(|| format!("a firmware in C for {}", machine.triple))?;
            for (name, updated) in [("ioex", node), ("firmware", firmware)] {
                updated.check().with_context(|| format!("{name} for {}", machine.triple))?;
                rows.extend(updated.rows(name));
                json["updates"][name] = updated.json();
            }
        }
        Ok(Self { machine, rows, json })
    }
}

/// One line for each figure, one column for each machine.
fn render(columns: &[Column]) -> String {
    let heading: Vec<&str> =
        ["figure"].into_iter().chain(columns.iter().map(|column| column.machine.name)).collect();
    let names = columns.first().into_iter().flat_map(|column| &column.rows).map(|(name, _)| name);
    let rows: Vec<Vec<String>> = names
        .enumerate()
        .map(|(row, name)| {
            let cells = columns.iter().map(|column| column.rows[row].1.clone());
            [name.clone()].into_iter().chain(cells).collect()
        })
        .collect();
    table::render(&heading, &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_stand_side_by_side() {
        let column = |machine, value: &str| Column {
            machine,
            rows: vec![("bytes".to_owned(), value.to_owned())],
            json: Value::Null,
        };
        let machines = machine::choose(&[]).unwrap();
        let text = render(&[column(machines[0], "1"), column(machines[1], "2")]);
        assert_eq!(text, "figure  aarch64  armv7\n------  -------  -----\nbytes   1        2\n");
    }
}
