//! Where a package goes: the three installers of `ioex-ota` behind one set of calls.
//!
//! Each call opens the installer's state anew: between two of them a boot loader may have written it.

use std::{
    fs, io,
    os::unix::fs::FileTypeExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use ioex_base::ContentAddress;
use ioex_ota::{
    Device, Release, Version,
    install::{
        FileMedium, Hook, HookError, InstallError, Pair, Phase, Slot, SlotPair, Swap, TRIAL_STARTS,
        tree_digest,
    },
};

use super::{
    own::{Own, Stream, Streams},
    package::{Package, PackageError},
    room::Needs,
    shelf::Shelf,
};
use crate::config::{InstallTarget, OtaConfig, SlotPaths};

/// How long a maker's command may take.
const HOOK_TIMEOUT: Duration = Duration::from_secs(600);
/// How long a health check may take.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(120);
/// The file that says what a hook installed, in the node's folder.
const HOOK_STATE: &str = "hook.json";
/// The archive of a folder that runs, in the node's folder, while parts of it are taken.
const OWN_ARCHIVE: &str = "own.tar";
/// The archive of a folder that comes, in the node's folder, until it is unpacked.
const NEW_ARCHIVE: &str = "new.tar";
/// How much of a slot is looked at for parts of a new image: so many times the new one's length. What lies behind
/// the image in a large slot is not worth the time.
const LOOKED_AT_TIMES: u64 = 2;
/// How long the command that starts a version may take: to ask for a restart takes seconds.
const RESTART_TIMEOUT: Duration = Duration::from_secs(120);
/// The package for a hook, in the node's folder: a file, or a folder.
const HOOK_PACKAGE: &str = "package";

/// Why a package was not installed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InstallFailure {
    /// The installer.
    #[error(transparent)]
    Install(#[from] InstallError),
    /// The package.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// The maker's command.
    #[error(transparent)]
    Hook(#[from] HookError),
    /// A file.
    #[error("{what}: {error}")]
    Io {
        /// What was done.
        what: String,
        /// What the system said.
        error: io::Error,
    },
    /// The boot loader did not say which slot runs.
    #[error("{0} does not say which slot runs: the boot loader writes 'a' or 'b' there")]
    Running(PathBuf),
    /// The package failed on this device before.
    #[error("this package failed on this device before, and that was not forgiven")]
    FailedBefore,
}

impl InstallFailure {
    /// Whether trying again would end in the same way: it is the package that does not fit this device, and not the
    /// moment.
    pub(crate) fn is_final(&self) -> bool {
        match self {
            Self::Install(e) => !matches!(e, InstallError::Io { .. } | InstallError::State(_)),
            Self::Hook(e) => matches!(e, HookError::Failed { .. } | HookError::Timeout { .. }),
            Self::FailedBefore => true,
            Self::Package(_) | Self::Io { .. } | Self::Running(_) => false,
        }
    }
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> InstallFailure {
    let what = path.display().to_string();
    move |error| InstallFailure::Io { what, error }
}

/// How the device stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    /// What runs now.
    pub(crate) running: Version,
    /// Whether what runs now has to prove itself.
    pub(crate) on_trial: bool,
    /// Whether a version waits for its first start.
    pub(crate) waits_for_start: bool,
}

#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize)]
struct HookState {
    running: Version,
    /// What ran before, while the new one is on trial.
    before: Option<Version>,
    package: Option<ContentAddress>,
    failed: Option<ContentAddress>,
    /// Starts that the version on trial has left. A trial that a program without this count began has all of them.
    #[serde(default = "all_starts")]
    starts_left: u8,
}

fn all_starts() -> u8 {
    TRIAL_STARTS
}

/// The device's way of installing.
#[derive(Clone, Debug)]
pub(crate) struct Installer {
    config: OtaConfig,
    dir: PathBuf,
}

impl Installer {
    pub(crate) fn new(config: &OtaConfig, dir: PathBuf) -> Self {
        // What a crash left.
        let _ = fs::remove_file(dir.join(OWN_ARCHIVE));
        Self { config: config.clone(), dir }
    }

    /// What runs, where parts of a release may lie. Of what a hook installed, its `path` says where.
    ///
    /// # Errors
    /// When it cannot be found or read.
    pub(crate) fn runs(&self, release: &Release) -> Result<Streams, InstallFailure> {
        let mut streams = Streams::default();
        match &self.config.install {
            InstallTarget::Pair { slots, running, .. } => {
                let slot = running_slot(running)?;
                for image in &release.images {
                    let Some(pair) = slots.iter().find(|pair| pair.name == image.name) else { continue };
                    let path = if slot == Slot::A { pair.a.clone() } else { pair.b.clone() };
                    let max_bytes = image.length.saturating_mul(LOOKED_AT_TIMES);
                    streams.all.push(Stream { path, max_bytes });
                }
            }
            InstallTarget::Swap { path } | InstallTarget::Hook { path: Some(path), .. } => {
                let kind = fs::metadata(path).map_err(at(path))?.file_type();
                let mut stream = Stream { path: path.clone(), max_bytes: u64::MAX };
                if kind.is_dir() {
                    let archive = self.dir.join(OWN_ARCHIVE);
                    streams.archive = Some(archive.clone());
                    crate::archive::archive_folder(path, &archive).map_err(at(path))?;
                    stream.path = archive;
                } else if kind.is_block_device() {
                    stream.max_bytes = release.length().saturating_mul(LOOKED_AT_TIMES);
                }
                streams.all.push(stream);
            }
            InstallTarget::Hook { path: None, .. } => {}
        }
        Ok(streams)
    }

    /// Counts a start of what is on trial; a boot loader does that for slots. Returns whether its starts were used up,
    /// and the version before is back.
    ///
    /// # Errors
    /// [`InstallFailure`].
    pub(crate) fn count_start(&self) -> Result<bool, InstallFailure> {
        match &self.config.install {
            InstallTarget::Pair { .. } => Ok(false),
            InstallTarget::Swap { path } => {
                let mut swap = Swap::open(path, self.config.installed)?;
                let was_on_trial = swap.on_trial();
                swap.start()?;
                Ok(was_on_trial && !swap.on_trial())
            }
            InstallTarget::Hook { .. } => {
                let state = self.hook_state()?;
                if state.before.is_none() {
                    return Ok(false);
                }
                let Some(starts_left) = state.starts_left.checked_sub(1) else {
                    return self.roll_back().map(|_| true);
                };
                self.save_hook(&HookState { starts_left, ..state })?;
                Ok(false)
            }
        }
    }

    /// Sets up what is set up once, and says how the device stands.
    ///
    /// # Errors
    /// [`InstallFailure`].
    pub(crate) fn standing(&self) -> Result<Standing, InstallFailure> {
        match &self.config.install {
            InstallTarget::Pair { state, slots, running } => {
                let pair = self.pair(state, slots)?;
                let state = pair.state();
                let slot = running_slot(running)?;
                let version = state.versions[usize::from(slot == Slot::B)];
                let on_trial = state.trial.is_some() && slot != state.active;
                Ok(Standing {
                    // A boot loader that came first and was told no version noted none.
                    running: version
                        .filter(|version| *version != Version::default())
                        .unwrap_or(self.config.installed),
                    on_trial,
                    waits_for_start: state.trial.is_some() && !on_trial,
                })
            }
            InstallTarget::Swap { path } => {
                let swap = Swap::open(path, self.config.installed)?;
                let on_trial = swap.on_trial();
                Ok(Standing { running: swap.running(), on_trial, waits_for_start: false })
            }
            InstallTarget::Hook { .. } => {
                let state = self.hook_state()?;
                let on_trial = state.before.is_some();
                Ok(Standing { running: state.running, on_trial, waits_for_start: false })
            }
        }
    }

    fn pair(&self, state: &PathBuf, slots: &[SlotPaths]) -> Result<Pair<FileMedium>, InstallFailure> {
        open_pair(state, slots, self.config.installed)
    }

    fn hook_state(&self) -> Result<HookState, InstallFailure> {
        let path = self.dir.join(HOOK_STATE);
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|e| InstallFailure::Io { what: path.display().to_string(), error: e.into() }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let running = self.config.installed;
                Ok(HookState { running, before: None, package: None, failed: None, starts_left: 0 })
            }
            Err(e) => Err(at(&path)(e)),
        }
    }

    fn save_hook(&self, state: &HookState) -> Result<(), InstallFailure> {
        let path = self.dir.join(HOOK_STATE);
        let bytes = serde_json::to_vec(state).map_err(io::Error::from).map_err(at(&path))?;
        crate::node::files::replace(&path, &bytes).map_err(at(&path))
    }

    /// Whether a package has a place here, as far as its signed description tells.
    ///
    /// # Errors
    /// [`InstallFailure`].
    pub(crate) fn fits(&self, release: &Release) -> Result<(), InstallFailure> {
        match &self.config.install {
            InstallTarget::Pair { state, slots, .. } => self.pair(state, slots)?.fits(release)?,
            InstallTarget::Swap { .. } => Swap::fits(release)?,
            InstallTarget::Hook { .. } => {}
        }
        Ok(())
    }

    /// What writing this release takes, and where. What an attempt before left behind and is of no use goes.
    ///
    /// # Errors
    /// [`InstallFailure`].
    pub(crate) fn needs(&self, release: &Release) -> Result<Needs, InstallFailure> {
        let length = release.length();
        Ok(match &self.config.install {
            InstallTarget::Pair { .. } => Vec::new(),
            InstallTarget::Swap { path } => {
                let swap = Swap::open(path, self.config.installed)?;
                let (new, place) = (swap.new_path(), crate::node::parent_of(path).to_owned());
                if swap.on_trial() {
                    // What lies there is the version before.
                    return Ok(Vec::new());
                }
                if path.is_dir() {
                    remove(&new)?;
                    vec![(self.dir.clone(), length), (place, length)]
                } else {
                    let written = new.metadata().map_or(0, |meta| meta.len());
                    vec![(place, length.saturating_sub(written))]
                }
            }
            InstallTarget::Hook { path: lies, .. } => {
                remove(&self.dir.join(HOOK_PACKAGE))?;
                let is_folder = lies.as_ref().is_some_and(|lies| lies.is_dir());
                vec![(self.dir.clone(), if is_folder { length.saturating_mul(2) } else { length })]
            }
        })
    }

    /// Writes the package to where it does not run yet and verifies it there; goes on where a cut left it. `progress` is told how
    /// many of its bytes are written.
    ///
    /// # Errors
    /// [`InstallFailure`]; what runs is as it was.
    pub(crate) fn write(
        &self,
        shelf: &Shelf,
        package: &Package,
        own: Option<&Own>,
        release: &Release,
        device: &Device,
        progress: impl Fn(u64),
    ) -> Result<(), InstallFailure> {
        match &self.config.install {
            InstallTarget::Pair { state, slots, .. } => {
                let mut pair = self.pair(state, slots)?;
                let mut writer = pair.begin(release, device)?;
                package.join(shelf, own, writer.at(), |bytes| {
                    writer.write(bytes)?;
                    progress(writer.at());
                    Ok::<(), InstallFailure>(())
                })?;
                Ok(writer.finish()?)
            }
            InstallTarget::Swap { path } => {
                let mut swap = Swap::open(path, self.config.installed)?;
                let new = swap.new_path();
                let is_folder = fs::metadata(path).is_ok_and(|meta| meta.is_dir());
                let executable = is_executable(path);
                let mut writer = swap.begin(release, device)?;
                if is_folder {
                    self.unpack(shelf, package, own, &new, progress)?;
                } else {
                    package.join(shelf, own, writer.at(), |bytes| {
                        writer.write(bytes)?;
                        progress(writer.at());
                        Ok::<(), InstallFailure>(())
                    })?;
                    writer.checkpoint()?;
                }
                Ok(writer.finish(executable)?)
            }
            InstallTarget::Hook { path: lies, .. } => {
                ioex_ota::admit(release, device).map_err(InstallError::from)?;
                if self.hook_state()?.failed == Some(release.package()) {
                    return Err(InstallFailure::FailedBefore);
                }
                let path = self.dir.join(HOOK_PACKAGE);
                remove(&path)?;
                if lies.as_ref().is_some_and(|lies| lies.is_dir()) {
                    self.unpack(shelf, package, own, &path, progress)?;
                    return is_folder_of(release, &path);
                }
                self.whole(shelf, package, own, release, &path, progress)
            }
        }
    }

    /// The package as one file, compared with its hashes.
    fn whole(
        &self,
        shelf: &Shelf,
        package: &Package,
        own: Option<&Own>,
        release: &Release,
        path: &PathBuf,
        progress: impl Fn(u64),
    ) -> Result<(), InstallFailure> {
        use io::Write as _;
        let mut file = io::BufWriter::new(fs::File::create(path).map_err(at(path))?);
        let (mut written, mut images) = (0_u64, release.images.iter());
        let mut image = images.next();
        let (mut hasher, mut left) = (blake3::Hasher::new(), image.map_or(0, |image| image.length));
        package.join(shelf, own, 0, |mut bytes| {
            file.write_all(bytes).map_err(at(path))?;
            written += bytes.len() as u64;
            progress(written);
            while let Some(current) = image.filter(|_| !bytes.is_empty()) {
                let now = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                hasher.update(&bytes[..now]);
                (bytes, left) = (&bytes[now..], left - now as u64);
                if left == 0 {
                    if ContentAddress::from(hasher.finalize()) != current.hash {
                        return Err(InstallError::Content { name: current.name.clone() }.into());
                    }
                    image = images.next();
                    hasher = blake3::Hasher::new();
                    left = image.map_or(0, |image| image.length);
                }
            }
            Ok::<(), InstallFailure>(())
        })?;
        if image.is_some() || written != release.length() {
            let want = release.length();
            return Err(InstallError::Incomplete { want, got: written }.into());
        }
        file.flush().and_then(|()| file.get_ref().sync_all()).map_err(at(path))
    }

    /// Unpacks a folder's archive as this folder.
    fn unpack(
        &self,
        shelf: &Shelf,
        package: &Package,
        own: Option<&Own>,
        new: &PathBuf,
        progress: impl Fn(u64),
    ) -> Result<(), InstallFailure> {
        let archive = self.dir.join(NEW_ARCHIVE);
        let written = (|| {
            use io::Write as _;
            let mut file = io::BufWriter::new(fs::File::create(&archive).map_err(at(&archive))?);
            let mut written = 0;
            package.join(shelf, own, 0, |bytes| {
                file.write_all(bytes).map_err(at(&archive))?;
                written += bytes.len() as u64;
                progress(written);
                Ok::<(), InstallFailure>(())
            })?;
            file.flush().map_err(at(&archive))?;
            remove(new)?;
            fs::create_dir(new).map_err(at(new))?;
            let mut reader = tar::Archive::new(fs::File::open(&archive).map_err(at(&archive))?);
            reader.set_preserve_permissions(true);
            reader.set_overwrite(false);
            // Names that lead out of the folder are left out by the library; the digest then differs.
            // With what lies behind it: by itself the library for archives says only which file it was.
            reader
                .unpack(new)
                .map_err(|e| at(new)(io::Error::new(e.kind(), format!("{:#}", anyhow::Error::new(e)))))
        })();
        let _ = fs::remove_file(&archive);
        if written.is_err() {
            // It begins anew the next time, and others need the room.
            let _ = remove(new);
        }
        written
    }

    /// Puts what was written in charge. With `starts_now` it is started at once, which is the first of its starts; else
    /// each is counted when it comes. Returns whether the device has to start anew for that.
    ///
    /// # Errors
    /// [`InstallFailure`]; what ran before still runs then.
    pub(crate) fn activate(&self, release: &Release, starts_now: bool) -> Result<bool, InstallFailure> {
        match &self.config.install {
            // It was put on trial when it was verified.
            InstallTarget::Pair { .. } => Ok(true),
            InstallTarget::Swap { path } => {
                let mut swap = Swap::open(path, self.config.installed)?;
                let started = swap.activate().and_then(|()| if starts_now { swap.start() } else { Ok(()) });
                if let Err(e) = started {
                    // Noted as on trial, and not in place: it is taken back.
                    let _ = swap.roll_back();
                    return Err(e.into());
                }
                Ok(false)
            }
            InstallTarget::Hook { command, .. } => {
                let before = self.hook_state()?;
                let trial = HookState {
                    running: release.version,
                    before: Some(before.running),
                    package: Some(release.package()),
                    failed: before.failed,
                    starts_left: TRIAL_STARTS - u8::from(starts_now),
                };
                // Noted first: after a cut in the middle the command is asked for its health, or goes back.
                self.save_hook(&trial)?;
                let package = self.dir.join(HOOK_PACKAGE);
                if let Err(e) =
                    hook(command, HOOK_TIMEOUT).run(Phase::Install, Some(&package), release.version)
                {
                    let failed = Some(release.package());
                    self.save_hook(&HookState { before: None, package: None, failed, ..before })?;
                    return Err(e.into());
                }
                Ok(false)
            }
        }
    }

    /// Whether what runs is healthy, by the maker's command; without one, starting is healthy enough.
    ///
    /// # Errors
    /// [`InstallFailure::Hook`]: it is not, and why.
    pub(crate) fn health(&self, version: Version) -> Result<(), InstallFailure> {
        let command = match (&self.config.health, &self.config.install) {
            (command, _) if !command.is_empty() => command,
            (_, InstallTarget::Hook { command, .. }) => command,
            _ => return Ok(()),
        };
        Ok(hook(command, HEALTH_TIMEOUT).run(Phase::Health, None, version)?)
    }

    /// Makes what is on trial what runs.
    ///
    /// # Errors
    /// [`InstallFailure`].
    pub(crate) fn confirm(&self) -> Result<(), InstallFailure> {
        match &self.config.install {
            InstallTarget::Pair { state, slots, running } => {
                let slot = running_slot(running)?;
                Ok(self.pair(state, slots)?.confirm(slot)?)
            }
            InstallTarget::Swap { path } => Ok(Swap::open(path, self.config.installed)?.confirm()?),
            InstallTarget::Hook { .. } => {
                let state = self.hook_state()?;
                if state.before.is_none() {
                    return Err(InstallError::NotOnTrial.into());
                }
                self.save_hook(&HookState { before: None, package: None, ..state })?;
                // What stays is removed before the next one is written.
                let _ = remove(&self.dir.join(HOOK_PACKAGE));
                Ok(())
            }
        }
    }

    /// Goes back. Returns whether the device has to start anew for that.
    ///
    /// # Errors
    /// [`InstallFailure`].
    pub(crate) fn roll_back(&self) -> Result<bool, InstallFailure> {
        match &self.config.install {
            InstallTarget::Pair { state, slots, running } => {
                let mut pair = self.pair(state, slots)?;
                let on_trial = running_slot(running)? != pair.state().active;
                pair.roll_back()?;
                Ok(on_trial)
            }
            InstallTarget::Swap { path } => {
                Swap::open(path, self.config.installed)?.roll_back()?;
                Ok(false)
            }
            InstallTarget::Hook { command, .. } => {
                let state = self.hook_state()?;
                let before = state.before.ok_or(InstallError::NotOnTrial)?;
                hook(command, HOOK_TIMEOUT).run(Phase::RollBack, None, before)?;
                let failed = state.package.or(state.failed);
                self.save_hook(&HookState { running: before, before: None, package: None, failed, ..state })?;
                Ok(false)
            }
        }
    }

    /// Lets a package that failed be tried again.
    ///
    /// # Errors
    /// [`InstallFailure`].
    pub(crate) fn forgive(&self) -> Result<(), InstallFailure> {
        match &self.config.install {
            InstallTarget::Pair { state, slots, .. } => Ok(self.pair(state, slots)?.forgive()?),
            InstallTarget::Swap { path } => Ok(Swap::open(path, self.config.installed)?.forgive()?),
            InstallTarget::Hook { .. } => {
                let state = self.hook_state()?;
                self.save_hook(&HookState { failed: None, ..state })
            }
        }
    }

    /// Whether there is a command that starts what was replaced.
    pub(crate) fn restarts(&self) -> bool {
        !self.config.restart.is_empty()
    }

    /// Starts the device, or what was replaced, anew. False when there is no command for it.
    ///
    /// # Errors
    /// When the command fails, or takes too long; it is ended then.
    pub(crate) fn restart(&self) -> Result<bool, HookError> {
        if !self.restarts() {
            return Ok(false);
        }
        hook(&self.config.restart, RESTART_TIMEOUT).run_as_is().map(|()| true)
    }
}

fn hook(command: &[String], timeout: Duration) -> Hook {
    let (program, arguments) = command
        .split_first()
        .map_or((String::new(), Vec::new()), |(program, rest)| (program.clone(), rest.to_vec()));
    Hook { program: program.into(), arguments, timeout }
}

/// Removes a file or a folder, when one is there.
fn remove(path: &Path) -> Result<(), InstallFailure> {
    let removed = match path.symlink_metadata() {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    };
    removed.map_err(at(path))
}

/// Compares an unpacked folder with the only image of a release.
fn is_folder_of(release: &Release, path: &Path) -> Result<(), InstallFailure> {
    let [image] = release.images.as_slice() else {
        let got = release.images.iter().map(|image| image.name.clone()).collect();
        return Err(InstallError::Images { want: vec!["one image".to_owned()], got }.into());
    };
    if tree_digest(path).map_err(at(path))? != image.hash {
        return Err(InstallError::Content { name: image.name.clone() }.into());
    }
    Ok(())
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o111 != 0)
}

/// Which slot runs, by what the boot loader wrote.
fn running_slot(path: &PathBuf) -> Result<Slot, InstallFailure> {
    match fs::read_to_string(path).map(|text| text.trim().to_ascii_lowercase()) {
        Ok(text) if text == "a" => Ok(Slot::A),
        Ok(text) if text == "b" => Ok(Slot::B),
        _ => Err(InstallFailure::Running(path.clone())),
    }
}

/// Opens slots and their state; a state file that does not exist is made for a device whose slot A runs
/// `version`.
///
/// # Errors
/// [`InstallFailure`].
fn open_pair(
    state: &PathBuf,
    slots: &[SlotPaths],
    version: Version,
) -> Result<Pair<FileMedium>, InstallFailure> {
    let open = |path: &PathBuf| FileMedium::open(path).map_err(at(path));
    let slots = slots.iter().map(|slot| {
        Ok::<_, InstallFailure>(SlotPair { name: slot.name.clone(), media: [open(&slot.a)?, open(&slot.b)?] })
    });
    let slots = slots.collect::<Result<Vec<_>, _>>()?;
    if state.exists() {
        return Ok(Pair::open(open(state)?, slots)?);
    }
    // It gets its name only with a record in it.
    let draft = state.with_extension("new");
    let medium = FileMedium::create(&draft, ioex_ota::install::STATE_BYTES).map_err(at(&draft))?;
    let pair = Pair::format(medium, slots, version)?;
    fs::rename(&draft, state).map_err(at(state))?;
    Ok(pair)
}

/// Says which slot starts now, and counts a trial's start. The slots themselves are not looked at: a
/// boot loader has other things to do.
///
/// # Errors
/// [`InstallFailure`]: slot A is the one to start then.
pub(crate) fn boot(state: &PathBuf, installed: Version) -> Result<Slot, InstallFailure> {
    Ok(open_pair(state, &[], installed)?.boot()?)
}
