//! Debian's kernel, unpacked beside our build: nothing of it is installed on this machine.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

use crate::{install, sh};

/// Always the newest one of Debian's release.
const META_PACKAGE: &str = "linux-image-cloud-amd64";

/// What the guest needs beside what is built in, each after those that it needs.
pub(super) const MODULES: [&str; 10] = [
    "drivers/virtio/virtio_ring",
    "drivers/virtio/virtio",
    "drivers/virtio/virtio_pci_legacy_dev",
    "drivers/virtio/virtio_pci_modern_dev",
    "drivers/virtio/virtio_pci",
    "drivers/block/virtio_blk",
    "net/core/failover",
    "drivers/net/net_failover",
    "drivers/net/virtio_net",
    "fs/squashfs/squashfs",
];

/// A kernel's files.
pub(super) struct Kernel {
    /// The image to start.
    pub(super) image: PathBuf,
    /// Below it lie the modules.
    pub(super) modules: PathBuf,
    /// Its release, such as `6.1.0-56-cloud-amd64`.
    pub(super) release: String,
}

impl Kernel {
    /// Finds it, or downloads and unpacks it.
    pub(super) fn get() -> Result<Self> {
        let package = install::dependency(META_PACKAGE, "linux-image-")?;
        let release = package.trim_start_matches("linux-image-").to_owned();
        let folder = sh::target_dir().join("lab-qemu").join(&package);
        let kernel = Self {
            image: folder.join("boot").join(format!("vmlinuz-{release}")),
            modules: folder.join("lib/modules").join(&release).join("kernel"),
            release,
        };
        if !kernel.image.is_file() {
            fs::create_dir_all(&folder)?;
            install::unpack(&package, &folder)?;
        }
        ensure!(kernel.image.is_file(), "{package} has no {}", kernel.image.display());
        Ok(kernel)
    }

    /// Copies the modules to `folder`, with a list that says in which order they go in.
    pub(super) fn copy_modules(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder)?;
        let mut order = String::new();
        for module in MODULES {
            let name = module.rsplit('/').next().unwrap_or(module);
            let file = self.modules.join(format!("{module}.ko"));
            fs::copy(&file, folder.join(format!("{name}.ko")))
                .with_context(|| format!("no {}", file.display()))?;
            order += name;
            order.push('\n');
        }
        fs::write(folder.join("order"), order)?;
        Ok(())
    }
}
