//! The hosts of a run, and what is counted at them.

use std::{
    fs::{self, File},
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use super::limit::Case;
use crate::{
    lab::world::World,
    netns::Namespace,
    node::{self, Cpu},
    sh, transfer,
};

/// Hashing all copies on a busy machine.
const HASH_LIMIT: Duration = Duration::from_secs(120);
/// Reading a counter.
const COUNTER_LIMIT: Duration = Duration::from_secs(20);

/// Copies of the package that a host may have in memory: what it fetched, what it installed, and the version before.
const COPIES_PER_HOST: u64 = 4;
/// What is written at a time to have memory.
const TOUCH_BYTES: usize = 1 << 20;

/// A host with one interface, `eth0`.
pub(super) struct Host {
    /// Its name in this run.
    pub(super) name: String,
    /// Where its programs run.
    pub(super) namespace: Namespace,
    /// Its address in the lab's internet.
    pub(super) address: String,
}

/// One origin, many devices and the package.
pub(super) struct Stage {
    /// Who has the package.
    pub(super) origin: Host,
    /// Who wants it.
    pub(super) devices: Vec<Host>,
    /// The package's file.
    pub(super) package: PathBuf,
    /// Its SHA-256.
    pub(super) hash: String,
    /// Last, because its end takes the namespaces away from under everything else.
    pub(super) world: World,
}

/// Bytes that left interfaces.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    /// The origin's.
    pub(super) origin: u64,
    /// Those of all devices.
    pub(super) devices: u64,
}

impl Stage {
    /// Builds the network and makes a package of `bytes`.
    pub(super) fn build(case: Case, bytes: u64, ioex: PathBuf) -> Result<Self> {
        let mut world = World::new(ioex)?;
        let origin = host(&mut world, "origin", case.origin_megabits)?;
        let devices = (0..case.devices)
            .map(|n| host(&mut world, &format!("device{n}"), case.device_megabits))
            .collect::<Result<_>>()?;
        touch_memory(world.dir(), bytes * COPIES_PER_HOST * (case.devices as u64 + 1))?;
        let folder = world.dir().join("origin");
        fs::create_dir_all(&folder)?;
        let package = folder.join("package.bin");
        transfer::random_file(&package, bytes)?;
        let hash = hash(&package)?;
        Ok(Self { origin, devices, package, hash, world })
    }

    /// A new folder of a device.
    pub(super) fn folder(&self, device: &Host) -> Result<PathBuf> {
        let folder = self.world.dir().join(&device.name);
        fs::create_dir_all(&folder)?;
        Ok(folder)
    }

    /// A second version of the package; how it differs, [`transfer::changed_file`] says.
    pub(super) fn change_package(&self) -> Result<PathBuf> {
        let out = self.package.with_file_name("second.bin");
        transfer::changed_file(&self.package, &out)?;
        Ok(out)
    }

    /// What has left the hosts so far.
    pub(super) fn sent(&self) -> Result<Sent> {
        let origin = sent_by(&self.origin)?;
        let devices = self.devices.iter().map(sent_by).sum::<Result<u64>>()?;
        Ok(Sent { origin, devices })
    }
}

/// Writes what the run will need at most, and gives it back. A virtual machine gets its memory from its host page by
/// page when it is first written, which takes longer than the writing: whoever runs first would pay for all.
fn touch_memory(dir: &Path, bytes: u64) -> Result<()> {
    let path = dir.join("touched");
    let mut file = File::create(&path)?;
    let block = vec![0; TOUCH_BYTES];
    for _ in 0..bytes / TOUCH_BYTES as u64 {
        if let Err(error) = file.write_all(&block) {
            // All that there is: enough, or the run says what it could not write.
            ensure!(error.kind() == ErrorKind::StorageFull, "cannot write {}: {error}", path.display());
            break;
        }
    }
    fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))
}

fn host(world: &mut World, name: &str, megabits: u32) -> Result<Host> {
    let namespace = world.namespace(name)?;
    let address = world.attach(&namespace, "eth0")?;
    namespace.shape("eth0", megabits)?;
    Ok(Host { name: name.to_owned(), namespace, address })
}

fn sent_by(host: &Host) -> Result<u64> {
    let mut command = host.namespace.command("cat");
    let text = sh::output(command.arg("/sys/class/net/eth0/statistics/tx_bytes"), COUNTER_LIMIT)?;
    text.trim().parse().with_context(|| format!("{} has no counter", host.name))
}

/// SHA-256 of a file, by another program than those under test.
pub(super) fn hash(file: &Path) -> Result<String> {
    let told = sh::output(sh::system("sha256sum").arg("--").arg(file), HASH_LIMIT)?;
    told.split_whitespace()
        .next()
        .map(str::to_owned)
        .with_context(|| format!("no hash of {}", file.display()))
}

/// CPU seconds so far of these processes, their children that run and those that have ended.
pub(super) fn cpu_seconds(processes: &[u32]) -> Result<f64> {
    let mut seconds = 0.0;
    for process in processes {
        let stat = format!("/proc/{process}/stat");
        seconds += node::cpu_seconds(&stat, Cpu::Own)? + node::cpu_seconds(&stat, Cpu::Children)?;
        seconds += cpu_seconds(&children(*process))?;
    }
    Ok(seconds)
}

/// Children that run now; a process that is gone has none.
fn children(process: u32) -> Vec<u32> {
    let file = format!("/proc/{process}/task/{process}/children");
    let text = fs::read_to_string(Path::new(&file)).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}
