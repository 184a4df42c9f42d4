//! `ioex-sim`: runs all scenarios and prints one JSON object. For people: `cargo xtask sim`.

use std::io::Write;

use clap::Parser;
use ioex_sim::scenario::{Scenario, Size, all, run_all};

/// Simulates the vault's rules in a large network.
#[derive(Parser)]
struct Cli {
    /// Fewer devices and groups: shows that it works, not what the rules come to
    #[arg(long)]
    quick: bool,
    /// Another seed, another year
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only scenarios whose name or set contains this
    #[arg(long, default_value = "")]
    only: String,
    /// Instead of the usual scenarios: POPULATION:DEVICES:GROUPS:NETWORKS:POLICY, for example
    /// `homes:8:10:1000:rs=2/5/6/8`
    #[arg(long = "try")]
    tries: Vec<String>,
    /// The simulation of updates instead of the vault's
    #[arg(long)]
    ota: bool,
}

fn tries(texts: &[String]) -> anyhow::Result<Vec<Scenario>> {
    texts.iter().map(|text| text.parse()).collect()
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    if cli.ota {
        let results = ioex_sim::ota::run(cli.quick, cli.seed, |name| eprintln!("{name}"))?;
        return print(&results);
    }
    let size = if cli.quick { Size::QUICK } else { Size::FULL };
    let mut scenarios = if cli.tries.is_empty() { all()? } else { tries(&cli.tries)? };
    scenarios.retain(|scenario| scenario.name.contains(&cli.only) || scenario.set.contains(&cli.only));
    let results = run_all(scenarios, size, cli.seed, |name, seconds| eprintln!("{seconds:>4.0} s  {name}"))?;
    print(&results)
}

fn print(results: &impl serde::Serialize) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, results)?;
    writeln!(out)?;
    Ok(())
}
