//! `cargo xtask device`: the small build for devices.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::{install, sh};

/// For the compiler: a program that aborts on a panic needs no tables for unwinding, which would be a ninth of it.
pub(crate) const NO_UNWINDING: &str = "-C force-unwind-tables=no";
/// And functions that became the same machine code are kept once.
const SAME_ONCE: &str = "-C link-arg=-Wl,--icf=all";
/// For the linker. The compiler leaves out only what it compiles; the standard library comes with tables, and as the
/// program is optimised as a whole most functions get one with it.
const NO_TABLES: &str = "xtask/src/device.ld";

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
    // Only for the program itself: what runs in the compiler needs its tables.
    let script = format!("link-arg=-Wl,-T,{}", sh::root().join(NO_TABLES).display());
    let profile = ["rustc", "--package", "ioex", "--bin", "ioex", "--profile", "device"];
    let mut cargo = sh::cargo(profile.iter().chain(&FEATURES));
    sh::run(cargo.args(["--", "-C", &script]).env("RUSTFLAGS", format!("{NO_UNWINDING} {SAME_ONCE}")))?;
    Ok(sh::target_dir().join("device/ioex"))
}

/// A file's size in bytes.
pub(crate) fn size(binary: &Path) -> Result<u64> {
    let entry = std::fs::metadata(binary).with_context(|| format!("no {}", binary.display()))?;
    Ok(entry.len())
}
