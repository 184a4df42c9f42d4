//! The C library: its example program, compiled for the other machine, updates its device.
//!
//! With the archive it takes the first version and ends; with the shared library it goes on from there.

use std::{fs, path::PathBuf, process::Command, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use self::example::Link;
use super::{
    machine::Machine,
    memory::{self, Memory},
    update::{BROKEN, Device, Stage, UPDATED, Updated},
};
use crate::sh;

// What compiles and runs the example in the library's own test.
#[allow(dead_code)]
#[path = "../../../crates/sdk-c/tests/it/example.rs"]
mod example;

/// The program's start under emulation, and its end.
const START: Duration = Duration::from_secs(60);
/// Its exit code when all is well.
const WELL: i32 = 0;

/// What was built.
pub(super) struct Built {
    archive_bytes: u64,
    shared_bytes: u64,
    /// The example with the archive in it.
    program_bytes: u64,
    with_archive: PathBuf,
    with_shared: PathBuf,
}

impl Built {
    /// For a table: sizes in bytes, stripped.
    pub(super) fn rows(&self) -> Vec<(String, String)> {
        [
            ("libioexnode.a, stripped", self.archive_bytes),
            ("libioexnode.so, stripped", self.shared_bytes),
            ("firmware.c with the archive, stripped", self.program_bytes),
        ]
        .map(|(name, bytes)| (format!("{name}: bytes"), bytes.to_string()))
        .into()
    }

    pub(super) fn json(&self) -> serde_json::Value {
        json!({ "archive_bytes": self.archive_bytes, "shared_bytes": self.shared_bytes,
                "program_bytes": self.program_bytes })
    }
}

/// Compiles the example against both libraries.
pub(super) fn compile(machine: &Machine) -> Result<Built> {
    let libraries = machine.libraries();
    let folder = libraries.archive.parent().context("no folder")?;
    let (with_archive, with_shared) = (folder.join("firmware-static"), folder.join("firmware-shared"));
    let root = sh::root().join("crates/sdk-c");
    example::compile(&machine.cc(), &root, Link::Static(&libraries.archive), &with_archive)?;
    example::compile(&machine.cc(), &root, Link::Shared(&libraries.shared), &with_shared)?;
    Ok(Built {
        archive_bytes: machine.stripped_size(&libraries.archive)?,
        shared_bytes: machine.stripped_size(&libraries.shared)?,
        program_bytes: machine.stripped_size(&with_archive)?,
        with_archive,
        with_shared,
    })
}

/// The same versions as the device program.
pub(super) fn update(machine: &Machine, built: &Built, ioex: &std::path::Path) -> Result<Updated> {
    let stage = Stage::build(ioex)?;
    let dir = stage.world.dir();
    let (config, data) = (dir.join("firmware.toml"), dir.join("firmware"));
    let node = format!("data = {:?}\nseeds = [{:?}]\n", data.display().to_string(), stage.seed()?);
    fs::write(&config, node + &stage.section("consent = \"ask\"\nconfirm = \"host\""))?;
    let start = |program: &PathBuf, name: &str| -> Result<(Firmware, String)> {
        let mut command = stage.host.command(machine.wrapper(program, dir, name)?);
        command.arg(&config).args(["--yes", "--unhealthy-if", BROKEN]).arg(&stage.place);
        Firmware::start(&mut command)
    };
    let (mut device, uid) = start(&built.with_archive, "firmware-static")?;
    stage.maker.add(&[&uid])?;
    let first = stage.first(&mut device)?;
    device.quits()?;
    let (mut device, again) = start(&built.with_shared, "firmware-shared")?;
    ensure!(again == uid, "it has become another device: {again}, not {uid}");
    let second = stage.second(&mut device)?;
    // So that memory is that of a node at rest: a time, not a condition, is what is measured here.
    thread::sleep(memory::SETTLE);
    let memory = Memory::of_emulated(device.program.pid())?;
    let reason = stage.goes_back(&mut device)?;
    device.quits()?;
    Ok(Updated { first, second, memory, reason })
}

/// The example as a device.
struct Firmware {
    program: example::Firmware,
}

impl Firmware {
    /// Starts it; it runs when it tells the device's UID.
    fn start(command: &mut Command) -> Result<(Self, String)> {
        command.env("IOEX_LOG", "off");
        let mut program = example::Firmware::start(command)?;
        let uid = program.wait_for("started ", START)?;
        Ok((Self { program }, uid))
    }

    /// Ends it once the maker has heard how it went: what is still to be said when it ends is said at its next start.
    fn quits(&mut self) -> Result<()> {
        self.program.say("quit")?;
        let code = self.program.ended(START)?;
        ensure!(code == Some(WELL), self.program.complaint(&format!("it ended with {code:?}")));
        Ok(())
    }
}

impl Device for Firmware {
    fn check(&mut self) -> Result<()> {
        Ok(self.program.say("check")?)
    }

    fn confirmed(&mut self, version: &str) -> Result<()> {
        let told = self.program.wait_for("confirmed ", UPDATED)?;
        ensure!(told == version, "it confirmed {told}, not {version}");
        for step in ["offered", "ready", "installed", "trial"] {
            let line = format!("{step} {version}");
            ensure!(self.program.has(&line), self.program.complaint(&format!("no `{line}`")));
        }
        Ok(())
    }

    fn went_back(&mut self, from: &str, _to: &str) -> Result<()> {
        let told = self.program.wait_for("failed ", UPDATED)?;
        ensure!(told.starts_with(&format!("{from}, rolled back")), "it failed otherwise: {told}");
        Ok(())
    }
}
