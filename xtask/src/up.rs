//! `cargo xtask up`: from a clean checkout to a running network.

use std::{ffi::OsString, os::unix::process::CommandExt, path::PathBuf, process::Command, time::Instant};

use anyhow::{Context, Result};

use crate::{install, sh};

/// Builds and becomes `ioex up ARGS`.
pub(crate) fn run(args: Vec<OsString>) -> Result<()> {
    install::ensure(install::BUILD)?;
    let start = Instant::now();
    let ioex = build()?;
    eprintln!("built ioex in {:.0} s", start.elapsed().as_secs_f64());
    // The program takes our place, so that signals and the exit code are its own.
    let error = Command::new(&ioex).arg("up").args(args).exec();
    Err(error).with_context(|| format!("cannot run {}", ioex.display()))
}

/// Builds `ioex` with the profile that the tests use, so that nothing is compiled twice.
pub(crate) fn build() -> Result<PathBuf> {
    sh::run(&mut sh::cargo(["build", "--package", "ioex"]))?;
    Ok(sh::target_dir().join("debug/ioex"))
}

/// Builds `ioex` for measuring.
pub(crate) fn build_release() -> Result<PathBuf> {
    sh::run(&mut sh::cargo(["build", "--release", "--package", "ioex"]))?;
    Ok(sh::target_dir().join("release/ioex"))
}
