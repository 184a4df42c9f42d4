//! A device of another kind updates itself, with a maker of this machine's kind.
//!
//! Three versions: one that has nothing in common with what the device came with, one that differs from it a little,
//! and an unhealthy one, which the device has to take back. What lies in the place of the device's program is compared
//! byte for byte, and the maker's super node has to hear how it ended.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{
    machine::Machine,
    memory::{self, Memory},
};
use crate::{
    lab::{
        maker::Maker,
        world::{Bootstrap, World, seed_flags},
    },
    netns::Namespace,
    node::{Node, Setup},
    sh, transfer,
};

const MODEL: &str = "arm";
const IMAGE: &str = "app";
/// What the devices come with.
const FACTORY: u32 = 1;
const FIRST: u32 = 2;
const SECOND: u32 = 3;
const UNHEALTHY: u32 = 4;
/// The first version's length, in bytes: random ones, which do not compress.
const PACKAGE_BYTES: u64 = 20_000_000;
/// The sign of an unhealthy version; that random bytes have it, too, is one chance in ten thousand million.
pub(super) const BROKEN: &str = "broken";
/// A version is found, fetched, written and judged within this, also under emulation.
pub(super) const UPDATED: Duration = Duration::from_secs(300);

/// A device that lets itself be updated.
pub(super) trait Device {
    /// Has it look at the maker's channel now.
    fn check(&mut self) -> Result<()>;
    /// Waits until it says that this version runs for good.
    fn confirmed(&mut self, version: &str) -> Result<()>;
    /// Holds it to have taken a version back for another one.
    fn went_back(&mut self, from: &str, to: &str) -> Result<()>;
}

/// A maker, and what a device of its needs.
pub(super) struct Stage {
    bootstraps: Vec<Bootstrap>,
    pub(super) maker: Maker,
    /// Where the device runs.
    pub(super) host: Namespace,
    /// Where its program lies.
    pub(super) place: PathBuf,
    first: PathBuf,
    second: PathBuf,
    /// Last, because its end takes the namespaces away from under everything else.
    pub(super) world: World,
}

/// What an update took.
pub(super) struct Update {
    /// From the word to look until the device said that the version runs for good.
    seconds: f64,
    /// Bytes that it downloaded, as the maker heard.
    bytes: u64,
}

/// How a device did.
pub(super) struct Updated {
    pub(super) first: Update,
    pub(super) second: Update,
    /// A while after the second update.
    pub(super) memory: Memory,
    /// Why it took the third version back.
    pub(super) reason: String,
}

impl Stage {
    /// Starts the network and the maker.
    pub(super) fn build(ioex: &Path) -> Result<Self> {
        let mut world = World::new(ioex.to_owned())?;
        let bootstraps = world.bootstraps(1)?;
        let host = world.namespace("maker")?;
        world.attach(&host, "eth0")?;
        let maker = Maker::start(&world, &host, &bootstraps, MODEL)?;
        let host = world.namespace("device")?;
        world.attach(&host, "eth0")?;
        let path = |name: &str| world.dir().join(name);
        let (place, first, second) = (path("app"), path("first"), path("second"));
        fs::write(&place, "the firmware of the factory\n")?;
        transfer::random_file(&first, PACKAGE_BYTES)?;
        transfer::changed_file(&first, &second)?;
        Ok(Self { bootstraps, maker, host, place, first, second, world })
    }

    /// `--seed` and the like.
    fn flags(&self) -> Result<Vec<String>> {
        seed_flags(&self.bootstraps)
    }

    /// A bootstrap's entry for the configuration of others.
    pub(super) fn seed(&self) -> Result<&str> {
        self.bootstraps.first().context("no bootstrap")?.node()?.seed()
    }

    /// The part about updates of a device's configuration, with further lines of its section.
    pub(super) fn section(&self, more: &str) -> String {
        let text = |path: &Path| path.display().to_string();
        let (bundle, place) = (text(self.maker.bundle()), text(&self.place));
        format!(
            "[ota]\nbundle = {bundle:?}\ninstalled = \"{FACTORY}\"\n{more}\n[ota.install.swap]\npath = {place:?}\n\
             [ota.policy]\ninstall_hours = {{ from_minute = 0, until_minute = 0 }}\n"
        )
    }

    /// A version that has nothing in common with what is there.
    pub(super) fn first(&self, device: &mut impl Device) -> Result<Update> {
        self.update(device, FIRST, &self.first)
    }

    /// One that differs from it a little.
    pub(super) fn second(&self, device: &mut impl Device) -> Result<Update> {
        self.update(device, SECOND, &self.second)
    }

    fn update(&self, device: &mut impl Device, version: u32, file: &Path) -> Result<Update> {
        self.maker.publish(version, IMAGE, file)?;
        let (start, name) = (Instant::now(), Maker::name(version));
        device.check()?;
        device.confirmed(&name)?;
        let seconds = start.elapsed().as_secs_f64();
        transfer::same(file, &self.place)?;
        let order = self.maker.heard(version, "confirmed", UPDATED)?;
        ensure!(order["versions"][&name] == 1, "the maker heard otherwise: {order}");
        // The fourth is a part of the first three: what came over relays.
        let sources = order["by_source"].as_array().into_iter().flatten().take(3);
        Ok(Update { seconds, bytes: sources.filter_map(Value::as_u64).sum() })
    }

    /// The third version is unhealthy: the second has to be back. Returns why.
    pub(super) fn goes_back(&self, device: &mut impl Device) -> Result<String> {
        let file = self.world.dir().join("unhealthy");
        fs::write(&file, format!("this one is {BROKEN}\n"))?;
        self.maker.publish(UNHEALTHY, IMAGE, &file)?;
        device.check()?;
        let order = self.maker.heard(UNHEALTHY, "failed", UPDATED)?;
        let reason = order["reasons"][0][0].as_str().unwrap_or_default();
        ensure!(reason.contains("unhealthy"), "it failed for another reason: {order}");
        device.went_back(&Maker::name(UNHEALTHY), &Maker::name(SECOND))?;
        transfer::same(&self.second, &self.place)?;
        Ok(reason.to_owned())
    }
}

/// The device program.
pub(super) fn of_node(machine: &Machine, ioex: &Path) -> Result<Updated> {
    let stage = Stage::build(ioex)?;
    let program = machine.wrapper(&machine.program(), stage.world.dir(), "ioex")?;
    let config = stage.world.dir().join("device.toml");
    // Healthy is what does not say that it is broken.
    let health = format!("! grep -q {BROKEN} '{}'", stage.place.display());
    let section = stage.section(&format!("consent = \"auto\"\nhealth = [\"/bin/sh\", \"-c\", {health:?}]"));
    fs::write(&config, section)?;
    let mut flags = stage.flags()?;
    flags.extend(["--kind", "peer", "--config"].map(String::from));
    flags.push(config.display().to_string());
    let (namespace, dir) = (&stage.host, stage.world.dir());
    let mut device = Node::start(&Setup { ioex: &program, namespace, dir, name: machine.name, flags })?;
    device.wait_joined()?;
    stage.maker.add(&[device.uid()?])?;
    let story = |device: &mut Node| {
        let (first, second) = (stage.first(device)?, stage.second(device)?);
        // So that memory is that of a node at rest: a time, not a condition, is what is measured here.
        thread::sleep(memory::SETTLE);
        let memory = Memory::of_emulated(device.pid())?;
        Ok(Updated { first, second, memory, reason: stage.goes_back(device)? })
    };
    let updated: Result<Updated> = story(&mut device);
    updated.with_context(|| device.last_words())
}

impl Device for Node {
    fn check(&mut self) -> Result<()> {
        self.call(&["ota", "check"]).map(drop)
    }

    fn confirmed(&mut self, version: &str) -> Result<()> {
        let runs = |state: &Value| state["running"] == version && state["stage"] == "idle";
        let look = || Ok(Some(self.call(&["ota", "state"])?).filter(runs));
        sh::wait_for(&format!("{} to run {version}", self.name()), UPDATED, look).map(drop)
    }

    fn went_back(&mut self, from: &str, to: &str) -> Result<()> {
        let state = self.call(&["ota", "state"])?;
        ensure!(state["running"] == to, "it has not left {from}: {state}");
        Ok(())
    }
}

impl Updated {
    /// What the second version cost of the first's download.
    fn share(&self) -> f64 {
        self.second.bytes as f64 / self.first.bytes as f64
    }

    /// What it missed.
    pub(super) fn check(&self) -> Result<()> {
        ensure!(self.first.bytes >= PACKAGE_BYTES, "it downloaded only {} bytes", self.first.bytes);
        ensure!(
            self.share() <= transfer::CHANGED_COST_MAX,
            "the second version cost {:.3} of the first, not {}",
            self.share(),
            transfer::CHANGED_COST_MAX
        );
        Ok(())
    }

    /// For a table: what is measured, and what came out.
    pub(super) fn rows(&self, who: &str) -> Vec<(String, String)> {
        let share = format!("{:.1} s, {} bytes, {:.3}", self.second.seconds, self.second.bytes, self.share());
        vec![
            (
                format!("{who}: first version"),
                format!("{:.1} s, {} bytes", self.first.seconds, self.first.bytes),
            ),
            (format!("{who}: second version, share of the first's bytes"), share),
            (format!("{who}: private memory after it (with the emulator's)"), self.memory.cell()),
            (format!("{who}: third version taken back"), self.reason.clone()),
        ]
    }

    pub(super) fn json(&self) -> Value {
        let update = |update: &Update| json!({ "seconds": (update.seconds * 10.0).round() / 10.0, "bytes": update.bytes });
        json!({ "package_bytes": PACKAGE_BYTES, "first": update(&self.first), "second": update(&self.second),
                "share": (self.share() * 1e3).round() / 1e3, "memory": self.memory.json(), "taken_back": self.reason })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_version_may_not_cost_as_much_as_the_first() {
        let update = |bytes| Update { seconds: 1.0, bytes };
        let of = |first, second| Updated {
            first: update(first),
            second: update(second),
            memory: Memory { program: 1, emulator: 1 },
            reason: String::new(),
        };
        assert!(of(PACKAGE_BYTES, PACKAGE_BYTES / 10).check().is_ok());
        assert!(of(PACKAGE_BYTES, PACKAGE_BYTES / 5).check().is_err());
        assert!(of(PACKAGE_BYTES / 2, 0).check().is_err(), "bytes that nobody heard of are no download");
    }
}
