//! Item `providers`: four friends that have the same file, against one.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::{TRANSFER, ioex, large};
use crate::{
    bench::{Bound, Figure, figure::median},
    lab::{
        nat::Nat,
        world::{Bootstrap, Host, World},
    },
    node::Node,
    sh, transfer,
};

const PROVIDERS: usize = 4;

/// Alternating, as many with one provider as with four.
const ROUNDS: usize = 3;

/// What an uplink at home has, and a file that takes some seconds over it.
const UPLINK_MBIT: u32 = 50;
const SHAPED: u64 = 128 << 20;
const SHAPED_QUICK: u64 = 16 << 20;

/// All offers are there within this.
const OFFERS: Duration = Duration::from_secs(60);

pub(super) fn run(quick: bool) -> Result<Vec<Figure>> {
    let mut world = World::new(ioex())?;
    let bootstraps = world.bootstraps(1)?;
    let mut field = Field::build(&mut world, &bootstraps)?;
    let size = large(quick);
    let rounds = if quick { 1 } else { ROUNDS };
    let (one, four) = field.compare(&world, &bootstraps, size, rounds)?;
    for host in &field.hosts {
        host.namespace.shape("eth0", UPLINK_MBIT)?;
    }
    let shaped = if quick { SHAPED_QUICK } else { SHAPED };
    let (slow_one, slow_four) = field.compare(&world, &bootstraps, shaped, 1)?;
    Ok(vec![
        Figure::plain("providers: from one", one, "MB/s"),
        Figure::plain("providers: from four", four, "MB/s"),
        Figure::bounded("providers: four / one", four / one, "ratio", Bound::AtLeast(1.0)),
        Figure::plain("providers: from one, 50 Mbit/s each", slow_one, "MB/s"),
        Figure::plain("providers: from four, 50 Mbit/s each", slow_four, "MB/s"),
        Figure::bounded(
            "providers: four / one, 50 Mbit/s each",
            slow_four / slow_one,
            "ratio",
            Bound::AtLeast(3.6),
        ),
    ])
}

/// The providers and the place of the receivers.
struct Field {
    hosts: Vec<Host>,
    providers: Vec<Node>,
    receiver: Host,
    /// So that every receiver has a name of its own.
    runs: usize,
}

impl Field {
    fn build(world: &mut World, bootstraps: &[Bootstrap]) -> Result<Self> {
        let receiver = Host::build(world, Nat::Open, "receiver")?;
        let (mut hosts, mut providers) = (Vec::new(), Vec::new());
        for index in 1..=PROVIDERS {
            let host = Host::build(world, Nat::Open, &format!("provider{index}"))?;
            providers.push(world.peer(&host.namespace, &host.name, bootstraps, &[])?);
            hosts.push(host);
        }
        Ok(Self { hosts, providers, receiver, runs: 0 })
    }

    /// Median rates in MB/s from one provider and from all.
    fn compare(
        &mut self,
        world: &World,
        bootstraps: &[Bootstrap],
        size: u64,
        rounds: usize,
    ) -> Result<(f64, f64)> {
        let file = world.dir().join(format!("file{size}"));
        transfer::random_file(&file, size)?;
        let (mut one, mut all) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            one.push(self.fetch(world, bootstraps, &file, size, 1)?);
            all.push(self.fetch(world, bootstraps, &file, size, PROVIDERS)?);
        }
        Ok((median(one), median(all)))
    }

    /// A fresh receiver gets the file from the first `count` providers. They all offer it; their
    /// offers of one content are one transfer with several sources.
    fn fetch(
        &mut self,
        world: &World,
        bootstraps: &[Bootstrap],
        file: &Path,
        size: u64,
        count: usize,
    ) -> Result<f64> {
        self.runs += 1;
        let name = format!("receiver{}", self.runs);
        let receiver = world.peer(&self.receiver.namespace, &name, bootstraps, &[])?;
        let dir = world.dir().join(format!("{name}-got"));
        let chosen = &self.providers[..count];
        let mut first = None;
        for provider in chosen {
            provider.befriend(&receiver)?;
            receiver.wait_friend(provider)?;
            if first.is_none() {
                first = Some(transfer::offer(provider, &receiver, file, &dir)?);
            } else {
                transfer::offer_again(provider, &receiver, file)?;
            }
        }
        let incoming = first.context("no provider")?;
        let what = format!("{count} sources of one transfer");
        sh::wait_for(&what, OFFERS, || {
            let state = incoming.state()?;
            Ok(state["with"].as_array().filter(|with| with.len() == count).map(drop))
        })?;
        let start = Instant::now();
        incoming.run(TRANSFER)?;
        let seconds = start.elapsed().as_secs_f64();
        incoming.compare(file)?;
        receiver.stop()?;
        fs::remove_dir_all(dir)?;
        fs::remove_dir_all(world.dir().join(name))?;
        Ok(size as f64 / seconds / 1e6)
    }
}
