//! One file or folder that changes places with its successor.
//!
//! Beside the target `NAME` lies `.NAME.ota` with two entries: `new`, which is written, and later
//! holds the version before; and `state`, as the slot pair's. Both change places in one rename
//! (`RENAME_EXCHANGE`), so the target is there at any moment, old or new. Which of the two it is
//! after a cut, the inode number of the new one says.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
};

use ioex_base::ContentAddress;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde::{Deserialize, Serialize};

use super::{FileMedium, InstallError, STATE_BYTES, TRIAL_STARTS, Writing, state::Store};
use crate::{
    release::{Release, Version},
    verify::{self, Device},
};

/// Deepest folder in a tree: path names end there too.
const DEPTH_MAX: usize = 128;

/// Bytes that are hashed at once.
const READ_BYTES: usize = 256 * 1024;

/// Where the change stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Stage {
    /// Nothing is going on.
    Idle,
    /// A file is being written, or a folder filled, as `new`.
    Writing(Writing),
    /// `new` is whole.
    Ready { package: ContentAddress, version: Version, inode: u64 },
    /// The entry with this inode belongs under the target's name, for now.
    Trial { package: ContentAddress, version: Version, inode: u64, starts_left: u8 },
    /// The entry with this inode belongs under the target's name no more.
    Back { package: ContentAddress, inode: u64 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SwapState {
    version: Version,
    stage: Stage,
    failed: Option<ContentAddress>,
}

/// A target and what lies beside it.
#[derive(Debug)]
pub struct Swap {
    target: PathBuf,
    beside: PathBuf,
    store: Store<FileMedium>,
    state: SwapState,
}

impl Swap {
    /// Opens a target, and sets it up the first time: then `version` is what lies there.
    ///
    /// # Errors
    /// [`InstallError::State`], [`InstallError::Io`], also when the target has no name or no folder.
    pub fn open(target: &Path, version: Version) -> Result<Self, InstallError> {
        let name = target.file_name().ok_or(io::ErrorKind::InvalidInput);
        let name = name.map_err(|kind| InstallError::io("naming the target")(kind.into()))?;
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(".ota");
        let beside = target.with_file_name(hidden);
        fs::create_dir_all(&beside).map_err(InstallError::io("making the folder beside the target"))?;
        let path = beside.join("state");
        let first = SwapState { version, stage: Stage::Idle, failed: None };
        if !path.exists() {
            // The file gets its name only with a record in it.
            let draft = beside.join("state.new");
            let medium =
                FileMedium::create(&draft, STATE_BYTES).map_err(InstallError::io("making the state"))?;
            Store::format(medium, &first)?;
            fs::rename(&draft, &path).map_err(InstallError::io("naming the state"))?;
            sync_folder(&beside)?;
        }
        let medium = FileMedium::open(&path).map_err(InstallError::io("opening the state"))?;
        let (store, state) = Store::open(medium)?;
        let mut swap = Self { target: target.to_owned(), beside, store, state };
        swap.settle()?;
        Ok(swap)
    }

    /// The confirmed version.
    #[must_use]
    pub fn version(&self) -> Version {
        self.state.version
    }

    /// The version that lies at the target: the one on trial, or the confirmed one.
    #[must_use]
    pub fn running(&self) -> Version {
        match self.state.stage {
            Stage::Trial { version, .. } => version,
            _ => self.state.version,
        }
    }

    /// Lets a package that failed be tried again, because the device's owner says so.
    ///
    /// # Errors
    /// [`InstallError::State`].
    pub fn forgive(&mut self) -> Result<(), InstallError> {
        if self.state.failed.is_none() {
            return Ok(());
        }
        self.state.failed = None;
        self.save(self.state.stage)
    }

    /// Whether a version is on trial.
    #[must_use]
    pub fn on_trial(&self) -> bool {
        matches!(self.state.stage, Stage::Trial { .. })
    }

    /// Where the caller fills the new folder, when the target is one.
    #[must_use]
    pub fn new_path(&self) -> PathBuf {
        self.beside.join("new")
    }

    /// Begins, or goes on: [`SwapWriter::at`] says from which byte.
    ///
    /// # Errors
    /// [`InstallError`].
    pub fn begin(&mut self, release: &Release, device: &Device) -> Result<SwapWriter<'_>, InstallError> {
        release.check(release.length())?;
        if release.images.len() != 1 {
            let got = release.images.iter().map(|image| image.name.clone()).collect();
            return Err(InstallError::Images { want: vec!["one image".to_owned()], got });
        }
        if matches!(self.state.stage, Stage::Trial { .. } | Stage::Back { .. }) {
            return Err(InstallError::OnTrial);
        }
        verify::admit(release, device)?;
        let package = release.package();
        if self.state.failed == Some(package) {
            return Err(InstallError::FailedBefore(package));
        }
        let goes_on = match self.state.stage {
            Stage::Writing(writing) if writing.package == package => writing.durable_bytes,
            _ => 0,
        };
        if goes_on == 0 {
            remove(&self.new_path())?;
            self.save(Stage::Writing(Writing { package, durable_bytes: 0 }))?;
        }
        Ok(SwapWriter { file: None, at: goes_on, release: release.clone(), swap: self })
    }

    /// Puts what is ready under the target's name, on trial.
    ///
    /// # Errors
    /// [`InstallError::NotReady`], [`InstallError::State`], [`InstallError::Io`].
    pub fn activate(&mut self) -> Result<(), InstallError> {
        let Stage::Ready { package, version, inode } = self.state.stage else {
            return Err(InstallError::NotReady);
        };
        self.save(Stage::Trial { package, version, inode, starts_left: TRIAL_STARTS })?;
        self.settle()
    }

    /// To be called before what lies at the target is started: counts starts of a trial, and goes back
    /// when they are used up.
    ///
    /// # Errors
    /// [`InstallError::State`], [`InstallError::Io`].
    pub fn start(&mut self) -> Result<(), InstallError> {
        let Stage::Trial { package, version, inode, starts_left } = self.state.stage else { return Ok(()) };
        if starts_left == 0 {
            return self.roll_back();
        }
        self.save(Stage::Trial { package, version, inode, starts_left: starts_left - 1 })
    }

    /// The version on trial is healthy; the one before is removed.
    ///
    /// # Errors
    /// [`InstallError::NotOnTrial`], [`InstallError::State`], [`InstallError::Io`].
    pub fn confirm(&mut self) -> Result<(), InstallError> {
        let Stage::Trial { version, .. } = self.state.stage else { return Err(InstallError::NotOnTrial) };
        self.state.version = version;
        self.save(Stage::Idle)?;
        remove(&self.new_path())
    }

    /// Ends a trial: the version before lies at the target again.
    ///
    /// # Errors
    /// [`InstallError::NotOnTrial`], [`InstallError::State`], [`InstallError::Io`].
    pub fn roll_back(&mut self) -> Result<(), InstallError> {
        let Stage::Trial { package, inode, .. } = self.state.stage else {
            return Err(InstallError::NotOnTrial);
        };
        self.save(Stage::Back { package, inode })?;
        self.settle()
    }

    /// Does what the state says and a cut may have prevented.
    fn settle(&mut self) -> Result<(), InstallError> {
        match self.state.stage {
            Stage::Trial { inode, .. } if inode_of(&self.new_path()) == Some(inode) => self.exchange(),
            Stage::Back { package, inode } => {
                if inode_of(&self.target) == Some(inode) {
                    self.exchange()?;
                }
                self.state.failed = Some(package);
                self.save(Stage::Idle)?;
                remove(&self.new_path())
            }
            _ => Ok(()),
        }
    }

    /// Target and `new` change places; where one of them is absent, the other moves.
    fn exchange(&self) -> Result<(), InstallError> {
        let new = self.new_path();
        let (from, to, how) = match (new.symlink_metadata().is_ok(), self.target.symlink_metadata().is_ok()) {
            (true, true) => (&new, &self.target, RenameFlags::EXCHANGE),
            (true, false) => (&new, &self.target, RenameFlags::NOREPLACE),
            (false, _) => (&self.target, &new, RenameFlags::NOREPLACE),
        };
        let renamed = renameat_with(CWD, from, CWD, to, how);
        renamed.map_err(|error| InstallError::io("changing places")(error.into()))?;
        sync_folder(&self.beside)?;
        sync_folder(self.target.parent().unwrap_or(Path::new("/")))
    }

    fn save(&mut self, stage: Stage) -> Result<(), InstallError> {
        let next = SwapState { stage, ..self.state };
        self.store.save(&next)?;
        self.state = next;
        Ok(())
    }
}

/// A package on its way to lie beside the target.
#[derive(Debug)]
pub struct SwapWriter<'a> {
    swap: &'a mut Swap,
    release: Release,
    file: Option<File>,
    at: u64,
}

impl SwapWriter<'_> {
    /// From which byte of the package to go on. A folder is filled anew.
    #[must_use]
    pub fn at(&self) -> u64 {
        self.at
    }

    /// Writes the next bytes of a file.
    ///
    /// # Errors
    /// [`InstallError::TooMuch`] before anything is written, [`InstallError::Io`].
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), InstallError> {
        let length = self.release.length();
        if bytes.len() as u64 > length - self.at {
            return Err(InstallError::TooMuch(length));
        }
        if self.file.is_none() {
            let mut options = File::options();
            let opened = options.write(true).create(true).truncate(false).open(self.swap.new_path());
            let mut file = opened.map_err(InstallError::io("opening the new file"))?;
            io::Seek::seek(&mut file, io::SeekFrom::Start(self.at)).map_err(InstallError::io("seeking"))?;
            self.file = Some(file);
        }
        if let Some(file) = &mut self.file {
            file.write_all(bytes).map_err(InstallError::io("writing the new file"))?;
        }
        self.at += bytes.len() as u64;
        Ok(())
    }

    /// Makes durable what came so far.
    ///
    /// # Errors
    /// [`InstallError::Io`], [`InstallError::State`].
    pub fn checkpoint(&mut self) -> Result<(), InstallError> {
        if let Some(file) = &self.file {
            file.sync_all().map_err(InstallError::io("making the new file durable"))?;
            sync_folder(&self.swap.beside)?;
        }
        let package = self.release.package();
        self.swap.save(Stage::Writing(Writing { package, durable_bytes: self.at }))
    }

    /// Verifies what lies there, file or folder, and makes it ready. `executable` files get mode 755.
    ///
    /// # Errors
    /// [`InstallError::Content`], [`InstallError::Incomplete`], [`InstallError::Io`],
    /// [`InstallError::State`].
    pub fn finish(mut self, executable: bool) -> Result<(), InstallError> {
        drop(self.file.take());
        let new = self.swap.new_path();
        let io = InstallError::io;
        let metadata = new.symlink_metadata().map_err(io("looking at what was written"))?;
        let image = &self.release.images[0];
        let got = if metadata.is_dir() {
            tree_digest(&new).map_err(io("reading the new folder back"))?
        } else {
            if metadata.len() < image.length {
                return Err(InstallError::Incomplete { want: image.length, got: metadata.len() });
            }
            file_hash(&new).map_err(io("reading the new file back"))?
        };
        if got != image.hash {
            let name = image.name.clone();
            self.swap.save(Stage::Idle)?;
            return Err(InstallError::Content { name });
        }
        if metadata.is_file() && executable {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            fs::set_permissions(&new, mode).map_err(io("making the new file executable"))?;
        }
        sync_tree(&new, 0).map_err(io("making the new version durable"))?;
        sync_folder(&self.swap.beside)?;
        let (package, version) = (self.release.package(), self.release.version);
        self.swap.save(Stage::Ready { package, version, inode: metadata.ino() })
    }
}

fn inode_of(path: &Path) -> Option<u64> {
    path.symlink_metadata().ok().map(|metadata| metadata.ino())
}

fn remove(path: &Path) -> Result<(), InstallError> {
    let removed = match path.symlink_metadata() {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(_) => Ok(()),
    };
    removed.map_err(InstallError::io("removing what lies beside the target"))
}

fn sync_folder(path: &Path) -> Result<(), InstallError> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    File::open(path).and_then(|folder| folder.sync_all()).map_err(InstallError::io("making a rename durable"))
}

fn sync_tree(path: &Path, depth: usize) -> io::Result<()> {
    let metadata = path.symlink_metadata()?;
    if metadata.is_dir() {
        deep_enough(depth)?;
        for entry in fs::read_dir(path)? {
            sync_tree(&entry?.path(), depth + 1)?;
        }
    }
    if metadata.is_dir() || metadata.is_file() { File::open(path)?.sync_all() } else { Ok(()) }
}

fn deep_enough(depth: usize) -> io::Result<()> {
    if depth < DEPTH_MAX { Ok(()) } else { Err(io::Error::other("the folder is nested too deeply")) }
}

fn file_hash(path: &Path) -> io::Result<ContentAddress> {
    let mut file = File::open(path)?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finalize().into()),
            count => hasher.update(&buffer[..count]),
        };
    }
}

/// What a folder is called as an image: a hash over its entries by name, with kind, permission bits, content
/// and link targets. Owners and times are not part of it, for they differ where it is unpacked.
///
/// # Errors
/// When something cannot be read, or is neither file, folder nor symbolic link.
pub fn tree_digest(path: &Path) -> io::Result<ContentAddress> {
    let mut hasher = blake3::Hasher::new_derive_key("ioex 2026 update folder");
    digest_into(path, &mut hasher, 0)?;
    Ok(hasher.finalize().into())
}

fn digest_into(folder: &Path, hasher: &mut blake3::Hasher, depth: usize) -> io::Result<()> {
    deep_enough(depth)?;
    let mut entries = fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    hasher.update(&(entries.len() as u64).to_le_bytes());
    for entry in entries {
        let (path, name) = (entry.path(), entry.file_name());
        let metadata = path.symlink_metadata()?;
        hasher.update(&(name.len() as u64).to_le_bytes());
        hasher.update(name.as_bytes());
        let mode = (metadata.mode() & 0o7777).to_le_bytes();
        if metadata.is_dir() {
            hasher.update(b"d").update(&mode);
            digest_into(&path, hasher, depth + 1)?;
        } else if metadata.is_file() {
            hasher.update(b"f").update(&mode).update(file_hash(&path)?.as_bytes());
        } else if metadata.is_symlink() {
            let to = fs::read_link(&path)?;
            hasher.update(b"l").update(&(to.as_os_str().len() as u64).to_le_bytes());
            hasher.update(to.as_os_str().as_bytes());
        } else {
            return Err(io::Error::other(format!("{} is no file, folder or link", path.display())));
        }
    }
    Ok(())
}
