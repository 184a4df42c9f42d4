//! What the rules of updates come to: a fleet that fetches one package.
//!
//! Two parts. [`swarm`] runs the code of the real thing, `Swarm`, `Uplink` and `Matcher` of `ioex-ota`, for some
//! thousand devices, shard by shard. [`fleet`] runs a million devices, each with its own link, its own habit of being
//! on and its own place in the real `Rollout`, as flows whose efficiency and growth are what `swarm` measured.

pub mod fleet;
pub mod swarm;

#[cfg(test)]
mod tests;

use anyhow::Result;
use serde::Serialize;

use crate::rng::Rng;

/// Bytes of the package.
pub const PACKAGE_BYTES: u64 = 100_000_000;

/// Kinds of links: share of the devices, Mbit/s up, Mbit/s down.
pub const LINKS: [(f64, u64, u64); 4] = [(0.3, 10, 50), (0.4, 20, 100), (0.2, 50, 200), (0.1, 100, 500)];

/// Share of pairs of devices that find no direct path.
pub const RELAYED_PAIRS: f64 = 0.3;

/// Bytes per second of this many Mbit/s.
const fn mbit(n: u64) -> u64 {
    n * 125_000
}

/// A link, drawn.
fn link(rng: &mut Rng) -> (u64, u64) {
    let mut at = rng.unit();
    for (share, up, down) in LINKS {
        if at < share {
            return (mbit(up), mbit(down));
        }
        at -= share;
    }
    (mbit(20), mbit(100))
}

/// Everything that is printed.
#[derive(Clone, Debug, Serialize)]
pub struct Results {
    /// Seed of the whole.
    pub seed: u64,
    /// Exact runs.
    pub swarms: Vec<swarm::Outcome>,
    /// The million.
    pub fleets: Vec<fleet::Outcome>,
}

/// Runs all.
///
/// # Errors
/// When a package or roster is refused by the rules.
pub fn run(quick: bool, seed: u64, done: impl Fn(&str)) -> Result<Results> {
    let devices = if quick { 200 } else { 2_000 };
    let fleet = if quick { 20_000 } else { 1_000_000 };
    let mut swarms = Vec::new();
    for scenario in swarm::scenarios(devices) {
        swarms.push(swarm::run(&scenario, seed)?);
        done(scenario.name);
    }
    let measured = &swarms[0];
    let mut fleets = Vec::new();
    for scenario in fleet::scenarios(fleet) {
        fleets.push(fleet::run(&scenario, measured, seed));
        done(scenario.name);
    }
    Ok(Results { seed, swarms, fleets })
}
