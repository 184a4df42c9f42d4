//! System packages: installed when we may (root, apt), otherwise named in one line to run.

use std::time::Duration;

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

/// Makes sure that everything in `needs` is there.
pub(crate) fn ensure(needs: &[Need]) -> Result<()> {
    ensure_with(needs, |program| sh::find(program).is_some())
}

fn ensure_with(needs: &[Need], have: impl Fn(&str) -> bool) -> Result<()> {
    let packages = missing(needs, &have);
    if packages.is_empty() {
        return Ok(());
    }
    let line = format!("apt-get install -y {}", packages.join(" "));
    if sh::find("apt-get").is_none() {
        bail!("missing: {}; install them with your system's package manager", packages.join(", "));
    }
    if !sh::is_root() {
        bail!("missing system packages; run this and try again:\n    sudo {line}");
    }
    eprintln!("installing {}", packages.join(", "));
    if apt_install(&packages).is_err() {
        // The usual reason is a package list that is older than the mirror.
        apt(&["update"])?;
        apt_install(&packages).with_context(|| format!("could not install; try `{line}` by hand"))?;
    }
    let left = missing(needs, &have);
    if !left.is_empty() {
        bail!("installed {}, but its programs are still not found", left.join(", "));
    }
    Ok(())
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
