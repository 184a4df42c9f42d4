//! `cargo xtask sdk`: the C library, as a firmware's build uses it.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};

use self::place::Parts;
use crate::{install, sh};

mod place;

/// Options of `cargo xtask sdk`.
#[derive(Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    command: Sdk,
}

#[derive(Subcommand)]
enum Sdk {
    /// Builds the C library for devices and puts it, its header and what pkg-config reads below a folder.
    Install {
        /// The folder.
        #[arg(long)]
        prefix: PathBuf,
        /// Takes `libioexnode.a` and `libioexnode.so` from this folder instead of building them.
        #[arg(long)]
        from: Option<PathBuf>,
        /// Begins the names of `nm`, `ld`, `objcopy` and `ar`, such as `aarch64-linux-gnu-`.
        #[arg(long, default_value = "")]
        tools: String,
    },
}

/// Does it.
pub(crate) fn run(options: &Options) -> Result<()> {
    let Sdk::Install { prefix, from, tools } = &options.command;
    let built = match from {
        Some(folder) => folder.clone(),
        None => build()?,
    };
    let (archive, shared) = (built.join("libioexnode.a"), built.join("libioexnode.so"));
    let version = env!("CARGO_PKG_VERSION");
    let root = sh::root();
    Parts { root: &root, archive: &archive, shared: &shared, version, tools }
        .place(prefix)
        .with_context(|| format!("the library of {} was not installed", built.display()))?;
    println!("installed below {}", prefix.display());
    Ok(())
}

/// Builds it with the device profile, and says where it is.
fn build() -> Result<PathBuf> {
    install::ensure(install::BUILD)?;
    // Both kinds are named: with the third, for the crate's own test, the library is not optimised as a whole.
    let what = ["rustc", "--package", "ioex-sdk-c", "--lib", "--crate-type", "cdylib,staticlib"];
    sh::run(sh::cargo(what).args(["--profile", "device", "--features", "device"]))?;
    Ok(sh::target_dir().join("device"))
}
