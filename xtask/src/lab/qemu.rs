//! Scenario `qemu`: a device that is a whole machine, with two slots for its firmware.
//!
//! Debian's kernel under software emulation. The boot loader is a RAM disk that asks which slot starts now; a slot
//! holds a read-only file system with the device build of `ioex`. [`kernel`] gets the kernel, [`image`] makes the
//! disks, [`guest`] runs the machine and reads its console.
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

use anyhow::{Context, Result};
use serde_json::{Value, json};

use self::{
    guest::{Guest, Machine},
    image::Firmware,
    kernel::Kernel,
};
use super::{
    Options, Outcome, ioex,
    world::{World, seed_flags},
};
use crate::{device, install, sh};

/// The boot loader hands over within this, also on a busy machine.
const BOOT: Duration = Duration::from_secs(90);
/// A firmware has judged itself within this; its own check gives up after a minute.
const JUDGED: Duration = Duration::from_secs(180);

/// What the scenario has seen.
#[derive(Default)]
struct Record {
    rows: Vec<Vec<String>>,
    steps: Vec<Value>,
}

impl Record {
    fn step(&mut self, step: &str, seen: &str, after: Duration) {
        let seconds = format!("{:.1}", after.as_secs_f64());
        self.steps.push(json!({ "step": step, "seen": seen, "seconds": after.as_secs_f64() }));
        self.rows.push(vec![step.to_owned(), seen.to_owned(), seconds]);
    }
}

/// Both slots, and power cuts in between.
pub(super) fn run(options: &Options) -> Result<Outcome> {
    install::ensure(install::QEMU)?;
    let began = Instant::now();
    let kernel = Kernel::get()?;
    let program = if options.built { sh::target_dir().join("device/ioex") } else { device::build()? };
    let mut world = World::new(ioex())?;
    let work = world.dir().join("qemu");
    fs::create_dir_all(&work)?;
    let bootstraps = world.bootstraps(1)?;
    let namespace = world.namespace("guest")?;
    world.attach(&namespace, "eth0")?;
    let mut flags = seed_flags(&bootstraps)?;
    flags.extend(["--kind", "peer", "--name", "guest"].map(String::from));
    let disks = make_disks(&work, &program, &flags)?;
    let initramfs = image::initramfs(&work, &kernel)?;
    let prepared = began.elapsed();
    let machine = Machine {
        namespace: &namespace,
        kernel: &kernel,
        initramfs: &initramfs,
        disks: disks.each_ref().map(PathBuf::as_path),
        console: work.join("console"),
    };
    let mut record = Record::default();
    let mut failures = Vec::new();
    if let Err(error) = story(&machine, &mut record) {
        failures.push(format!("{error:#}"));
    }
    Ok(Outcome {
        heading: &["step", "seen on the console", "s after power on"],
        rows: record.rows,
        notes: vec![
            format!(
                "kernel {}, software emulation, one processor; prepared in {:.0} s",
                kernel.release,
                prepared.as_secs_f64()
            ),
            format!(
                "firmware of {} bytes in slots of {}",
                fs::metadata(work.join("firmware1.img"))?.len(),
                image::SLOT_BYTES
            ),
        ],
        json: json!({ "kernel": kernel.release, "steps": record.steps }),
        failures,
    })
}

/// Version 1 in slot a, which starts; version 2, which is broken, in slot b.
fn make_disks(work: &Path, program: &Path, flags: &[String]) -> Result<[PathBuf; 3]> {
    let first = image::firmware(work, program, &Firmware { version: 1, healthy: true })?;
    let second = image::firmware(work, program, &Firmware { version: 2, healthy: false })?;
    Ok([image::slot(work, "a", &first)?, image::slot(work, "b", &second)?, image::data(work, "a", flags)?])
}

fn story(machine: &Machine<'_>, record: &mut Record) -> Result<()> {
    // The guest changes slots by itself, and starts again.
    let mut guest = machine.start("switch")?;
    healthy(&mut guest, "power on", 1, "a", record)?;
    boot(&mut guest, "it starts again by itself", 2, "b", record)?;
    let after = guest.wait("unhealthy", &["healthy"], JUDGED)?;
    record.step("its health check", "unhealthy", after);
    boot(&mut guest, "it starts again by itself", 1, "a", record)?;
    guest.cut()?;

    // In the middle of a start.
    let mut guest = machine.start("write")?;
    healthy(&mut guest, "power cut in a start; power on", 1, "a", record)?;
    guest.wait("writing b", &[], BOOT)?;
    let after = guest.wait("written b", &[], JUDGED)?;
    record.step("it writes the other slot, again and again", "written b", after);
    guest.cut()?;

    // In the middle of writing.
    let mut guest = machine.start("stay")?;
    healthy(&mut guest, "power cut in a write; power on", 1, "a", record)?;
    guest.cut().context("the last cut")
}

fn boot(guest: &mut Guest, step: &str, version: u32, slot: &str, record: &mut Record) -> Result<()> {
    guest.wait(&format!("boot {slot}"), &[], BOOT).with_context(|| step.to_owned())?;
    let mark = format!("version {version} in {slot}");
    let after = guest.wait(&mark, &[], BOOT).with_context(|| step.to_owned())?;
    record.step(step, &mark, after);
    Ok(())
}

/// It starts and finds the network.
fn healthy(guest: &mut Guest, step: &str, version: u32, slot: &str, record: &mut Record) -> Result<()> {
    boot(guest, step, version, slot, record)?;
    let after = guest.wait("healthy", &["unhealthy"], JUDGED).with_context(|| step.to_owned())?;
    record.step("it has joined the network", "healthy", after);
    Ok(())
}
