//! Where things lie on disk, and writing them so that a crash leaves the old or the new.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use ioex_base::ContentAddress;

use crate::{
    StoreError,
    sidecar::{SIDECAR_MAX_BYTES, Sidecar, SidecarError},
};

/// How a sidecar's name ends.
pub(crate) const SIDECAR_SUFFIX: &str = ".lease";
/// How many characters of an address name its directory: 1,024 directories keep each one short
/// on file systems that search directories one name after the other.
pub(crate) const PREFIX_CHARS: usize = 2;

/// The store's directory and the names below it.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(crate) root: PathBuf,
}

impl Layout {
    pub(crate) fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    pub(crate) fn incoming(&self) -> PathBuf {
        self.root.join("incoming")
    }

    pub(crate) fn damaged(&self) -> PathBuf {
        self.root.join("damaged")
    }

    pub(crate) fn prefix_dir(&self, address: &ContentAddress) -> PathBuf {
        let mut text = address.to_string();
        text.truncate(PREFIX_CHARS);
        self.root.join(text)
    }

    pub(crate) fn shard(&self, address: &ContentAddress) -> PathBuf {
        self.prefix_dir(address).join(address.to_string())
    }

    pub(crate) fn sidecar(&self, address: &ContentAddress) -> PathBuf {
        self.prefix_dir(address).join(format!("{address}{SIDECAR_SUFFIX}"))
    }

    /// A name for an arriving file. `number` is unique in this process, and the directory is
    /// emptied when the store is opened.
    pub(crate) fn temporary(&self, number: u64) -> PathBuf {
        self.incoming().join(number.to_string())
    }

    /// Creates the directory of `address`, durably.
    pub(crate) fn make_prefix_dir(&self, address: &ContentAddress) -> Result<PathBuf, StoreError> {
        let dir = self.prefix_dir(address);
        match fs::create_dir(&dir) {
            Ok(()) => sync_dir(&self.root)?,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(StoreError::io("create", &dir)(e)),
        }
        Ok(dir)
    }

    /// Writes the sidecar of `address` by way of `temporary`; the caller syncs the directory.
    pub(crate) fn write_sidecar(
        &self,
        address: &ContentAddress,
        sidecar: &Sidecar,
        temporary: &Path,
    ) -> Result<(), StoreError> {
        let path = self.sidecar(address);
        let written = write_synced(temporary, &sidecar.encode()).and_then(|()| fs::rename(temporary, &path));
        written.map_err(|e| {
            let _ = fs::remove_file(temporary);
            StoreError::io("write", &path)(e)
        })
    }

    /// Reads the sidecar of `address`; a missing one counts as damaged.
    pub(crate) fn read_sidecar(
        &self,
        address: &ContentAddress,
    ) -> Result<Result<Sidecar, SidecarError>, StoreError> {
        let path = self.sidecar(address);
        let mut bytes = Vec::new();
        let read = File::open(&path)
            .and_then(|file| file.take(SIDECAR_MAX_BYTES.saturating_add(1)).read_to_end(&mut bytes));
        match read {
            Ok(_) => Ok(Sidecar::decode(&bytes)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Err(SidecarError::Damaged)),
            Err(e) => Err(StoreError::io("read", &path)(e)),
        }
    }

    /// Whether the shard's file is there with this length.
    pub(crate) fn shard_has_length(&self, address: &ContentAddress, len_bytes: u64) -> bool {
        fs::symlink_metadata(self.shard(address)).is_ok_and(|m| m.is_file() && m.len() == len_bytes)
    }

    /// Moves what there is of `address` to `damaged/`, where nothing reads it.
    pub(crate) fn set_aside(&self, address: &ContentAddress) -> Result<(), StoreError> {
        for path in [self.shard(address), self.sidecar(address)] {
            let Some(name) = path.file_name() else { continue };
            match fs::rename(&path, self.damaged().join(name)) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(StoreError::io("set aside", &path)(e)),
            }
        }
        Ok(())
    }

    /// Bytes in `damaged/`; what cannot be read counts nothing.
    pub(crate) fn damaged_bytes(&self) -> u64 {
        let Ok(entries) = fs::read_dir(self.damaged()) else { return 0 };
        entries.flatten().filter_map(|e| e.metadata().ok()).map(|m| m.len()).fold(0, u64::saturating_add)
    }
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Makes new and removed names in `dir` durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), StoreError> {
    // Other systems refuse to open a directory as a file and order such changes by themselves.
    if cfg!(unix) {
        File::open(dir).and_then(|d| d.sync_all()).map_err(StoreError::io("sync", dir))?;
    }
    Ok(())
}

/// Removes a file that may be gone already.
pub(crate) fn remove_if_there(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(StoreError::io("remove", path)(e)),
        _ => Ok(()),
    }
}
