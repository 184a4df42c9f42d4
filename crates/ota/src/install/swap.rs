//! One file or folder that changes places with its successor.
//!
//! Beside the target `NAME` lies `.NAME.ota` with two entries: `new`, which is written, and later
//! holds the version before; and `state`, as the slot pair's. Both change places in one rename
//! (`RENAME_EXCHANGE`), so the target is there at any moment, old or new. Which of the two it is
//! after a cut, the inode number of the new one says.

use std::{
    io,
    path::{Path, PathBuf},
};

use ioex_base::ContentAddress;
use serde::{Deserialize, Serialize};

use super::{
    InstallError, Medium, STATE_BYTES, TRIAL_STARTS, Writing,
    files::{Files, Kind, SystemFiles, digest, entry, file_hash, sync_tree},
    state::Store,
};
use crate::{
    release::{Release, Version},
    verify::{self, Device},
};

/// Permission bits of a program.
const EXECUTABLE: u32 = 0o755;

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
pub struct Swap<F: Files = SystemFiles> {
    files: F,
    target: PathBuf,
    beside: PathBuf,
    store: Store<F::Medium>,
    state: SwapState,
}

impl Swap {
    /// Whether the package is one image.
    ///
    /// # Errors
    /// [`InstallError::Images`].
    pub fn fits(release: &Release) -> Result<(), InstallError> {
        if release.images.len() == 1 {
            return Ok(());
        }
        let got = release.images.iter().map(|image| image.name.clone()).collect();
        Err(InstallError::Images { want: vec!["one image".to_owned()], got })
    }

    /// Opens a target, and sets it up the first time: then `version` is what lies there. Does what a cut
    /// prevented.
    ///
    /// # Errors
    /// [`InstallError::State`], [`InstallError::Io`], also when the target has no name or no folder.
    pub fn open(target: &Path, version: Version) -> Result<Self, InstallError> {
        Self::open_on(SystemFiles, target, version)
    }
}

impl<F: Files> Swap<F> {
    /// See [`Swap::open`].
    ///
    /// # Errors
    /// As there.
    pub fn open_on(files: F, target: &Path, version: Version) -> Result<Self, InstallError> {
        let name = target.file_name().ok_or(io::ErrorKind::InvalidInput);
        let name = name.map_err(|kind| InstallError::io("naming the target")(kind.into()))?;
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(".ota");
        let beside = target.with_file_name(hidden);
        files.make_folder(&beside).map_err(InstallError::io("making the folder beside the target"))?;
        let path = beside.join("state");
        let first = SwapState { version, stage: Stage::Idle, failed: None };
        if files.look(&path).map_err(InstallError::io("looking for the state"))?.is_none() {
            // The file gets its name only with a record in it.
            let draft = beside.join("state.new");
            let medium = files.create(&draft, STATE_BYTES).map_err(InstallError::io("making the state"))?;
            Store::format(medium, &first)?;
            files.rename(&draft, &path).map_err(InstallError::io("naming the state"))?;
            files.sync_folder(&beside).map_err(InstallError::io("making the state's name durable"))?;
        }
        let medium = files.open(&path, true).map_err(InstallError::io("opening the state"))?;
        let (store, state) = Store::open(medium)?;
        let mut swap = Self { files, target: target.to_owned(), beside, store, state };
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
    pub fn begin(&mut self, release: &Release, device: &Device) -> Result<SwapWriter<'_, F>, InstallError> {
        release.check(release.length())?;
        Swap::fits(release)?;
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
            // Noted first: after a cut in between nothing says that what is half removed is ready.
            self.save(Stage::Writing(Writing { package, durable_bytes: 0 }))?;
            self.remove_new()?;
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
        if self.inode(&self.new_path())? != Some(inode) {
            // Somebody took it away.
            return Err(InstallError::NotReady);
        }
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
        self.remove_new()
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
            Stage::Trial { inode, .. } if self.inode(&self.new_path())? == Some(inode) => self.exchange(),
            Stage::Back { package, inode } => {
                if self.inode(&self.target)? == Some(inode) {
                    self.exchange()?;
                }
                self.state.failed = Some(package);
                self.save(Stage::Idle)?;
                self.remove_new()
            }
            _ => Ok(()),
        }
    }

    /// Target and `new` change places; where one of them is absent, the other moves.
    fn exchange(&self) -> Result<(), InstallError> {
        let new = self.new_path();
        let renamed = match (self.inode(&new)?.is_some(), self.inode(&self.target)?.is_some()) {
            (true, true) => self.files.exchange(&new, &self.target),
            (true, false) => self.files.rename(&new, &self.target),
            (false, _) => self.files.rename(&self.target, &new),
        };
        renamed.map_err(InstallError::io("changing places"))?;
        self.sync_folder(&self.beside)?;
        self.sync_folder(self.target.parent().unwrap_or(Path::new("/")))
    }

    fn inode(&self, path: &Path) -> Result<Option<u64>, InstallError> {
        let found = self.files.look(path).map_err(InstallError::io("looking at what lies there"))?;
        Ok(found.map(|entry| entry.inode))
    }

    fn remove_new(&self) -> Result<(), InstallError> {
        let new = self.new_path();
        if self.inode(&new)?.is_none() {
            return Ok(());
        }
        self.files.remove(&new).map_err(InstallError::io("removing what lies beside the target"))
    }

    fn sync_folder(&self, path: &Path) -> Result<(), InstallError> {
        self.files.sync_folder(path).map_err(InstallError::io("making a rename durable"))
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
pub struct SwapWriter<'a, F: Files = SystemFiles> {
    swap: &'a mut Swap<F>,
    release: Release,
    file: Option<F::Medium>,
    at: u64,
}

impl<F: Files> SwapWriter<'_, F> {
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
            let opened = self.swap.files.create(&self.swap.new_path(), 0);
            self.file = Some(opened.map_err(InstallError::io("opening the new file"))?);
        }
        if let Some(file) = &mut self.file {
            file.write_at(self.at, bytes).map_err(InstallError::io("writing the new file"))?;
        }
        self.at += bytes.len() as u64;
        Ok(())
    }

    /// Makes durable what came so far.
    ///
    /// # Errors
    /// [`InstallError::Io`], [`InstallError::State`].
    pub fn checkpoint(&mut self) -> Result<(), InstallError> {
        if let Some(file) = &mut self.file {
            file.sync().map_err(InstallError::io("making the new file durable"))?;
            self.swap.sync_folder(&self.swap.beside)?;
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
        let (new, files) = (self.swap.new_path(), &self.swap.files);
        let io = InstallError::io;
        let written = entry(files, &new).map_err(io("looking at what was written"))?;
        let image = &self.release.images[0];
        let got = if written.kind == Kind::Folder {
            digest(files, &new).map_err(io("reading the new folder back"))?
        } else {
            if written.bytes < image.length {
                return Err(InstallError::Incomplete { want: image.length, got: written.bytes });
            }
            file_hash(files, &new, written.bytes).map_err(io("reading the new file back"))?
        };
        if got != image.hash {
            let name = image.name.clone();
            self.swap.save(Stage::Idle)?;
            return Err(InstallError::Content { name });
        }
        if written.kind == Kind::File && executable {
            files.set_mode(&new, EXECUTABLE).map_err(io("making the new file executable"))?;
        }
        sync_tree(files, &new).map_err(io("making the new version durable"))?;
        self.swap.sync_folder(&self.swap.beside)?;
        let (package, version) = (self.release.package(), self.release.version);
        self.swap.save(Stage::Ready { package, version, inode: written.inode })
    }
}
