//! `cargo xtask device`: the small build for devices.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::{install, sh};

/// For the compiler: a program that aborts on a panic needs no tables for unwinding, which would be a ninth of
/// it, and functions that became the same machine code are kept once.
const RUSTFLAGS: &str = "-C force-unwind-tables=no -C link-arg=-Wl,--icf=all";

/// Builds it and prints its size.
pub(crate) fn run() -> Result<()> {
    let ioex = build()?;
    println!("{} bytes  {}", size(&ioex)?, ioex.display());
    Ok(())
}

/// Builds `ioex` with the device profile and feature set.
pub(crate) fn build() -> Result<PathBuf> {
    install::ensure(install::BUILD)?;
    let profile = ["build", "--package", "ioex", "--profile", "device"];
    let features = ["--no-default-features", "--features", "device"];
    sh::run(sh::cargo(profile.iter().chain(&features)).env("RUSTFLAGS", RUSTFLAGS))?;
    Ok(sh::target_dir().join("device/ioex"))
}

/// The binary's size in bytes.
pub(crate) fn size(binary: &PathBuf) -> Result<u64> {
    let entry = std::fs::metadata(binary).with_context(|| format!("no {}", binary.display()))?;
    Ok(entry.len())
}
