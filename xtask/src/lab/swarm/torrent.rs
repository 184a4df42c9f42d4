//! BitTorrent: libtorrent at every host, driven by a small script, unencrypted, over TCP. Every
//! device knows the addresses of all others from the start, which is more than a tracker gives.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::{
    Program,
    stage::{Host, Stage},
    workers::Workers,
};
use crate::sh::{self, Process};

/// Its name in the table.
pub(super) const NAME: &str = "libtorrent";

const SCRIPT: &str = include_str!("torrent.py");
/// The system's interpreter: its package has the library.
const PYTHON: &str = "/usr/bin/python3";
/// Hashing the package.
const MAKE: Duration = Duration::from_secs(60);

/// A seeder and those who want the package.
#[derive(Default)]
pub(super) struct Torrent {
    seeder: Option<Process>,
    workers: Workers,
    copies: Vec<PathBuf>,
}

impl Program for Torrent {
    fn name(&self) -> &'static str {
        NAME
    }

    fn prepare(&mut self, stage: &mut Stage) -> Result<()> {
        let folder = stage.world.dir().join("torrent");
        fs::create_dir_all(&folder)?;
        let (script, torrent) = (folder.join("torrent.py"), folder.join("package.torrent"));
        fs::write(&script, SCRIPT)?;
        sh::output(Command::new(PYTHON).arg(&script).arg("make").arg(&stage.package).arg(&torrent), MAKE)?;
        let from = stage.package.parent().context("a package without a folder")?;
        let mut seed = node(&stage.origin, &script, "seed", &torrent, from);
        seed.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(File::create(folder.join("seeder.log"))?);
        let mut seeder = Process::new(seed.spawn().context("cannot start the seeder")?);
        let mut line = String::new();
        let stdout = seeder.get_mut().stdout.take().context("no pipe from the seeder")?;
        BufReader::new(stdout).read_line(&mut line)?;
        ensure!(line.trim() == "READY", "the seeder did not start; it said {line:?}");
        self.seeder = Some(seeder);
        let mut commands = Vec::new();
        for device in &stage.devices {
            let into = stage.folder(device)?;
            let mut command = node(device, &script, "fetch", &torrent, &into);
            let others = stage.devices.iter().filter(|other| other.address != device.address);
            command.args(others.chain([&stage.origin]).map(|other| &other.address));
            commands.push(command);
            self.copies.push(into.join(stage.package.file_name().context("a package without a name")?));
        }
        self.workers = Workers::start(commands, &folder)?;
        Ok(())
    }

    fn tell(&mut self) -> Result<()> {
        self.workers.tell()
    }

    fn next_done(&mut self, limit: Duration) -> Result<(usize, Instant)> {
        self.workers.next_done(limit)
    }

    fn processes(&self) -> Vec<u32> {
        self.workers.processes().chain(self.seeder.as_ref().map(Process::pid)).collect()
    }

    fn finish(&mut self) -> Result<()> {
        self.workers.finish()
    }

    fn copy(&self, device: usize) -> Result<PathBuf> {
        self.copies.get(device).cloned().context("no such device")
    }
}

fn node(host: &Host, script: &Path, role: &str, torrent: &Path, folder: &Path) -> Command {
    let mut command = host.namespace.command(PYTHON);
    command.arg(script).arg(role).arg(torrent).arg(folder);
    command
}
