//! Packages on this node's disk: shards and sealed manifests, each in a file named by its address.
//!
//! A shard gets its name only once its bytes are on disk and were compared with it. What a crash
//! leaves has another name, and is swept away at the next start.

use std::{
    collections::HashSet,
    fs::{self, File},
    io::{self, Write as _},
    ops::Range,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use ioex_base::ContentAddress;

const UNFINISHED: &str = "new";

/// The folder.
#[derive(Clone, Debug)]
pub(crate) struct Shelf {
    shards: PathBuf,
    manifests: PathBuf,
}

impl Shelf {
    /// Opens or makes it.
    ///
    /// # Errors
    /// When the disk fails.
    pub(crate) fn open(dir: &Path) -> io::Result<Self> {
        let shelf = Self { shards: dir.join("shards"), manifests: dir.join("manifests") };
        for folder in [&shelf.shards, &shelf.manifests] {
            fs::create_dir_all(folder)?;
            for entry in fs::read_dir(folder)?.flatten() {
                if entry.path().extension().is_some_and(|end| end == UNFINISHED) {
                    fs::remove_file(entry.path())?;
                }
            }
        }
        Ok(shelf)
    }

    fn shard(&self, address: &ContentAddress) -> PathBuf {
        self.shards.join(address.to_string())
    }

    /// Whether a shard of this length is here.
    pub(crate) fn has(&self, address: &ContentAddress, bytes: u32) -> bool {
        fs::metadata(self.shard(address)).is_ok_and(|meta| meta.len() == u64::from(bytes))
    }

    /// Whether a shard is here, and still what it was: a device that serves rotten bytes is shut out by
    /// everybody who gets them. One that is not is removed.
    pub(crate) fn is_whole(&self, address: &ContentAddress, bytes: u32) -> bool {
        if !self.has(address, bytes) {
            return false;
        }
        let whole = fs::read(self.shard(address)).is_ok_and(|read| ContentAddress::of(&read) == *address);
        if !whole {
            tracing::warn!("a shard on this disk is damaged and is fetched again: {address}");
            let _ = fs::remove_file(self.shard(address));
        }
        whole
    }

    /// Opens a shard; `None` when it is not here.
    ///
    /// # Errors
    /// When the disk fails.
    pub(crate) fn open_shard(&self, address: &ContentAddress) -> io::Result<Option<File>> {
        opened(&self.shard(address))
    }

    /// Part of a shard.
    ///
    /// # Errors
    /// When it is not here or too short, or the disk fails.
    pub(crate) fn read(&self, address: &ContentAddress, range: Range<u64>) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(range.end - range.start).unwrap_or(0)];
        File::open(self.shard(address))?.read_exact_at(&mut bytes, range.start)?;
        Ok(bytes)
    }

    /// Keeps a shard whose address was checked.
    ///
    /// # Errors
    /// When the disk fails or is full; nothing is left behind then.
    pub(crate) fn put(&self, address: &ContentAddress, bytes: &[u8]) -> io::Result<()> {
        kept(&self.shard(address), bytes)
    }

    /// Keeps a sealed manifest and returns its address.
    ///
    /// # Errors
    /// When the disk fails or is full.
    pub(crate) fn put_manifest(&self, sealed: &[u8]) -> io::Result<ContentAddress> {
        let address = ContentAddress::of(sealed);
        kept(&self.manifests.join(address.to_string()), sealed)?;
        Ok(address)
    }

    /// A sealed manifest.
    ///
    /// # Errors
    /// When the disk fails, or what lies there is damaged.
    pub(crate) fn manifest(&self, address: &ContentAddress) -> io::Result<Option<Vec<u8>>> {
        match fs::read(self.manifests.join(address.to_string())) {
            Ok(bytes) if ContentAddress::of(&bytes) == *address => Ok(Some(bytes)),
            Ok(_) => Ok(None),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Opens a sealed manifest, for passing it on.
    ///
    /// # Errors
    /// When the disk fails.
    pub(crate) fn open_manifest(&self, address: &ContentAddress) -> io::Result<Option<(File, u64)>> {
        let Some(file) = opened(&self.manifests.join(address.to_string()))? else { return Ok(None) };
        let bytes = file.metadata()?.len();
        Ok(Some((file, bytes)))
    }

    /// Deletes everything else. Returns how many bytes that gave back.
    ///
    /// # Errors
    /// When the disk fails.
    pub(crate) fn keep_only(
        &self,
        manifests: &HashSet<ContentAddress>,
        shards: &HashSet<ContentAddress>,
    ) -> io::Result<u64> {
        let mut freed = 0;
        for (folder, keep) in [(&self.shards, shards), (&self.manifests, manifests)] {
            for entry in fs::read_dir(folder)?.flatten() {
                let address = entry.file_name().to_str().and_then(|name| name.parse().ok());
                if address.is_some_and(|address| !keep.contains(&address)) {
                    freed += entry.metadata().map_or(0, |meta| meta.len());
                    fs::remove_file(entry.path())?;
                }
            }
        }
        Ok(freed)
    }
}

fn opened(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

fn kept(path: &Path, bytes: &[u8]) -> io::Result<()> {
    static DRAFTS: AtomicU64 = AtomicU64::new(0);
    // A name of its own: the same shard may come from two providers at once.
    let number = DRAFTS.fetch_add(1, Ordering::Relaxed);
    let unfinished = path.with_extension(format!("{number}.{UNFINISHED}"));
    let write = || {
        let mut file = File::create(&unfinished)?;
        file.write_all(bytes)?;
        file.sync_data()?;
        fs::rename(&unfinished, path)
    };
    let written = write();
    if written.is_err() {
        let _ = fs::remove_file(&unfinished);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_rots_is_not_served_and_what_is_not_named_goes() {
        let dir = tempfile::tempdir().unwrap();
        let shelf = Shelf::open(dir.path()).unwrap();
        let (a, b) = (ContentAddress::of(b"aaaa"), ContentAddress::of(b"bbbb"));
        shelf.put(&a, b"aaaa").unwrap();
        shelf.put(&b, b"bbbb").unwrap();
        assert!(shelf.is_whole(&a, 4) && shelf.is_whole(&b, 4) && !shelf.has(&a, 5));
        assert_eq!(shelf.read(&a, 1..3).unwrap(), b"aa");
        fs::write(dir.path().join("shards").join(b.to_string()), b"bbxb").unwrap();
        assert!(shelf.has(&b, 4) && !shelf.is_whole(&b, 4) && !shelf.has(&b, 4));

        fs::write(dir.path().join("shards").join("x.new"), b"torn").unwrap();
        let manifest = shelf.put_manifest(b"sealed").unwrap();
        let shelf = Shelf::open(dir.path()).unwrap();
        assert!(!dir.path().join("shards/x.new").exists());
        assert_eq!(shelf.manifest(&manifest).unwrap().unwrap(), b"sealed");
        assert_eq!(shelf.keep_only(&HashSet::from([manifest]), &HashSet::new()).unwrap(), 4);
        assert!(!shelf.has(&a, 4));
        assert!(shelf.manifest(&manifest).unwrap().is_some());
    }
}
