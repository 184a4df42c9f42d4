//! The bench `network`. Everything runs in network namespaces, nothing leaves the machine.

mod connect;
mod device;
mod direct;
mod lookup;
mod peers;
mod providers;
mod relayed;

use std::{path::PathBuf, time::Duration};

use anyhow::Result;

use super::Bench;
use crate::{
    install,
    lab::world::World,
    netns::{self, Namespace},
    node::{self, Cpu, Node},
    sh, up,
};

/// The bench.
pub(super) const BENCH: Bench = Bench {
    name: "network",
    prepare,
    items: &[
        ("direct", direct::run),
        ("relayed", relayed::run),
        ("providers", providers::run),
        ("lookup", lookup::run),
        ("connect", connect::run),
        ("device", device::run),
    ],
};

/// What one large transfer moves: 1 GiB, or a quick try.
const LARGE: u64 = 1 << 30;
const QUICK: u64 = 64 << 20;

/// No transfer between namespaces takes longer, whatever the machine.
const TRANSFER: Duration = Duration::from_secs(300);

/// First port of bootstraps.
const BOOTSTRAP_PORT: &str = "7000";

fn prepare() -> Result<()> {
    for needs in [install::BUILD, install::LAB, install::BENCH] {
        install::ensure(needs)?;
    }
    netns::possible()?;
    up::build_release().map(drop)
}

/// The binary that is measured.
fn ioex() -> PathBuf {
    sh::target_dir().join("release/ioex")
}

fn large(quick: bool) -> u64 {
    if quick { QUICK } else { LARGE }
}

/// CPU seconds are given per GiB, also by a quick try.
fn per_gib(seconds: f64, bytes: u64) -> f64 {
    seconds * LARGE as f64 / bytes as f64
}

/// Starts a bootstrap that others reach at `ip`; returns it and the flags of its devices.
fn bootstrap(world: &World, namespace: &Namespace, name: &str, ip: &str) -> Result<(Node, Vec<String>)> {
    let flags = ["--kind", "bootstrap", "--bind", ip, "--public-ip", ip, "--port", BOOTSTRAP_PORT];
    let node = world.start(namespace, name, flags.map(String::from).into())?;
    let seed = vec!["--seed".to_owned(), node.seed()?.to_owned()];
    Ok((node, seed))
}

/// Starts a device with the given flags and waits until it has joined.
fn device(world: &World, namespace: &Namespace, name: &str, seed: &[String], flags: &[&str]) -> Result<Node> {
    let mut all = seed.to_vec();
    all.extend(flags.iter().map(|flag| (*flag).to_owned()));
    let node = world.start(namespace, name, all)?;
    node.wait_joined()?;
    Ok(node)
}

/// CPU time of nodes and of the command lines that told them what to do.
struct Meter<'a> {
    nodes: Vec<&'a Node>,
    begin: f64,
}

impl<'a> Meter<'a> {
    /// Begins to count.
    fn start(nodes: &[&'a Node]) -> Result<Self> {
        let nodes = nodes.to_vec();
        let begin = Self::total(&nodes)?;
        Ok(Self { nodes, begin })
    }

    /// Seconds since the start.
    fn seconds(&self) -> Result<f64> {
        Ok(Self::total(&self.nodes)? - self.begin)
    }

    fn total(nodes: &[&Node]) -> Result<f64> {
        // Our own children that have ended in between are command lines: nothing else is waited
        // for while a meter runs.
        let commands = node::cpu_seconds("/proc/self/stat", Cpu::Children)?;
        nodes.iter().try_fold(commands, |sum, node| Ok(sum + node.cpu_seconds()?))
    }
}
