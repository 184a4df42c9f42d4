//! Files and folders as a swap changes them, and what a folder is called.

use std::{
    ffi::OsString,
    fs::{self, File},
    io,
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

use ioex_base::ContentAddress;
use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::{FileMedium, Medium};

/// Deepest folder in a tree: path names end there too.
const DEPTH_MAX: usize = 128;

/// Bytes that are hashed at once.
const READ_BYTES: usize = 256 * 1024;

/// What lies under a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A file.
    File,
    /// A folder.
    Folder,
    /// A symbolic link, which is not followed.
    Link,
    /// A device, a socket or the like.
    Other,
}

/// An entry of a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub kind: Kind,
    /// A file's length in bytes.
    pub bytes: u64,
    /// Its number in the file system, which it keeps when it is renamed.
    pub inode: u64,
    /// Its permission bits.
    pub mode: u32,
}

/// A file system. The second implementation is the test's, which loses power.
pub trait Files {
    /// An opened file.
    type Medium: Medium;

    /// Makes a folder, with those above it, where there is none.
    ///
    /// # Errors
    /// As the system says.
    fn make_folder(&self, path: &Path) -> io::Result<()>;
    /// Opens a file, or makes one of `length` bytes. An existing shorter one is lengthened.
    ///
    /// # Errors
    /// As the system says.
    fn create(&self, path: &Path, length: u64) -> io::Result<Self::Medium>;
    /// Opens a file for reading, and for writing when `writes`.
    ///
    /// # Errors
    /// As the system says.
    fn open(&self, path: &Path, writes: bool) -> io::Result<Self::Medium>;
    /// What lies there; `None` when nothing does.
    ///
    /// # Errors
    /// As the system says.
    fn look(&self, path: &Path) -> io::Result<Option<Entry>>;
    /// The names in a folder, in any order.
    ///
    /// # Errors
    /// As the system says.
    fn names(&self, path: &Path) -> io::Result<Vec<OsString>>;
    /// Where a symbolic link leads.
    ///
    /// # Errors
    /// As the system says.
    fn link_target(&self, path: &Path) -> io::Result<PathBuf>;
    /// Moves an entry to a name that is free.
    ///
    /// # Errors
    /// As the system says, also when the name is taken.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Lets two entries change places, at once.
    ///
    /// # Errors
    /// As the system says.
    fn exchange(&self, one: &Path, other: &Path) -> io::Result<()>;
    /// Removes a file, or a folder with what is in it.
    ///
    /// # Errors
    /// As the system says.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Sets permission bits.
    ///
    /// # Errors
    /// As the system says.
    fn set_mode(&self, path: &Path, mode: u32) -> io::Result<()>;
    /// Makes durable which entries a folder has.
    ///
    /// # Errors
    /// As the system says.
    fn sync_folder(&self, path: &Path) -> io::Result<()>;
}

/// The system's.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemFiles;

impl Files for SystemFiles {
    type Medium = FileMedium;

    fn make_folder(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    fn create(&self, path: &Path, length: u64) -> io::Result<FileMedium> {
        FileMedium::create(path, length)
    }

    fn open(&self, path: &Path, writes: bool) -> io::Result<FileMedium> {
        if writes { FileMedium::open(path) } else { FileMedium::open_to_read(path) }
    }

    fn look(&self, path: &Path) -> io::Result<Option<Entry>> {
        let metadata = match path.symlink_metadata() {
            Ok(metadata) => metadata,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let kind = match metadata.file_type() {
            kind if kind.is_file() => Kind::File,
            kind if kind.is_dir() => Kind::Folder,
            kind if kind.is_symlink() => Kind::Link,
            _ => Kind::Other,
        };
        let (bytes, inode, mode) = (metadata.len(), metadata.ino(), metadata.mode() & 0o7777);
        Ok(Some(Entry { kind, bytes, inode, mode }))
    }

    fn names(&self, path: &Path) -> io::Result<Vec<OsString>> {
        fs::read_dir(path)?.map(|entry| Ok(entry?.file_name())).collect()
    }

    fn link_target(&self, path: &Path) -> io::Result<PathBuf> {
        fs::read_link(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        Ok(renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)?)
    }

    fn exchange(&self, one: &Path, other: &Path) -> io::Result<()> {
        Ok(renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE)?)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        if path.symlink_metadata()?.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
    }

    fn set_mode(&self, path: &Path, mode: u32) -> io::Result<()> {
        fs::set_permissions(path, fs::Permissions::from_mode(mode))
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        File::open(path)?.sync_all()
    }
}

/// What lies there.
pub(super) fn entry<F: Files>(files: &F, path: &Path) -> io::Result<Entry> {
    files.look(path)?.ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// Makes a file durable, or a folder with everything in it.
pub(super) fn sync_tree<F: Files>(files: &F, path: &Path) -> io::Result<()> {
    sync_below(files, path, 0)
}

fn sync_below<F: Files>(files: &F, path: &Path, depth: usize) -> io::Result<()> {
    match entry(files, path)?.kind {
        Kind::Folder => {
            deep_enough(depth)?;
            for name in files.names(path)? {
                sync_below(files, &path.join(name), depth + 1)?;
            }
            files.sync_folder(path)
        }
        Kind::File => files.open(path, false)?.sync(),
        Kind::Link | Kind::Other => Ok(()),
    }
}

fn deep_enough(depth: usize) -> io::Result<()> {
    if depth < DEPTH_MAX { Ok(()) } else { Err(io::Error::other("the folder is nested too deeply")) }
}

/// BLAKE3 of a file that has `bytes` bytes.
pub(super) fn file_hash<F: Files>(files: &F, path: &Path, bytes: u64) -> io::Result<ContentAddress> {
    let file = files.open(path, false)?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; usize::try_from(bytes).map_or(READ_BYTES, |bytes| bytes.min(READ_BYTES))];
    let mut at = 0;
    while at < bytes {
        let now = usize::try_from(bytes - at).map_or(READ_BYTES, |left| left.min(READ_BYTES));
        file.read_at(at, &mut buffer[..now])?;
        hasher.update(&buffer[..now]);
        at += now as u64;
    }
    Ok(hasher.finalize().into())
}

/// What a folder is called as an image: a hash over its entries by name, with kind, permission bits, content
/// and link targets. Owners and times are not part of it, for they differ where it is unpacked.
///
/// # Errors
/// When something cannot be read, or is neither file, folder nor symbolic link.
pub fn tree_digest(path: &Path) -> io::Result<ContentAddress> {
    digest(&SystemFiles, path)
}

/// See [`tree_digest`].
pub(super) fn digest<F: Files>(files: &F, path: &Path) -> io::Result<ContentAddress> {
    let mut hasher = blake3::Hasher::new_derive_key("ioex 2026 update folder");
    digest_into(files, path, &mut hasher, 0)?;
    Ok(hasher.finalize().into())
}

fn digest_into<F: Files>(
    files: &F,
    folder: &Path,
    hasher: &mut blake3::Hasher,
    depth: usize,
) -> io::Result<()> {
    deep_enough(depth)?;
    let mut names = files.names(folder)?;
    names.sort_unstable();
    hasher.update(&(names.len() as u64).to_le_bytes());
    for name in names {
        let path = folder.join(&name);
        let found = entry(files, &path)?;
        hasher.update(&(name.len() as u64).to_le_bytes());
        hasher.update(name.as_bytes());
        let mode = found.mode.to_le_bytes();
        match found.kind {
            Kind::Folder => {
                hasher.update(b"d").update(&mode);
                digest_into(files, &path, hasher, depth + 1)?;
            }
            Kind::File => {
                hasher.update(b"f").update(&mode).update(file_hash(files, &path, found.bytes)?.as_bytes());
            }
            Kind::Link => {
                let to = files.link_target(&path)?;
                hasher.update(b"l").update(&(to.as_os_str().len() as u64).to_le_bytes());
                hasher.update(to.as_os_str().as_bytes());
            }
            Kind::Other => {
                return Err(io::Error::other(format!("{} is no file, folder or link", path.display())));
            }
        }
    }
    Ok(())
}
