//! `cargo xtask bench NAME`: figures with bounds, as a table or as one JSON object.
//!
//! Every bench gives a list of [`Figure`]s. Speeds are ratios to another program in the same run,
//! so that the machine cancels out; CPU time stands beside wall time.

pub(crate) mod figure;
mod network;
mod vault;

use anyhow::{Result, bail};

pub(crate) use figure::{Bound, Figure};

/// What to measure.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Which bench: network or vault
    name: String,
    /// Parts of it [default: all]
    items: Vec<String>,
    /// Less data and fewer rounds: shows that the bench works, not how fast we are
    #[arg(long)]
    quick: bool,
    /// One JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// One part of a bench.
type Item = fn(quick: bool) -> Result<Vec<Figure>>;

/// A bench and its parts.
struct Bench {
    name: &'static str,
    prepare: fn() -> Result<()>,
    items: &'static [(&'static str, Item)],
}

const BENCHES: &[Bench] = &[network::BENCH, vault::BENCH];

/// Runs it; an error when a figure is out of its bound or could not be measured.
pub(crate) fn run(options: &Options) -> Result<()> {
    let Some(bench) = BENCHES.iter().find(|bench| bench.name == options.name) else {
        let names: Vec<&str> = BENCHES.iter().map(|bench| bench.name).collect();
        bail!("no bench {}; there are: {}", options.name, names.join(", "));
    };
    let items = choose(bench, &options.items)?;
    (bench.prepare)()?;
    let mut figures = Vec::new();
    for (name, item) in items {
        eprintln!("measuring {name}");
        match item(options.quick) {
            Ok(measured) => figures.extend(measured),
            Err(error) => {
                eprintln!("error: {name}: {error:#}");
                figures.push(Figure::failed(name));
            }
        }
    }
    if options.json {
        println!("{}", figure::json(bench.name, &figures));
    } else {
        print!("{}", figure::table(&figures));
    }
    let missed: Vec<&str> = figures.iter().filter(|f| !f.holds()).map(|f| f.name()).collect();
    if !missed.is_empty() {
        bail!("out of bounds: {}", missed.join(", "));
    }
    Ok(())
}

fn choose(bench: &Bench, wanted: &[String]) -> Result<Vec<(&'static str, Item)>> {
    if wanted.is_empty() {
        return Ok(bench.items.to_vec());
    }
    let mut chosen = Vec::new();
    for name in wanted {
        match bench.items.iter().find(|(item, _)| item == name) {
            Some(item) => chosen.push(*item),
            None => {
                let names: Vec<&str> = bench.items.iter().map(|(name, _)| *name).collect();
                bail!("no {name} in {}; there are: {}", bench.name, names.join(", "));
            }
        }
    }
    Ok(chosen)
}
