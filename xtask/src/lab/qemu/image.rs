//! The guest's disks and the initial RAM disk.

use std::{
    fs::{self, File, Permissions},
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use super::kernel::Kernel;
use crate::{sh, transfer};

/// Making an image on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);
/// Room in a slot, in bytes.
pub(super) const SLOT_BYTES: u64 = 48 << 20;
/// The disk that stays, in bytes.
const DATA_BYTES: u64 = 64 << 20;
/// What a firmware has beside our program, in bytes; it does not compress.
const FILLER_BYTES: u64 = 8 << 20;

/// Static, so that it needs nothing.
const BUSYBOX: &str = "/bin/busybox";

/// A version of the firmware.
pub(super) struct Firmware {
    /// What it calls itself.
    pub(super) version: u32,
    /// Whether its health check may succeed.
    pub(super) healthy: bool,
}

/// Makes the initial RAM disk: the kernel's modules, and our program as the boot loader's memory.
pub(super) fn initramfs(work: &Path, kernel: &Kernel, ioex: &Path) -> Result<PathBuf> {
    let (tree, out) = (work.join("initramfs.tree"), work.join("initramfs"));
    programs(&tree, ioex)?;
    kernel.copy_modules(&tree.join("modules"))?;
    program(&tree.join("init"), include_str!("initramfs.sh"))?;
    let script = format!("find . | cpio --create --format=newc --owner=0:0 --quiet > '{}'", out.display());
    sh::output(sh::system("sh").args(["-c", &script]).current_dir(&tree), LIMIT)?;
    fs::remove_dir_all(tree)?;
    Ok(out)
}

/// Makes a firmware's file system, as its maker hands it out: busybox, the device build with its libraries and
/// what it has to know of its maker, the version, and filler.
pub(super) fn firmware(work: &Path, ioex: &Path, bundle: &Path, firmware: &Firmware) -> Result<PathBuf> {
    let Firmware { version, healthy } = firmware;
    let (tree, out) = (work.join(format!("tree{version}")), work.join(format!("firmware{version}.img")));
    for folder in ["proc", "sys", "dev", "data", "tmp"] {
        fs::create_dir_all(tree.join(folder))?;
    }
    programs(&tree, ioex)?;
    let applets = sh::output(sh::system(BUSYBOX).arg("--list"), LIMIT)?;
    for applet in applets.lines().filter(|applet| *applet != "busybox") {
        symlink("busybox", tree.join("bin").join(applet))?;
    }
    program(&tree.join("init"), include_str!("rootfs.sh"))?;
    program(&tree.join("health"), include_str!("health.sh"))?;
    program(&tree.join("restart"), include_str!("restart.sh"))?;
    fs::write(tree.join("node.toml"), include_str!("node.toml"))?;
    fs::copy(bundle, tree.join("bundle")).context("no bundle")?;
    fs::write(tree.join("version"), format!("{version}\n"))?;
    if !healthy {
        fs::write(tree.join("broken"), "")?;
    }
    transfer::random_file(&tree.join("filler"), FILLER_BYTES)?;
    // Nothing is compressed: two versions then share what did not change.
    let mut command = sh::system("mksquashfs");
    command.arg(&tree).arg(&out).args("-noappend -quiet -no-progress -all-root -all-time 0".split(' '));
    sh::output(command.args("-noI -noD -noF -noX".split(' ')), LIMIT)?;
    fs::remove_dir_all(tree)?;
    let bytes = fs::metadata(&out)?.len();
    ensure!(bytes <= SLOT_BYTES, "a firmware of {bytes} bytes does not fit into a slot");
    Ok(out)
}

/// A slot as the factory leaves it: with a firmware, or with nothing in it.
pub(super) fn slot(work: &Path, name: &str, firmware: Option<&Path>) -> Result<PathBuf> {
    let slot = work.join(format!("slot-{name}.disk"));
    let mut file = File::create(&slot)?;
    if let Some(firmware) = firmware {
        std::io::copy(&mut File::open(firmware)?, &mut file)?;
    }
    file.set_len(SLOT_BYTES)?;
    Ok(slot)
}

/// The disk that stays; at first only the flags of the node are there.
pub(super) fn data(work: &Path, flags: &[String]) -> Result<PathBuf> {
    let (tree, out) = (work.join("data.tree"), work.join("data.disk"));
    fs::create_dir_all(&tree)?;
    fs::write(tree.join("flags"), format!("{}\n", flags.join(" ")))?;
    File::create(&out)?.set_len(DATA_BYTES)?;
    sh::output(sh::system("mkfs.ext4").args(["-q", "-F", "-d"]).arg(&tree).arg(&out), LIMIT)?;
    fs::remove_dir_all(tree)?;
    Ok(out)
}

/// busybox, and the device build with its libraries where they look for each other.
fn programs(tree: &Path, ioex: &Path) -> Result<()> {
    fs::create_dir_all(tree.join("bin"))?;
    fs::copy(BUSYBOX, tree.join("bin/busybox")).context("no busybox")?;
    fs::copy(ioex, tree.join("bin/ioex")).with_context(|| format!("no {}", ioex.display()))?;
    for library in libraries(ioex)? {
        let to = tree.join(library.trim_start_matches('/'));
        fs::create_dir_all(to.parent().context("a library without a folder")?)?;
        fs::copy(&library, to).with_context(|| format!("no {library}"))?;
    }
    Ok(())
}

fn program(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text)?;
    fs::set_permissions(path, Permissions::from_mode(0o755))?;
    Ok(())
}

/// Paths of the shared libraries and of their loader.
fn libraries(program: &Path) -> Result<Vec<String>> {
    Ok(parse_ldd(&sh::output(sh::system("ldd").arg(program), LIMIT)?))
}

/// Takes the first absolute path of each line; the kernel's own library has none.
fn parse_ldd(told: &str) -> Vec<String> {
    let path = |line: &str| line.split_whitespace().find(|word| word.starts_with('/')).map(str::to_owned);
    told.lines().filter_map(path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_and_loader_are_found() {
        let told = "\tlinux-vdso.so.1 (0x00007f)\n\tlibc.so.6 => /lib/x/libc.so.6 (0x00007f)\n\t/lib64/ld.so.2 (0x0)\n";
        assert_eq!(parse_ldd(told), ["/lib/x/libc.so.6", "/lib64/ld.so.2"]);
    }
}
