//! System packages: installed when we may (root, apt), otherwise named in one line to run.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result, bail};

use crate::sh;

/// apt on a slow mirror.
const APT_LIMIT: Duration = Duration::from_secs(600);

/// What a task needs: the program that shows it is there, and Debian's package with it.
pub(crate) struct Need {
    program: &'static str,
    packages: &'static [&'static str],
}

const fn need(program: &'static str, packages: &'static [&'static str]) -> Need {
    Need { program, packages }
}

/// To build: some dependencies compile C.
pub(crate) const BUILD: &[Need] = &[need("cc", &["gcc", "libc6-dev"]), need("git", &["git"])];

/// For namespaces, NATs and traffic shaping.
pub(crate) const LAB: &[Need] = &[
    need("ip", &["iproute2"]),
    need("tc", &["iproute2"]),
    need("nft", &["nftables"]),
    need("conntrack", &["conntrack"]),
];

/// For the network benchmarks.
pub(crate) const BENCH: &[Need] = &[need("iperf3", &["iperf3"])];

/// For the backup benchmarks.
pub(crate) const BACKUP: &[Need] =
    &[need("restic", &["restic"]), need("borg", &["borgbackup"]), need("taskset", &["util-linux"])];

/// To have a real scanner look at backups. Its signatures are the lab's own.
pub(crate) const CLAMAV: &[Need] = &[need("clamd", &["clamav-daemon"])];

/// To bring a package to many devices with other programs. The library has no program; the package
/// manager's own list of its files shows that it is there.
pub(crate) const SWARM: &[Need] = &[
    need("curl", &["curl"]),
    need("nginx", &["nginx-light"]),
    need("/usr/bin/python3", &["python3"]),
    need("/var/lib/dpkg/info/python3-libtorrent.list", &["python3-libtorrent"]),
];

/// For a whole machine in software. busybox has to be the static one.
pub(crate) const QEMU: &[Need] = &[
    need("qemu-system-x86_64", &["qemu-system-x86"]),
    need("mksquashfs", &["squashfs-tools"]),
    need("mkfs.ext4", &["e2fsprogs"]),
    need("cpio", &["cpio"]),
    need("ldd", &["libc-bin"]),
    need("/var/lib/dpkg/info/busybox-static.list", &["busybox-static"]),
];

/// Debian's newer Rust and the source of its standard library; its plain `rustc` is older than this project.
pub(crate) const DEBIAN_RUST: &[&str] = &["rustc-web", "cargo-web", "rust-web-src"];

/// To build for ARM with Debian's compilers, and to run what was built. Debian has no standard library for these
/// machines that fits its compiler, but its source.
pub(crate) const ARM: &[Need] = &[
    need("/usr/bin/rustc", &["rustc-web"]),
    need("/usr/bin/cargo", &["cargo-web"]),
    need("/usr/lib/rustlib/src/rust/library/std/Cargo.toml", &["rust-web-src"]),
    need("aarch64-linux-gnu-gcc", &["gcc-aarch64-linux-gnu"]),
    need("arm-linux-gnueabihf-gcc", &["gcc-arm-linux-gnueabihf"]),
    need("/usr/aarch64-linux-gnu/include/stdio.h", &["libc6-dev-arm64-cross"]),
    need("/usr/arm-linux-gnueabihf/include/stdio.h", &["libc6-dev-armhf-cross"]),
    need("qemu-aarch64", &["qemu-user"]),
];

/// Makes sure that everything in `needs` is there.
pub(crate) fn ensure(needs: &[Need]) -> Result<()> {
    ensure_with(needs, |program| sh::find(program).is_some())
}

fn ensure_with(needs: &[Need], have: impl Fn(&str) -> bool) -> Result<()> {
    let packages = missing(needs, &have);
    if packages.is_empty() {
        return Ok(());
    }
    install(&packages)?;
    let left = missing(needs, &have);
    if !left.is_empty() {
        bail!("installed {}, but its programs are still not found", left.join(", "));
    }
    Ok(())
}

fn install(packages: &[&str]) -> Result<()> {
    let line = may_install(packages)?;
    eprintln!("installing {}", packages.join(", "));
    if apt_install(packages).is_err() {
        // The usual reason is a package list that is older than the mirror.
        apt(&["update"])?;
        apt_install(packages).with_context(|| format!("could not install; try `{line}` by hand"))?;
    }
    Ok(())
}

/// Installs the newest that the mirror has, for when what is there is too old: also in place of packages that these
/// do not go together with.
pub(crate) fn renew(packages: &[&str]) -> Result<()> {
    let line = may_install(packages)?;
    eprintln!("installing the newest {}", packages.join(", "));
    apt(&["update"])?;
    apt_install(packages).with_context(|| format!("could not install; try `{line}` by hand"))
}

/// The command that installs; an error with it when we may not run it.
fn may_install(packages: &[&str]) -> Result<String> {
    let line = format!("apt-get install -y {}", packages.join(" "));
    if sh::find("apt-get").is_none() {
        bail!("missing: {}; install them with your system's package manager", packages.join(", "));
    }
    if !sh::is_root() {
        bail!("missing system packages; run this and try again:\n    sudo apt-get update; sudo {line}");
    }
    Ok(line)
}

/// Packages of the needs that are not met, each once.
fn missing(needs: &[Need], have: &impl Fn(&str) -> bool) -> Vec<&'static str> {
    let mut packages = Vec::new();
    for need in needs.iter().filter(|need| !have(need.program)) {
        for package in need.packages {
            if !packages.contains(package) {
                packages.push(*package);
            }
        }
    }
    packages
}

fn apt_install(packages: &[&str]) -> Result<()> {
    let mut args = vec!["install", "-y", "--no-install-recommends"];
    args.extend(packages);
    apt(&args)
}

fn apt(args: &[&str]) -> Result<()> {
    let mut command = sh::system("apt-get");
    // No questions, and no daemon of a package is started.
    command.args(args).env("DEBIAN_FRONTEND", "noninteractive").env("RUNLEVEL", "1");
    sh::output(&mut command, APT_LIMIT).map(drop)
}

/// The package that `package` depends on and whose name begins with `prefix`: what a name such as
/// "the newest kernel" stands for now.
pub(crate) fn dependency(package: &str, prefix: &str) -> Result<String> {
    let ask = || sh::output(sh::system("apt-cache").args(["depends", package]), APT_LIMIT);
    let find = |told: &str| {
        let words = told.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
        words.map(str::trim).find(|name| name.starts_with(prefix)).map(str::to_owned)
    };
    if let Some(found) = ask().ok().as_deref().and_then(find) {
        return Ok(found);
    }
    // Before the first update there may be no list at all.
    apt(&["update"])?;
    find(&ask()?).with_context(|| format!("{package} depends on no {prefix}…"))
}

/// Downloads a package and unpacks it into `folder`, without installing anything.
pub(crate) fn unpack(package: &str, folder: &Path) -> Result<()> {
    eprintln!("downloading {package}");
    let fetch = || {
        let mut command = sh::system("apt-get");
        // As ourselves: apt's own user may not write to the folder.
        command.args(["download", "-o", "APT::Sandbox::User=root", package]).current_dir(folder);
        sh::output(&mut command, APT_LIMIT)
    };
    if fetch().is_err() {
        apt(&["update"])?;
        fetch()?;
    }
    for entry in fs::read_dir(folder)? {
        let file = entry?.path();
        if file.extension().is_some_and(|extension| extension == "deb") {
            sh::output(sh::system("dpkg-deb").arg("-x").arg(&file).arg(folder), APT_LIMIT)?;
            fs::remove_file(file)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_missing_package_is_named_once() {
        let have = |program: &str| program == "nft";
        assert_eq!(missing(LAB, &have), ["iproute2", "conntrack"]);
    }

    #[test]
    fn nothing_is_installed_when_everything_is_there() {
        assert!(ensure_with(LAB, |_| true).is_ok());
    }
}
