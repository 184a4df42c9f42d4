//! `cargo xtask arm`: the device build for ARM with Debian's compilers, and a node of it under emulation.
//!
//! Debian's Rust compiler knows ARM but has no standard library for it; the library is built from Debian's source
//! of it. A node runs with the emulator for single programs (qemu-user), in a namespace of its own, in a network
//! of this machine's nodes.

mod memory;

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::{
    device, install,
    lab::world::{Bootstrap, World, seed_flags},
    node::Node,
    sh, table, transfer, up,
};

/// What to build and try.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Machines: aarch64, armv7 [default: both]
    machines: Vec<String>,
    /// Build only
    #[arg(long)]
    build_only: bool,
    /// Take the binaries that are there instead of building them
    #[arg(long, hide = true)]
    built: bool,
    /// One JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// A kind of ARM machine.
#[derive(Debug)]
struct Machine {
    name: &'static str,
    /// Rust's name for it.
    triple: &'static str,
    /// Debian's name for it, which begins those of its C compiler's programs and is its folder below `/usr`.
    debian: &'static str,
    emulator: &'static str,
}

const MACHINES: [Machine; 2] = [
    Machine {
        name: "aarch64",
        triple: "aarch64-unknown-linux-gnu",
        debian: "aarch64-linux-gnu",
        emulator: "qemu-aarch64",
    },
    Machine {
        name: "armv7",
        triple: "armv7-unknown-linux-gnueabihf",
        debian: "arm-linux-gnueabihf",
        emulator: "qemu-arm",
    },
];

/// Where Debian's compilers lie; whatever else `PATH` has comes from elsewhere.
const DEBIAN_PATH: &str = "/usr/bin:/bin";
/// Starting the program under emulation.
const START: Duration = Duration::from_secs(60);
/// The directory hears of a new device, and a backup of a small file reaches it, within this.
const BACKUP: Duration = Duration::from_secs(120);
/// A node that has nothing to do has settled after this.
const SETTLE: Duration = Duration::from_secs(60);
/// Content of the backup, in bytes.
const CONTENT_BYTES: u64 = 3 << 20;

/// Builds, and tries what was built.
pub(crate) fn run(options: &Options) -> Result<()> {
    let machines = choose(&options.machines)?;
    install::ensure(install::BUILD)?;
    install::ensure(install::ARM)?;
    let mut rows = Vec::new();
    let mut told = json!({});
    for machine in machines {
        let start = Instant::now();
        let binary = if options.built { machine.binary() } else { machine.build()? };
        let bytes = device::size(&binary)?;
        let version = machine.version(&binary)?;
        eprintln!("{}: {bytes} bytes, {version}, {:.0} s", machine.triple, start.elapsed().as_secs_f64());
        told[machine.name] = json!({ "triple": machine.triple, "bytes": bytes, "version": version });
        let mut row = vec![machine.triple.to_owned(), bytes.to_string(), version];
        if !options.build_only {
            install::ensure(install::LAB)?;
            if !options.built {
                up::build()?;
            }
            let tried = machine.node(&binary).with_context(|| format!("a node for {}", machine.triple))?;
            row.extend([tried.shards.to_string(), kilobytes(tried.memory), kilobytes(tried.process)]);
            told[machine.name]["node"] = tried.json();
        }
        rows.push(row);
    }
    if options.json {
        println!("{told}");
    } else {
        let heading = ["target", "bytes", "version", "shards taken", "private memory", "with the emulator's"];
        print!("{}", table::render(&heading[..rows.first().map_or(0, Vec::len)], &rows));
    }
    Ok(())
}

fn kilobytes(bytes: u64) -> String {
    format!("{} kB", bytes / 1000)
}

fn choose(wanted: &[String]) -> Result<Vec<&'static Machine>> {
    if wanted.is_empty() {
        return Ok(MACHINES.iter().collect());
    }
    let find = |name: &String| match MACHINES.iter().find(|machine| machine.name == name) {
        Some(machine) => Ok(machine),
        None => bail!("no machine {name}; there are: aarch64, armv7"),
    };
    wanted.iter().map(find).collect()
}

/// How a node did.
struct Tried {
    uid: String,
    /// Shards that it holds for the super node.
    shards: usize,
    /// Written pages of the program, in bytes.
    memory: u64,
    /// The same with the emulator's own.
    process: u64,
}

impl Tried {
    fn json(&self) -> Value {
        json!({ "uid": self.uid, "shards": self.shards, "private_bytes": self.memory,
                "with_emulator_bytes": self.process })
    }
}

impl Machine {
    fn target_dir() -> PathBuf {
        sh::target_dir().join("arm")
    }

    fn binary(&self) -> PathBuf {
        Self::target_dir().join(self.triple).join("device/ioex")
    }

    /// The device build, with the standard library in it.
    fn build(&self) -> Result<PathBuf> {
        let mut cargo = Command::new("/usr/bin/cargo");
        cargo.current_dir(sh::root());
        cargo.args(["build", "--locked", "--package", "ioex", "--profile", "device"]);
        cargo.args(["--no-default-features", "--features", "device"]);
        cargo.args(["-Zbuild-std=std,panic_abort", "--target", self.triple]);
        for variable in
            ["RUSTC", "RUSTFLAGS", "RUSTUP_TOOLCHAIN", "RUSTC_WRAPPER", "CARGO", "CARGO_BUILD_TARGET"]
        {
            cargo.env_remove(variable);
        }
        // What is stable in this compiler is all that we use; building the standard library is not.
        cargo
            .env("RUSTC_BOOTSTRAP", "1")
            .env("PATH", DEBIAN_PATH)
            .env("CARGO_TARGET_DIR", Self::target_dir());
        let (low, high) = (self.triple.replace('-', "_"), self.triple.replace('-', "_").to_uppercase());
        cargo.env(format!("CARGO_TARGET_{high}_LINKER"), format!("{}-gcc", self.debian));
        cargo.env(format!("CC_{low}"), format!("{}-gcc", self.debian));
        cargo.env(format!("AR_{low}"), format!("{}-ar", self.debian));
        sh::run(&mut cargo)?;
        Ok(self.binary())
    }

    fn emulator(&self) -> Result<PathBuf> {
        sh::find(self.emulator).with_context(|| format!("no {}", self.emulator))
    }

    /// Where the machine's C library is looked for.
    fn system(&self) -> String {
        format!("/usr/{}", self.debian)
    }

    fn version(&self, binary: &Path) -> Result<String> {
        let mut command = Command::new(self.emulator()?);
        let told = sh::output(command.args(["-L", &self.system()]).arg(binary).arg("--version"), START)?;
        Ok(told.trim().to_owned())
    }

    /// A program that is the node's, for whoever starts it.
    fn wrapper(&self, binary: &Path, dir: &Path) -> Result<PathBuf> {
        let path = dir.join(format!("ioex-{}", self.name));
        let (emulator, system) = (self.emulator()?, self.system());
        let words = format!("exec '{}' -L '{system}' '{}' \"$@\"", emulator.display(), binary.display());
        fs::write(&path, format!("#!/bin/sh\n{words}\n"))?;
        fs::set_permissions(&path, Permissions::from_mode(0o755))?;
        Ok(path)
    }

    /// A bootstrap and a super node of this machine's, and a device of this kind that takes a shard.
    fn node(&self, binary: &Path) -> Result<Tried> {
        let mut world = World::new(sh::target_dir().join("debug/ioex"))?;
        let bootstraps = world.bootstraps(1)?;
        let (super_node, authority) = super_node(&mut world, &bootstraps)?;
        let wrapper = self.wrapper(binary, world.dir())?;
        let host = world.namespace("device")?;
        world.attach(&host, "eth0")?;
        let mut flags = seed_flags(&bootstraps)?;
        let own = ["--kind", "peer", "--lend", "300MB", "--authority", &authority, "--owner", "arm"];
        flags.extend(own.map(String::from));
        let setup =
            crate::node::Setup { ioex: &wrapper, namespace: &host, dir: world.dir(), name: self.name, flags };
        let device = Node::start(&setup)?;
        device.wait_joined()?;
        let shards = take_a_shard(&world, &super_node, &device)?;
        // So that memory is that of a node at rest: a time, not a condition, is what is measured here.
        thread::sleep(SETTLE);
        // The emulator passes the kernel's number on.
        let pid = device.call(&["id"])?["pid"].as_u64().context("`ioex id` has no `pid`")?;
        let memory = memory::of_emulated(u32::try_from(pid)?)?;
        let process = device.private_memory()?;
        Ok(Tried { uid: device.uid()?.to_owned(), shards, memory, process })
    }
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
fn take_a_shard(world: &World, super_node: &Node, device: &Node) -> Result<usize> {
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
    ensure!(fs::read(out.join("tree/content"))? == fs::read(&file)?, "what was restored differs");
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_are_chosen_by_name() {
        assert_eq!(choose(&[]).unwrap().len(), 2);
        assert_eq!(choose(&["armv7".into()]).unwrap()[0].emulator, "qemu-arm");
        assert!(choose(&["z80".into()]).is_err());
    }
}
