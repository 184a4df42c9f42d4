//! The programs that we are measured against.

use std::{path::Path, process::Command, time::Instant};

use anyhow::{Context, Result};

use super::{RUN, Times, fresh, tree::Tree, work_dir};
use crate::sh;

/// Names another `restic` than the one on the path, such as a newer release.
const RESTIC_ENV: &str = "IOEX_BENCH_RESTIC";

fn timed(command: &mut Command) -> Result<f64> {
    let begun = Instant::now();
    sh::output(command, RUN)?;
    Ok(begun.elapsed().as_secs_f64())
}

/// Three steps of a program, each a command.
fn steps(
    tree: &Tree,
    init: &mut Command,
    backup: impl Fn(usize) -> Command,
    restore: &mut Command,
    out: &Path,
) -> Result<Times> {
    tree.first()?;
    sh::output(init, RUN)?;
    let first = timed(&mut backup(1))?;
    tree.second()?;
    let again = timed(&mut backup(2))?;
    fresh(out)?;
    let restore = timed(restore)?;
    Ok(Times { first, again, restore })
}

pub(super) fn restic(tree: &Tree) -> Result<Times> {
    let program = std::env::var_os(RESTIC_ENV).map(Into::into).or_else(|| sh::find("restic"));
    let program = program.context("no restic")?;
    let dir = work_dir().join("restic");
    fresh(&dir)?;
    let command = || {
        let mut command = Command::new(&program);
        command.args(["-q", "-r"]).arg(dir.join("repo")).env("RESTIC_PASSWORD", "x");
        command.env("XDG_CACHE_HOME", dir.join("cache")).env("HOME", &dir);
        command
    };
    eprintln!("  {}", sh::output(Command::new(&program).arg("version"), RUN)?.trim());
    let out = dir.join("out");
    let backup = |_| {
        let mut command = command();
        command.arg("backup").arg(tree.path());
        command
    };
    let mut restore = command();
    restore.args(["restore", "latest", "--target"]).arg(&out);
    let times = steps(tree, command().arg("init"), backup, &mut restore, &out)?;
    super::remove(&dir)?;
    Ok(times)
}

pub(super) fn borg(tree: &Tree) -> Result<Times> {
    let program = sh::find("borg").context("no borg")?;
    let dir = work_dir().join("borg");
    fresh(&dir)?;
    let repo = dir.join("repo");
    let command = || {
        let mut command = Command::new(&program);
        command.env("BORG_PASSPHRASE", "x").env("BORG_BASE_DIR", dir.join("base")).env("HOME", &dir);
        command
    };
    let archive = |name: usize| format!("{}::{name}", repo.display());
    let out = dir.join("out");
    let backup = |n| {
        let mut command = command();
        command.arg("create").arg(archive(n)).arg(tree.path());
        command
    };
    let mut restore = command();
    restore.arg("extract").arg(archive(2)).current_dir(&dir);
    let mut init = command();
    init.args(["init", "-e", "repokey-blake2"]).arg(&repo);
    let times = steps(tree, &mut init, backup, &mut restore, &out)?;
    super::remove(&dir)?;
    Ok(times)
}
