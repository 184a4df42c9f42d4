//! The kinds of ARM machine: what builds for them, and what runs their programs here.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

use crate::{device, install, sh};

/// A kind of ARM machine.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) name: &'static str,
    /// Rust's name for it.
    pub(super) triple: &'static str,
    /// Debian's name for it, which begins those of its C compiler's programs and is its folder below `/usr`.
    debian: &'static str,
    emulator: &'static str,
}

const MACHINES: [Machine; 2] = [
    Machine {
        name: "aarch64",
        triple: "aarch64-unknown-linux-gnu",
        debian: "aarch64-linux-gnu",
        emulator: "qemu-aarch64",
    },
    Machine {
        name: "armv7",
        triple: "armv7-unknown-linux-gnueabihf",
        debian: "arm-linux-gnueabihf",
        emulator: "qemu-arm",
    },
];

/// Debian's compiler and builder.
const RUSTC: &str = "/usr/bin/rustc";
const CARGO: &str = "/usr/bin/cargo";
/// Where Debian's compilers lie; whatever else `PATH` has comes from elsewhere.
const DEBIAN_PATH: &str = "/usr/bin:/bin";
/// What this project needs at least.
const RUST_MIN: &str = env!("CARGO_PKG_RUST_VERSION");
/// A program that only says its version, or takes names out of a file.
const SHORT: Duration = Duration::from_secs(60);

/// The machines of these names; all when there are none.
pub(super) fn choose(wanted: &[String]) -> Result<Vec<&'static Machine>> {
    if wanted.is_empty() {
        return Ok(MACHINES.iter().collect());
    }
    let find = |name: &String| match MACHINES.iter().find(|machine| machine.name == name) {
        Some(machine) => Ok(machine),
        None => bail!("no machine {name}; there are: aarch64, armv7"),
    };
    wanted.iter().map(find).collect()
}

/// Installs what builds for ARM and runs it. A list of packages that is older than Debian's newer Rust gives an older
/// one, and Debian's plain `rustc` has the same place: both are replaced.
pub(super) fn ensure_tools() -> Result<()> {
    install::ensure(install::BUILD)?;
    install::ensure(install::ARM)?;
    if !new_enough(&rustc_version()?) {
        eprintln!("{} is too old, {RUST_MIN} is needed", rustc_version()?.trim());
        install::renew(install::DEBIAN_RUST)?;
    }
    let told = rustc_version()?;
    ensure!(new_enough(&told), "{RUSTC} is {}; {RUST_MIN} is needed (Debian's rustc-web)", told.trim());
    Ok(())
}

fn rustc_version() -> Result<String> {
    sh::output(Command::new(RUSTC).arg("--version").env("PATH", DEBIAN_PATH), SHORT)
}

/// Whether `rustc 1.96.0 (…)` is what this project needs.
fn new_enough(told: &str) -> bool {
    let numbers = |text: &str| {
        let mut parts = text.split('.').map(|part| part.parse::<u32>().ok());
        Some((parts.next()??, parts.next()??))
    };
    let has = told.split_whitespace().nth(1).and_then(numbers);
    has.is_some() && has >= numbers(RUST_MIN)
}

/// The C library, as an archive and shared.
pub(super) struct Libraries {
    pub(super) archive: PathBuf,
    pub(super) shared: PathBuf,
}

impl Machine {
    /// Where cargo puts what it builds for the machine.
    fn built(&self) -> PathBuf {
        sh::target_dir().join("arm").join(self.triple).join("device")
    }

    /// The device program.
    pub(super) fn program(&self) -> PathBuf {
        self.built().join("ioex")
    }

    /// The C library.
    pub(super) fn libraries(&self) -> Libraries {
        let built = self.built();
        Libraries { archive: built.join("libioexnode.a"), shared: built.join("libioexnode.so") }
    }

    /// Builds the device program and the C library, with the standard library in them.
    pub(super) fn build(&self) -> Result<()> {
        self.cargo(&["build", "--package", "ioex", "--no-default-features"])?;
        // Without the kind of library that the test needs: with it, cargo optimises nothing as a whole.
        self.cargo(&["rustc", "--package", "ioex-sdk-c", "--lib", "--crate-type", "cdylib,staticlib"])
    }

    fn cargo(&self, what: &[&str]) -> Result<()> {
        let mut cargo = sh::of_cargo(Path::new(CARGO));
        cargo.args(what).args(["--locked", "--profile", "device", "--features", "device"]);
        cargo.args(["-Zbuild-std=std,panic_abort", "--target", self.triple]);
        let others = ["RUSTC", "RUSTC_WRAPPER", "RUSTUP_TOOLCHAIN", "CARGO", "CARGO_BUILD_TARGET"];
        for variable in others.into_iter().chain(["CARGO_ENCODED_RUSTFLAGS"]) {
            cargo.env_remove(variable);
        }
        // What is stable in this compiler is all that we use; building the standard library is not.
        cargo.env("RUSTC_BOOTSTRAP", "1").env("PATH", DEBIAN_PATH);
        cargo.env("CARGO_TARGET_DIR", sh::target_dir().join("arm")).env("RUSTFLAGS", device::NO_UNWINDING);
        let (low, high) = (self.triple.replace('-', "_"), self.triple.replace('-', "_").to_uppercase());
        cargo.env(format!("CARGO_TARGET_{high}_LINKER"), self.cc());
        cargo.env(format!("CC_{low}"), self.cc());
        cargo.env(format!("AR_{low}"), format!("{}-ar", self.debian));
        sh::run(&mut cargo)
    }

    /// The machine's C compiler.
    pub(super) fn cc(&self) -> String {
        format!("{}-gcc", self.debian)
    }

    /// A file's size in bytes without the names and the notes for a debugger, which a device does not need.
    pub(super) fn stripped_size(&self, file: &Path) -> Result<u64> {
        let out = self.built().join("stripped");
        let mut strip = sh::system(&format!("{}-strip", self.debian));
        sh::output(strip.arg("--strip-unneeded").arg("-o").arg(&out).arg(file), SHORT)?;
        let size = device::size(&out);
        fs::remove_file(&out)?;
        size
    }

    fn emulator(&self) -> Result<PathBuf> {
        sh::find(self.emulator).with_context(|| format!("no {}", self.emulator))
    }

    /// Where the machine's C library is looked for.
    fn system(&self) -> String {
        format!("/usr/{}", self.debian)
    }

    /// What the device program says of itself under emulation.
    pub(super) fn version(&self) -> Result<String> {
        let mut command = Command::new(self.emulator()?);
        let told =
            sh::output(command.args(["-L", &self.system()]).arg(self.program()).arg("--version"), SHORT)?;
        Ok(told.trim().to_owned())
    }

    /// A script in `dir` that becomes this program of the machine under emulation, for whoever starts it.
    pub(super) fn wrapper(&self, program: &Path, dir: &Path, name: &str) -> Result<PathBuf> {
        let path = dir.join(format!("{name}-{}", self.name));
        let (emulator, system) = (self.emulator()?, self.system());
        // As its own name it gets this file's, by which it starts itself anew.
        let words =
            format!("exec '{}' -0 \"$0\" -L '{system}' '{}' \"$@\"", emulator.display(), program.display());
        fs::write(&path, format!("#!/bin/sh\n{words}\n"))?;
        fs::set_permissions(&path, Permissions::from_mode(0o755))?;
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_are_chosen_by_name() {
        assert_eq!(choose(&[]).unwrap().len(), 2);
        assert_eq!(choose(&["armv7".into()]).unwrap()[0].emulator, "qemu-arm");
        assert!(choose(&["z80".into()]).is_err());
    }

    #[test]
    fn an_older_compiler_is_told_from_one_that_will_do() {
        assert!(new_enough("rustc 1.96.0 (ac68faa20 2026-05-25) (built from a source tarball)\n"));
        assert!(new_enough(&format!("rustc {RUST_MIN}.0")));
        assert!(new_enough("rustc 2.0.0"));
        for old in ["rustc 1.85.0 (4d91de4e4 2025-02-17)", "rustc 1.9.0", "rustc 0.99.1", "rustc", ""] {
            assert!(!new_enough(old), "{old}");
        }
    }
}
