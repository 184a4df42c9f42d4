//! Where things lie on disk, and writing them so that a crash leaves the old or the new.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use ioex_base::{ContentAddress, limits::HEAD_MAX_BYTES};

use crate::{
    StoreError,
    sidecar::{SIDECAR_MAX_BYTES, Sidecar, SidecarError},
};

/// How a sidecar's name ends.
pub(crate) const SIDECAR_SUFFIX: &str = ".lease";
/// How many characters of an address name its directory: 1,024 directories keep each one short
/// on file systems that search directories one name after the other.
pub(crate) const PREFIX_CHARS: usize = 2;
/// Where heads lie.
pub(crate) const HEADS_DIR: &str = "heads";
/// What the space is counted in: the block of common file systems.
pub(crate) const BLOCK_BYTES: u64 = 4096;

/// What an address names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Bytes that hash to the address; they never change.
    Shard,
    /// What a repository signed last, under an address that follows from its key.
    Head,
}

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

    pub(crate) fn heads(&self) -> PathBuf {
        self.root.join(HEADS_DIR)
    }

    pub(crate) fn dir_of(&self, kind: Kind, address: &ContentAddress) -> PathBuf {
        match kind {
            Kind::Head => self.heads(),
            Kind::Shard => {
                let mut text = address.to_string();
                text.truncate(PREFIX_CHARS);
                self.root.join(text)
            }
        }
    }

    /// The file of a shard or a head.
    pub(crate) fn content(&self, kind: Kind, address: &ContentAddress) -> PathBuf {
        self.dir_of(kind, address).join(address.to_string())
    }

    pub(crate) fn sidecar(&self, kind: Kind, address: &ContentAddress) -> PathBuf {
        self.dir_of(kind, address).join(format!("{address}{SIDECAR_SUFFIX}"))
    }

    /// A name for an arriving file. `number` is unique in this process, and the directory is
    /// emptied when the store is opened.
    pub(crate) fn temporary(&self, number: u64) -> PathBuf {
        self.incoming().join(number.to_string())
    }

    /// Creates the directory of `address`, durably.
    pub(crate) fn make_dir_of(&self, kind: Kind, address: &ContentAddress) -> Result<PathBuf, StoreError> {
        let dir = self.dir_of(kind, address);
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
        kind: Kind,
        address: &ContentAddress,
        sidecar: &Sidecar,
        temporary: &Path,
    ) -> Result<(), StoreError> {
        let path = self.sidecar(kind, address);
        let written = write_synced(temporary, &sidecar.encode()).and_then(|()| fs::rename(temporary, &path));
        written.map_err(|e| {
            let _ = fs::remove_file(temporary);
            StoreError::io("write", &path)(e)
        })
    }

    /// Reads the sidecar of `address`; a missing one counts as damaged.
    pub(crate) fn read_sidecar(
        &self,
        kind: Kind,
        address: &ContentAddress,
    ) -> Result<Result<Sidecar, SidecarError>, StoreError> {
        let path = self.sidecar(kind, address);
        match read_at_most(&path, SIDECAR_MAX_BYTES) {
            Ok(bytes) => Ok(Sidecar::decode(&bytes)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Err(SidecarError::Damaged)),
            Err(e) => Err(StoreError::io("read", &path)(e)),
        }
    }

    /// The bytes of a head, up to one more than heads may have.
    pub(crate) fn read_head(&self, address: &ContentAddress) -> Result<Vec<u8>, StoreError> {
        let path = self.content(Kind::Head, address);
        read_at_most(&path, HEAD_MAX_BYTES as u64).map_err(StoreError::io("read", &path))
    }

    /// Whether the file is there with this length.
    pub(crate) fn has_length(
        &self,
        kind: Kind,
        address: &ContentAddress,
        len_bytes: u64,
    ) -> Result<bool, StoreError> {
        let path = self.content(kind, address);
        match fs::symlink_metadata(&path) {
            Ok(meta) => Ok(meta.is_file() && meta.len() == len_bytes),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(StoreError::io("read", &path)(e)),
        }
    }

    /// Moves what there is of `address` to `damaged/`, where nothing reads it.
    pub(crate) fn set_aside(&self, kind: Kind, address: &ContentAddress) -> Result<(), StoreError> {
        for path in [self.content(kind, address), self.sidecar(kind, address)] {
            let Some(name) = path.file_name() else { continue };
            match fs::rename(&path, self.damaged().join(name)) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(StoreError::io("set aside", &path)(e)),
            }
        }
        Ok(())
    }

    /// Removes what there is of `address`, durably. The content goes first: what a crash leaves
    /// then is a sidecar alone, which the next start removes.
    pub(crate) fn delete(&self, kind: Kind, address: &ContentAddress) -> Result<(), StoreError> {
        remove_if_there(&self.content(kind, address))?;
        remove_if_there(&self.sidecar(kind, address))?;
        let dir = self.dir_of(kind, address);
        sync_dir(&dir)?;
        // Empty directories take space as well. One that is not empty stays.
        if kind == Kind::Shard {
            let _ = fs::remove_dir(&dir);
        }
        Ok(())
    }

    /// Bytes that `damaged/` takes; what cannot be read counts nothing.
    pub(crate) fn damaged_bytes(&self) -> u64 {
        let Ok(entries) = fs::read_dir(self.damaged()) else { return 0 };
        let on_disk = |m: fs::Metadata| m.len().div_ceil(BLOCK_BYTES).saturating_mul(BLOCK_BYTES);
        entries.flatten().filter_map(|e| e.metadata().ok()).map(on_disk).fold(0, u64::saturating_add)
    }
}

/// Reads a file, but no more than `max` bytes and one: who gets more refuses it.
fn read_at_most(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(max.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok(bytes)
}

pub(crate) fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
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
