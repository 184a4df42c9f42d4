//! The programs that we are measured against.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::{RUN, fresh, remove, settle, tree::Tree, work_dir};
use crate::sh;

/// Names another `restic` than the one on the path, such as a newer release.
const RESTIC_ENV: &str = "IOEX_BENCH_RESTIC";

/// The release of rustic that is built for the bench.
const RUSTIC_VERSION: &str = "0.11.4";
/// Building it takes minutes.
const RUSTIC_BUILD: Duration = Duration::from_secs(1_800);

/// A program with a repository in a folder.
pub(super) struct Peer {
    pub(super) name: &'static str,
    /// Seconds of the first backup, and of the second.
    pub(super) first: f64,
    pub(super) again: f64,
    dir: PathBuf,
    out: PathBuf,
    restore: Command,
}

impl Peer {
    /// Seconds of a full restore.
    pub(super) fn restore(&mut self) -> Result<f64> {
        fresh(&self.out)?;
        let seconds = timed(&mut self.restore)?;
        remove(&self.out)?;
        Ok(seconds)
    }

    pub(super) fn remove(self) -> Result<()> {
        remove(&self.dir)
    }
}

fn timed(command: &mut Command) -> Result<f64> {
    settle()?;
    let begun = Instant::now();
    sh::output(command, RUN)?;
    Ok(begun.elapsed().as_secs_f64())
}

/// What a program is told to do.
struct Commands {
    init: Command,
    /// Given the number of the backup.
    backup: Box<dyn Fn(usize) -> Command>,
    restore: Command,
}

/// Both backups of `tree` with one program; `commands` is given its folder and that for restores.
fn peer(tree: &Tree, name: &'static str, commands: impl Fn(&Path, &Path) -> Commands) -> Result<Peer> {
    let dir = work_dir().join(name);
    let out = dir.join("out");
    fresh(&dir)?;
    let mut commands = commands(&dir, &out);
    tree.first()?;
    sh::output(&mut commands.init, RUN)?;
    let first = timed(&mut (commands.backup)(1))?;
    tree.second()?;
    let again = timed(&mut (commands.backup)(2))?;
    Ok(Peer { name, first, again, dir, out, restore: commands.restore })
}

pub(super) fn restic(tree: &Tree) -> Result<Peer> {
    let program = std::env::var_os(RESTIC_ENV).map(Into::into).or_else(|| sh::find("restic"));
    let program = program.context("no restic")?;
    eprintln!("  {}", sh::output(Command::new(&program).arg("version"), RUN)?.trim());
    peer(tree, "restic", |dir, out| {
        let (program, dir, path) = (program.clone(), dir.to_owned(), tree.path().to_owned());
        let command = move || {
            let mut command = Command::new(&program);
            command.args(["-q", "-r"]).arg(dir.join("repo")).env("RESTIC_PASSWORD", "x");
            command.env("XDG_CACHE_HOME", dir.join("cache")).env("HOME", &dir);
            command
        };
        let (mut init, mut restore) = (command(), command());
        init.arg("init");
        restore.args(["restore", "latest", "--target"]).arg(out);
        let backup = move |_| {
            let mut command = command();
            command.arg("backup").arg(&path);
            command
        };
        Commands { init, backup: Box::new(backup), restore }
    })
}

/// rustic, which is only to be had as source.
pub(super) fn rustic(tree: &Tree) -> Result<Peer> {
    let root = sh::target_dir().join("bench-tools");
    let program = root.join("bin/rustic");
    let version = |program: &Path| sh::output(Command::new(program).arg("--version"), RUN);
    if !version(&program).is_ok_and(|told| told.contains(RUSTIC_VERSION)) {
        eprintln!("  building rustic {RUSTIC_VERSION}");
        let mut build = sh::cargo(["install", "rustic-rs", "--locked", "--no-default-features"]);
        build.args(["--version", RUSTIC_VERSION, "--root"]).arg(&root);
        sh::output(build.arg("--target-dir").arg(root.join("target")), RUSTIC_BUILD)?;
    }
    eprintln!("  {}", version(&program)?.trim());
    peer(tree, "rustic", |dir, out| {
        let (program, dir, path) = (program.clone(), dir.to_owned(), tree.path().to_owned());
        let command = move || {
            let mut command = Command::new(&program);
            command.arg("--no-progress").arg("-r").arg(dir.join("repo")).env("RUSTIC_PASSWORD", "x");
            command.env("XDG_CACHE_HOME", dir.join("cache")).env("HOME", &dir);
            command
        };
        let (mut init, mut restore) = (command(), command());
        init.arg("init");
        restore.args(["restore", "latest"]).arg(out);
        let backup = move |_| {
            let mut command = command();
            command.arg("backup").arg(&path);
            command
        };
        Commands { init, backup: Box::new(backup), restore }
    })
}

pub(super) fn borg(tree: &Tree) -> Result<Peer> {
    let program = sh::find("borg").context("no borg")?;
    eprintln!("  {}", sh::output(Command::new(&program).arg("--version"), RUN)?.trim());
    peer(tree, "borg", |dir, out| {
        let (program, dir, path) = (program.clone(), dir.to_owned(), tree.path().to_owned());
        let repo = dir.join("repo");
        let archive = {
            let repo = repo.clone();
            move |name: usize| format!("{}::{name}", repo.display())
        };
        let command = move || {
            let mut command = Command::new(&program);
            command.env("BORG_PASSPHRASE", "x").env("BORG_BASE_DIR", dir.join("base")).env("HOME", &dir);
            command
        };
        let (mut init, mut restore) = (command(), command());
        init.args(["init", "-e", "repokey-blake2"]).arg(&repo);
        restore.arg("extract").arg(archive(2)).current_dir(out);
        let backup = move |n| {
            let mut command = command();
            command.arg("create").arg(archive(n)).arg(&path);
            command
        };
        Commands { init, backup: Box::new(backup), restore }
    })
}
