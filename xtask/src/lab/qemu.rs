//! Scenario `qemu`: a device that is a whole machine updates itself, between two slots for its firmware.
//!
//! Debian's kernel under software emulation. The boot loader is a RAM disk that asks `ioex ota boot` which slot
//! starts now; a slot holds a read-only file system with the device build of `ioex`, which fetches, installs, restarts
//! the machine, checks its health, and confirms or goes back, without the lab. [`kernel`] gets the kernel, [`image`]
//! makes the disks, [`guest`] runs the machine and reads its console.
//!
//! Cutting the power is killing the emulator: what the guest has handed to its disk is there, in the order of its
//! writes, what was in its memory is not.

mod guest;
mod image;
mod kernel;

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use self::{
    guest::{Guest, Machine, Seen},
    image::Firmware,
    kernel::Kernel,
};
use super::{
    Options, Outcome, ioex,
    maker::Maker,
    world::{World, seed_flags},
};
use crate::{device, install, sh};

/// What the firmware is called in packages; see `node.toml`.
const IMAGE: &str = "firmware";
/// The boot loader hands over within this, also on a busy machine.
const BOOT: Duration = Duration::from_secs(90);
/// A firmware has judged itself within this; its own check gives up after a minute, and is asked five times.
const JUDGED: Duration = Duration::from_secs(400);
/// A version is fetched and written within this.
const FETCHED: Duration = Duration::from_secs(240);

/// The machine, its maker, and what has been seen.
struct Stage<'a> {
    machine: Machine<'a>,
    maker: &'a Maker,
    work: &'a Path,
    program: &'a Path,
    rows: Vec<Vec<String>>,
    steps: Vec<Value>,
}

/// Two updates, one of which is no good, and two power cuts.
pub(super) fn run(options: &Options) -> Result<Outcome> {
    install::ensure(install::QEMU)?;
    let began = Instant::now();
    let kernel = Kernel::get()?;
    let program = if options.built { sh::target_dir().join("device/ioex") } else { device::build()? };
    let mut world = World::new(ioex())?;
    let work = world.dir().join("qemu");
    fs::create_dir_all(&work)?;
    let bootstraps = world.bootstraps(1)?;
    let host = world.namespace("maker")?;
    world.attach(&host, "eth0")?;
    let maker = Maker::start(&world, &host, &bootstraps, "guest")?;
    let namespace = world.namespace("guest")?;
    world.attach(&namespace, "eth0")?;
    let mut flags = seed_flags(&bootstraps)?;
    flags.extend(["--kind", "peer", "--name", "guest"].map(String::from));
    let factory = image::firmware(&work, &program, maker.bundle(), &Firmware { version: 1, healthy: true })?;
    let disks: [PathBuf; 3] = [
        image::slot(&work, "a", Some(&factory))?,
        image::slot(&work, "b", None)?,
        image::data(&work, &flags)?,
    ];
    let initramfs = image::initramfs(&work, &kernel, &program)?;
    let prepared = began.elapsed().as_secs_f64();
    let machine = Machine {
        namespace: &namespace,
        kernel: &kernel,
        initramfs: &initramfs,
        disks: disks.each_ref().map(PathBuf::as_path),
        console: work.join("console"),
    };
    let mut stage =
        Stage { machine, maker: &maker, work: &work, program: &program, rows: Vec::new(), steps: Vec::new() };
    let failures = match stage.story() {
        Ok(()) => Vec::new(),
        Err(error) => vec![format!("{error:#}")],
    };
    let emulated = format!("kernel {}, software emulation, one processor", kernel.release);
    let sizes =
        format!("firmware of {} bytes in slots of {}", fs::metadata(&factory)?.len(), image::SLOT_BYTES);
    Ok(Outcome {
        heading: &["step", "seen on the console", "s after power on"],
        notes: vec![format!("{emulated}; prepared in {prepared:.0} s"), sizes],
        json: json!({ "kernel": kernel.release, "steps": stage.steps }),
        rows: stage.rows,
        failures,
    })
}

impl Stage<'_> {
    fn story(&mut self) -> Result<()> {
        let mut guest = self.machine.start()?;
        self.boots(&mut guest, "the factory's firmware", 1, "a")?;
        let uid = guest.wait("uid", &[], BOOT)?.words;
        self.maker.add(&[&uid])?;

        self.publish(2, false)?;
        self.fetches(&mut guest, 1)?;
        self.boots(&mut guest, "version 2 starts on trial", 2, "b")?;
        self.sees(&mut guest, "its health check fails", "unhealthy", &["healthy"], JUDGED)?;
        self.boots(&mut guest, "it goes back by itself", 1, "a")?;
        self.sees(&mut guest, "", &state(1, "idle"), &["boot b"], JUDGED)?;
        self.fleet(2, "failed")?;

        self.publish(3, true)?;
        self.fetches(&mut guest, 1)?;
        self.boots(&mut guest, "version 3 starts on trial", 3, "b")?;
        self.confirms(&mut guest, 3)?;
        guest.cut()?;
        let mut guest = self.machine.start()?;
        self.boots(&mut guest, "power cut; power on", 3, "b")?;

        self.publish(4, true)?;
        self.wait_for_writes(0)?;
        guest.cut()?;
        let mut guest = self.machine.start()?;
        self.boots(&mut guest, "power cut while it was written; power on", 3, "b")?;
        self.boots(&mut guest, "the rest is written; version 4 starts on trial", 4, "a")?;
        guest.cut()?;
        let mut guest = self.machine.start()?;
        self.boots(&mut guest, "power cut in the trial; power on", 4, "a")?;
        self.confirms(&mut guest, 4)?;
        self.fleet(4, "confirmed")?;
        guest.cut()
    }

    fn publish(&mut self, version: u32, healthy: bool) -> Result<()> {
        let firmware = Firmware { version, healthy };
        let file = image::firmware(self.work, self.program, self.maker.bundle(), &firmware)?;
        let told = self.maker.publish(version, IMAGE, &file)?;
        let bytes = &told["downloads"];
        let step = format!("version {version} is published{}", if healthy { "" } else { ", a broken one" });
        self.rows.push(vec![step, format!("downloads {bytes}"), String::new()]);
        self.steps.push(json!({ "published": told }));
        Ok(())
    }

    /// Waits until the guest says it, and notes when that was.
    fn sees(
        &mut self,
        guest: &mut Guest,
        step: &str,
        mark: &str,
        never: &[&str],
        limit: Duration,
    ) -> Result<()> {
        let Seen { after, .. } = guest.wait(mark, never, limit).with_context(|| step.to_owned())?;
        self.steps.push(json!({ "step": step, "seen": mark, "seconds": after.as_secs_f64() }));
        self.rows.push(vec![step.to_owned(), mark.to_owned(), format!("{:.1}", after.as_secs_f64())]);
        Ok(())
    }

    fn boots(&mut self, guest: &mut Guest, step: &str, version: u32, slot: &str) -> Result<()> {
        let other = if slot == "a" { "boot b" } else { "boot a" };
        guest.wait(&format!("boot {slot}"), &[other], FETCHED).with_context(|| step.to_owned())?;
        self.sees(guest, step, &format!("version {version} in {slot}"), &[], BOOT)
    }

    /// The guest finds what was published, fetches and writes it, and starts anew.
    fn fetches(&mut self, guest: &mut Guest, running: u32) -> Result<()> {
        let mark = state(running, "installed");
        self.sees(guest, "it is fetched over the network, and written", &mark, &[], FETCHED)?;
        self.sees(guest, "", "restart", &[], FETCHED)
    }

    fn confirms(&mut self, guest: &mut Guest, version: u32) -> Result<()> {
        self.sees(guest, "its health check succeeds", "healthy", &["unhealthy"], JUDGED)?;
        self.sees(guest, "it is confirmed", &state(version, "idle"), &[], JUDGED)
    }

    /// Waits until the guest's disk has been written to.
    fn wait_for_writes(&mut self, disk: usize) -> Result<()> {
        let written = || fs::metadata(self.machine.disks[disk])?.modified();
        let before = written()?;
        sh::wait_for("writes to the slot", FETCHED, || Ok((written()? != before).then_some(())))?;
        self.rows.push(vec![
            "it is fetched, and being written".into(),
            "writes to the slot".into(),
            String::new(),
        ]);
        Ok(())
    }

    /// Waits until the maker's super node has heard of one device in this stage.
    fn fleet(&mut self, version: u32, stage: &str) -> Result<()> {
        let order = self.maker.heard(version, stage, JUDGED)?;
        ensure!(order["roster"] == 1, "the order is for one device: {order}");
        let seen = format!("{stage}; {}", order["reasons"]);
        self.rows.push(vec![format!("the maker hears of version {version}"), seen, String::new()]);
        self.steps.push(json!({ "fleet": order }));
        Ok(())
    }
}

/// How the guest's script says it.
fn state(running: u32, stage: &str) -> String {
    format!("state {} {stage}", Maker::name(running))
}
