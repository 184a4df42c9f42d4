//! `cargo xtask device`: the small build for devices.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::{install, sh};

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
    sh::run(&mut sh::cargo(profile.iter().chain(&features)))?;
    Ok(sh::target_dir().join("device/ioex"))
}

/// The binary's size in bytes.
pub(crate) fn size(binary: &PathBuf) -> Result<u64> {
    let entry = std::fs::metadata(binary).with_context(|| format!("no {}", binary.display()))?;
    Ok(entry.len())
}
