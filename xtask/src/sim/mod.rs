//! `cargo xtask sim vault`: what the vault's rules come to in a large network over a year; `cargo xtask sim ota`:
//! what those of updates come to in a fleet.
//!
//! The simulation is the crate `ioex-sim`, built for release and run as a program of its own: so this
//! one stays quick to build. Here its results become tables, figures with bounds, and the drawing and
//! tables of `docs/sim-vault.md`.

mod ota;
mod plot;
mod report;

use std::process::Stdio;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{
    bench::{
        Bound::{AtLeast, AtMost},
        Figure, figure,
    },
    install, sh,
};

/// The drawing, relative to the root.
const PLOT: &str = "docs/sim-vault.svg";
/// The document whose tables are results.
const DOCUMENT: &str = "docs/sim-vault.md";

/// What to simulate.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Which simulation: vault, ota
    name: String,
    /// Few devices and a short time: shows that it works, not what the rules come to
    #[arg(long)]
    quick: bool,
    /// One JSON object instead of tables
    #[arg(long)]
    json: bool,
    /// Another seed, another year
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only scenarios whose name or set contains this
    #[arg(long)]
    only: Option<String>,
    /// Other scenarios: POPULATION:DEVICES:GROUPS:NETWORKS:POLICY, for example homes:8:10:1000:rs=2/5/6/8
    #[arg(long = "try")]
    tries: Vec<String>,
    /// Write the drawing and the tables of docs/sim-vault.md anew
    #[arg(long)]
    write: bool,
}

/// Runs it; an error when a figure is out of its bound.
pub(crate) fn run(options: &Options) -> Result<()> {
    match options.name.as_str() {
        "vault" => {}
        "ota" => return ota::run(options),
        other => bail!("no simulation {other}; there are: vault, ota"),
    }
    let part = options.quick || options.only.is_some() || !options.tries.is_empty();
    if part && options.write {
        bail!("the document has the results of a whole run: leave --write or the other options out");
    }
    let outcomes = simulate(options)?;
    let figures = figures(&outcomes, !part);
    if options.json {
        println!("{}", figure::json("sim-vault", &figures));
    } else {
        for set in report::SETS {
            if let Some(text) = report::terminal(set, &outcomes) {
                println!("{}\n\n{text}", set.title);
            }
        }
        print!("{}", figure::table(&figures));
    }
    if options.write {
        write("sim-vault.svg", PLOT, &plot::draw(&outcomes))?;
        let path = sh::root().join(DOCUMENT);
        let old = std::fs::read_to_string(&path).with_context(|| format!("no {DOCUMENT}"))?;
        write("its tables", DOCUMENT, &report::renew(&old, &outcomes)?)?;
    }
    let missed: Vec<&str> = figures.iter().filter(|f| !f.holds()).map(|f| f.name()).collect();
    if !missed.is_empty() {
        bail!("out of bounds: {}", missed.join(", "));
    }
    Ok(())
}

fn write(what: &str, path: &str, text: &str) -> Result<()> {
    std::fs::write(sh::root().join(path), text).with_context(|| format!("cannot write {path}"))?;
    eprintln!("wrote {what} to {path}");
    Ok(())
}

/// Builds and runs the simulation; its progress goes to the terminal.
fn simulate(options: &Options) -> Result<Vec<Value>> {
    let mut args = Vec::new();
    if let Some(only) = &options.only {
        args.extend(["--only", only]);
    }
    for one in &options.tries {
        args.extend(["--try", one]);
    }
    match program(options, &args)?["outcomes"].take() {
        Value::Array(outcomes) => Ok(outcomes),
        _ => bail!("the simulation printed no outcomes"),
    }
}

/// What the program prints, with these arguments beside the common ones.
fn program(options: &Options, args: &[&str]) -> Result<Value> {
    install::ensure(install::BUILD)?;
    let mut command = sh::cargo(["run", "--quiet", "--release", "--package", "ioex-sim", "--"]);
    command.args(["--seed", &options.seed.to_string()]).args(args);
    if options.quick {
        command.arg("--quick");
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let child = command.spawn().with_context(|| format!("cannot start `{}`", sh::show(&command)))?;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("`{}` failed ({})", sh::show(&command), output.status);
    }
    serde_json::from_slice(&output.stdout).context("the simulation printed no JSON")
}

/// Every scenario's figures. Of a whole run, those that the default has to reach have bounds.
fn figures(outcomes: &[Value], whole: bool) -> Vec<Figure> {
    let mut out = Vec::new();
    for outcome in outcomes {
        let name = outcome["name"].as_str().unwrap_or_default();
        let is_default = whole && name == "homes auto";
        let mut add = |what: &str, value: f64, unit, bound| {
            let what = format!("{name}: {what}");
            out.push(match bound {
                Some(bound) if is_default => Figure::bounded(what, value, unit, bound),
                _ => Figure::plain(what, value, unit),
            });
        };
        add("groups lost", report::per_million(outcome), "ppm", Some(AtMost(0.0)));
        add("readable at any time", 100.0 * report::number(&outcome["available"]), "%", Some(AtLeast(99.99)));
        add("stored per byte", report::number(&outcome["stored_per_byte"]), "B", Some(AtMost(3.0)));
        add("repair per device and day", report::repair_megabytes(outcome), "MB", Some(AtMost(100.0)));
        add("audits per device and day", report::audit_kilobytes(outcome), "kB", Some(AtMost(50.0)));
    }
    for (dropped, noticed) in report::cheaters(outcomes) {
        let median = report::number(&noticed["first_days"][0]);
        let what = format!("cheaters that dropped {dropped} %: noticed after (median)");
        let bound = if dropped <= 5.0 { 2.0 } else { 1.0 };
        out.push(if whole {
            Figure::bounded(what, median, "days", AtMost(bound))
        } else {
            Figure::plain(what, median, "days")
        });
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn outcome(name: &str, lost: u64) -> Value {
        json!({
            "name": name, "set": "large", "lost": lost, "groups": 1_000, "available": 0.99995,
            "stored_per_byte": 2.5, "repair_bytes_per_device_day": 4e7, "audit_bytes_per_device_day": 37_824.0,
        })
    }

    #[test]
    fn the_default_has_to_keep_everything_and_others_need_not() {
        let holds = |name, lost, whole| figures(&[outcome(name, lost)], whole).iter().all(Figure::holds);
        assert!(holds("homes auto", 0, true));
        assert!(!holds("homes auto", 1, true));
        assert!(holds("homes replicas=3", 1, true));
        assert!(holds("homes auto", 1, false), "a part of it proves nothing");
    }

    #[test]
    fn what_was_not_simulated_is_out_of_bounds() {
        let mut broken = outcome("homes auto", 0);
        broken["available"] = Value::Null;
        assert!(figures(&[broken], true).iter().any(|f| !f.holds()));
    }
}
