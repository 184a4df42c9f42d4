//! Two slots for each image.

use std::fmt;

use ioex_base::ContentAddress;
use serde::{Deserialize, Serialize};

use super::{InstallError, Medium, state::Store};
use crate::{
    release::{Image, Release, Version},
    verify::{self, Device},
};

/// How often a version on trial is started before it counts as failed: once for the trial, and
/// twice more for plugs that somebody pulls.
pub const TRIAL_STARTS: u8 = 3;

/// After how many bytes progress is made durable. A cut costs at most this much to fetch again;
/// each costs three syncs.
pub const CHECKPOINT_BYTES: u64 = 4 * 1024 * 1024;

/// Bytes that are read back at once when a slot is verified.
const READ_BYTES: usize = 256 * 1024;

/// One of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Slot {
    /// The first.
    A,
    /// The second.
    B,
}

impl Slot {
    /// The other one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    const fn index(self) -> usize {
        match self {
            Self::A => 0,
            Self::B => 1,
        }
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::A => "a",
            Self::B => "b",
        })
    }
}

/// A version that has to prove itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    /// Its package.
    pub package: ContentAddress,
    /// How often it may still be started.
    pub starts_left: u8,
    /// Whether it was started at all.
    pub started: bool,
}

/// A package that is being written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Writing {
    /// Which.
    pub package: ContentAddress,
    /// This many bytes of it are durable.
    pub durable_bytes: u64,
}

/// What the state file says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairState {
    /// The slot that starts when nothing is on trial.
    pub active: Slot,
    /// What lies whole in A and in B.
    pub versions: [Option<Version>; 2],
    /// What lies in the other slot and is to be tried.
    pub trial: Option<Trial>,
    /// What is being written into the other slot.
    pub writing: Option<Writing>,
    /// The package that failed last.
    pub failed: Option<ContentAddress>,
}

/// The two places of one image.
#[derive(Debug)]
pub struct SlotPair<M> {
    /// The image's name.
    pub name: String,
    /// A and B.
    pub media: [M; 2],
}

/// All slot pairs of a device and their state. All images change over together.
#[derive(Debug)]
pub struct Pair<M> {
    store: Store<M>,
    state: PairState,
    slots: Vec<SlotPair<M>>,
    checkpoint_bytes: u64,
}

impl<M: Medium> Pair<M> {
    /// Sets a device up in its factory: slot A runs `version`.
    ///
    /// # Errors
    /// [`InstallError::State`].
    pub fn format(state: M, slots: Vec<SlotPair<M>>, version: Version) -> Result<Self, InstallError> {
        let first = PairState {
            active: Slot::A,
            versions: [Some(version), None],
            trial: None,
            writing: None,
            failed: None,
        };
        let store = Store::format(state, &first)?;
        Ok(Self { store, state: first, slots, checkpoint_bytes: CHECKPOINT_BYTES })
    }

    /// Opens a device that was set up.
    ///
    /// # Errors
    /// [`InstallError::State`].
    pub fn open(state: M, slots: Vec<SlotPair<M>>) -> Result<Self, InstallError> {
        let (store, state) = Store::open(state)?;
        Ok(Self { store, state, slots, checkpoint_bytes: CHECKPOINT_BYTES })
    }

    /// Makes progress durable at other intervals than [`CHECKPOINT_BYTES`].
    #[must_use]
    pub fn with_checkpoints(mut self, bytes: u64) -> Self {
        self.checkpoint_bytes = bytes.max(1);
        self
    }

    /// What the state file says.
    #[must_use]
    pub fn state(&self) -> &PairState {
        &self.state
    }

    /// For the boot loader: which slot to start now. Each start of a version on trial is counted before it
    /// happens; when its starts are used up, the old version starts again.
    ///
    /// # Errors
    /// [`InstallError::State`]. The active slot is the one to start then.
    pub fn boot(&mut self) -> Result<Slot, InstallError> {
        let Some(trial) = self.state.trial else { return Ok(self.state.active) };
        if trial.starts_left == 0 {
            self.fail(trial)?;
            return Ok(self.state.active);
        }
        let counted = Trial { starts_left: trial.starts_left - 1, started: true, ..trial };
        self.save(PairState { trial: Some(counted), ..self.state.clone() })?;
        Ok(self.state.active.other())
    }

    /// The version in the slot that runs (the boot loader says which) is healthy: it is the one that
    /// starts from now on. Asked again, nothing happens.
    ///
    /// # Errors
    /// [`InstallError::NotOnTrial`] when another slot is on trial, or it was not started;
    /// [`InstallError::State`].
    pub fn confirm(&mut self, running: Slot) -> Result<(), InstallError> {
        match self.state.trial {
            None if running == self.state.active => Ok(()),
            Some(trial) if running == self.state.active.other() && trial.started => {
                self.save(PairState { active: running, trial: None, ..self.state.clone() })
            }
            _ => Err(InstallError::NotOnTrial),
        }
    }

    /// Ends a trial: the next start is the old version. Going back later than that is installing an
    /// older version, which its maker has to sign.
    ///
    /// # Errors
    /// [`InstallError::NotOnTrial`], [`InstallError::State`].
    pub fn roll_back(&mut self) -> Result<(), InstallError> {
        let trial = self.state.trial.ok_or(InstallError::NotOnTrial)?;
        self.fail(trial)
    }

    /// Lets a package that failed be tried again, because its owner says so.
    ///
    /// # Errors
    /// [`InstallError::State`].
    pub fn forgive(&mut self) -> Result<(), InstallError> {
        if self.state.failed.is_none() {
            return Ok(());
        }
        self.save(PairState { failed: None, ..self.state.clone() })
    }

    /// Begins writing a release, or goes on where it was: [`Writer::at`] says from which byte of the package.
    ///
    /// # Errors
    /// [`InstallError`]; nothing was written then.
    pub fn begin(&mut self, release: &Release, device: &Device) -> Result<Writer<'_, M>, InstallError> {
        release.check(release.length())?;
        if self.state.trial.is_some() {
            return Err(InstallError::OnTrial);
        }
        verify::admit(release, device)?;
        let package = release.package();
        if self.state.failed == Some(package) {
            return Err(InstallError::FailedBefore(package));
        }
        self.fits(release)?;
        let goes_on = self.state.writing.filter(|writing| writing.package == package);
        let writing = goes_on.unwrap_or(Writing { package, durable_bytes: 0 });
        if goes_on.is_none() {
            let mut versions = self.state.versions;
            versions[self.state.active.other().index()] = None;
            self.save(PairState { versions, writing: Some(writing), ..self.state.clone() })?;
        }
        let release = release.clone();
        Ok(Writer { at: writing.durable_bytes, durable: writing.durable_bytes, release, pair: self })
    }

    /// Whether the images are those of the slots, and have room there.
    ///
    /// # Errors
    /// [`InstallError`].
    pub fn fits(&self, release: &Release) -> Result<(), InstallError> {
        let want: Vec<&str> = self.slots.iter().map(|slot| slot.name.as_str()).collect();
        let got: Vec<&str> = release.images.iter().map(|image| image.name.as_str()).collect();
        if want.len() != got.len() || !want.iter().all(|name| got.contains(name)) {
            let own = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect();
            return Err(InstallError::Images { want: own(want), got: own(got) });
        }
        let into = self.state.active.other().index();
        for image in &release.images {
            let Some(slot) = self.slots.iter().find(|slot| slot.name == image.name) else { continue };
            let capacity = slot.media[into].capacity().map_err(InstallError::io("measuring a slot"))?;
            if image.length > capacity {
                return Err(InstallError::TooLarge {
                    name: image.name.clone(),
                    length: image.length,
                    capacity,
                });
            }
        }
        Ok(())
    }

    fn fail(&mut self, trial: Trial) -> Result<(), InstallError> {
        let mut versions = self.state.versions;
        versions[self.state.active.other().index()] = None;
        self.save(PairState { versions, trial: None, failed: Some(trial.package), ..self.state.clone() })
    }

    fn save(&mut self, next: PairState) -> Result<(), InstallError> {
        self.store.save(&next)?;
        self.state = next;
        Ok(())
    }

    fn inactive(&mut self, name: &str) -> Option<&mut M> {
        let into = self.state.active.other().index();
        self.slots.iter_mut().find(|slot| slot.name == name).map(|slot| &mut slot.media[into])
    }
}

/// A package on its way into the slots that do not run. Dropping it loses what came since the last
/// checkpoint and nothing else.
#[derive(Debug)]
pub struct Writer<'a, M> {
    pair: &'a mut Pair<M>,
    release: Release,
    at: u64,
    durable: u64,
}

impl<M: Medium> Writer<'_, M> {
    /// From which byte of the package to go on.
    #[must_use]
    pub fn at(&self) -> u64 {
        self.at
    }

    /// Writes the next bytes of the package.
    ///
    /// # Errors
    /// [`InstallError::TooMuch`] before anything is written, [`InstallError::Io`],
    /// [`InstallError::State`].
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<(), InstallError> {
        let length = self.release.length();
        if bytes.len() as u64 > length - self.at {
            return Err(InstallError::TooMuch(length));
        }
        while !bytes.is_empty() {
            let (name, offset, room) = self.place();
            let now = usize::try_from(room).map_or(bytes.len(), |room| room.min(bytes.len()));
            let (head, rest) = bytes.split_at(now);
            let medium = self.pair.inactive(&name).ok_or(InstallError::NotReady)?;
            medium.write_at(offset, head).map_err(InstallError::io("writing an image"))?;
            self.at += now as u64;
            bytes = rest;
        }
        if self.at - self.durable >= self.pair.checkpoint_bytes { self.checkpoint() } else { Ok(()) }
    }

    /// Makes everything durable that came so far; the next [`Pair::begin`] goes on from here.
    ///
    /// # Errors
    /// [`InstallError::Io`], [`InstallError::State`].
    pub fn checkpoint(&mut self) -> Result<(), InstallError> {
        self.sync()?;
        let writing = Writing { package: self.release.package(), durable_bytes: self.at };
        self.pair.save(PairState { writing: Some(writing), ..self.pair.state.clone() })?;
        self.durable = self.at;
        Ok(())
    }

    /// Reads back what lies in the slots, compares it with what was signed, and puts it on trial.
    ///
    /// # Errors
    /// [`InstallError::Incomplete`]; [`InstallError::Content`], after which the next [`Pair::begin`] starts
    /// from the first byte; [`InstallError::Io`], [`InstallError::State`].
    pub fn finish(mut self) -> Result<(), InstallError> {
        let want = self.release.length();
        if self.at < want {
            return Err(InstallError::Incomplete { want, got: self.at });
        }
        self.sync()?;
        for image in &self.release.images {
            let medium = self.pair.inactive(&image.name).ok_or(InstallError::NotReady)?;
            if hash(medium, image)? != image.hash {
                let name = image.name.clone();
                self.pair.save(PairState { writing: None, ..self.pair.state.clone() })?;
                return Err(InstallError::Content { name });
            }
        }
        let mut versions = self.pair.state.versions;
        versions[self.pair.state.active.other().index()] = Some(self.release.version);
        let trial = Trial { package: self.release.package(), starts_left: TRIAL_STARTS, started: false };
        let state = self.pair.state.clone();
        self.pair.save(PairState { versions, trial: Some(trial), writing: None, ..state })
    }

    fn sync(&mut self) -> Result<(), InstallError> {
        for image in &self.release.images {
            if let Some(medium) = self.pair.inactive(&image.name) {
                medium.sync().map_err(InstallError::io("making an image durable"))?;
            }
        }
        Ok(())
    }

    /// The image that the next byte belongs to, its offset there, and how many follow in that image.
    fn place(&self) -> (String, u64, u64) {
        let mut before = 0;
        for image in &self.release.images {
            if self.at < before + image.length {
                let offset = self.at - before;
                return (image.name.clone(), offset, image.length - offset);
            }
            before += image.length;
        }
        (String::new(), 0, 0)
    }
}

fn hash<M: Medium>(medium: &M, image: &Image) -> Result<ContentAddress, InstallError> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; READ_BYTES];
    let mut at = 0;
    while at < image.length {
        let now = usize::try_from(image.length - at).map_or(READ_BYTES, |left| left.min(READ_BYTES));
        medium.read_at(at, &mut buffer[..now]).map_err(InstallError::io("reading an image back"))?;
        hasher.update(&buffer[..now]);
        at += now as u64;
    }
    Ok(hasher.finalize().into())
}
