//! What is compared: networks, policies and rules.

use std::{
    str::FromStr,
    sync::{Mutex, PoisonError, mpsc},
    time::Instant,
};

use anyhow::{Context, Result, bail};
use ioex_base::DAY_SECONDS;
use ioex_vault::{Wanted, health::Rules};
use serde::Serialize;

use crate::{
    churn::{HOMES, Population, VOLUNTEERS},
    tally::{Outcome, Tally},
    world::{Network, World, audit_bytes_per_device_day},
};

/// How much is simulated.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Divides the numbers of devices, groups and networks.
    divisor: usize,
    /// Days of the simulation.
    days: u32,
}

impl Size {
    /// A year of 100,000 devices.
    pub const FULL: Self = Self { divisor: 1, days: 365 };
    /// Enough to see that it works.
    pub const QUICK: Self = Self { divisor: 50, days: 90 };
}

/// One simulation: one or more equal networks.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Its name in results.
    pub name: String,
    /// Which table it belongs to.
    pub set: &'static str,
    /// The network.
    pub network: Network,
    /// How many such networks, with different seeds.
    pub networks: usize,
}

/// All results.
#[derive(Clone, Debug, Serialize)]
pub struct Results {
    /// Seed of the whole.
    pub seed: u64,
    /// One for each scenario, in their order.
    pub outcomes: Vec<Outcome>,
}

/// Devices of the large networks.
const LARGE_DEVICES: usize = 100_000;
/// Groups of a code in the large networks: 300,000 shards at `o` = 60.
const LARGE_GROUPS: usize = 5_000;
/// Groups of whole copies there: 60,000 to 100,000 copies.
const LARGE_COPIES: usize = 20_000;

/// Networks of volunteers are smaller by this: their devices do several times as much in a year.
const VOLUNTEERS_PART: usize = 4;
/// Networks of eight owners: so many that few losses are told from none.
const EIGHT_NETWORKS: usize = 5_000;
/// Other small networks of each kind.
const SMALL_NETWORKS: usize = 1_000;

fn network(population: Population, wanted: &str, devices: usize, groups: usize) -> Result<Network> {
    let wanted: Wanted = wanted.parse().with_context(|| format!("{wanted} is no redundancy"))?;
    Ok(Network { population, wanted, rules: Rules::default(), devices, groups, days: 0, seed: 0 })
}

impl FromStr for Scenario {
    type Err = anyhow::Error;

    /// Reads `POPULATION:DEVICES:GROUPS:NETWORKS:POLICY`.
    fn from_str(text: &str) -> Result<Self> {
        let parts: Vec<&str> = text.split(':').collect();
        let &[population, devices, groups, networks, wanted] = parts.as_slice() else {
            bail!("{text} is not POPULATION:DEVICES:GROUPS:NETWORKS:POLICY");
        };
        let known = [HOMES, VOLUNTEERS].into_iter().find(|p| p.name == population);
        let population = known.with_context(|| format!("{population} is neither homes nor volunteers"))?;
        let network = network(population, wanted, devices.parse()?, groups.parse()?)?;
        Ok(Self { name: text.to_owned(), set: "try", network, networks: networks.parse()? })
    }
}

/// Every scenario, in full size.
///
/// # Errors
/// None, as long as the policies in it are well written.
pub fn all() -> Result<Vec<Scenario>> {
    let mut out = Vec::new();
    let mut add = |set, name: String, network, networks| out.push(Scenario { name, set, network, networks });
    let large = [
        ("auto", LARGE_GROUPS),
        ("rs=20/32/60/80", LARGE_GROUPS),
        ("rs=10/14/20/24", LARGE_GROUPS),
        ("replicas=3", LARGE_COPIES),
        ("replicas=5", LARGE_COPIES),
    ];
    for (population, part) in [(HOMES, 1), (VOLUNTEERS, VOLUNTEERS_PART)] {
        for (wanted, groups) in large {
            let name = format!("{} {wanted}", population.name);
            add("large", name, network(population, wanted, LARGE_DEVICES / part, groups / part)?, 1);
        }
    }
    for wanted in ["auto", "rs=3/8/8/8", "rs=2/4/6/8", "rs=2/6/6/8", "replicas=3", "replicas=2"] {
        add("eight", format!("8 owners {wanted}"), network(HOMES, wanted, 8, 10)?, EIGHT_NETWORKS);
    }
    for owners in [1, 2, 3, 4, 6, 8, 12, 16, 24, 40] {
        let networks = SMALL_NETWORKS.min(16 * SMALL_NETWORKS / owners);
        add("owners", format!("{owners} owners"), network(HOMES, "auto", owners, 10)?, networks);
    }
    for (population, wanted, groups) in
        [(HOMES, "auto", 1_000), (HOMES, "replicas=3", 5_000), (VOLUNTEERS, "auto", 500)]
    {
        for days in [1, 2, 4, 7, 10, 14, 21] {
            let mut network = network(population, wanted, LARGE_DEVICES / 10, groups)?;
            network.rules.gone_after_seconds = days * DAY_SECONDS;
            add("gone", format!("{} {wanted} gone after {days}", population.name), network, 1);
        }
    }
    // Few devices, so that each holds as many shards as a real one.
    let mut watched = network(HOMES, "auto", 2_000, 10_000)?;
    watched.population.cheaters = 0.3;
    add("cheaters", "cheaters".to_owned(), watched, 1);
    Ok(out)
}

impl Scenario {
    fn sized(mut self, size: Size, seed: u64) -> Self {
        let least = |count: usize, least: usize| (count / size.divisor).max(least.min(count));
        if self.network.devices > 1_000 {
            self.network.devices = least(self.network.devices, 500);
        }
        if self.network.groups > 100 {
            self.network.groups = least(self.network.groups, 50);
        }
        self.networks = least(self.networks, 5);
        self.network.days = size.days;
        self.network.seed = seed;
        self
    }

    /// Simulates it.
    ///
    /// # Errors
    /// When nobody stores in a network.
    pub fn run(&self) -> Result<Outcome> {
        let started = Instant::now();
        let network = &self.network;
        let (mut tally, mut redundancy) = (Tally::default(), None);
        for number in 0..self.networks as u64 {
            let seed = network.seed.wrapping_mul(1_000_003).wrapping_add(number);
            let world = World::new(Network { seed, ..network.clone() })?;
            redundancy = Some(world.redundancy());
            tally.add(world.run());
        }
        let redundancy = redundancy.context("a scenario has at least one network")?;
        let stored = tally.stored as f64 / tally.needed as f64;
        // Looks at groups give the mean; as if the shards of all groups had been counted every day.
        let shards = stored * f64::from(redundancy.k()) * (network.groups * self.networks) as f64;
        let moved_per_stored_year = tally.moved as f64 / shards * 365.0 / f64::from(network.days);
        Ok(Outcome {
            name: self.name.clone(),
            set: self.set,
            population: network.population.name,
            redundancy: redundancy.to_string(),
            devices: network.devices * self.networks,
            networks: self.networks,
            groups: network.groups * self.networks,
            days: network.days,
            gone_after_days: network.rules.gone_after_seconds as f64 / DAY_SECONDS as f64,
            lost: tally.lost,
            networks_with_loss: tally.networks_with_loss,
            lost_by_day: tally.lost_by_day.clone(),
            available: tally.available(),
            available_worst_hour: tally.available_worst_hour(),
            stored_per_byte: stored,
            repairs: tally.repairs,
            repair_per_stored_byte_year: moved_per_stored_year,
            repair_bytes_per_device_day: moved_per_stored_year / 365.0 * HELD_BYTES,
            audit_bytes_per_device_day: audit_bytes_per_device_day(&network.rules),
            noticed: tally.noticed(),
            seconds: started.elapsed().as_secs_f64(),
        })
    }
}

/// What a device holds for others when traffic is stated per device: 10 GiB.
const HELD_BYTES: f64 = 10.0 * 1024.0 * 1024.0 * 1024.0;

/// Runs scenarios on all cores; `done` is told the name of each and its seconds.
///
/// # Errors
/// When a scenario is impossible.
pub fn run_all(scenarios: Vec<Scenario>, size: Size, seed: u64, done: impl Fn(&str, f64)) -> Result<Results> {
    let scenarios: Vec<Scenario> = scenarios.into_iter().map(|s| s.sized(size, seed)).collect();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    // The long ones come first in `all`, so that the cores end together.
    let next = Mutex::new(scenarios.iter().enumerate());
    let (sender, receiver) = mpsc::channel();
    let mut outcomes: Vec<Option<Outcome>> = vec![None; scenarios.len()];
    std::thread::scope(|scope| -> Result<()> {
        for _ in 0..threads {
            let (next, sender) = (&next, sender.clone());
            scope.spawn(move || {
                loop {
                    let taken = next.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some((at, scenario)) = taken else { break };
                    if sender.send((at, scenario.run())).is_err() {
                        break;
                    }
                }
            });
        }
        drop(sender);
        for (at, outcome) in receiver {
            let outcome = outcome?;
            done(&outcome.name, outcome.seconds);
            outcomes[at] = Some(outcome);
        }
        Ok(())
    })?;
    Ok(Results { seed, outcomes: outcomes.into_iter().flatten().collect() })
}
