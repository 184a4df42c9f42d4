//! A device that keeps shards of somebody's backup.

use std::{fs, path::Path, thread, time::Duration};

use anyhow::{Context, Result, ensure};

use super::{
    machine::Machine,
    memory::{self, Memory},
};
use crate::{
    lab::world::{Bootstrap, World, seed_flags},
    node::{Node, Setup},
    sh, transfer,
};

/// The directory hears of a new device, and a backup of a small file reaches it, within this.
const BACKUP: Duration = Duration::from_secs(120);
/// Content of the backup, in bytes.
const CONTENT_BYTES: u64 = 3 << 20;

/// How a node did.
pub(super) struct Kept {
    /// Shards that it holds for the super node.
    pub(super) shards: usize,
    /// When it has nothing to do any more.
    pub(super) memory: Memory,
}

/// A bootstrap and a super node of this machine's, and a device of the other kind that takes shards.
pub(super) fn keep(machine: &Machine, ioex: &Path) -> Result<Kept> {
    let mut world = World::new(ioex.to_owned())?;
    let bootstraps = world.bootstraps(1)?;
    let (super_node, authority) = super_node(&mut world, &bootstraps)?;
    let program = machine.wrapper(&machine.program(), world.dir(), "ioex")?;
    let host = world.namespace("device")?;
    world.attach(&host, "eth0")?;
    let mut flags = seed_flags(&bootstraps)?;
    let own = ["--kind", "peer", "--lend", "300MB", "--authority", &authority, "--owner", "arm"];
    flags.extend(own.map(String::from));
    let setup = Setup { ioex: &program, namespace: &host, dir: world.dir(), name: machine.name, flags };
    let device = Node::start(&setup)?;
    device.wait_joined()?;
    let shards = take_shards(&world, &super_node, &device)?;
    // So that memory is that of a node at rest: a time, not a condition, is what is measured here.
    thread::sleep(memory::SETTLE);
    Ok(Kept { shards, memory: Memory::of_emulated(device.pid())? })
}

/// A super node with a grant, and the authority that gave it.
fn super_node(world: &mut World, bootstraps: &[Bootstrap]) -> Result<(Node, String)> {
    let boot = bootstraps.first().context("no bootstrap")?.node()?;
    let path = |name: &str| world.dir().join(name).display().to_string();
    let (key, capability) = (path("authority"), path("capability"));
    let authority = boot.call(&["authority", "create", &key])?;
    let authority = authority["uid"].as_str().context("an authority without a UID")?.to_owned();
    let mut flags = seed_flags(bootstraps)?;
    flags.extend(["--kind", "super", "--capability", &capability].map(String::from));
    let host = world.namespace("super")?;
    world.attach(&host, "eth0")?;
    let node = world.start(&host, "super", flags)?;
    node.wait_joined()?;
    let grant = ["authority", "grant", "--key", &key, "--to", node.uid()?, "--out", &capability];
    node.call(&[&grant[..], &["--max-bytes-per-device", "1GB", "--days", "9"]].concat())?;
    Ok((node, authority))
}

/// Backs something up to the device, and reads it back; returns how many shards the device holds then.
fn take_shards(world: &World, super_node: &Node, device: &Node) -> Result<usize> {
    let tree = world.dir().join("tree");
    fs::create_dir_all(&tree)?;
    let file = tree.join("content");
    transfer::random_file(&file, CONTENT_BYTES)?;
    let path = tree.display().to_string();
    let create = ["backup", "create", &path, "--policy", "replicas=1"];
    let backup = || Ok(super_node.call_within(&create, BACKUP).ok());
    sh::wait_for("a backup", BACKUP, backup).with_context(|| super_node.last_words())?;
    let shards = device.call(&["device", "shards"])?;
    let count = shards["shards"].as_array().map_or(0, Vec::len);
    ensure!(count > 0, "the device holds nothing: {shards}");
    let out = world.dir().join("restored");
    super_node.call_within(&["backup", "restore", &out.display().to_string()], BACKUP)?;
    transfer::same(&file, &out.join("tree/content"))?;
    Ok(count)
}
