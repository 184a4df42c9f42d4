//! `cargo xtask device`: the small build for devices.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::{install, sh};

/// For the compiler: a program that aborts on a panic needs no tables for unwinding, which would be a ninth of it.
pub(crate) const NO_UNWINDING: &str = "-C force-unwind-tables=no";
/// And functions that became the same machine code are kept once.
const SAME_ONCE: &str = "-C link-arg=-Wl,--icf=all";

/// What `cargo` is told to leave out all that a device does not need.
pub(crate) const FEATURES: [&str; 3] = ["--no-default-features", "--features", "device"];

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
    sh::run(
        sh::cargo(profile.iter().chain(&FEATURES)).env("RUSTFLAGS", format!("{NO_UNWINDING} {SAME_ONCE}")),
    )?;
    Ok(sh::target_dir().join("device/ioex"))
}

/// A file's size in bytes.
pub(crate) fn size(binary: &Path) -> Result<u64> {
    let entry = std::fs::metadata(binary).with_context(|| format!("no {}", binary.display()))?;
    Ok(entry.len())
}
